//! burn's GPU backends: their tensors as buffers, for the kernels in `gpu`. Matrix products are burn's own.

mod launch;
#[cfg(all(test, feature = "wgpu-unfused", feature = "flex"))]
#[path = "../../../tests/kernels/gpu_rows.rs"]
mod tests;

use std::ops::Range;

use burn::backend::{TensorMetadata, cubecl::dtype_to_storage_type, ops::FloatTensorOps};
use burn_cubecl::{
    CubeBackend,
    cubecl::prelude::{AddressType, CubeCount, CubeDim, VectorSize},
    kernel::{
        into_contiguous,
        matmul::{MatmulStrategy, matmul},
    },
    tensor::CubeTensor,
};
use burn_tensor::{DType, FloatDType};

use super::{
    LogitTransform, MatmulInto, PreferenceOps, RowKernels, SoftmaxState,
    gpu::{
        Cube, GradientTerms, accumulate_kernel, gradient_kernel, merge_kernel, merge_parts_kernel, outputs_kernel,
        softcap_kernel, softmax_state_kernel,
    },
};
use launch::{address_of, cube_of, enough_cubes, in_place_or_beside, lanes, to_f32, vector_sizes};
pub(super) use launch::{cubes, empty, empty_f32, one_unit_each};

/// The fewest numbers that each unit reads: fewer are not worth a cube of their own.
const SHORTEST_SEGMENT: usize = 16;
/// How many columns of a row a cube writes, unless each unit would write fewer than twice the above.
const WRITTEN_SEGMENT: usize = 8192;

impl PreferenceOps for CubeBackend {
    fn row_gradient(
        z: CubeTensor,
        targets: CubeTensor,
        state: CubeTensor,
        upstream: CubeTensor,
        offset: usize,
        transform: LogitTransform,
    ) -> CubeTensor {
        let [_, outputs]: [usize; 2] = upstream.shape().dims();
        let terms = GradientTerms { gradient: true, entropy: outputs > 1, capped: transform.softcap.is_some() };
        let upstream = Self::float_cast(upstream, FloatDType::F32); // its strides may be 0
        overwritten(z, targets, state, upstream, offset, transform, terms)
    }

    fn softcap(z: CubeTensor, softcap: f64) -> CubeTensor {
        let z = into_contiguous(z);
        let elements = z.shape().num_elements();
        if elements == 0 {
            return z;
        }
        let lanes = lanes(&z, elements);
        let (client, dtype, address) = (z.client.clone(), z.dtype, address_of(&z));
        let (out, out_arg) = in_place_or_beside(&z);
        let (count, dim) = one_unit_each(&client, elements / lanes);
        let dtype = dtype_to_storage_type(dtype);
        softcap_kernel::launch(
            &client,
            count,
            dim,
            address,
            lanes,
            z.into_tensor_arg(),
            out_arg,
            softcap as f32,
            dtype,
        );
        out
    }

    fn matmul_into(destination: CubeTensor, lhs: CubeTensor, rhs: CubeTensor, into: MatmulInto) -> CubeTensor {
        let MatmulInto { rows, columns, accumulate, scale } = into;
        let dtype = destination.dtype;
        let whole = destination.shape().dims() == [rows.len(), columns.len()];
        let buffer =
            (whole && !accumulate && destination.can_mut() && destination.is_contiguous()).then_some(&destination);
        let value = matmul(lhs, rhs, buffer.cloned(), MatmulStrategy::default(), dtype);
        let value = value.expect("burn multiplies matrices of every shape");
        if whole && !accumulate {
            drop(destination); // `value` may be the only owner of its memory
            return if scale == 1.0 { value } else { Self::float_mul_scalar(value, scale.into()) };
        }
        with_scaled_block(destination, value, rows, columns, accumulate, scale)
    }
}

impl RowKernels for CubeBackend {
    fn softmax_state(z: CubeTensor, targets: CubeTensor, offset: usize, statistics: Option<usize>) -> CubeTensor {
        let [rows, columns]: [usize; 2] = z.shape().dims();
        let cube = cube_of(&z.client);
        let most = columns.div_ceil(SHORTEST_SEGMENT * cube.units).max(1);
        let segments = enough_cubes(&z.client).div_ceil(rows.max(1)).min(most);
        let address = address_of(&z);
        softmax_state(z, targets, offset, statistics, &Reading { cube, segments, address })
    }

    fn merge(one: CubeTensor, two: CubeTensor) -> CubeTensor {
        let (one, two) = (to_f32(one), to_f32(two));
        let [rows, columns]: [usize; 2] = one.shape().dims();
        let (client, state) = (one.client.clone(), empty_f32(&one, [rows, columns]));
        let (count, dim) = one_unit_each(&client, rows);
        let out = state.clone().into_tensor_arg();
        merge_kernel::launch(&client, count, dim, one.into_tensor_arg(), two.into_tensor_arg(), out);
        state
    }

    fn outputs(state: CubeTensor, entropy: bool) -> CubeTensor {
        let state = to_f32(state);
        let [rows, _]: [usize; 2] = state.shape().dims();
        let (client, outputs) = (state.client.clone(), empty_f32(&state, [rows, if entropy { 2 } else { 1 }]));
        let (count, dim) = one_unit_each(&client, rows);
        let out = outputs.clone().into_tensor_arg();
        outputs_kernel::launch(&client, count, dim, state.into_tensor_arg(), out, f32::INFINITY, f32::NAN, entropy);
        outputs
    }

    fn exp_rows(z: CubeTensor, state: CubeTensor, softcap: Option<f64>) -> CubeTensor {
        let terms = GradientTerms { gradient: false, entropy: false, capped: softcap.is_some() };
        let none = empty_f32(&z, [1, 1]);
        let no_targets = empty(&z, [1], DType::I32);
        overwritten(z, no_targets, state, none, 0, LogitTransform { scale: 1.0, softcap }, terms)
    }
}

/// How rows are read.
#[derive(Debug)]
struct Reading {
    cube: Cube,
    /// How many cubes share a row.
    segments: usize,
    /// The type of indices.
    address: AddressType,
}

/// [`RowKernels::softmax_state`], read in a given way.
fn softmax_state(
    z: CubeTensor,
    targets: CubeTensor,
    offset: usize,
    statistics: Option<usize>,
    reading: &Reading,
) -> CubeTensor {
    let &Reading { cube, segments, address } = reading;
    let (z, targets) = (into_contiguous(z), into_contiguous(targets));
    let [rows, _]: [usize; 2] = z.shape().dims();
    let (client, dtype) = (z.client.clone(), dtype_to_storage_type(z.dtype));
    let Segments { lanes, segment, count, dim } = Segments::of(&z, segments, cube.units);
    let parts = empty_f32(&z, [rows * segments, SoftmaxState::COLUMNS]);
    softmax_state_kernel::launch(
        &client,
        count,
        dim,
        address,
        lanes,
        z.into_tensor_arg(),
        targets.into_tensor_arg(),
        parts.clone().into_tensor_arg(),
        segment,
        segments,
        offset as i32,
        statistics.unwrap_or(1) as f32,
        f32::INFINITY,
        f32::NAN,
        statistics.is_some(),
        cube,
        dtype,
    );
    if segments == 1 {
        return parts;
    }
    let state = empty_f32(&parts, [rows, SoftmaxState::COLUMNS]);
    let (count, dim) = one_unit_each(&client, rows);
    let out = state.clone().into_tensor_arg();
    merge_parts_kernel::launch(&client, count, dim, parts.into_tensor_arg(), out, segments);
    state
}

/// Rows of logits, each divided among several cubes.
struct Segments {
    lanes: VectorSize,
    /// How many vectors of a row a cube reads.
    segment: usize,
    count: CubeCount,
    dim: CubeDim,
}

impl Segments {
    fn of(z: &CubeTensor, segments: usize, units: usize) -> Self {
        let [rows, columns]: [usize; 2] = z.shape().dims();
        let lanes = lanes(z, columns);
        let (count, dim) = cubes(&z.client, rows * segments, units);
        Self { lanes, segment: (columns / lanes).div_ceil(segments), count, dim }
    }
}

/// The result of [`gradient_kernel`] for rows of logits, in their own buffer if they are its only owner.
fn overwritten(
    z: CubeTensor,
    targets: CubeTensor,
    state: CubeTensor,
    upstream: CubeTensor,
    offset: usize,
    transform: LogitTransform,
    terms: GradientTerms,
) -> CubeTensor {
    let (z, targets, state) = (into_contiguous(z), into_contiguous(targets), to_f32(state));
    let [rows, columns]: [usize; 2] = z.shape().dims();
    if rows * columns == 0 {
        return z;
    }
    let (client, address, dtype) = (z.client.clone(), address_of(&z), dtype_to_storage_type(z.dtype));
    let units = cube_of(&client).units;
    let segments = columns.div_ceil(WRITTEN_SEGMENT.max(2 * SHORTEST_SEGMENT * units));
    let Segments { lanes, segment, count, dim } = Segments::of(&z, segments, units);
    let (out, out_arg) = in_place_or_beside(&z);
    gradient_kernel::launch(
        &client,
        count,
        dim,
        address,
        lanes,
        z.into_tensor_arg(),
        out_arg,
        targets.into_tensor_arg(),
        state.into_tensor_arg(),
        upstream.into_tensor_arg(),
        segment,
        segments,
        offset as i32,
        transform.scale as f32,
        transform.softcap.unwrap_or(1.0) as f32,
        f32::INFINITY,
        f32::NAN,
        terms,
        units,
        dtype,
    );
    out
}

/// A matrix with `scale · block` in some rows and columns, or added to them; in its own buffer if it is the only owner.
fn with_scaled_block(
    matrix: CubeTensor,
    block: CubeTensor,
    rows: Range<usize>,
    columns: Range<usize>,
    accumulate: bool,
    scale: f64,
) -> CubeTensor {
    let (matrix, block) = (into_contiguous(matrix), into_contiguous(block));
    let matrix = if matrix.can_mut() { matrix } else { matrix.copy() };
    let elements = rows.len() * columns.len();
    if elements == 0 {
        return matrix;
    }
    let [_, width]: [usize; 2] = matrix.shape().dims();
    let fitting = |lanes: &VectorSize| [width, columns.start, columns.len()].iter().all(|n| n.is_multiple_of(*lanes));
    let lanes = vector_sizes(&matrix).find(fitting).unwrap_or(1);
    let (client, dtype) = (matrix.client.clone(), dtype_to_storage_type(matrix.dtype));
    let address = AddressType::max(address_of(&matrix), address_of(&block));
    let (count, dim) = one_unit_each(&client, elements / lanes);
    let (from, to) = (block.into_tensor_arg(), matrix.clone().into_tensor_arg());
    let (row, column, scale) = (rows.start, columns.start, scale as f32);
    accumulate_kernel::launch(&client, count, dim, address, lanes, from, to, row, column, scale, accumulate, dtype);
    matrix
}

//! burn's GPU backends: their tensors as memory, for the kernels in `gpu`. Products are burn's own.

use std::ops::Range;

use burn::backend::{TensorMetadata, cubecl::dtype_to_storage_type, ops::FloatTensorOps};
use burn_cubecl::{
    CubeBackend,
    cubecl::{
        features::Plane,
        prelude::{AddressType, Client, CubeCount, CubeDim, TensorArg, VectorSize},
    },
    kernel::{
        into_contiguous,
        matmul::{MatmulStrategy, matmul},
    },
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};
use burn_tensor::{DType, FloatDType, Shape};

use super::{
    Chain, PreferenceOps, Product, RowKernels, RowSums,
    gpu::{
        Cube, RowSlopes, accumulate_kernel, gradient_kernel, merge_kernel, merge_parts_kernel, outputs_kernel,
        row_sums_kernel, soft_cap_kernel,
    },
};

/// Units of a cube that reads rows, if the device allows as many: planes of 32 keep 8 loads on their way.
const PLANES: u32 = 8;
/// The most of them.
const MOST_UNITS: u32 = 256;
/// Cubes that keep a device busy if it does not say how many processors it has.
const ENOUGH_CUBES: usize = 256;
/// How often a cube goes over its segment of a row at least: less is not worth a cube of its own.
const SHORTEST_SEGMENT: usize = 4;
/// How often a cube that writes goes over its segment.
const WRITTEN_SEGMENT: usize = 8;
/// Vectors are no longer than this, of whatever format: so 16 bits give the same sums, bit by bit, as the same numbers in 32.
const LANES: usize = 4;

impl PreferenceOps for CubeBackend {
    fn row_gradient(
        z: CubeTensor,
        targets: CubeTensor,
        sums: CubeTensor,
        upstream: CubeTensor,
        offset: usize,
        chain: Chain,
    ) -> CubeTensor {
        let [_, outputs]: [usize; 2] = upstream.shape().dims();
        let slopes = RowSlopes { gradient: true, entropy: outputs > 1, capped: chain.cap.is_some() };
        overwritten(z, &targets, sums, wide(upstream), offset, chain, slopes)
    }

    fn soft_cap(z: CubeTensor, cap: f64) -> CubeTensor {
        let z = into_contiguous(z);
        let elements = z.shape().num_elements();
        if elements == 0 {
            return z;
        }
        let lanes = lanes(&z, elements);
        let (client, dtype, address) = (z.client.clone(), z.dtype, z.required_address_type());
        let (out, out_arg) = in_place_or_beside(&z);
        let (count, dim) = one_unit_each(&client, elements / lanes);
        let dtype = dtype_to_storage_type(dtype);
        soft_cap_kernel::launch(&client, count, dim, address, lanes, z.into_tensor_arg(), out_arg, cap as f32, dtype);
        out
    }

    fn product_into(destination: CubeTensor, lhs: CubeTensor, rhs: CubeTensor, product: Product) -> CubeTensor {
        let Product { rows, columns, accumulate, scale } = product;
        let dtype = destination.dtype;
        let whole = destination.shape().dims() == [rows.len(), columns.len()];
        let room = (whole && !accumulate && destination.can_mut() && destination.is_contiguous()).then_some(&destination);
        let value = matmul(lhs, rhs, room.cloned(), MatmulStrategy::default(), dtype);
        let value = value.expect("burn multiplies matrices of every shape");
        if whole && !accumulate {
            drop(destination); // `value` may be the only owner of its memory
            return if scale == 1.0 { value } else { Self::float_mul_scalar(value, scale.into()) };
        }
        with_part(destination, value, rows, columns, accumulate, scale)
    }
}

impl RowKernels for CubeBackend {
    fn row_sums(z: CubeTensor, targets: CubeTensor, offset: usize, statistics: Option<usize>) -> CubeTensor {
        let (z, targets) = (into_contiguous(z), into_contiguous(targets));
        let [rows, columns]: [usize; 2] = z.shape().dims();
        let (client, lanes) = (z.client.clone(), lanes(&z, columns));
        let cube = cube_of(&client);
        let sweep = cube.units * lanes;
        let most = columns.div_ceil(SHORTEST_SEGMENT * sweep).max(1);
        let segments = enough_cubes(&client).div_ceil(rows).min(most);
        let segment = (columns / lanes).div_ceil(segments);
        let sums = numbers(&z, [rows * segments, RowSums::COLUMNS]);
        let (count, dim) = cubes(&client, rows * segments, cube.units);
        let (address, dtype) = (z.required_address_type(), dtype_to_storage_type(z.dtype));
        row_sums_kernel::launch(
            &client,
            count,
            dim,
            address,
            lanes,
            z.into_tensor_arg(),
            targets.into_tensor_arg(),
            sums.clone().into_tensor_arg(),
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
            return sums;
        }
        let whole = numbers(&sums, [rows, RowSums::COLUMNS]);
        let (count, dim) = one_unit_each(&client, rows);
        let (parts, out) = (sums.into_tensor_arg(), whole.clone().into_tensor_arg());
        merge_parts_kernel::launch(&client, count, dim, parts, out, segments);
        whole
    }

    fn merge(one: CubeTensor, two: CubeTensor) -> CubeTensor {
        let (one, two) = (wide(one), wide(two));
        let [rows, columns]: [usize; 2] = one.shape().dims();
        let (client, sums) = (one.client.clone(), numbers(&one, [rows, columns]));
        let (count, dim) = one_unit_each(&client, rows);
        let out = sums.clone().into_tensor_arg();
        merge_kernel::launch(&client, count, dim, one.into_tensor_arg(), two.into_tensor_arg(), out);
        sums
    }

    fn outputs(sums: CubeTensor, entropy: bool) -> CubeTensor {
        let sums = wide(sums);
        let [rows, _]: [usize; 2] = sums.shape().dims();
        let (client, outputs) = (sums.client.clone(), numbers(&sums, [rows, if entropy { 2 } else { 1 }]));
        let (count, dim) = one_unit_each(&client, rows);
        let out = outputs.clone().into_tensor_arg();
        outputs_kernel::launch(&client, count, dim, sums.into_tensor_arg(), out, f32::INFINITY, f32::NAN, entropy);
        outputs
    }

    fn exp_rows(z: CubeTensor, sums: CubeTensor, cap: Option<f64>) -> CubeTensor {
        let slopes = RowSlopes { gradient: false, entropy: false, capped: cap.is_some() };
        let none = numbers(&z, [1, 1]);
        let no_targets = empty_device_contiguous_dtype(z.client.clone(), z.device.clone(), Shape::new([1]), DType::I32);
        overwritten(z, &no_targets, sums, none, 0, Chain { scale: 1.0, cap }, slopes)
    }
}

/// Rows of logits with what [`gradient_kernel`] makes of them in their place.
fn overwritten(
    z: CubeTensor,
    targets: &CubeTensor,
    sums: CubeTensor,
    upstream: CubeTensor,
    offset: usize,
    chain: Chain,
    slopes: RowSlopes,
) -> CubeTensor {
    let (z, targets, sums) = (into_contiguous(z), into_contiguous(targets.clone()), wide(sums));
    let [rows, columns]: [usize; 2] = z.shape().dims();
    if rows * columns == 0 {
        return z;
    }
    let (client, lanes) = (z.client.clone(), lanes(&z, columns));
    let units = cube_of(&client).units;
    let segments = columns.div_ceil(WRITTEN_SEGMENT * units * lanes);
    let segment = (columns / lanes).div_ceil(segments);
    let (count, dim) = cubes(&client, rows * segments, units);
    let (address, dtype) = (z.required_address_type(), dtype_to_storage_type(z.dtype));
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
        sums.into_tensor_arg(),
        upstream.into_tensor_arg(),
        segment,
        segments,
        offset as i32,
        chain.scale as f32,
        chain.cap.unwrap_or(1.0) as f32,
        f32::INFINITY,
        f32::NAN,
        slopes,
        units,
        dtype,
    );
    out
}

/// A matrix with `scale · block` in some rows and columns, or added to them; in its own memory if nobody else holds it.
fn with_part(
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
    let lanes = sizes(&matrix).find(fitting).unwrap_or(1);
    let (client, dtype) = (matrix.client.clone(), dtype_to_storage_type(matrix.dtype));
    let address = AddressType::max(matrix.required_address_type(), block.required_address_type());
    let (count, dim) = one_unit_each(&client, elements / lanes);
    let (from, to) = (block.into_tensor_arg(), matrix.clone().into_tensor_arg());
    let (row, column, scale) = (rows.start, columns.start, scale as f32);
    accumulate_kernel::launch(&client, count, dim, address, lanes, from, to, row, column, scale, accumulate, dtype);
    matrix
}

/// Memory for a result as large as `z`: its own if nobody else holds it.
fn in_place_or_beside(z: &CubeTensor) -> (CubeTensor, TensorArg) {
    if z.can_mut() {
        return (z.clone(), z.as_tensor_alias(0));
    }
    let out = empty_device_contiguous_dtype(z.client.clone(), z.device.clone(), z.shape(), z.dtype);
    (out.clone(), out.into_tensor_arg())
}

/// A tensor that is in f32 and in order.
fn wide(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(CubeBackend::float_cast(tensor, FloatDType::F32))
}

/// Room for numbers in f32.
fn numbers(like: &CubeTensor, shape: [usize; 2]) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), DType::F32)
}

/// How many numbers are read at a time, in rows of that many.
fn lanes(tensor: &CubeTensor, columns: usize) -> VectorSize {
    sizes(tensor).find(|lanes| columns.is_multiple_of(*lanes)).unwrap_or(1)
}

/// What vectors a device reads well, the longest first.
fn sizes(tensor: &CubeTensor) -> impl Iterator<Item = VectorSize> {
    tensor.client.io_optimized_vector_sizes(tensor.dtype.size()).filter(|lanes| *lanes <= LANES)
}

/// The cube that reads a row.
fn cube_of(client: &Client) -> Cube {
    let hardware = &client.properties().hardware;
    let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0).min(MOST_UNITS);
    let wanted = (PLANES * hardware.plane_size_max.max(1)).clamp(1, most);
    let units = 1 << wanted.ilog2();
    let talk = client.properties().features.plane.contains(Plane::Ops);
    let planes = if talk { units / hardware.plane_size_min.max(1) as usize } else { 1 };
    Cube { units, planes }
}

fn enough_cubes(client: &Client) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.map_or(ENOUGH_CUBES, |count| 4 * count as usize)
}

/// So many cubes, in a grid that no axis of which is longer than the device allows.
fn cubes(client: &Client, count: usize, units: usize) -> (CubeCount, CubeDim) {
    let longest = client.properties().hardware.max_cube_count.0.min(u16::MAX.into()) as usize;
    let x = count.clamp(1, longest);
    (CubeCount::Static(x as u32, count.div_ceil(x) as u32, 1), CubeDim::new_1d(units as u32))
}

/// A unit for each of `count`.
fn one_unit_each(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let units = cube_of(client).units;
    cubes(client, count.div_ceil(units), units)
}

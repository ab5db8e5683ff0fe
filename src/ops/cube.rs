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

/// The most units of a cube.
const MOST_UNITS: u32 = 256;
/// Cubes that keep a device busy if it does not say how many processors it has.
const ENOUGH_CUBES: usize = 256;
/// How many numbers each unit reads at least: fewer are not worth a cube of their own.
const SHORTEST_SEGMENT: usize = 16;
/// How many columns of a row a cube that writes is given, unless each unit would have fewer than twice the above.
const WRITTEN_SEGMENT: usize = 8192;
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
        let upstream = Self::float_cast(upstream, FloatDType::F32); // its strides may be 0
        overwritten(z, targets, sums, upstream, offset, chain, slopes)
    }

    fn soft_cap(z: CubeTensor, cap: f64) -> CubeTensor {
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
        soft_cap_kernel::launch(&client, count, dim, address, lanes, z.into_tensor_arg(), out_arg, cap as f32, dtype);
        out
    }

    fn product_into(destination: CubeTensor, lhs: CubeTensor, rhs: CubeTensor, product: Product) -> CubeTensor {
        let Product { rows, columns, accumulate, scale } = product;
        let dtype = destination.dtype;
        let whole = destination.shape().dims() == [rows.len(), columns.len()];
        let room =
            (whole && !accumulate && destination.can_mut() && destination.is_contiguous()).then_some(&destination);
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
        let [rows, columns]: [usize; 2] = z.shape().dims();
        let cube = cube_of(&z.client);
        let most = columns.div_ceil(SHORTEST_SEGMENT * cube.units).max(1);
        let segments = enough_cubes(&z.client).div_ceil(rows.max(1)).min(most);
        let address = address_of(&z);
        row_sums(z, targets, offset, statistics, &Reading { cube, segments, address })
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
        let no_targets = room(&z, [1], DType::I32);
        overwritten(z, no_targets, sums, none, 0, Chain { scale: 1.0, cap }, slopes)
    }
}

/// How rows are read.
#[derive(Debug)]
struct Reading {
    cube: Cube,
    /// How many cubes share a row.
    segments: usize,
    /// In what numbers places are counted.
    address: AddressType,
}

/// [`RowKernels::row_sums`], in a way of one's choice.
fn row_sums(
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
    let parts = numbers(&z, [rows * segments, RowSums::COLUMNS]);
    row_sums_kernel::launch(
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
    let sums = numbers(&parts, [rows, RowSums::COLUMNS]);
    let (count, dim) = one_unit_each(&client, rows);
    let out = sums.clone().into_tensor_arg();
    merge_parts_kernel::launch(&client, count, dim, parts.into_tensor_arg(), out, segments);
    sums
}

/// Rows of logits, each for so many cubes.
struct Segments {
    lanes: VectorSize,
    /// How many vectors of a row a cube is given.
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

/// Rows of logits with what [`gradient_kernel`] makes of them in their place.
fn overwritten(
    z: CubeTensor,
    targets: CubeTensor,
    sums: CubeTensor,
    upstream: CubeTensor,
    offset: usize,
    chain: Chain,
    slopes: RowSlopes,
) -> CubeTensor {
    let (z, targets, sums) = (into_contiguous(z), into_contiguous(targets), wide(sums));
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
    let address = AddressType::max(address_of(&matrix), address_of(&block));
    let (count, dim) = one_unit_each(&client, elements / lanes);
    let (from, to) = (block.into_tensor_arg(), matrix.clone().into_tensor_arg());
    let (row, column, scale) = (rows.start, columns.start, scale as f32);
    accumulate_kernel::launch(&client, count, dim, address, lanes, from, to, row, column, scale, accumulate, dtype);
    matrix
}

/// In what numbers places in a tensor are counted. A grid is rounded up, so 32 bits are left with room to spare.
fn address_of(tensor: &CubeTensor) -> AddressType {
    AddressType::from_len_signed(tensor.handle.size() as usize / tensor.dtype.size())
}

/// Memory for a result as large as `z`: its own if nobody else holds it.
fn in_place_or_beside(z: &CubeTensor) -> (CubeTensor, TensorArg) {
    if z.can_mut() {
        return (z.clone(), z.as_tensor_alias(0));
    }
    let out = room(z, z.shape().dims::<2>(), z.dtype);
    (out.clone(), out.into_tensor_arg())
}

/// A tensor that is in f32 and in order.
fn wide(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(CubeBackend::float_cast(tensor, FloatDType::F32))
}

/// Room for numbers in f32.
pub(super) fn numbers<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    room(like, shape, DType::F32)
}

/// Memory for a result where `like` is.
pub(super) fn room<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

/// How many numbers are read at a time, in rows of that many.
fn lanes(tensor: &CubeTensor, columns: usize) -> VectorSize {
    sizes(tensor).find(|lanes| columns.is_multiple_of(*lanes)).unwrap_or(1)
}

/// What vectors a device reads well, the longest first.
fn sizes(tensor: &CubeTensor) -> impl Iterator<Item = VectorSize> {
    tensor.client.io_optimized_vector_sizes(tensor.dtype.size()).filter(|lanes| *lanes <= LANES)
}

/// The cube that reads a row, of up to a quarter as many planes as a plane has units: 256 units where there are 32 to a plane.
/// Narrow planes are a processor's vectors, which gain nothing from many units and lose by waiting for each other.
fn cube_of(client: &Client) -> Cube {
    let hardware = &client.properties().hardware;
    let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0).clamp(1, MOST_UNITS);
    let plane = hardware.plane_size_max.max(1);
    let units = 1 << (plane * plane.div_ceil(4)).min(most).ilog2();
    let talk = client.properties().features.plane.contains(Plane::Ops);
    Cube { units, planes: talk.then(|| (units / hardware.plane_size_min.max(1) as usize).max(1)) }
}

fn enough_cubes(client: &Client) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.map_or(ENOUGH_CUBES, |count| 4 * count as usize)
}

/// So many cubes, in a grid that no axis of which is longer than the device allows.
pub(super) fn cubes(client: &Client, count: usize, units: usize) -> (CubeCount, CubeDim) {
    let longest = client.properties().hardware.max_cube_count.0.min(u16::MAX.into()) as usize;
    let x = count.clamp(1, longest);
    (CubeCount::Static(x as u32, count.div_ceil(x) as u32, 1), CubeDim::new_1d(units as u32))
}

/// A unit for each of `count`.
pub(super) fn one_unit_each(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let units = cube_of(client).units;
    cubes(client, count.div_ceil(units), units)
}

#[cfg(all(test, feature = "wgpu-unfused", feature = "flex"))]
mod tests {
    //! The kernels beside those of the CPU, in every shape of cube and segment, on a GPU that is there or that software makes.

    use burn::backend::ops::IntTensorOps;
    use burn_cubecl::CubeDevice;
    use burn_tensor::TensorData;

    use super::{
        super::{
            UNCOUNTED,
            cpu::{self, RowSum},
            sums::column,
        },
        *,
    };

    fn device() -> CubeDevice {
        let device = burn_tensor::Device::wgpu(Default::default());
        match device.as_dispatch() {
            burn::backend::DispatchDevice::Cube(device) => device.clone(),
            other => panic!("{other:?} is no GPU"),
        }
    }

    fn host(tensor: CubeTensor) -> Vec<f32> {
        let data = burn::backend::read_sync(CubeBackend::float_into_data(tensor)).expect("it can be read");
        data.to_vec().expect("f32")
    }

    /// Numbers from −8 to 8, in no order; now and then −∞.
    fn logits(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..rows * columns)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 40) as f32 / (1u64 << 24) as f32;
                if unit < 0.01 { f32::NEG_INFINITY } else { (unit * 64.0).round() / 4.0 - 8.0 }
            })
            .collect()
    }

    fn on_gpu(numbers: &[f32], shape: [usize; 2], device: &CubeDevice) -> CubeTensor {
        CubeBackend::float_from_data(TensorData::new(numbers.to_vec(), shape), device)
    }

    fn targets_on_gpu(targets: &[i32], device: &CubeDevice) -> CubeTensor {
        CubeBackend::int_from_data(TensorData::new(targets.to_vec(), [targets.len()]), device)
    }

    /// Units with and without planes, one and several cubes to a row, vectors of 1, 2 and 4.
    #[test]
    fn sums_of_rows_are_those_of_the_cpu_in_every_shape_of_cube() {
        let device = device();
        let client = device.client();
        let plane = client.properties().hardware.plane_size_min as usize;
        let planes = |count: usize| Cube { units: count * plane, planes: Some(count) };
        let shapes =
            [Cube { units: 8, planes: None }, Cube { units: 64, planes: None }, planes(1), planes(2), planes(8)];
        let addresses = [AddressType::U32, AddressType::U64];
        let addresses = addresses.into_iter().filter(|address| client.properties().supports_address(*address));
        let readings: Vec<Reading> = addresses
            .flat_map(|address| shapes.map(|cube| (cube, address)))
            .flat_map(|(cube, address)| [1, 3].map(|segments| Reading { cube, segments, address }))
            .collect();
        for (columns, offset) in [(1, 0), (2, 7), (100, 0), (1001, 3), (4096, 100_000)] {
            let rows = 5;
            let z = logits(rows, columns, columns as u64);
            let targets = [offset as i32, UNCOUNTED, (offset + columns) as i32 - 1, offset as i32 - 1, i32::MAX];
            let vocab = 2 * columns;
            let expected = cpu::sums_of(&z, columns, &targets, offset, Some(vocab));
            for reading in &readings {
                let actual = host(row_sums(
                    on_gpu(&z, [rows, columns], &device),
                    targets_on_gpu(&targets, &device),
                    offset,
                    Some(vocab),
                    reading,
                ));
                let expected = expected.chunks(RowSums::COLUMNS).zip(actual.chunks(RowSums::COLUMNS));
                for (row, (expected, actual)) in expected.enumerate().filter(|(row, _)| targets[*row] != UNCOUNTED) {
                    for (column, (&expected, &actual)) in expected.iter().zip(actual).enumerate() {
                        // sums of positive terms: each passes through 32 additions, 32 more, and those of units and parts
                        let bound = match column {
                            column::REST | column::DEPTH | column::SQUARES => {
                                200.0 * f64::from(f32::EPSILON) * expected
                            }
                            column::MEAN => 200.0 * f64::from(f32::EPSILON) * 8.0,
                            _ => 0.0,
                        };
                        let same = expected == f64::from(actual) || expected.is_nan() && actual.is_nan();
                        assert!(
                            same || (expected - f64::from(actual)).abs() <= bound,
                            "{columns} columns, {reading:?}, row {row}, number {column}: {actual}, expected {expected}"
                        );
                    }
                }
            }
        }
    }

    /// A million depths, as far as there is anything left, beside `exp` in f64.
    ///
    /// In units of rounding, half an `EPSILON`: 1 of the polynomial's last addition, 0.85 of the product before it, 1 of `1 + s`, 1
    /// of the product with it, and 0.3 of what both series leave out.
    #[test]
    fn exp_is_accurate_to_its_last_place() {
        let device = device();
        let sums = RowSum { max: 0.0, ..RowSum::EMPTY };
        let of_row: Vec<f32> = bytemuck::cast_slice(&[sums]).iter().map(|sum: &f64| *sum as f32).collect();
        let depths: Vec<f32> = (0..1 << 20).map(|i| i as f32 * (87.3 / (1 << 20) as f32)).collect();
        let z: Vec<f32> = depths.iter().map(|d| -d).collect();
        let mut of_row = of_row;
        of_row[column::TIES] = 1.0;
        let exps = host(CubeBackend::exp_rows(
            on_gpu(&z, [1, z.len()], &device),
            on_gpu(&of_row, [1, RowSums::COLUMNS], &device),
            None,
        ));
        let worst = depths.iter().zip(exps).map(|(d, exp)| {
            let exact = f64::from(-d).exp();
            (f64::from(exp) - exact).abs() / exact / f64::from(f32::EPSILON)
        });
        let worst = worst.fold(0.0, f64::max);
        println!("exp: at most {worst:.3} of EPSILON");
        assert!(worst <= 4.15 / 2.0, "{worst} of EPSILON");
    }
}

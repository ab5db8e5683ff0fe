//! Buffers, vector sizes and grids for a launch.

use burn::backend::{TensorMetadata, ops::FloatTensorOps};
use burn_cubecl::{
    CubeBackend,
    cubecl::{
        features::Plane,
        prelude::{AddressType, Client, CubeCount, CubeDim, TensorArg, VectorSize},
    },
    kernel::into_contiguous,
    ops::numeric::empty_device_contiguous_dtype,
    tensor::CubeTensor,
};
use burn_tensor::{DType, FloatDType, Shape};

use crate::ops::gpu::Cube;

/// The most units of a cube.
const MOST_UNITS: u32 = 256;
/// Cubes that keep a device busy if it does not say how many processors it has.
const ENOUGH_CUBES: usize = 256;
/// Vectors are no longer than this, whatever the dtype: so 16-bit logits give the same sums, bit by bit, as the same numbers in f32.
const LANES: usize = 4;

/// The type of indices into a tensor. A grid is rounded up, so 32 bits are used only with room to spare.
pub(super) fn address_of(tensor: &CubeTensor) -> AddressType {
    AddressType::from_len_signed(tensor.handle.size() as usize / tensor.dtype.size())
}

/// A buffer for a result as large as `z`: the buffer of `z` if it is the only owner.
pub(super) fn in_place_or_beside(z: &CubeTensor) -> (CubeTensor, TensorArg) {
    if z.can_mut() {
        return (z.clone(), z.as_tensor_alias(0));
    }
    let out = empty(z, z.shape().dims::<2>(), z.dtype);
    (out.clone(), out.into_tensor_arg())
}

/// The tensor in f32, row-major.
pub(super) fn to_f32(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(CubeBackend::float_cast(tensor, FloatDType::F32))
}

/// A new buffer of f32 on the device of `like`.
pub(in crate::ops) fn empty_f32<const D: usize>(like: &CubeTensor, shape: [usize; D]) -> CubeTensor {
    empty(like, shape, DType::F32)
}

/// A new buffer on the device of `like`.
pub(in crate::ops) fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::new(shape), dtype)
}

/// The longest vectors in which rows of `columns` numbers can be read.
pub(super) fn lanes(tensor: &CubeTensor, columns: usize) -> VectorSize {
    vector_sizes(tensor).find(|lanes| columns.is_multiple_of(*lanes)).unwrap_or(1)
}

/// The vector sizes that a device reads well, the longest first.
pub(super) fn vector_sizes(tensor: &CubeTensor) -> impl Iterator<Item = VectorSize> {
    tensor.client.io_optimized_vector_sizes(tensor.dtype.size()).filter(|lanes| *lanes <= LANES)
}

/// The cube that reads a row, of up to a quarter as many planes as a plane has units: 256 units where there are 32 to a plane.
/// Narrow planes are the vectors of a CPU, which gain nothing from many units and lose time at barriers.
pub(super) fn cube_of(client: &Client) -> Cube {
    let hardware = &client.properties().hardware;
    let most = hardware.max_units_per_cube.min(hardware.max_cube_dim.0).clamp(1, MOST_UNITS);
    let plane = hardware.plane_size_max.max(1);
    let units = 1 << (plane * plane.div_ceil(4)).min(most).ilog2();
    let has_plane_ops = client.properties().features.plane.contains(Plane::Ops);
    Cube { units, planes: has_plane_ops.then(|| (units / hardware.plane_size_min.max(1) as usize).max(1)) }
}

pub(super) fn enough_cubes(client: &Client) -> usize {
    client.properties().hardware.num_streaming_multiprocessors.map_or(ENOUGH_CUBES, |count| 4 * count as usize)
}

/// A grid of `count` cubes in which no axis is longer than the device allows.
pub(in crate::ops) fn cubes(client: &Client, count: usize, units: usize) -> (CubeCount, CubeDim) {
    let longest = client.properties().hardware.max_cube_count.0.min(u16::MAX.into()) as usize;
    let x = count.clamp(1, longest);
    (CubeCount::Static(x as u32, count.div_ceil(x) as u32, 1), CubeDim::new_1d(units as u32))
}

/// A grid with a unit for each of `count`.
pub(in crate::ops) fn one_unit_each(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let units = cube_of(client).units;
    cubes(client, count.div_ceil(units), units)
}

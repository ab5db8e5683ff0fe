//! The only place that knows backends.
//!
//! Everything above is written over burn's tensors, which choose their backend at run time. What burn's tensors
//! cannot say is asked for here, through one extension trait over burn's backends ([`PreferenceOps`]) whose default
//! bodies serve any backend and whose gradients are written by hand in `autodiff`.
// burn calls its ndarray and libtorch backends deprecated; this crate supports them while burn does.
#![allow(deprecated)]

mod autodiff;
mod precision;
mod reduce;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn_tensor::{DType, Device, Int, Tensor, TensorData};

pub(crate) use precision::{
    arithmetic_dtype, check_float, check_int, check_same_device, exp_is_accurate, to_arithmetic_dtype,
};
pub(crate) use reduce::{count, max_of_rows, sum_in_blocks};

/// What this crate asks of a backend beyond burn's own operations.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "cube"),
    Autodiff
)]
pub trait PreferenceOps: Backend {
    /// `value`, with `gradient` as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_gradient(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let _ = (input, gradient);
        value
    }

    /// `value`, with 0 as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_zero_gradient(value: FloatTensor<Self>, input: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = input;
        value
    }
}

#[cfg(feature = "flex")]
impl PreferenceOps for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
impl PreferenceOps for burn::backend::NdArray {}

#[cfg(feature = "tch")]
impl PreferenceOps for burn::backend::LibTorch {}

#[cfg(feature = "cube")]
impl PreferenceOps for burn_cubecl::CubeBackend {}

/// A function known by its value and its partial derivatives: `value`, whose derivative in each `input` is the
/// `gradient` beside it.
///
/// `value` and the gradients have one shape and carry no gradient themselves; an input that is not tracked costs nothing.
/// A `value` of `[rows, 1]` may stand beside inputs and gradients of `[rows, n]`: one function of each row.
/// Where the incoming gradient is exactly 0 the outgoing one is 0, whatever `gradient` holds there.
pub(crate) fn closed_form<const D: usize, const N: usize>(
    value: Tensor<D>,
    partials: [(Tensor<D>, Tensor<D>); N],
) -> Tensor<D> {
    partials.into_iter().fold(value, |value, (input, gradient)| {
        if !input.is_tracked() {
            return value;
        }
        Tensor::from_dispatch(Dispatch::with_gradient(
            value.into_dispatch(),
            input.into_dispatch(),
            gradient.into_dispatch(),
        ))
    })
}

/// A constant `value`, in the graph of an `input` that it does not depend on: a backward pass can start from it, and
/// gives the input a gradient of 0.
///
/// For results of no elements. Slicing, selecting or reducing to nothing leaves the graph on some backends, and on wgpu
/// gives whatever was in the memory as a gradient.
pub(crate) fn independent_of<const D: usize, const E: usize>(value: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    if !input.is_tracked() {
        return value;
    }
    Tensor::from_dispatch(Dispatch::with_zero_gradient(value.into_dispatch(), input.clone().into_dispatch()))
}

/// 0, `[1]`, where the other tensor is and in its format: the sum of nothing.
///
/// Written on the host: on wgpu, burn's reduction to nothing, and even its `zeros` beside other operations on nothing, may give
/// whatever was in the memory.
pub(crate) fn zero<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![0.0f64], [1]), (&like.device().without_autodiff(), like.dtype()))
}

/// 0, 1, 2, … in 32 bits, whatever the device's default integer is.
///
/// Written on the host: on wgpu, burn's `arange` is wrong beyond 65 535.
pub(crate) fn indices(count: usize, device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = (0..count as i32).collect();
    Tensor::from_data(TensorData::new(indices, [count]), (&device.clone().without_autodiff(), DType::I32))
}

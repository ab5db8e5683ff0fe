//! The only place that knows backends.
//!
//! Everything above is written over burn's tensors, which choose their backend at run time. What burn's tensors
//! cannot say is asked for here, through one extension trait over burn's backends ([`PreferenceOps`]) whose default
//! bodies serve any backend and whose gradients are written by hand in `autodiff`.
// burn calls its ndarray and libtorch backends deprecated; this crate supports them while burn does.
#![allow(deprecated)]

mod autodiff;
mod precision;

use burn::backend::{Backend, Dispatch, backend_extension, ops::FloatTensorOps, tensor::FloatTensor};
use burn_tensor::{Int, IntDType, Tensor};

pub(crate) use precision::{arithmetic_dtype, check_float, check_int, check_same_device, to_arithmetic_dtype};

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

/// The index of the largest entry of each row, `[rows, 1]`: the first of equals, and the first NaN if there is one.
///
/// As 32-bit integers: burn's own `argmax` gives the device's default ones, which may be too narrow to count a vocabulary.
pub(crate) fn argmax(rows: Tensor<2>) -> Tensor<2, Int> {
    Tensor::from_dispatch(Dispatch::float_argmax(rows.into_dispatch(), 1, IntDType::I32))
}

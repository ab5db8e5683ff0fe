//! Values with gradients written by hand, in burn's graph.

use burn::backend::Dispatch;
use burn_tensor::{FloatDType, Int, Tensor};

use super::{PreferenceOps, SoftmaxState, dtype::arithmetic_dtype};

/// A function known by its value and its partial derivatives: `value`, whose derivative in each `input` is the `derivative` beside
/// it.
///
/// `value` and the derivatives have one shape and carry no gradient themselves. An input that is not tracked costs nothing.
/// A `value` of `[rows, 1]` may stand beside inputs and derivatives of `[rows, n]`, one function of each row, and a `value` of `[1]`
/// beside inputs of any shape: a backward pass that starts with 1 then hands the derivative on without a copy.
/// Where the incoming gradient is exactly 0 the outgoing one is 0, whatever the derivative is.
pub(crate) fn closed_form<const E: usize, const D: usize, const N: usize>(
    value: Tensor<E>,
    partials: [(Tensor<D>, Tensor<D>); N],
) -> Tensor<E> {
    partials.into_iter().fold(value, |value, (input, derivative)| {
        if !input.is_tracked() {
            return value;
        }
        Tensor::from_dispatch(Dispatch::with_gradient(
            value.into_dispatch(),
            input.into_dispatch(),
            derivative.into_dispatch(),
        ))
    })
}

/// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (log-prob and entropy), in the graph of the logits that they were computed from,
/// which begin at column `offset` of the vocabulary. In the dtype that is computed in.
pub(crate) fn with_row_gradient(
    outputs: Tensor<2>,
    z: Tensor<2>,
    targets: &Tensor<1, Int>,
    state: &SoftmaxState,
    offset: usize,
) -> Tensor<2> {
    let outputs = outputs.cast(FloatDType::from(arithmetic_dtype(z.dtype())));
    if !z.is_tracked() {
        return outputs;
    }
    Tensor::from_dispatch(Dispatch::with_row_gradient(
        outputs.into_dispatch(),
        z.into_dispatch(),
        targets.clone().into_dispatch(),
        state.columns().into_dispatch(),
        offset,
        state.implementation(),
    ))
}

/// `value`, also in the graph of an `input` on which it does not depend: a backward pass can start from it, and gives the input a
/// gradient of 0.
///
/// For results of no elements. Slicing, selecting or reducing to nothing leaves the graph on some backends, and on wgpu gives
/// uninitialised memory as a gradient.
pub(crate) fn independent_of<const D: usize, const E: usize>(value: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    if !input.is_tracked() {
        return value;
    }
    Tensor::from_dispatch(Dispatch::with_zero_gradient(value.into_dispatch(), input.clone().into_dispatch()))
}

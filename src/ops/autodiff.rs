//! Gradients written by hand.

use burn::{
    backend::{
        Backend, TensorMetadata,
        tensor::{Device, FloatTensor},
    },
    tensor::{FloatDType, Shape},
};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::PreferenceOps;

/// `value` passes its gradient on; `input` receives it times the known derivative.
#[derive(Debug)]
struct WithGradient;

impl<B: Backend> Backward<B, 2> for WithGradient {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([value, input], derivative) = (ops.parents, ops.state);
        if let Some(input) = input {
            grads.register::<B>(input.id, scaled::<B>(derivative, upstream.clone()));
        }
        if let Some(value) = value {
            grads.register::<B>(value.id, upstream);
        }
    }
}

/// `input` receives zeros.
#[derive(Debug)]
struct WithZeroGradient;

impl<B: Backend> Backward<B, 1> for WithZeroGradient {
    type State = (Shape, Device<B>, FloatDType);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<B>(&ops.node);
        let ([input], (shape, device, dtype)) = (ops.parents, ops.state);
        if let Some(input) = input {
            grads.register::<B>(input.id, B::float_zeros(shape, &device, dtype));
        }
    }
}

/// `derivative · upstream`, and exactly 0 where `upstream` is: a pair that the caller left out must not bring its NaN.
///
/// Where each upstream number belongs to a row of derivatives, `[rows, 1]` to `[rows, n]`, it is spread over it.
fn scaled<B: Backend>(derivative: FloatTensor<B>, upstream: FloatTensor<B>) -> FloatTensor<B> {
    let bool_dtype = burn::backend::get_or_init_device_settings::<B>(&upstream.device()).bool_dtype;
    let mut unused = B::float_equal_elem(upstream.clone(), 0f32.into(), bool_dtype);
    if upstream.shape() != derivative.shape() {
        unused = B::bool_expand(unused, derivative.shape());
    }
    B::float_mask_fill(B::float_mul(derivative, upstream), unused, 0f32.into())
}

impl<B: PreferenceOps, C: CheckpointStrategy> PreferenceOps for Autodiff<B, C> {
    fn with_gradient(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (value, value_node) = value.into_parts();
        let (_, input_node) = input.into_parts();
        let (gradient, _) = gradient.into_parts();
        match WithGradient.prepare::<C>([value_node, input_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(gradient, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }

    fn with_zero_gradient(value: FloatTensor<Self>, input: FloatTensor<Self>) -> FloatTensor<Self> {
        let (value, _) = value.into_parts();
        let (input, input_node) = input.into_parts();
        match WithZeroGradient.prepare::<C>([input_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((input.shape(), input.device(), input.dtype().into()), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}

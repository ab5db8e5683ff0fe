//! Gradients written by hand.

use burn::{
    backend::{
        Backend, TensorMetadata,
        tensor::{Device, FloatTensor, IntTensor},
    },
    tensor::{FloatDType, Shape},
};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::{
    Head, Implementation, LogitTransform, PreferenceOps,
    head::{HeadGradients, Saved},
};

/// `value` passes its gradient on; `input` receives it times the known derivative.
#[derive(Debug)]
struct WithGradient;

impl<B: PreferenceOps> Backward<B, 2> for WithGradient {
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

/// `value` passes its gradient on; `input` receives zeros.
#[derive(Debug)]
struct WithZeroGradient;

impl<B: Backend> Backward<B, 2> for WithZeroGradient {
    type State = (Shape, Device<B>, FloatDType);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([value, input], (shape, device, dtype)) = (ops.parents, ops.state);
        if let Some(value) = value {
            grads.register::<B>(value.id, upstream);
        }
        if let Some(input) = input {
            grads.register::<B>(input.id, B::float_zeros(shape, &device, dtype));
        }
    }
}

/// The gradient of each row of logits is computed from the logits again, in their buffer if it can be.
#[derive(Debug)]
struct WithRowGradient;

impl<B: PreferenceOps> Backward<B, 1> for WithRowGradient {
    type State = (FloatTensor<B>, IntTensor<B>, FloatTensor<B>, usize, Implementation);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([logits], (z, targets, state, offset, implementation)) = (ops.parents, ops.state);
        if let Some(logits) = logits {
            let gradient = implementation.row_gradient::<B>(z, targets, state, upstream, offset, LogitTransform::NONE);
            grads.register::<B>(logits.id, gradient);
        }
    }
}

/// The gradients of hidden states, weight and bias, from logits that are computed again, tile by tile.
#[derive(Debug)]
struct WithHeadGradient;

impl<B: PreferenceOps> Backward<B, 3> for WithHeadGradient {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let [hidden, weight, bias] = ops.parents;
        let wanted = HeadGradients { hidden: hidden.is_some(), weight: weight.is_some(), bias: bias.is_some() };
        let gradient = ops.state.gradient(upstream, wanted, None);
        for (parent, gradient) in [(hidden, gradient.hidden), (weight, gradient.weight), (bias, gradient.bias)] {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// `derivative · upstream`, and exactly 0 where `upstream` is 0: a pair that the caller left out must not bring its NaN.
///
/// An upstream gradient of a row, `[rows, 1]`, applies to each of its derivatives, `[rows, n]`; a single number applies to all.
fn scaled<B: PreferenceOps>(derivative: FloatTensor<B>, upstream: FloatTensor<B>) -> FloatTensor<B> {
    if upstream.shape().num_elements() == 1 && upstream.shape() != derivative.shape() {
        return B::times(derivative, upstream);
    }
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
        let (value, value_node) = value.into_parts();
        let (input, input_node) = input.into_parts();
        match WithZeroGradient.prepare::<C>([value_node, input_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((input.shape(), input.device(), input.dtype().into()), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }

    fn with_row_gradient(
        outputs: FloatTensor<Self>,
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        state: FloatTensor<Self>,
        offset: usize,
        implementation: Implementation,
    ) -> FloatTensor<Self> {
        let (outputs, _) = outputs.into_parts();
        let (z, node) = z.into_parts();
        let (state, _) = state.into_parts();
        match WithRowGradient.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((z, targets, state, offset, implementation), outputs),
            OpsKind::UnTracked(prep) => prep.finish(outputs),
        }
    }

    fn with_head_gradient(
        outputs: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        state: FloatTensor<Self>,
        head: Head,
    ) -> FloatTensor<Self> {
        let (outputs, _) = outputs.into_parts();
        let (hidden, hidden_node) = hidden.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (state, _) = state.into_parts();
        match WithHeadGradient.prepare::<C>([hidden_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(Saved { hidden, weight, bias, targets, state, head }, outputs),
            OpsKind::UnTracked(prep) => prep.finish(outputs),
        }
    }
}

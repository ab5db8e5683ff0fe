//! Gradients of what takes one pass: one pass too, or none.

use burn::{
    backend::{
        TensorMetadata,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::Shape,
};
use burn_autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};

use super::{FusedOps, Reach};

/// Rows receive the gradients of the predictions that were read from them.
#[derive(Debug)]
struct WithGradientInRows;

impl<B: FusedOps> Backward<B, 1> for WithGradientInRows {
    /// Targets; how many columns the rows have, and which was taken.
    type State = (IntTensor<B>, usize, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([rows], (targets, columns, column)) = (ops.parents, ops.state);
        if let Some(rows) = rows {
            grads.register::<B>(rows.id, B::gradient_of_rows(upstream, targets, columns, column));
        }
    }
}

/// Each value of a row receives the gradient of the row's sum.
#[derive(Debug)]
struct WithGradientInValues;

impl<B: FusedOps> Backward<B, 1> for WithGradientInValues {
    type State = Shape;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([values], shape) = (ops.parents, ops.state);
        if let Some(values) = values {
            let column = B::float_reshape(upstream, Shape::new([shape[0], 1]));
            grads.register::<B>(values.id, B::float_expand(column, shape));
        }
    }
}

/// Each part of the input receives its derivative times the gradient of the value.
#[derive(Debug)]
struct WithDerivatives;

impl<B: FusedOps> Backward<B, 1> for WithDerivatives {
    /// Derivatives, how many parts of them there are, and which values depend on the input.
    type State = (FloatTensor<B>, usize, Reach);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([input], (derivatives, parts, reach)) = (ops.parents, ops.state);
        if let Some(input) = input {
            grads.register::<B>(input.id, B::scaled_derivatives(derivatives, upstream, parts, reach));
        }
    }
}

impl<B: FusedOps, C: CheckpointStrategy> FusedOps for Autodiff<B, C> {
    fn with_gradient_in_rows(
        predictions: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: IntTensor<Self>,
        column: usize,
    ) -> FloatTensor<Self> {
        let (predictions, _) = predictions.into_parts();
        let (rows, node) = rows.into_parts();
        let [_, columns]: [usize; 2] = rows.shape().dims();
        match WithGradientInRows.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((targets, columns, column), predictions),
            OpsKind::UnTracked(prep) => prep.finish(predictions),
        }
    }

    fn with_gradient_in_values(sums: FloatTensor<Self>, values: FloatTensor<Self>) -> FloatTensor<Self> {
        let (sums, _) = sums.into_parts();
        let (values, node) = values.into_parts();
        match WithGradientInValues.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(values.shape(), sums),
            OpsKind::UnTracked(prep) => prep.finish(sums),
        }
    }

    fn with_derivatives(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        derivatives: FloatTensor<Self>,
        parts: usize,
        reach: Reach,
    ) -> FloatTensor<Self> {
        let (value, _) = value.into_parts();
        let (_, node) = input.into_parts();
        let (derivatives, _) = derivatives.into_parts();
        match WithDerivatives.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((derivatives, parts, reach), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}

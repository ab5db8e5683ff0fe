//! Gradients of what is one launch: each of them one as well, or none.

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

use super::StepOps;

/// Rows receive what the predictions made of them do.
#[derive(Debug)]
struct WithGradientInRows;

impl<B: StepOps> Backward<B, 1> for WithGradientInRows {
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

/// Each number of a row receives what their sum does.
#[derive(Debug)]
struct WithGradientInValues;

impl<B: StepOps> Backward<B, 1> for WithGradientInValues {
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

/// Each part of the input receives its slopes times what the value does.
#[derive(Debug)]
struct WithSlopes;

impl<B: StepOps> Backward<B, 1> for WithSlopes {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = grads.consume::<B>(&ops.node);
        let ([input], slopes) = (ops.parents, ops.state);
        if let Some(input) = input {
            grads.register::<B>(input.id, B::gradient_of_parts(slopes, upstream));
        }
    }
}

impl<B: StepOps, C: CheckpointStrategy> StepOps for Autodiff<B, C> {
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

    fn with_slopes(value: FloatTensor<Self>, input: FloatTensor<Self>, slopes: FloatTensor<Self>) -> FloatTensor<Self> {
        let (value, _) = value.into_parts();
        let (_, node) = input.into_parts();
        let (slopes, _) = slopes.into_parts();
        match WithSlopes.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(slopes, value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        }
    }
}

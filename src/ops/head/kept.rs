//! Logits that are made once where loss and gradient are computed together.

use std::ops::Range;

use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
use burn_tensor::{DType, Shape, Tensor};

use super::{Head, PreferenceOps, zeros};

/// Logits that wait in the memory of a weight's gradient until it is made: each tile of them where the gradient of the same
/// columns will be.
///
/// A tile of the gradient has as many rows as there are hidden numbers, so that is how many rows of logits there is room
/// for.
#[derive(Debug)]
pub(crate) struct Kept {
    /// In the weight's own shape and orientation, in the format that is computed in.
    pub(crate) memory: Tensor<2>,
    /// How many rows are kept, the first ones.
    pub(crate) rows: usize,
}

impl Kept {
    /// Room for the logits of up to `rows` rows, in one part: where the gradient of some columns is made, all that was kept
    /// there has to be in use already.
    pub(crate) fn new(head: &Head, weight: &Tensor<2>, rows: usize, dtype: DType) -> Self {
        let [width, _] = head.dims(weight);
        Self { memory: zeros(weight, weight.dims(), dtype), rows: rows.min(width).min(head.tiling.rows) }
    }

    pub(super) fn put(&mut self, head: &Head, z: Tensor<2>, columns: Range<usize>) {
        let memory = std::mem::replace(&mut self.memory, Tensor::empty([0, 0], &z.device())); // its only owner writes in place
        let (memory, z) = (memory.into_dispatch(), z.into_dispatch());
        self.memory = Tensor::from_dispatch(with_logits::<Dispatch>(head, memory, z, columns));
    }
}

/// A matrix as which the memory of a weight's gradient holds logits of `columns`, and where in it they are.
///
/// Beside each other where the gradient's columns are those of the vocabulary; where its rows are, one after the other in the
/// rows' place.
fn place_of_logits<B: PreferenceOps>(
    head: &Head,
    memory: FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> (FloatTensor<B>, [Range<usize>; 2]) {
    if !head.transposed {
        return (memory, [0..rows, columns]);
    }
    let (width, numbers) = (memory.shape().dims::<2>()[1], memory.shape().num_elements());
    let start = columns.start * width;
    (B::float_reshape(memory, Shape::new([1, numbers])), [0..1, start..start + rows * columns.len()])
}

/// Puts the logits of the first rows where the gradient of the weight's same columns will be.
fn with_logits<B: PreferenceOps>(
    head: &Head,
    memory: FloatTensor<B>,
    z: FloatTensor<B>,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = memory.shape();
    let (memory, [rows, columns]) = place_of_logits::<B>(head, memory, z.shape().dims::<2>()[0], columns);
    let z = B::float_reshape(z, Shape::new([rows.len(), columns.len()]));
    B::float_reshape(B::with_block(memory, z, rows, columns), shape)
}

/// The logits that [`with_logits`] put there.
pub(super) fn logits_of<B: PreferenceOps>(
    head: &Head,
    memory: &FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = Shape::new([rows, columns.len()]);
    let (memory, [rows, columns]) = place_of_logits::<B>(head, memory.clone(), rows, columns);
    B::float_reshape(B::block(memory, rows, columns), shape)
}

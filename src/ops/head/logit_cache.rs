//! Logits that are computed once where loss and gradient are computed together.

use std::ops::Range;

use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
use burn_tensor::{DType, Shape, Tensor};

use super::{Head, PreferenceOps};
use crate::ops::constants::zeros;

/// Logits cached in the weight gradient's buffer until the gradient is computed: each tile of logits where the gradient of the same
/// columns will be.
///
/// A tile of the gradient has as many rows as the hidden states have columns, so there is room for that many rows of logits.
#[derive(Debug)]
pub(crate) struct LogitCache {
    /// In the weight's own shape and orientation, in the dtype that is computed in.
    pub(crate) buffer: Tensor<2>,
    /// How many rows of logits are cached, the first ones.
    pub(crate) rows: usize,
}

impl LogitCache {
    /// A cache for the logits of up to `rows` rows, in one part: when the gradient of some columns is computed, all logits that
    /// were cached there have to be in use already.
    pub(crate) fn new(head: &Head, weight: &Tensor<2>, rows: usize, dtype: DType) -> Self {
        let [width, _] = head.dims(weight);
        Self { buffer: zeros(weight, weight.dims(), dtype), rows: rows.min(width).min(head.tiling.rows) }
    }

    /// Stores the logits of the first rows and some columns.
    pub(super) fn store(&mut self, head: &Head, z: Tensor<2>, columns: Range<usize>) {
        let buffer = std::mem::replace(&mut self.buffer, Tensor::empty([0, 0], &z.device())); // only the sole owner writes in place
        let (buffer, z) = (buffer.into_dispatch(), z.into_dispatch());
        self.buffer = Tensor::from_dispatch(store::<Dispatch>(head, buffer, z, columns));
    }
}

/// The buffer of the weight's gradient as a matrix, and the block of it that holds the logits of `columns`.
///
/// Where the gradient's columns are those of the vocabulary, logits lie beside each other. Where its rows are, they lie one after the
/// other in the range of these rows.
fn block_of_logits<B: PreferenceOps>(
    head: &Head,
    buffer: FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> (FloatTensor<B>, [Range<usize>; 2]) {
    if !head.transposed {
        return (buffer, [0..rows, columns]);
    }
    let (width, numbers) = (buffer.shape().dims::<2>()[1], buffer.shape().num_elements());
    let start = columns.start * width;
    (B::float_reshape(buffer, Shape::new([1, numbers])), [0..1, start..start + rows * columns.len()])
}

/// The buffer with the logits of the first rows where the gradient of the same columns will be.
fn store<B: PreferenceOps>(
    head: &Head,
    buffer: FloatTensor<B>,
    z: FloatTensor<B>,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = buffer.shape();
    let (buffer, [rows, columns]) = block_of_logits::<B>(head, buffer, z.shape().dims::<2>()[0], columns);
    let z = B::float_reshape(z, Shape::new([rows.len(), columns.len()]));
    B::float_reshape(B::with_block(buffer, z, rows, columns), shape)
}

/// The logits that [`store`] put there.
pub(super) fn load<B: PreferenceOps>(
    head: &Head,
    buffer: &FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = Shape::new([rows, columns.len()]);
    let (buffer, [rows, columns]) = block_of_logits::<B>(head, buffer.clone(), rows, columns);
    B::float_reshape(B::block(buffer, rows, columns), shape)
}

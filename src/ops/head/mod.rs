//! An LM head tile by tile: the logits of all rows, a part of the vocabulary at a time, within a budget of memory.
//!
//! Written once over [`PreferenceOps`]: the forward pass runs it with burn's [`Dispatch`], the backward pass with the backend itself.

mod backward;
mod forward;
mod frozen;
mod logit_cache;
mod tiling;

use std::ops::Range;

use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
use burn_tensor::{DType, FloatDType, Int, Shape, Slice, Tensor};

use super::{
    Implementation, LogitTransform, MatmulInto, PreferenceOps, SoftmaxState,
    device::{is_gpu, largest_allocation, multiplies_in_place},
    dtype::common_dtype,
    portable,
};
pub(crate) use backward::{HeadGradients, Saved};
pub(crate) use forward::Forward;
pub(crate) use logit_cache::LogitCache;
pub(crate) use tiling::Tiling;
use tiling::{TileLimits, columns_of, row_parts};

/// The budget of memory on a CPU unless another is set: 64 MiB.
pub(crate) const DEFAULT_BUDGET: usize = 64 << 20;
/// The same on a GPU, where wide products are fast: 512 MiB.
pub(crate) const DEFAULT_GPU_BUDGET: usize = 512 << 20;

/// How logits come about: `z = softcap · tanh(scale · (hidden · weight + bias) / softcap)`, or without the soft cap; and in which tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Whether the weight is `[vocab, hidden]`, as an embedding's is.
    pub transposed: bool,
    /// Whether there is a bias; without one its tensor has no elements.
    pub biased: bool,
    /// From the products to the logits.
    pub transform: LogitTransform,
    /// The dtype in which hidden states and weight are multiplied: their own where both have the same 16 bits and the device adds such
    /// products up in f32; else the dtype that is computed in.
    pub factors: DType,
    /// The tiles in which logits are computed.
    pub tiling: Tiling,
    /// What computes them.
    pub implementation: Implementation,
}

/// What a caller chooses of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadOptions {
    /// Whether the weight is `[vocab, hidden]`.
    pub(crate) transposed: bool,
    /// Whether there is a bias.
    pub(crate) biased: bool,
    pub(crate) transform: LogitTransform,
    /// Bytes that may be held; the device's default if none.
    pub(crate) budget: Option<usize>,
    /// The fastest that the device has if none.
    pub(crate) implementation: Option<Implementation>,
}

/// The tensors that a head computes logits from.
#[derive(Debug, Clone)]
pub(crate) struct HeadInputs {
    /// `[rows, hidden]`, in the dtype that is computed in.
    pub(crate) hidden: Tensor<2>,
    /// In its own dtype and orientation.
    pub(crate) weight: Tensor<2>,
    /// `[vocab]`; without elements if there is none.
    pub(crate) bias: Tensor<1>,
    /// The target of each row, `[rows]`.
    pub(crate) targets: Tensor<1, Int>,
}

impl HeadInputs {
    pub(crate) fn is_tracked(&self) -> bool {
        self.hidden.is_tracked() || self.weight.is_tracked() || self.bias.is_tracked()
    }

    fn without_autodiff(&self) -> Self {
        Self {
            hidden: self.hidden.clone().without_autodiff(),
            weight: self.weight.clone().without_autodiff(),
            bias: self.bias.clone().without_autodiff(),
            targets: self.targets.clone(),
        }
    }
}

impl Head {
    /// A head for that many rows of hidden states, `[sequences, time, hidden]`, which come in their own dtype.
    pub(crate) fn new(options: HeadOptions, hidden: &Tensor<3>, weight: &Tensor<2>, rows: usize) -> Self {
        let HeadOptions { transposed, biased, transform, budget, implementation } = options;
        let (device, dtype) = (hidden.device(), common_dtype([hidden.dtype(), weight.dtype()]));
        let implementation = implementation.unwrap_or_else(|| Implementation::fastest(&device, dtype));
        let [width, vocab] = oriented(weight.dims(), transposed);
        let default = if is_gpu(&device) { DEFAULT_GPU_BUDGET } else { DEFAULT_BUDGET };
        let budget = budget.unwrap_or(default);
        let limits = TileLimits {
            // the counted tokens' hidden states, a copy, and their gradient are held in any case; logits get at least a quarter
            bytes: budget.saturating_sub(3 * rows * width * dtype.size()).max(budget / 4),
            largest: largest_allocation(&device),
            dtype,
            rows,
            hidden: width,
            vocab,
            converted: weight.dtype() != dtype,
            in_place: multiplies_in_place(&device, implementation),
        };
        let narrow = implementation == Implementation::Kernels && is_gpu(&device) && hidden.dtype() == weight.dtype();
        let factors = if narrow { weight.dtype() } else { dtype };
        let tiling = Tiling::fit(&limits, implementation);
        Self { transposed, biased, transform, factors, tiling, implementation }
    }

    /// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (and entropy), in the graph of what they were computed from. The
    /// backward pass computes the logits again.
    pub(crate) fn with_gradient(&self, outputs: Tensor<2>, inputs: &HeadInputs, state: &SoftmaxState) -> Tensor<2> {
        let HeadInputs { hidden, weight, bias, targets } = inputs.clone();
        let outputs = outputs.cast(FloatDType::from(hidden.dtype()));
        if !inputs.is_tracked() {
            return outputs;
        }
        Tensor::from_dispatch(Dispatch::with_head_gradient(
            outputs.into_dispatch(),
            hidden.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            targets.into_dispatch(),
            state.columns().into_dispatch(),
            *self,
        ))
    }

    /// The column of the weight of each target, `[rows, hidden]`, in the dtype that is computed in; 0 where there is none.
    pub(crate) fn target_columns(&self, inputs: &HeadInputs) -> Tensor<2> {
        let weight = inputs.weight.clone().without_autodiff();
        let weight = if self.transposed { weight.transpose() } else { weight }.into_dispatch();
        let targets = inputs.targets.clone().into_dispatch();
        Tensor::from_dispatch(match self.implementation {
            Implementation::Kernels => Dispatch::target_columns(weight, targets),
            Implementation::Portable => portable::target_columns::<Dispatch>(weight, targets),
        })
    }

    /// `[hidden, vocab]`.
    pub(crate) fn dims(&self, weight: &Tensor<2>) -> [usize; 2] {
        oriented(weight.dims(), self.transposed)
    }

    /// The block of a weight that belongs to some columns of the vocabulary.
    fn block(&self, width: usize, columns: Range<usize>) -> [Range<usize>; 2] {
        if self.transposed { [columns, 0..width] } else { [0..width, columns] }
    }
}

/// The shape `[hidden, vocab]` of a weight.
fn oriented([rows, columns]: [usize; 2], transposed: bool) -> [usize; 2] {
    if transposed { [columns, rows] } else { [rows, columns] }
}

/// Some columns of the weight, `[hidden, columns]`, in the dtype of the factors.
fn tile<B: PreferenceOps>(head: &Head, weight: &FloatTensor<B>, columns: Range<usize>) -> FloatTensor<B> {
    let width = weight.shape().dims::<2>()[if head.transposed { 1 } else { 0 }];
    let block = head.block(width, columns).map(Slice::from);
    let tile = to_dtype::<B>(B::float_slice(weight.clone(), &block), head.factors);
    if head.transposed { B::float_transpose(tile) } else { tile }
}

fn to_dtype<B: PreferenceOps>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, FloatDType::from(dtype)) }
}

/// The logits, in `dtype`, of some rows and columns, `[rows, columns]`, in the workspace if it fits. Hidden states and tile have the
/// dtype of the factors.
fn logits<B: PreferenceOps>(
    head: &Head,
    workspace: Option<FloatTensor<B>>,
    hidden: FloatTensor<B>,
    tile: FloatTensor<B>,
    bias: &FloatTensor<B>,
    columns: Range<usize>,
    dtype: DType,
) -> FloatTensor<B> {
    let [rows, width] = [hidden.shape().dims::<2>()[0], columns.len()];
    let buffer = workspace.filter(|buffer| buffer.shape().dims() == [rows, width]);
    let buffer = buffer.unwrap_or_else(|| B::zeros(hidden.clone(), [rows, width], dtype));
    let into = MatmulInto { rows: 0..rows, columns: 0..width, accumulate: false, scale: head.transform.scale };
    let z = head.implementation.matmul_into::<B>(buffer, hidden, tile, into);
    let z = if head.biased {
        let bias = B::float_slice(bias.clone(), &[Slice::from(columns)]);
        let bias = to_dtype::<B>(B::float_reshape(bias, Shape::new([1, width])), dtype);
        B::float_add(z, B::float_mul_scalar(bias, head.transform.scale.into()))
    } else {
        z
    };
    match (head.transform.softcap, head.implementation) {
        (None, _) => z,
        (Some(softcap), Implementation::Kernels) => B::softcap(z, softcap),
        (Some(softcap), Implementation::Portable) => portable::softcap::<B>(z, softcap),
    }
}

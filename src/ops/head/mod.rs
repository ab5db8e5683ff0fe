//! An LM head tile by tile: the logits of all rows, a part of the vocabulary at a time, within a budget of memory.
//!
//! Written once over [`PreferenceOps`]: the forward pass runs it with burn's [`Dispatch`], the backward pass with the backend
//! itself.

mod backward;
mod forward;
mod kept;
mod tiling;

use std::ops::Range;

use burn::backend::{Dispatch, TensorMetadata, tensor::FloatTensor};
use burn_tensor::{DType, FloatDType, Int, Shape, Slice, Tensor};

use super::{
    Chain, PreferenceOps, Product, Road, RowKernels, RowSums, portable, slope_of_cap, sums::finite_or_zero, zeros,
};
pub(crate) use backward::{HeadGradients, Saved};
pub(crate) use forward::Forward;
pub(crate) use kept::Kept;
pub(crate) use tiling::{Room, Tiling};
use tiling::{columns_of, row_parts};

/// How logits come about: `z = cap · tanh(scale · (hidden · weight + bias) / cap)`, or without the cap; and in which tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Whether the weight is `[vocab, hidden]`, as an embedding's is.
    pub transposed: bool,
    /// Whether there is a bias; without one it is of no elements.
    pub biased: bool,
    /// From the products to the logits.
    pub chain: Chain,
    /// The format in which hidden states and weight are multiplied: 16 bits where both came so and the device adds such products
    /// up in f32; else that which is computed in.
    pub factors: DType,
    /// Which part of the logits is held at a time.
    pub tiling: Tiling,
    /// By what it is computed.
    pub road: Road,
}

/// What goes through a head.
#[derive(Debug, Clone)]
pub(crate) struct HeadInputs {
    /// `[rows, hidden]`, in the format that is computed in.
    pub(crate) hidden: Tensor<2>,
    /// In its own format and orientation.
    pub(crate) weight: Tensor<2>,
    /// `[vocab]`; of no elements if there is none.
    pub(crate) bias: Tensor<1>,
    /// What each row predicts, `[rows]`.
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
    /// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (and entropy), in the graph of what they are functions of; the logits
    /// are made once more in the backward pass.
    pub(crate) fn with_gradient(&self, outputs: Tensor<2>, inputs: &HeadInputs, sums: RowSums) -> Tensor<2> {
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
            sums.0.into_dispatch(),
            *self,
        ))
    }

    /// The column of the weight of each target, `[rows, hidden]`, in the format that is computed in; 0 where there is none.
    pub(crate) fn target_columns(&self, inputs: &HeadInputs) -> Tensor<2> {
        let weight = inputs.weight.clone().without_autodiff();
        let weight = if self.transposed { weight.transpose() } else { weight }.into_dispatch();
        let targets = inputs.targets.clone().into_dispatch();
        Tensor::from_dispatch(match self.road {
            Road::Kernels => Dispatch::target_columns(weight, targets),
            Road::Portable => portable::target_columns::<Dispatch>(weight, targets),
        })
    }

    /// `[hidden, vocab]`.
    pub(crate) fn dims(&self, weight: &Tensor<2>) -> [usize; 2] {
        self.oriented(weight.dims())
    }

    fn oriented(&self, [rows, columns]: [usize; 2]) -> [usize; 2] {
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }

    /// The part of a weight that belongs to some columns of the vocabulary.
    fn part(&self, width: usize, columns: Range<usize>) -> [Range<usize>; 2] {
        if self.transposed { [columns, 0..width] } else { [0..width, columns] }
    }
}

/// Some columns of the weight, `[hidden, columns]`, in the format that factors have.
fn tile<B: PreferenceOps>(head: &Head, weight: &FloatTensor<B>, columns: Range<usize>) -> FloatTensor<B> {
    let width = weight.shape().dims::<2>()[if head.transposed { 1 } else { 0 }];
    let part = head.part(width, columns).map(Slice::from);
    let tile = in_format::<B>(B::float_slice(weight.clone(), &part), head.factors);
    if head.transposed { B::float_transpose(tile) } else { tile }
}

fn in_format<B: PreferenceOps>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, FloatDType::from(dtype)) }
}

/// The logits, in `dtype`, of some rows and columns, `[rows, columns]`, in the workspace if it fits. Hidden states and tile come
/// as factors.
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
    let place = workspace.filter(|place| place.shape().dims() == [rows, width]);
    let place = place.unwrap_or_else(|| B::zeros(hidden.clone(), [rows, width], dtype));
    let product = Product { rows: 0..rows, columns: 0..width, accumulate: false, scale: head.chain.scale };
    let z = head.road.product_into::<B>(place, hidden, tile, product);
    let z = if head.biased {
        let bias = B::float_slice(bias.clone(), &[Slice::from(columns)]);
        let bias = in_format::<B>(B::float_reshape(bias, Shape::new([1, width])), dtype);
        B::float_add(z, B::float_mul_scalar(bias, head.chain.scale.into()))
    } else {
        z
    };
    match (head.chain.cap, head.road) {
        (None, _) => z,
        (Some(cap), Road::Kernels) => B::soft_cap(z, cap),
        (Some(cap), Road::Portable) => portable::soft_cap::<B>(z, cap),
    }
}

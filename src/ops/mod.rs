//! The only place that knows backends.
//!
//! Everything above is written over burn's tensors, which choose their backend at run time. What burn's tensors cannot do is here:
//! extension traits over burn's backends ([`extension`], [`fused`]). Their default bodies ([`portable`]) run on any backend, and
//! their gradients are written by hand in [`autodiff`].
//!
//! A block of logits `[rows, columns]` gives the state of an online softmax for its rows ([`SoftmaxState`], merged over blocks).
//! Once the state of the whole row is there, the block's gradient follows from it ([`PreferenceOps::row_gradient`]). Logits that
//! a model returned are one block as wide as the vocabulary; an LM head ([`head`]) computes one tile of the vocabulary after the
//! other. Where the backend has kernels of its own (`flex` and `ndarray` over `cpu`, `cube` over `gpu`), each block is read once.
//!
//! What lies between these rows and a loss is [`fused`]: targets, sums of sequences, and losses as programs.
// burn calls its ndarray and libtorch backends deprecated; this crate supports them while burn does.
#![allow(deprecated)]

mod autodiff;
mod code;
mod constants;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
mod device;
mod dtype;
mod extension;
#[cfg(feature = "flex")]
mod flex;
mod fused;
#[cfg(feature = "cube")]
mod gpu;
mod graph;
mod head;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod host;
mod implementation;
mod logits;
mod math;
#[cfg(feature = "ndarray")]
mod ndarray;
mod portable;
mod reduce;
mod softmax_state;

pub(crate) use code::{BinaryOp, Instruction, UnaryOp};
pub(crate) use constants::{indices, zero};
pub(crate) use device::{check_same_device, check_same_strategy, computes_in};
pub(crate) use dtype::{arithmetic_dtype, check_float, check_int, common_dtype, to_arithmetic_dtype};
use extension::{PreferenceOps, RowKernels};
pub(crate) use fused::{Call, Reach, accurate_sums, argsort, predictions, targets};
pub(crate) use graph::{closed_form, independent_of, with_row_gradient};
pub(crate) use head::{
    DEFAULT_BUDGET, DEFAULT_GPU_BUDGET, Forward, Head, HeadGradients, HeadInputs, HeadOptions, LogitCache,
};
pub(crate) use implementation::Implementation;
use implementation::MatmulInto;
pub(crate) use logits::{IGNORED, LogitTransform, OUT_OF_VOCAB};
pub(crate) use math::{finite, k3, log1p_of_non_negative};
pub(crate) use reduce::{count, max_of_rows, sum_in_blocks};
pub(crate) use softmax_state::SoftmaxState;

//! Kernels and matrix products on plain slices. Nothing here knows burn.

mod dtype;
mod exp;
mod exp_constants;
mod exp_rows;
mod functions;
mod gradient;
mod map;
#[cfg(feature = "flex")]
mod matmul;
#[cfg(feature = "flex")]
mod matrix;
#[cfg(test)]
#[path = "../../../tests/kernels/naive.rs"]
mod naive;
mod prefetch;
mod program;
mod read_rows;
mod sequences;
mod softcap;
mod softmax_state;
mod tasks;

pub(super) use dtype::{Compute, Float};
pub(super) use exp_rows::exp_rows;
pub(super) use gradient::{RowGradients, Upstream};
#[cfg(feature = "flex")]
pub(super) use matmul::matmul;
#[cfg(feature = "flex")]
pub(super) use matrix::{Matrix, MatrixMut};
pub(super) use program::{Evaluation, PairGradient};
pub(super) use read_rows::states_of;
pub(super) use sequences::{accurate_sums, argsort, gradient_of_rows, predictions, targets};
pub(super) use softcap::softcap;
pub(super) use softmax_state::{SoftmaxState, merged, outputs};

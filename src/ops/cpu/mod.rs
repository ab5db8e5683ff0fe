//! Row kernels and matrix products on plain slices: nothing here knows burn.

mod exp;
mod format;
mod gradient;
mod map;
mod prefetch;
#[cfg(feature = "flex")]
mod product;
mod soft_cap;
mod sum;

pub(super) use format::{Format, Real};
pub(super) use gradient::{Chain, Upstream, exp_rows, gradient_rows, gradient_rows_into};
#[cfg(feature = "flex")]
pub(super) use product::{Matrix, MatrixMut, product};
pub(super) use soft_cap::soft_cap;
pub(super) use sum::{RowSum, merged, outputs, sums_of};

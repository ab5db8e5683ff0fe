//! Kernels for GPUs, written once in CubeCL for every runtime that burn has.
//!
//! They know burn's tensors only as memory; `cube` gives them that. All compute in f32, whatever comes in.
//!
//! WGSL shapes them: no constant is infinite or NaN (such numbers come as arguments), control flow is uniform wherever units
//! wait for each other, and whether a number is NaN is asked of its bits.

mod exp;
mod formula;
mod gradient;
mod map;
mod place;
mod reduce;
mod step;
mod sums;

/// The bits of ∞: of a finite number not all of them are set; without its sign, a number is NaN if its bits are above.
const INFINITE_BITS: u32 = 0x7f80_0000;

pub(super) use formula::{ascending_kernel, formula_kernel, parts_gradient_kernel};
pub(super) use gradient::{RowSlopes, gradient_kernel};
pub(super) use map::{accumulate_kernel, soft_cap_kernel};
pub(super) use reduce::Cube;
pub(super) use step::{accurate_sums_kernel, predictions_kernel, rows_gradient_kernel, targets_kernel};
pub(super) use sums::{merge_kernel, merge_parts_kernel, outputs_kernel, row_sums_kernel};

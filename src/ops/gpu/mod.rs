//! Kernels for GPUs, written once in CubeCL for every runtime that burn has.
//!
//! They see burn's tensors only as buffers, which `cube` passes. All compute in f32, whatever the dtype of the input.
//!
//! WGSL sets the rules: no constant is infinite or NaN (such numbers are arguments), control flow is uniform around barriers, and
//! NaN is recognised by its bits.

mod exp;
mod gradient;
mod index;
mod map;
mod program;
mod reduce;
mod sequences;
mod softmax_state;

/// The bits of ∞. Without its sign, a number is finite if its bits are below, and NaN if they are above.
const INFINITE_BITS: u32 = 0x7f80_0000;

pub(super) use gradient::{GradientTerms, gradient_kernel};
pub(super) use map::{accumulate_kernel, softcap_kernel};
pub(super) use program::{argsort_kernel, program_kernel, scaled_derivatives_kernel};
pub(super) use reduce::Cube;
pub(super) use sequences::{accurate_sums_kernel, predictions_kernel, rows_gradient_kernel, targets_kernel};
pub(super) use softmax_state::{merge_kernel, merge_parts_kernel, outputs_kernel, softmax_state_kernel};

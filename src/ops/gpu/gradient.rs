//! The gradient of log-probs and entropies in the logits, in the logits' buffer or in another one.
//!
//! ```text
//! ∂/∂z_v = e_v (level + per_gap · (gap_v − D))      v ≠ target, gap_v = max − z_v, e_v = exp(−gap_v), D = Σ e_v gap_v / Σ e_v
//! ∂/∂z_y = g (1 − p_y) + h p_y (gap_y − D)
//! ```
//!
//! with `level = −g/Σ e` and `per_gap = h/Σ e`, `g` and `h` the upstream gradients of log-prob and entropy.

use cubecl::prelude::*;

use super::{
    exp::{exp_of_minus, exp_of_minus_one},
    index::{linear_index, row_of},
    softmax_state::{has_distribution, read},
};
use crate::ops::IGNORED;

/// The terms of a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) struct GradientTerms {
    /// Whether there are upstream gradients; if not, the result is `e_v`.
    pub gradient: bool,
    /// Whether there are upstream gradients of entropies as well.
    pub entropy: bool,
    /// Whether the logits were capped.
    pub capped: bool,
}

/// Gradients of logits `z`, `[rows, columns]`, written to `out`, which may be the same buffer. A cube writes `segment` vectors
/// of a row.
///
/// A row that is not counted, or whose upstream gradients are 0, is not read and gets 0. A row without a distribution gets NaN.
#[cube(launch, address_type = "dynamic")]
#[expect(clippy::too_many_arguments)]
pub(in crate::ops) fn gradient_kernel<F: Float, N: Size>(
    z: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    targets: &Tensor<i32>,
    state: &Tensor<f32>,
    upstream: &Tensor<f32>,
    segment: usize,
    segments: usize,
    offset: i32,
    scale: f32,
    softcap: f32,
    infinity: f32,
    nan: f32,
    #[comptime] terms: GradientTerms,
    #[comptime] units: usize,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let row = row_of(CUBE_POS, segments);
    if row < z.shape(0) {
        let width = z.shape(1) / lanes;
        let begin = CUBE_POS % segments * segment;
        let end = min(begin + segment, width);

        // of the row
        let row_state = read(state, row);
        let max = row_state.max;
        let above_one = row_state.sum_exp_rest + (row_state.max_count - 1.0f32);
        let sum = above_one + 1.0f32;
        let mut undefined = !has_distribution(&row_state, infinity);
        let mut unused = max == -infinity && !row_state.sum_exp_rest.is_nan(); // of nothing but −∞ so far nothing weighs
        let mut level = 1.0f32;
        let mut h = 0.0f32;
        let mut per_gap = 0.0f32;
        let mut mean_gap = 0.0f32;
        let mut at_target = 0.0f32;
        let mut target_vector = width; // in no vector
        let mut target_lane = 0usize;
        if comptime!(terms.gradient) {
            let id = targets[row];
            let target = row_state.target_logit;
            let g = upstream[row * upstream.stride(0)];
            if comptime!(terms.entropy) {
                h = upstream[row * upstream.stride(0) + upstream.stride(1)];
            }
            unused = id == IGNORED || (g == 0.0f32 && h == 0.0f32);
            undefined = undefined || (target.is_nan() && g != 0.0f32);
            level = -g / sum;
            let target_gap = max - target;
            let target_prob = exp_of_minus_one(target_gap) / sum;
            at_target = g * select(target == max, above_one / sum, 1.0f32 - target_prob);
            if comptime!(terms.entropy) {
                per_gap = h / sum;
                mean_gap = row_state.sum_exp_gap / sum;
                let gap = select(target_prob == 0.0f32, 0.0f32, target_gap); // may be infinite
                // without a gradient of the entropy all is as if there were none, down to the sign of 0
                let both = at_target + h * (target_prob * (gap - mean_gap));
                at_target = select(h == 0.0f32, at_target, both);
            }
            at_target = select(undefined, nan, at_target);
            if comptime!(terms.capped) {
                at_target *= 1.0f32 - (target / softcap) * (target / softcap);
            }
            at_target *= scale;
            // without a gradient of the log-prob, the target is an entry like any other
            if g != 0.0f32 && id >= offset {
                let index = (id - offset) as usize;
                if index < z.shape(1) {
                    target_vector = index / lanes;
                    target_lane = index % lanes;
                }
            }
        }
        level = select(undefined, nan, level * scale);
        per_gap *= scale;

        let zero = Vector::<f32, N>::new(0.0f32);
        let mut index = begin + UNIT_POS as usize;
        while index < end {
            let at = linear_index(row, width, index);
            if unused {
                out[at] = Vector::cast_from(zero);
            } else {
                let x = Vector::<f32, N>::cast_from(z[at]);
                let d = Vector::new(max) - x;
                let e = exp_of_minus::<N>(d);
                let mut gradient = e * Vector::new(level);
                if comptime!(terms.entropy) {
                    let gap = select_many(e.equal(&zero), zero, d); // may be infinite
                    let of_entropy = e * (gap - Vector::new(mean_gap)) * Vector::new(per_gap);
                    gradient = select_many(Vector::new(h).equal(&zero), gradient, gradient + of_entropy);
                }
                if comptime!(terms.capped) {
                    let tanh = x / Vector::new(softcap);
                    gradient *= Vector::new(1.0f32) - tanh * tanh;
                }
                if index == target_vector {
                    gradient.insert_dynamic(target_lane, at_target);
                }
                out[at] = Vector::cast_from(gradient);
            }
            index += units;
        }
    }
}

//! The gradient of log-probs and entropies in the logits, where the logits are or beside them.
//!
//! ```text
//! ∂/∂z_v = e_v (level + slope · (d_v − D))        v ≠ target, d_v = max − z_v, e_v = exp(−d_v), D = Σ e_v d_v / Σ e_v
//! ∂/∂z_y = g (1 − p_y) + h p_y (d_y − D)
//! ```
//!
//! with `level = −g/Σ e` and `slope = h/Σ e`, `g` and `h` what comes in for log-prob and entropy.

use cubecl::prelude::*;

use super::{
    exp::{exp_of_minus, exp_of_minus_one},
    place::{place_of, row_of},
    sums::{has_distribution, read},
};
use crate::ops::UNCOUNTED;

/// What is made of each logit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::ops) struct RowSlopes {
    /// Whether gradients come in; if not, 1 comes in for each `e_v`.
    pub gradient: bool,
    /// Whether gradients of entropies come in as well.
    pub entropy: bool,
    /// Whether the logits were capped.
    pub capped: bool,
}

/// Gradients of logits `z`, `[rows, columns]`, written to `out`, which may be the same memory. A cube writes `segment` vectors
/// of a row.
///
/// A row that is not counted, or into which nothing flows, is not read and gets 0. One without a distribution gets NaN.
#[cube(launch, address_type = "dynamic")]
#[expect(clippy::too_many_arguments)]
pub(in crate::ops) fn gradient_kernel<F: Float, N: Size>(
    z: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    targets: &Tensor<i32>,
    sums: &Tensor<f32>,
    upstream: &Tensor<f32>,
    segment: usize,
    segments: usize,
    offset: i32,
    scale: f32,
    cap: f32,
    infinity: f32,
    nan: f32,
    #[comptime] slopes: RowSlopes,
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
        let known = read(sums, row);
        let max = known.max;
        let above_one = known.rest + (known.ties - 1.0f32);
        let sum = above_one + 1.0f32;
        let mut nowhere = !has_distribution(&known, infinity);
        let mut silent = max == -infinity && !known.rest.is_nan(); // of nothing but −∞ so far nothing weighs
        let mut level = 1.0f32;
        let mut h = 0.0f32;
        let mut slope = 0.0f32;
        let mut mean_depth = 0.0f32;
        let mut at_target = 0.0f32;
        let mut target_vector = width; // in no vector
        let mut target_lane = 0usize;
        if comptime!(slopes.gradient) {
            let id = targets[row];
            let target = known.target;
            let g = upstream[row * upstream.stride(0)];
            if comptime!(slopes.entropy) {
                h = upstream[row * upstream.stride(0) + upstream.stride(1)];
            }
            silent = id == UNCOUNTED || (g == 0.0f32 && h == 0.0f32);
            nowhere = nowhere || (target.is_nan() && g != 0.0f32);
            level = -g / sum;
            let target_depth = max - target;
            let target_prob = exp_of_minus_one(target_depth) / sum;
            at_target = g * select(target == max, above_one / sum, 1.0f32 - target_prob);
            if comptime!(slopes.entropy) {
                slope = h / sum;
                mean_depth = known.depth / sum;
                let depth = select(target_prob == 0.0f32, 0.0f32, target_depth); // may be infinite
                // without a gradient of the entropy all is as if there were none, down to the sign of 0
                let both = at_target + h * (target_prob * (depth - mean_depth));
                at_target = select(h == 0.0f32, at_target, both);
            }
            at_target = select(nowhere, nan, at_target);
            if comptime!(slopes.capped) {
                at_target *= 1.0f32 - (target / cap) * (target / cap);
            }
            at_target *= scale;
            // without a gradient of the log-prob, the target is an entry like any other
            if g != 0.0f32 && id >= offset {
                let place = (id - offset) as usize;
                if place < z.shape(1) {
                    target_vector = place / lanes;
                    target_lane = place % lanes;
                }
            }
        }
        level = select(nowhere, nan, level * scale);
        slope *= scale;

        let zero = Vector::<f32, N>::new(0.0f32);
        let mut index = begin + UNIT_POS as usize;
        while index < end {
            let place = place_of(row, width, index);
            if silent {
                out[place] = Vector::cast_from(zero);
            } else {
                let x = Vector::<f32, N>::cast_from(z[place]);
                let d = Vector::new(max) - x;
                let e = exp_of_minus::<N>(d);
                let mut gradient = e * Vector::new(level);
                if comptime!(slopes.entropy) {
                    let depth = select_many(e.equal(&zero), zero, d); // may be infinite
                    let of_entropy = e * (depth - Vector::new(mean_depth)) * Vector::new(slope);
                    gradient = select_many(Vector::new(h).equal(&zero), gradient, gradient + of_entropy);
                }
                if comptime!(slopes.capped) {
                    let tanh = x / Vector::new(cap);
                    gradient *= Vector::new(1.0f32) - tanh * tanh;
                }
                if index == target_vector {
                    gradient.insert_dynamic(target_lane, at_target);
                }
                out[place] = Vector::cast_from(gradient);
            }
            index += units;
        }
    }
}

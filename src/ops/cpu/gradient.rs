//! The gradient of log-probs and entropies in the logits, written in the logits' buffer or into another one.
//!
//! With `p_v = e_v / Σ e`, `g` and `h` the upstream gradients of log-prob and entropy, and `D = Σ p_v gap_v`,
//!
//! ```text
//! ∂/∂z_v = −g p_v + h p_v (gap_v − D)               for v ≠ y
//! ∂/∂z_y = −g (p_y − 1) + h p_y (gap_y − D)         p_y − 1 = expm1(log p_y)
//! ```
//!
//! The target's entry is computed in f64 on its own, so that nothing cancels where it is nearly certain. The others are
//! `e_v (a + b gap_v)` with `a` and `b` the same along the row. `max` itself is subtracted from the logits, never a rounded
//! `max + log Σ e`: a large offset that they have in common costs no accuracy.
//!
//! If a scale and a soft cap made the logits, `z = c tanh(s x / c)`, everything is multiplied by `∂z/∂x = s (1 − (z/c)²)`.

use rayon::prelude::*;

use super::{
    super::logits::{IGNORED, LogitTransform},
    dtype::{Compute, Float},
    exp_rows::WeightedExp,
    map::Destination,
    softmax_state::{SoftmaxState, check_rows},
    tasks::{local_column, segment_width},
};

/// The upstream gradients of one row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) log_prob: f64,
    pub(crate) entropy: f64,
}

/// What the gradients of rows depend on beside the logits.
#[derive(Clone, Copy)]
pub(crate) struct RowGradients<'a> {
    /// Columns of the block of logits.
    pub(crate) width: usize,
    /// See [`read_rows`](super::read_rows::read_rows).
    pub(crate) targets: &'a [i32],
    /// The column of the vocabulary at which the block begins.
    pub(crate) offset: usize,
    /// Of whole rows.
    pub(crate) states: &'a [SoftmaxState],
    pub(crate) upstream: &'a [Upstream],
    pub(crate) transform: LogitTransform,
}

impl RowGradients<'_> {
    /// Overwrites rows of logits, `[rows, width]`, with their gradient.
    ///
    /// A row that is not counted, or whose upstream gradients are 0, gets exactly 0, whatever it holds. A row without a distribution
    /// gets NaN; so does a row whose target is in no column, if the upstream gradient of its log-prob is not 0. An entry of −∞ gets
    /// 0, unless it is the target.
    pub(crate) fn overwrite<F: Float>(self, z: &mut [F]) {
        self.check(z);
        if self.width > 0 {
            self.fill(z.par_chunks_mut(self.width).map(Destination::InPlace));
        }
    }

    /// Writes the gradient of rows of logits into `gradient`, which holds zeros.
    ///
    /// As [`overwrite`](Self::overwrite), but a row whose gradient is 0 is not touched: zeroed memory need not even be mapped.
    pub(crate) fn write<F: Float>(self, z: &[F], gradient: &mut [F]) {
        self.check(z);
        assert_eq!(gradient.len(), z.len(), "gradient");
        if self.width > 0 {
            let rows = z.par_chunks(self.width).zip(gradient.par_chunks_mut(self.width));
            self.fill(rows.map(|(z, gradient)| Destination::Beside(z, gradient)));
        }
    }

    fn check<F>(self, z: &[F]) {
        check_rows(z, self.width, self.targets, self.states);
        assert_eq!(self.upstream.len(), self.targets.len(), "rows of upstream gradients");
    }

    fn fill<'a, F: Float>(self, rows: impl IndexedParallelIterator<Item = Destination<'a, F>>) {
        let segment = segment_width(self.width, self.targets);
        let rows = rows.zip(self.targets).zip(self.states).zip(self.upstream);
        rows.for_each(|(((mut row, &target), state), &upstream)| {
            match RowGradient::of(target, state, upstream, self.transform) {
                RowGradient::Zero => {
                    if let Destination::InPlace(row) = row {
                        row.fill(F::default()); // another buffer holds zeros
                    }
                    return;
                }
                RowGradient::Undefined => return row.results().fill(F::narrow(Compute::NAN)),
                RowGradient::Defined(weighted) => weighted.fill(&mut row, segment),
            }
            if let Some(column) = own_column(target, upstream, self.offset, self.width) {
                row.results()[column] = F::narrow(Compute::of(of_target(state, upstream, self.transform)));
            }
        });
    }
}

/// The column of the target, if its entry differs from the others: the entropy does not depend on the target.
fn own_column(target: i32, upstream: Upstream, offset: usize, width: usize) -> Option<usize> {
    if upstream.log_prob == 0.0 { None } else { local_column(target, offset, width) }
}

/// The gradient of a row, but for the target's entry.
enum RowGradient {
    Zero,
    /// NaN.
    Undefined,
    Defined(WeightedExp),
}

impl RowGradient {
    fn of(
        target: i32,
        state: &SoftmaxState,
        upstream: Upstream,
        LogitTransform { scale, softcap }: LogitTransform,
    ) -> Self {
        let Upstream { log_prob: g, entropy: h } = upstream;
        let output = if g == 0.0 { state.log_sum_exp() } else { state.log_prob() };
        match () {
            _ if target == IGNORED || g == 0.0 && h == 0.0 => Self::Zero,
            _ if output.is_nan() => Self::Undefined,
            _ => {
                let shared = scale / state.sum_exp();
                let mean_gap = if h == 0.0 { 0.0 } else { state.mean_gap() };
                let level = shared * (-g - h * mean_gap);
                Self::Defined(WeightedExp { max: state.max, level, per_gap: shared * h, softcap })
            }
        }
    }
}

/// The gradient in the logit of the target.
fn of_target(state: &SoftmaxState, Upstream { log_prob: g, entropy: h }: Upstream, transform: LogitTransform) -> f64 {
    let gap = state.max - state.target_logit;
    let p = (-gap).exp() / state.sum_exp();
    let of_log_prob = if g == 0.0 { 0.0 } else { -g * state.log_prob().exp_m1() };
    let of_entropy = if h == 0.0 || p == 0.0 { 0.0 } else { h * p * (gap - state.mean_gap()) };
    let derivative = transform.softcap.map_or(1.0, |softcap| 1.0 - (state.target_logit / softcap).max(-1.0).powi(2));
    (of_log_prob + of_entropy) * transform.scale * derivative
}

#[cfg(test)]
#[path = "../../../tests/kernels/gradient.rs"]
mod tests;

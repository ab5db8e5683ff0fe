//! The state of an online softmax over one row of logits: enough for the log-prob of its token, the entropy, and their gradients.
//!
//! With `max` the largest entry that was read, `gap_v = max − z_v ≥ 0` and `e_v = exp(−gap_v)`, a [`SoftmaxState`] holds sums of `e`,
//! `e gap` and `e²`. The states of two parts of a row are merged after both are rescaled to the larger `max`, so that parts may be
//! read in any order, by any thread, and in any tiles of the vocabulary.
//!
//! **The largest entries are left out** of the sums and counted instead. Where the model is nearly certain, the others sum to almost
//! nothing, and the relative accuracy of that sum is that of `log p` and of the entropy.

use bytemuck::{Pod, Zeroable};

use super::dtype::larger;

/// The state of a row, or of the part of it that was read.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(crate) struct SoftmaxState {
    /// The largest entry that is a number; −∞ if nothing was read.
    pub(crate) max: f64,
    /// How many entries equal `max`.
    pub(crate) max_count: f64,
    /// `Σ e_v` over the entries below `max`; NaN if there is NaN in the row.
    pub(crate) sum_exp_rest: f64,
    /// `Σ e_v gap_v`. This and the fields up to `argmax` are filled only if statistics were asked for.
    pub(crate) sum_exp_gap: f64,
    /// `Σ e_v²` over the entries below `max`.
    pub(crate) sum_exp_sq: f64,
    /// `Σ z_v`.
    pub(crate) logit_sum: f64,
    /// Column of the first entry that equals `max`; +∞ if nothing was read, NaN if there is NaN in the row.
    pub(crate) argmax: f64,
    /// The logit of the row's target; NaN where its column was not among those read.
    pub(crate) target_logit: f64,
}

impl SoftmaxState {
    /// Of nothing.
    pub(crate) const EMPTY: Self = Self {
        max: f64::NEG_INFINITY,
        max_count: 0.0,
        sum_exp_rest: 0.0,
        sum_exp_gap: 0.0,
        sum_exp_sq: 0.0,
        logit_sum: 0.0,
        argmax: f64::INFINITY,
        target_logit: f64::NAN,
    };

    /// The state of two parts of a row together.
    ///
    /// Associative and commutative up to rounding, with [`EMPTY`](Self::EMPTY) as its identity.
    pub(crate) fn merge(self, other: Self) -> Self {
        let max = larger(self.max, other.max);
        let (a, b) = (self.rescaled_to(max), other.rescaled_to(max));
        Self {
            max,
            max_count: a.max_count + b.max_count,
            sum_exp_rest: a.sum_exp_rest + b.sum_exp_rest,
            sum_exp_gap: a.sum_exp_gap + b.sum_exp_gap,
            sum_exp_sq: a.sum_exp_sq + b.sum_exp_sq,
            logit_sum: a.logit_sum + b.logit_sum,
            argmax: min_or_nan(self.first_equal_to(max), other.first_equal_to(max)),
            target_logit: if self.target_logit.is_nan() { other.target_logit } else { self.target_logit },
        }
    }

    /// Column of the first entry that equals `max`, if `max` is the largest entry here or more; NaN if there is NaN.
    fn first_equal_to(&self, max: f64) -> f64 {
        if self.max < max && !self.argmax.is_nan() { f64::INFINITY } else { self.argmax }
    }

    /// The same sums, relative to a larger `max`.
    ///
    /// With `Δ` the difference and `s = e^−Δ`, every `e` is multiplied by `s` and every gap grows by `Δ`. The entries that were
    /// largest join the rest.
    ///
    /// ```text
    /// Σ e     → s Σ e
    /// Σ e gap → s (Σ e gap + Δ Σ e)
    /// Σ e²    → s² Σ e²
    /// ```
    pub(super) fn rescaled_to(self, max: f64) -> Self {
        if self.max == max {
            return self;
        }
        let step = max - self.max;
        let scale = (-step).exp();
        let growth = if scale == 0.0 { 0.0 } else { step * self.sum_exp() }; // Δ may be infinite
        Self {
            max,
            max_count: 0.0,
            sum_exp_rest: scale * self.sum_exp(),
            sum_exp_gap: scale * (self.sum_exp_gap + growth),
            sum_exp_sq: scale * scale * (self.sum_exp_sq + self.max_count),
            ..self
        }
    }

    /// `Σ e_v`.
    pub(crate) fn sum_exp(&self) -> f64 {
        self.max_count + self.sum_exp_rest
    }

    /// `log Σ e_v`, as accurate as `sum_exp_rest` where it is nearly 0. NaN where there is no distribution: if there is NaN or +∞
    /// in the row, or nothing but −∞.
    pub(crate) fn log_sum_exp(&self) -> f64 {
        if self.max.is_finite() { (self.sum_exp_rest + (self.max_count - 1.0)).ln_1p() } else { f64::NAN }
    }

    /// `log p = (z_y − max) − log Σ e_v`. NaN where there is no distribution, or no target was found.
    pub(crate) fn log_prob(&self) -> f64 {
        (self.target_logit - self.max) - self.log_sum_exp()
    }

    /// `Σ p_v gap_v`.
    pub(super) fn mean_gap(&self) -> f64 {
        self.sum_exp_gap / self.sum_exp()
    }

    /// `−Σ p_v log p_v = log Σ e_v + Σ p_v gap_v`.
    pub(crate) fn entropy(&self) -> f64 {
        self.log_sum_exp() + self.mean_gap()
    }

    /// `log Σ p_v² = log Σ e_v² − 2 log Σ e_v`.
    #[cfg(test)]
    pub(crate) fn log_sum_sq_probs(&self) -> f64 {
        (self.sum_exp_sq + (self.max_count - 1.0)).ln_1p() - 2.0 * self.log_sum_exp()
    }
}

/// The states of two parts of the same rows together, as numbers: 8 for each row.
pub(crate) fn merged(one: &[SoftmaxState], two: &[SoftmaxState]) -> Vec<f64> {
    let states: Vec<SoftmaxState> = one.iter().zip(two).map(|(one, two)| one.merge(*two)).collect();
    bytemuck::cast_slice(&states).to_vec()
}

/// The log-prob of each row, with `entropy` beside it if that is asked for.
pub(crate) fn outputs(states: &[SoftmaxState], entropy: bool) -> Vec<f64> {
    let of_row = |state: &SoftmaxState| [state.log_prob(), state.entropy()].into_iter().take(1 + usize::from(entropy));
    states.iter().flat_map(of_row).collect()
}

/// The smaller of two columns; NaN if either is.
fn min_or_nan(a: f64, b: f64) -> f64 {
    if a <= b || a.is_nan() { a } else { b }
}

/// That rows `z`, `[rows, width]`, have a target and a state each.
pub(super) fn check_rows<F>(z: &[F], width: usize, targets: &[i32], states: &[SoftmaxState]) {
    assert_eq!(targets.len() * width, z.len(), "rows of logits");
    assert_eq!(targets.len(), states.len(), "rows of states");
}

#[cfg(test)]
#[path = "../../../tests/kernels/softmax_state.rs"]
mod tests;

//! `e_v = exp(z_v − max)` of each logit of a row, times what a gradient or a soft cap makes of it.

use pulp::Simd;
use rayon::prelude::*;

use super::{
    super::logits::IGNORED,
    dtype::{Compute, Float, larger},
    exp::exp,
    map::{Destination, Map},
    softmax_state::{SoftmaxState, check_rows},
    tasks::segment_width,
};

/// Overwrites rows of logits with `e_v (1 − (z_v/c)²)`: probabilities before they are divided by their sum, times the derivative of
/// the soft cap `c` if there is one.
///
/// A row that is not counted gets 0, and so does a row in which all logits so far are −∞. A row without a distribution gets NaN.
pub(crate) fn exp_rows<T: Compute>(
    z: &mut [T],
    width: usize,
    targets: &[i32],
    states: &[SoftmaxState],
    softcap: Option<f64>,
) {
    check_rows(z, width, targets, states);
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    z.par_chunks_mut(width).zip(targets).zip(states).for_each(|((row, &target), state)| {
        let nothing_yet = state.max == f64::NEG_INFINITY && !state.sum_exp_rest.is_nan();
        if target == IGNORED || nothing_yet {
            row.fill(T::ZERO);
        } else if state.log_sum_exp().is_nan() {
            row.fill(T::NAN);
        } else {
            let weighted = WeightedExp { max: state.max, level: 1.0, per_gap: 0.0, softcap };
            weighted.fill(&mut Destination::InPlace(row), segment);
        }
    });
}

/// `e_v (level + per_gap · gap_v) (1 − (z_v/c)²)` along a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct WeightedExp {
    pub(super) max: f64,
    pub(super) level: f64,
    pub(super) per_gap: f64,
    pub(super) softcap: Option<f64>,
}

impl WeightedExp {
    /// Writes it for each logit of a row. Each task takes `segment` of them.
    pub(super) fn fill<F: Float>(self, destination: &mut Destination<F>, segment: usize) {
        match (self.per_gap != 0.0, self.softcap.is_some()) {
            (false, false) => destination.fill(segment, self.map::<F, false, false>()),
            (false, true) => destination.fill(segment, self.map::<F, false, true>()),
            (true, false) => destination.fill(segment, self.map::<F, true, false>()),
            (true, true) => destination.fill(segment, self.map::<F, true, true>()),
        }
    }

    fn map<F: Float, const GAP: bool, const SOFTCAP: bool>(self) -> WeightedExpMap<F::Compute, GAP, SOFTCAP> {
        WeightedExpMap {
            max: Compute::of(self.max),
            level: Compute::of(self.level),
            per_gap: Compute::of(self.per_gap),
            per_softcap: Compute::of(self.softcap.map_or(0.0, f64::recip)),
        }
    }
}

/// [`WeightedExp`] in a row's dtype, without the terms that are 0.
#[derive(Clone, Copy)]
struct WeightedExpMap<T, const GAP: bool, const SOFTCAP: bool> {
    max: T,
    level: T,
    per_gap: T,
    per_softcap: T,
}

impl<T: Compute, const GAP: bool, const SOFTCAP: bool> Map<T> for WeightedExpMap<T, GAP, SOFTCAP> {
    #[inline(always)]
    fn of<S: Simd>(&self, z: T) -> T {
        let x = z - self.max;
        let gap = -larger(T::LOWEST, x); // finite where e is 0
        let factor = if GAP { gap.mul_add::<S>(self.per_gap, self.level) } else { self.level };
        let weighted = exp::<T, S>(x) * factor;
        if !SOFTCAP {
            return weighted;
        }
        let tanh = larger(-T::ONE, z * self.per_softcap); // −∞ is no further than the cap
        weighted * tanh.mul_add::<S>(-tanh, T::ONE)
    }
}

#[cfg(test)]
#[path = "../../../tests/kernels/exp_rows.rs"]
mod tests;

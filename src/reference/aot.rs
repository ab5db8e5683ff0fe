//! Alignment by optimal transport, Melnyk et al. 2024 (arXiv:2406.05882): distributions compared, not pairs.

use std::cmp::Ordering;

use super::{
    BatchLossAndGradient, Pair,
    margin::{Margin, log_ratios},
};

/// `−(1 − ε) log σ(βd_k) − ε log σ(−βd_k)`, where `d_k` is the difference of the `k`-th smallest policy margin `c − r` and
/// the `k`-th smallest reference margin.
///
/// Ties are sorted stably, the earlier pair first; NaN is largest. Policies or references without a counterpart are
/// not looked at.
pub fn aot_loss(policies: &[Pair], references: &[Pair], beta: f64, label_smoothing: f64) -> BatchLossAndGradient {
    let pairs = || policies.iter().zip(references);
    let policy = Sorted::new(pairs().map(|(policy, _)| policy.chosen - policy.rejected));
    let reference = Sorted::new(pairs().map(|(_, reference)| reference.chosen - reference.rejected));
    let ranks = policy.ranks.iter().map(|&pair| (pair, pair));
    by_rank(&policy.values, &reference.values, ranks, beta, label_smoothing)
}

/// The same with `d_k` the difference of the `k`-th smallest chosen log-ratio and the `k`-th smallest rejected one.
pub fn aot_unpaired_loss(
    policies: &[Pair],
    references: &[Pair],
    beta: f64,
    label_smoothing: f64,
) -> BatchLossAndGradient {
    let ratios = || policies.iter().zip(references).map(|(&policy, &reference)| log_ratios(policy, reference));
    let chosen = Sorted::new(ratios().map(|ratios| ratios.chosen));
    let rejected = Sorted::new(ratios().map(|ratios| ratios.rejected));
    let ranks = chosen.ranks.iter().copied().zip(rejected.ranks.iter().copied());
    by_rank(&chosen.values, &rejected.values, ranks, beta, label_smoothing)
}

/// `ranks`: of which pair the chosen and of which the rejected log-prob is the one of that rank.
fn by_rank(
    better: &[f64],
    worse: &[f64],
    ranks: impl Iterator<Item = (usize, usize)>,
    beta: f64,
    label_smoothing: f64,
) -> BatchLossAndGradient {
    let mut gradients = vec![Pair { chosen: 0.0, rejected: 0.0 }; better.len()];
    let mut values = Vec::with_capacity(better.len());
    for ((&better, &worse), (chosen, rejected)) in better.iter().zip(worse).zip(ranks) {
        let loss = Margin::linear(Pair { chosen: better, rejected: worse }, beta)
            .mixture(1.0 - label_smoothing, label_smoothing);
        values.push(loss.value);
        gradients[chosen].chosen = loss.gradient.chosen;
        gradients[rejected].rejected = loss.gradient.rejected;
    }
    BatchLossAndGradient { values, gradients }
}

/// Numbers in ascending order, and where each was.
struct Sorted {
    values: Vec<f64>,
    ranks: Vec<usize>,
}

impl Sorted {
    fn new(numbers: impl Iterator<Item = f64>) -> Self {
        let mut numbered: Vec<(usize, f64)> = numbers.enumerate().collect();
        numbered.sort_by(|(_, x), (_, y)| ascending(*x, *y));
        let (ranks, values) = numbered.into_iter().unzip();
        Self { values, ranks }
    }
}

/// NaN last; 0 and −0 are equal.
fn ascending(x: f64, y: f64) -> Ordering {
    x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
}

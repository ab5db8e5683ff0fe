//! Metrics over preference pairs.

use serde::{Deserialize, Serialize};

use super::{
    histogram::MarginHistogram,
    non_finite::NonFinite,
    pair::{Pair, Statistics, TokenLevel},
    sum::Sum,
};
use crate::sides::Sides;

/// Loss, implicit rewards, log-probs, drift and counts over any number of preference pairs.
///
/// Kept as sums and counts, so that [`merge`](Self::merge)d parts give what the whole would: across micro-batches, steps
/// and processes, whatever their sizes. `Default` holds no pairs and merges as nothing. Serialises to those sums, NaN
/// and infinities included; [`entries`](Self::entries) gives what to log, under TRL's names where TRL has the metric.
///
/// Write `a`, `b` for `log π − log π_ref` of the chosen and the rejected completion, `margin = β (a − b)`,
/// `k₃(x) = e^−x − 1 + x`, and *tokens* for counted ones.
///
/// | entry                                    | definition                                                      |
/// |------------------------------------------|-----------------------------------------------------------------|
/// | `loss`                                   | mean over pairs of the losses passed in                         |
/// | `rewards/chosen`, `rewards/rejected`     | mean over pairs of `β a`, `β b`                                 |
/// | `rewards/margins`                        | mean over pairs of the margin                                   |
/// | `rewards/margins_p10`, `_p50`, `_p90`    | the margin that a tenth, half, nine tenths of the pairs do not exceed, within 1/16 of itself: [`margin_quantile`](Self::margin_quantile) |
/// | `rewards/accuracies`                     | share of pairs whose margin is above 0; a tie counts as wrong, as in TRL |
/// | `rewards/ties`                           | share of pairs whose margin is exactly 0 (all, where policy = reference) |
/// | `rewards/misranked`                      | share of pairs whose margin is below 0                          |
/// | `logps/chosen`, `logps/rejected`         | mean over pairs of the policy's **summed** log-prob, nats       |
/// | `likelihood_displacement`                | share of pairs with `a < 0`: the chosen completion became *less* likely |
/// | `drift/chosen`, `drift/rejected`         | mean over pairs of `a`, `b`, nats: how far the policy moved; the k1 estimate of a sequence's KL |
/// | `drift_per_token/chosen`, `/rejected`    | `Σ a`, `Σ b` over the tokens of that side: k1 per token         |
/// | `k3/chosen`, `k3/rejected`               | mean over pairs of `k₃(a)`, `k₃(b)`: the largest drift below 0 decides it; inf from 710 nats on |
/// | `k3_per_token/chosen`, `/rejected`       | `Σ k₃` of each token's log-ratio over the tokens of that side; if tokens were given |
/// | `gradient_weight`                        | mean over pairs of `σ(−margin)`: how much of DPO's gradient is left; ½ at the start |
/// | `entropy`                                | `Σ` entropy over the tokens of both sides, nats; if statistics were given |
/// | `logits/chosen`, `logits/rejected`       | `Σ` of the mean logit over the tokens of that side; if statistics were given |
/// | `mean_token_accuracy`                    | share of the **chosen** tokens that were the likeliest one; if statistics were given |
/// | `tokens/chosen`, `tokens/rejected`       | number of tokens                                                |
/// | `pairs`                                  | number of pairs                                                 |
/// | `saturated_pairs`                        | number of pairs with `σ(−margin)` below [`SATURATED_BELOW`](Self::SATURATED_BELOW) |
/// | `empty_completions`                      | number of completions with no token                             |
/// | `non_finite_pairs`                       | number of pairs with NaN or ±inf in their loss, log-probs or β; see [`first_non_finite`](Self::first_non_finite) |
///
/// What was given for some batches only is over the tokens of those batches. Log-ratios enter as they are, whatever a loss
/// makes of them.
///
/// Nothing skips NaN: a pair that has it makes the means that it enters NaN, and is counted. Only quantiles are over the
/// margins that are numbers. A margin of NaN is neither a win nor a tie nor misranked. A mean over nothing is NaN.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sequences = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([3, 3], &device))
/// };
/// let policy = PairLogProbs::new(sequences([-4.0, -5.0])?, sequences([-6.0, -5.0])?)?;
/// let reference = PairLogProbs::new(sequences([-5.0, -5.0])?, sequences([-5.0, -5.0])?)?;
/// let beta = Beta::new(0.1)?;
///
/// let losses = dpo_loss(&policy, &reference, beta)?;
/// let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta)?;
/// assert_eq!(metrics.reward_accuracy(), 0.5); // one pair is ranked right, the other is a tie
/// assert_abs_diff_eq!(metrics.reward_margin(), 0.1, epsilon = 1e-9); // (0.2 + 0) / 2
///
/// let mut run = PreferenceMetrics::default();
/// run.merge(&metrics);
/// assert_eq!(run, metrics);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceMetrics {
    pub(super) pairs: u64,
    pub(super) wins: u64,
    pub(super) ties: u64,
    pub(super) misranked: u64,
    pub(super) displaced: u64,
    pub(super) saturated_pairs: u64,
    pub(super) non_finite_pairs: u64,
    pub(super) empty_completions: u64,
    pub(super) tokens: Sides<u64>,
    pub(super) loss: Sum,
    pub(super) margin: Sum,
    pub(super) gradient_weight: Sum,
    pub(super) reward: Sides<Sum>,
    pub(super) log_prob: Sides<Sum>,
    pub(super) drift: Sides<Sum>,
    pub(super) k3: Sides<Sum>,
    pub(super) margins: MarginHistogram,
    pub(super) token_level: Option<TokenSums>,
    pub(super) statistics: Option<StatisticSums>,
    pub(super) first_non_finite: Option<NonFinite>,
}

/// Sums over tokens, with the number of tokens that they are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenSums {
    pub k3: Sides<Sum>,
    pub tokens: Sides<u64>,
}

/// Sums over tokens, with the number of tokens that they are over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatisticSums {
    pub entropy: Sides<Sum>,
    pub mean_logit: Sides<Sum>,
    pub hits: Sides<u64>,
    pub tokens: Sides<u64>,
}

impl PreferenceMetrics {
    /// Where a pair counts as saturated: less than this share of DPO's gradient is left of it. `σ(−z)` is 0.01 at a margin
    /// of 4.6.
    pub const SATURATED_BELOW: f64 = 0.01;

    pub(super) fn add(&mut self, pair: &Pair) {
        let drift = pair.log_ratio();
        let margin = pair.beta * (drift.chosen - drift.rejected);
        let weight = 1.0 / (1.0 + margin.exp()); // σ(−margin)
        let non_finite = pair.first_non_finite(self.pairs);

        self.pairs += 1;
        self.wins += u64::from(margin > 0.0);
        self.ties += u64::from(margin == 0.0);
        self.misranked += u64::from(margin < 0.0);
        self.displaced += u64::from(drift.chosen < 0.0);
        self.saturated_pairs += u64::from(weight < Self::SATURATED_BELOW);
        self.non_finite_pairs += u64::from(non_finite.is_some());
        self.empty_completions += u64::from(pair.tokens.chosen == 0) + u64::from(pair.tokens.rejected == 0);
        self.tokens += pair.tokens;
        self.loss += pair.loss;
        self.margin += margin;
        self.gradient_weight += weight;
        self.reward += drift.map(|nats| pair.beta * nats);
        self.log_prob += pair.policy;
        self.drift += drift;
        self.k3 += drift.map(k3);
        self.margins.add(margin);
        if let Some(TokenLevel { k3, tokens, .. }) = pair.token_level {
            let sums = self.token_level.get_or_insert_default();
            sums.k3 += k3;
            sums.tokens += tokens;
        }
        if let Some(Statistics { entropy, mean_logit, hits, tokens }) = pair.statistics {
            let sums = self.statistics.get_or_insert_default();
            sums.entropy += entropy;
            sums.mean_logit += mean_logit;
            sums.hits += hits;
            sums.tokens += tokens;
        }
        self.first_non_finite = self.first_non_finite.or(non_finite);
    }

    /// Adds another part of the same whole. Parts may come in any grouping and, but for
    /// [`first_non_finite`](Self::first_non_finite), in any order.
    pub fn merge(&mut self, other: &Self) {
        let theirs = other.first_non_finite.map(|first| NonFinite { pair: self.pairs + first.pair, ..first });
        self.first_non_finite = self.first_non_finite.or(theirs);
        self.pairs += other.pairs;
        self.wins += other.wins;
        self.ties += other.ties;
        self.misranked += other.misranked;
        self.displaced += other.displaced;
        self.saturated_pairs += other.saturated_pairs;
        self.non_finite_pairs += other.non_finite_pairs;
        self.empty_completions += other.empty_completions;
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.margin += other.margin;
        self.gradient_weight += other.gradient_weight;
        self.reward += other.reward;
        self.log_prob += other.log_prob;
        self.drift += other.drift;
        self.k3 += other.k3;
        self.margins += &other.margins;
        if let Some(other) = other.token_level {
            let sums = self.token_level.get_or_insert_default();
            sums.k3 += other.k3;
            sums.tokens += other.tokens;
        }
        if let Some(other) = other.statistics {
            let sums = self.statistics.get_or_insert_default();
            sums.entropy += other.entropy;
            sums.mean_logit += other.mean_logit;
            sums.hits += other.hits;
            sums.tokens += other.tokens;
        }
    }
}

/// `e^−x − 1 + x`, in f64: by the library's `expm1`, whose cancellation with `x` a series avoids below 1/16, where eight
/// terms leave less than `(1/16)⁸ · 2/10! = 1e-16` of it.
fn k3(x: f64) -> f64 {
    let y = -x;
    if y.abs() >= 0.0625 {
        return if y == f64::INFINITY { y } else { y.exp_m1() - y };
    }
    let terms = (2..10).map(|k| 1.0 / (1..=k).map(f64::from).product::<f64>());
    y * y * terms.rev().fold(0.0, |sum, coefficient| sum * y + coefficient)
}

//! One row per metric: under which name it is logged, what it is, and over what.

use std::fmt;

use super::{histogram::MarginHistogram, non_finite::NonFinite, preference::PreferenceMetrics, sum::Sum};
use crate::sides::Sides;

/// A metric as a number to log; `None` if it was not measured.
trait Entry {
    fn entry(self) -> Option<f64>;
}

impl Entry for f64 {
    fn entry(self) -> Option<f64> {
        Some(self)
    }
}

impl Entry for u64 {
    fn entry(self) -> Option<f64> {
        Some(self as f64)
    }
}

impl Entry for Option<f64> {
    fn entry(self) -> Option<f64> {
        self
    }
}

/// An accessor for each metric, and the entry of that name, from one row each.
macro_rules! metrics {
    ($( $(#[doc = $doc:literal])* $entry:literal: $name:ident($self:ident) -> $Type:ty { $value:expr } )*) => {
        impl PreferenceMetrics {
            $(
                $(#[doc = $doc])*
                ///
                #[doc = concat!("Logged as `", $entry, "`.")]
                pub fn $name(&$self) -> $Type {
                    $value
                }
            )*

            /// What to log, in the order of the table above, under TRL's names where TRL has the metric. What was not
            /// given to any batch has no entry.
            pub fn entries(&self) -> Vec<(&'static str, f64)> {
                let entries = [$( ($entry, self.$name().entry()) ),*];
                entries.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
            }
        }
    };
}

metrics! {
    /// Mean loss, nats.
    "loss": loss(self) -> f64 { self.mean(self.loss) }
    /// Mean implicit reward of the chosen completions.
    "rewards/chosen": reward_chosen(self) -> f64 { self.mean(self.reward.chosen) }
    /// Mean implicit reward of the rejected completions.
    "rewards/rejected": reward_rejected(self) -> f64 { self.mean(self.reward.rejected) }
    /// Mean of the margin, `r(chosen) − r(rejected)`.
    "rewards/margins": reward_margin(self) -> f64 { self.mean(self.margin) }
    /// The margin that a tenth of the pairs do not exceed, within 1/16 of itself.
    "rewards/margins_p10": margin_p10(self) -> f64 { self.margin_quantile(0.1) }
    /// The median margin, within 1/16 of itself.
    "rewards/margins_p50": margin_p50(self) -> f64 { self.margin_quantile(0.5) }
    /// The margin that nine tenths of the pairs do not exceed, within 1/16 of itself.
    "rewards/margins_p90": margin_p90(self) -> f64 { self.margin_quantile(0.9) }
    /// Share of pairs whose margin is above 0: a tie counts as wrong.
    "rewards/accuracies": reward_accuracy(self) -> f64 { self.share(self.wins) }
    /// Share of pairs whose margin is exactly 0.
    "rewards/ties": tie_share(self) -> f64 { self.share(self.ties) }
    /// Share of pairs whose margin is below 0.
    "rewards/misranked": misranked_share(self) -> f64 { self.share(self.misranked) }
    /// Mean summed log-prob of the chosen completions under the policy, nats.
    "logps/chosen": log_prob_chosen(self) -> f64 { self.mean(self.log_prob.chosen) }
    /// Mean summed log-prob of the rejected completions under the policy, nats.
    "logps/rejected": log_prob_rejected(self) -> f64 { self.mean(self.log_prob.rejected) }
    /// Share of pairs whose chosen completion is less likely under the policy than under the reference.
    "likelihood_displacement": likelihood_displacement(self) -> f64 { self.share(self.displaced) }
    /// Mean `log π − log π_ref` of the chosen completions, nats.
    "drift/chosen": drift_chosen(self) -> f64 { self.mean(self.drift.chosen) }
    /// Mean `log π − log π_ref` of the rejected completions, nats.
    "drift/rejected": drift_rejected(self) -> f64 { self.mean(self.drift.rejected) }
    /// `log π − log π_ref` of the chosen completions per token, nats.
    "drift_per_token/chosen": drift_per_token_chosen(self) -> f64 { per_token(self.drift.chosen, self.tokens.chosen) }
    /// `log π − log π_ref` of the rejected completions per token, nats.
    "drift_per_token/rejected": drift_per_token_rejected(self) -> f64 {
        per_token(self.drift.rejected, self.tokens.rejected)
    }
    /// Mean `e^−x − 1 + x` of the chosen completions, `x = log π − log π_ref`.
    "k3/chosen": k3_chosen(self) -> f64 { self.mean(self.k3.chosen) }
    /// Mean `e^−x − 1 + x` of the rejected completions, `x = log π − log π_ref`.
    "k3/rejected": k3_rejected(self) -> f64 { self.mean(self.k3.rejected) }
    /// Mean `e^−x − 1 + x` of the chosen tokens, if token log-probs were given.
    "k3_per_token/chosen": k3_per_token_chosen(self) -> Option<f64> {
        self.token_level.map(|sums| per_token(sums.k3.chosen, sums.tokens.chosen))
    }
    /// Mean `e^−x − 1 + x` of the rejected tokens, if token log-probs were given.
    "k3_per_token/rejected": k3_per_token_rejected(self) -> Option<f64> {
        self.token_level.map(|sums| per_token(sums.k3.rejected, sums.tokens.rejected))
    }
    /// Mean of `σ(−margin)`: the share of DPO's gradient that is left.
    "gradient_weight": gradient_weight(self) -> f64 { self.mean(self.gradient_weight) }
    /// Mean entropy of the policy's next-token distribution over the tokens of both sides, nats, if statistics were given.
    "entropy": entropy(self) -> Option<f64> {
        self.statistics.map(|sums| {
            let Sides { chosen, rejected } = sums.entropy;
            per_token(Sum(chosen.0 + rejected.0), sums.tokens.chosen + sums.tokens.rejected)
        })
    }
    /// Mean logit over vocabulary and chosen tokens, if statistics were given.
    "logits/chosen": logits_chosen(self) -> Option<f64> {
        self.statistics.map(|sums| per_token(sums.mean_logit.chosen, sums.tokens.chosen))
    }
    /// Mean logit over vocabulary and rejected tokens, if statistics were given.
    "logits/rejected": logits_rejected(self) -> Option<f64> {
        self.statistics.map(|sums| per_token(sums.mean_logit.rejected, sums.tokens.rejected))
    }
    /// Share of the chosen tokens that were the policy's likeliest, if statistics were given.
    "mean_token_accuracy": mean_token_accuracy(self) -> Option<f64> {
        self.statistics.map(|sums| per_token(Sum(sums.hits.chosen as f64), sums.tokens.chosen))
    }
    /// Number of counted tokens in chosen completions.
    "tokens/chosen": tokens_chosen(self) -> u64 { self.tokens.chosen }
    /// Number of counted tokens in rejected completions.
    "tokens/rejected": tokens_rejected(self) -> u64 { self.tokens.rejected }
    /// Number of pairs.
    "pairs": pairs(self) -> u64 { self.pairs }
    /// Number of pairs that little of DPO's gradient is left of: below [`SATURATED_BELOW`](Self::SATURATED_BELOW).
    "saturated_pairs": saturated_pairs(self) -> u64 { self.saturated_pairs }
    /// Number of completions, chosen or rejected, with no counted token.
    "empty_completions": empty_completions(self) -> u64 { self.empty_completions }
    /// Number of pairs with NaN or ±inf in their loss, log-probs or β.
    "non_finite_pairs": non_finite_pairs(self) -> u64 { self.non_finite_pairs }
}

impl PreferenceMetrics {
    /// Number of pairs whose margin is above 0.
    pub fn wins(&self) -> u64 {
        self.wins
    }

    /// Number of pairs whose margin is exactly 0.
    pub fn ties(&self) -> u64 {
        self.ties
    }

    /// Number of pairs whose margin is below 0: lost ones, beside wins and ties.
    #[doc(alias = "losses")]
    pub fn misranked(&self) -> u64 {
        self.misranked
    }

    /// All margins, in buckets.
    pub fn margins(&self) -> &MarginHistogram {
        &self.margins
    }

    /// The margin that a share `q` of the pairs do not exceed: [`MarginHistogram::quantile`], which says how exact it is.
    pub fn margin_quantile(&self, q: f64) -> f64 {
        self.margins.quantile(q)
    }

    /// The first value that is NaN or infinite, if there is any: `non_finite_pairs() > 0`.
    ///
    /// First in the order in which parts were merged: it alone depends on it.
    pub fn first_non_finite(&self) -> Option<&NonFinite> {
        self.first_non_finite.as_ref()
    }

    fn mean(&self, sum: Sum) -> f64 {
        sum.0 / self.pairs as f64
    }

    fn share(&self, pairs: u64) -> f64 {
        pairs as f64 / self.pairs as f64
    }
}

fn per_token(sum: Sum, tokens: u64) -> f64 {
    sum.0 / tokens as f64
}

/// One line per entry: `rewards/margins: 0.157`; and one for the first value that is not finite.
impl fmt::Display for PreferenceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.entries().into_iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{name}: {value}")?;
        }
        self.first_non_finite.map_or(Ok(()), |first| write!(f, "\nfirst non-finite: {first}"))
    }
}

//! Metrics over pairs, as their definitions read.

use super::{Pair, SequenceLogProb, implicit_rewards};

/// One pair, as the metrics see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeasuredPair {
    /// Its loss, nats.
    pub loss: f64,
    /// The policy's log-prob of the chosen completion.
    pub policy_chosen: SequenceLogProb,
    /// The policy's log-prob of the rejected completion.
    pub policy_rejected: SequenceLogProb,
    /// The reference's summed log-probs.
    pub reference: Pair,
}

/// The definitions behind [`PreferenceMetrics`](crate::PreferenceMetrics): see the table there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Mean loss, nats.
    pub loss: f64,
    /// Mean of `β (log π − log π_ref)` over chosen completions.
    pub reward_chosen: f64,
    /// Mean of `β (log π − log π_ref)` over rejected completions.
    pub reward_rejected: f64,
    /// Mean of the chosen reward minus the rejected one.
    pub reward_margin: f64,
    /// Share of pairs whose margin is above 0; a tie counts as wrong.
    pub reward_accuracy: f64,
    /// Number of pairs whose margin is exactly 0.
    pub ties: usize,
    /// Mean summed log-prob of chosen completions under the policy, nats.
    pub log_prob_chosen: f64,
    /// Mean summed log-prob of rejected completions under the policy, nats.
    pub log_prob_rejected: f64,
    /// Mean of `log π − log π_ref` over chosen completions, nats.
    pub drift_chosen: f64,
    /// Mean of `log π − log π_ref` over rejected completions, nats.
    pub drift_rejected: f64,
    /// Number of counted tokens in chosen completions.
    pub tokens_chosen: usize,
    /// Number of counted tokens in rejected completions.
    pub tokens_rejected: usize,
    /// Number of completions with no counted token.
    pub empty_completions: usize,
    /// Number of pairs with NaN or ±inf in their loss or log-ratios.
    pub non_finite_pairs: usize,
}

/// Means and counts over `pairs`. Every mean over no pairs is NaN.
pub fn preference_metrics(pairs: &[MeasuredPair], beta: f64) -> Metrics {
    let mean = |f: &dyn Fn(&MeasuredPair) -> f64| pairs.iter().map(f).sum::<f64>() / pairs.len() as f64;
    let count = |f: &dyn Fn(&MeasuredPair) -> usize| pairs.iter().map(f).sum::<usize>();

    let policy = |pair: &MeasuredPair| Pair { chosen: pair.policy_chosen.sum, rejected: pair.policy_rejected.sum };
    let drift = |pair: &MeasuredPair| implicit_rewards(policy(pair), pair.reference, 1.0);
    let rewards = |pair: &MeasuredPair| implicit_rewards(policy(pair), pair.reference, beta);
    let margin = |pair: &MeasuredPair| rewards(pair).chosen - rewards(pair).rejected;
    // the margin's sign, for every beta: not rounded by it
    let delta = |pair: &MeasuredPair| drift(pair).chosen - drift(pair).rejected;

    Metrics {
        loss: mean(&|pair| pair.loss),
        reward_chosen: mean(&|pair| rewards(pair).chosen),
        reward_rejected: mean(&|pair| rewards(pair).rejected),
        reward_margin: mean(&margin),
        reward_accuracy: mean(&|pair| f64::from(u8::from(delta(pair) > 0.0))),
        ties: count(&|pair| usize::from(delta(pair) == 0.0)),
        log_prob_chosen: mean(&|pair| pair.policy_chosen.sum),
        log_prob_rejected: mean(&|pair| pair.policy_rejected.sum),
        drift_chosen: mean(&|pair| drift(pair).chosen),
        drift_rejected: mean(&|pair| drift(pair).rejected),
        tokens_chosen: count(&|pair| pair.policy_chosen.token_count),
        tokens_rejected: count(&|pair| pair.policy_rejected.token_count),
        empty_completions: count(&|pair| {
            [pair.policy_chosen, pair.policy_rejected].iter().filter(|side| side.token_count == 0).count()
        }),
        non_finite_pairs: count(&|pair| {
            let drift = drift(pair);
            usize::from(!(pair.loss.is_finite() && drift.chosen.is_finite() && drift.rejected.is_finite()))
        }),
    }
}

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
#[allow(missing_docs)] // each field is the entry of the same name in that table
pub struct Metrics {
    pub loss: f64,
    pub reward_chosen: f64,
    pub reward_rejected: f64,
    pub reward_margin: f64,
    pub reward_accuracy: f64,
    pub ties: usize,
    pub log_prob_chosen: f64,
    pub log_prob_rejected: f64,
    pub drift_chosen: f64,
    pub drift_rejected: f64,
    pub tokens_chosen: usize,
    pub tokens_rejected: usize,
    pub empty_completions: usize,
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

    Metrics {
        loss: mean(&|pair| pair.loss),
        reward_chosen: mean(&|pair| rewards(pair).chosen),
        reward_rejected: mean(&|pair| rewards(pair).rejected),
        reward_margin: mean(&margin),
        reward_accuracy: mean(&|pair| f64::from(u8::from(margin(pair) > 0.0))),
        ties: count(&|pair| usize::from(margin(pair) == 0.0)),
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

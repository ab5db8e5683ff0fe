//! One pair's numbers on the host.

use super::non_finite::{MeasuredTensor, NonFinite, NonFiniteValue};
use crate::sides::Sides;

/// All that is known of one pair.
pub(super) struct Pair {
    pub loss: f64,
    pub beta: f64,
    pub policy: Sides<f64>,
    pub reference: Sides<f64>,
    pub tokens: Sides<u64>,
    pub token_level: Option<TokenLevel>,
    pub statistics: Option<Statistics>,
}

/// What came from log-probs of tokens: sums over them, how many there are, and the first one that is not finite.
pub(super) struct TokenLevel {
    pub k3: Sides<f64>,
    pub tokens: Sides<u64>,
    pub policy: Sides<Option<u64>>,
    pub reference: Sides<Option<u64>>,
}

/// Sums over tokens, and how many there are.
pub(super) struct Statistics {
    pub entropy: Sides<f64>,
    pub mean_logit: Sides<f64>,
    pub hits: Sides<u64>,
    pub tokens: Sides<u64>,
}

impl Pair {
    /// `log π − log π_ref`, of each side.
    pub fn log_ratio(&self) -> Sides<f64> {
        Sides {
            chosen: self.policy.chosen - self.reference.chosen,
            rejected: self.policy.rejected - self.reference.rejected,
        }
    }

    /// The first of its numbers that is not finite, causes before what they cause.
    pub fn first_non_finite(&self, pair: u64) -> Option<NonFinite> {
        let nowhere = Sides::default();
        let (policy, reference) =
            self.token_level.as_ref().map_or((nowhere, nowhere), |tokens| (tokens.policy, tokens.reference));
        let numbers = [
            (MeasuredTensor::PolicyChosen, self.policy.chosen, policy.chosen),
            (MeasuredTensor::PolicyRejected, self.policy.rejected, policy.rejected),
            (MeasuredTensor::ReferenceChosen, self.reference.chosen, reference.chosen),
            (MeasuredTensor::ReferenceRejected, self.reference.rejected, reference.rejected),
            (MeasuredTensor::Betas, self.beta, None),
            (MeasuredTensor::Losses, self.loss, None),
        ];
        numbers.into_iter().find_map(|(tensor, number, token)| {
            NonFiniteValue::of(number).map(|value| NonFinite { tensor, pair, token, value })
        })
    }
}

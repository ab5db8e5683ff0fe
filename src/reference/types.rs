//! What losses are given and what they return.

use super::SequenceLogProb;

/// A number for the chosen completion and one for the rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Of the chosen completion.
    pub chosen: f64,
    /// Of the rejected completion.
    pub rejected: f64,
}

/// The log-probs of a pair's completions, with the number of tokens in each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequencePair {
    /// Of the chosen completion.
    pub chosen: SequenceLogProb,
    /// Of the rejected completion.
    pub rejected: SequenceLogProb,
}

impl SequencePair {
    /// Summed over tokens, nats.
    pub fn sums(self) -> Pair {
        Pair { chosen: self.chosen.sum, rejected: self.rejected.sum }
    }

    /// Per token, nats; 0 for an empty completion.
    pub fn means(self) -> Pair {
        Pair { chosen: self.chosen.mean(), rejected: self.rejected.mean() }
    }
}

/// A loss and its derivatives in the policy's two log-probs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossAndGradient {
    /// `ℓ`, nats.
    pub value: f64,
    /// `∂ℓ/∂log π(chosen)` and `∂ℓ/∂log π(rejected)`, of log-probs summed over tokens.
    pub gradient: Pair,
}

/// The losses of a batch whose pairs meet each other, and the derivatives of their sum.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchLossAndGradient {
    /// The losses, nats: by rank in [`aot_loss`](super::aot_loss) and [`aot_unpaired_loss`](super::aot_unpaired_loss),
    /// by pair in [`sft_loss`](super::sft_loss).
    pub values: Vec<f64>,
    /// The derivatives of the losses' sum in each pair's log-probs: by pair.
    pub gradients: Vec<Pair>,
}

/// The loss of one completion and its derivative in the policy's log-prob.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UnpairedLossAndGradient {
    /// `ℓ`, nats.
    pub value: f64,
    /// `∂ℓ/∂log π`, of a log-prob summed over tokens.
    pub gradient: f64,
}

/// The loss of one ranking and its derivatives in the policy's log-probs.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingLossAndGradient {
    /// `ℓ`, nats.
    pub value: f64,
    /// `∂ℓ/∂log π` of every completion, best first.
    pub gradient: Vec<f64>,
}

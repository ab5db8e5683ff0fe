//! What a model's distributions were like over whole completions.

use burn_tensor::{Int, Tensor};

/// Statistics of each completion, summed over its counted tokens: `[sequences]` each, chosen half first, no gradient.
#[derive(Debug, Clone)]
pub struct SequenceStatistics {
    /// Summed entropy of the next-token distributions, nats.
    pub entropy: Tensor<1>,
    /// Summed mean over the vocabulary of the logits.
    pub mean_logit: Tensor<1>,
    /// How many counted tokens were the likeliest one.
    pub hits: Tensor<1, Int>,
    /// How many tokens were counted.
    pub token_count: Tensor<1, Int>,
}

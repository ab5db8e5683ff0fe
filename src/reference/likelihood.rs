//! The likelihood of chosen completions: what is added to a preference loss to keep it up.

use super::{BatchLossAndGradient, Pair, SequenceLogProb, UnpairedLossAndGradient, margin::per_token};

/// `−Σ log π(chosen) / Σ n`: the mean over all tokens of all chosen completions, the same for every pair; 0 without tokens.
pub fn sft_loss(policies: &[SequenceLogProb]) -> BatchLossAndGradient {
    // an empty completion's log-prob is 0, whatever it says
    let sum: f64 = policies.iter().filter(|chosen| chosen.token_count > 0).map(|chosen| chosen.sum).sum();
    let count: usize = policies.iter().map(|chosen| chosen.token_count).sum();
    let pairs = policies.len();
    let derivative =
        |chosen: &SequenceLogProb| if chosen.token_count == 0 { 0.0 } else { -per_token(pairs as f64, count) };
    BatchLossAndGradient {
        values: vec![per_token(-sum, count); pairs],
        gradients: policies.iter().map(|chosen| Pair { chosen: derivative(chosen), rejected: 0.0 }).collect(),
    }
}

/// `−log π(chosen)/n`: the mean over one completion's tokens, 0 if it has none. Pang et al. 2024 (arXiv:2404.19733).
pub fn nll_loss(chosen: SequenceLogProb) -> UnpairedLossAndGradient {
    UnpairedLossAndGradient { value: -chosen.mean(), gradient: -per_token(1.0, chosen.token_count) }
}

//! Log-probabilities of completion tokens and of completions.

mod sequence;
mod token;

pub use sequence::SequenceLogProbs;
pub use token::{TokenLogProbs, token_log_probs};

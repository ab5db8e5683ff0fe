//! Log-probabilities of completion tokens and of completions.

mod sequence;
mod sequence_statistics;
mod token;

pub use sequence::SequenceLogProbs;
pub use sequence_statistics::SequenceStatistics;
pub use token::{TokenLogProbs, token_log_probs};

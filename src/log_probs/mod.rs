//! Log-probabilities of completion tokens and of completions.

mod length_desensitized;
mod sequence;
mod statistics;
mod token;

pub use sequence::SequenceLogProbs;
pub use statistics::{SequenceStatistics, TokenStatistics, token_statistics};
pub use token::{TokenLogProbs, token_log_probs};

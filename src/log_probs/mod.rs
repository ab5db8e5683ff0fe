//! Log-probabilities of completion tokens and of completions.

mod length_desensitized;
mod lm_head;
pub mod portable;
mod sequence;
mod sharded;
mod statistics;
mod token;

pub use lm_head::LmHead;
pub(crate) use lm_head::Rows;
pub use sequence::SequenceLogProbs;
pub use sharded::VocabularyPart;
pub use statistics::{SequenceStatistics, TokenStatistics, token_statistics};
pub use token::{TokenLogProbs, token_log_probs};

//! Preference optimization for [burn](https://burn.dev): log-probabilities of completions, the DPO loss, and
//! implicit-reward metrics.
#![deny(missing_docs)]

mod completions;
mod error;
mod log_probs;
mod loss;
mod metrics;
mod numerics;
mod ops;
mod pairs;
pub mod reference;
mod rewards;

pub use completions::Completions;
pub use error::{Error, Result};
pub use log_probs::{SequenceLogProbs, TokenLogProbs, token_log_probs};
pub use loss::{Beta, dpo_loss};
pub use metrics::PreferenceMetrics;
pub use pairs::PairLogProbs;
pub use rewards::{ImplicitRewards, implicit_rewards};

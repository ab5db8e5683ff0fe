//! Every quantity of this crate once more, in f64, on plain slices, with its gradient: the definition that the rest is
//! tested against, and that others can check their own implementations against.
//!
//! Nothing here is fast, nothing needs a device, and nothing shares code with what it checks. Where the paper's
//! equation loses accuracy far from 0 there are two functions: the equation as printed (`…_as_printed`) and a stable
//! form of it, which agree wherever the printed one does not overflow or cancel.
//!
//! | quantity                                   | value                                 | gradient                            |
//! |--------------------------------------------|---------------------------------------|-------------------------------------|
//! | `log p(token)` from one position's logits  | [`token_log_prob`]                    | [`token_log_prob_gradient`]         |
//! | log-probs of all counted tokens            | [`token_log_probs`]                   | [`token_log_probs_gradient`]        |
//! | sum, count and mean per sequence           | [`sequence_log_probs`]                | 1, and 1/count, at counted tokens   |
//! | DPO loss of one pair                       | [`dpo_loss`], [`dpo_loss_as_printed`] | in the same result                  |
//! | implicit rewards of one pair               | [`implicit_rewards`]                  | none: a measurement                 |
//! | metrics over pairs                         | [`preference_metrics`], [`margin_quantile`], [`k3`] | none: a measurement   |
//!
//! # Example
//! ```
//! use approx::assert_abs_diff_eq;
//! use burn_dpo::reference::{Pair, dpo_loss};
//!
//! let policy = Pair { chosen: -9.0, rejected: -8.0 };
//! let reference = Pair { chosen: -10.0, rejected: -7.0 };
//! let loss = dpo_loss(policy, reference, 0.5);
//!
//! assert_abs_diff_eq!(loss.value, (1.0 + (-1f64).exp()).ln(), epsilon = 1e-15); // −log σ(0.5 · 2)
//! assert_eq!(loss.gradient.rejected, -loss.gradient.chosen);
//! ```

mod dpo;
mod log_probs;
mod metrics;

pub use dpo::{LossAndGradient, Pair, dpo_loss, dpo_loss_as_printed, implicit_rewards};
pub use log_probs::{
    SequenceLogProb, TokenRows, sequence_log_probs, token_log_prob, token_log_prob_gradient, token_log_probs,
    token_log_probs_gradient,
};
pub use metrics::{
    MeasuredCompletion, MeasuredPair, Metrics, SequenceStatistic, k3, margin_quantile, preference_metrics,
};

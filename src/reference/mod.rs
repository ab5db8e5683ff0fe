//! Every quantity of this crate once more, in f64, on plain slices, with its gradient: the definition that the rest is
//! tested against, and that others can check their own implementations against.
//!
//! Nothing here is fast, nothing needs a device, and nothing shares code with what it checks. Every loss is here twice: in
//! a stable form, with value and gradient in closed form, right over the whole range of f64, and under the same name in
//! [`as_printed`], as its paper or TRL prints it. The two agree wherever the printed one does not overflow or cancel.
//! Where the value itself is out of range, the stable form is ±∞; it is NaN only for NaN, or for log-probs that are
//! infinite.
//!
//! Log-probs are in nats and summed over tokens, and so are those that gradients are taken in. `c`, `r` are the policy's
//! for chosen and rejected, `a`, `b` their differences from the reference's, `n` token counts,
//! `z = β(s(a) − s(b))` with the score `s` of an [`FDivergence`] (`z = β(a − b)` where there is none), `σ` the sigmoid.
//!
//! | quantity                                   | value                                 | gradient                            |
//! |--------------------------------------------|---------------------------------------|-------------------------------------|
//! | `log p(token)` from one position's logits  | [`token_log_prob`]                    | [`token_log_prob_gradient`]         |
//! | log-probs of all counted tokens            | [`token_log_probs`]                   | [`token_log_probs_gradient`]        |
//! | sum, count and mean per sequence           | [`sequence_log_probs`]                | 1, and 1/count, at counted tokens   |
//! | entropy of one position's distribution     | [`token_entropy`]                     | [`token_entropy_gradient`]          |
//! | `log Σ p²`, mean logit, argmax             | [`log_sum_sq_probs`], [`mean_logit`], [`is_argmax`] | none: a measurement   |
//! | the same of all counted tokens             | [`token_statistics`]                  | [`token_entropies_gradient`]        |
//! | LD-DPO's sums of one pair                  | [`length_desensitized_sums`]          | 1, and α beyond the shorter one     |
//! | WPO's weight of one pair                   | [`wpo_weight`]                        | none: a constant                    |
//! | losses                                     | below                                 | in the same result                  |
//! | implicit rewards of one pair               | [`implicit_rewards`]                  | none: a measurement                 |
//! | metrics over pairs                         | [`preference_metrics`], [`margin_quantile`], [`k3`] | none: a measurement   |
//!
//! | loss                  | equation                                                                                |
//! |-----------------------|-----------------------------------------------------------------------------------------|
//! | [`dpo_loss`]          | `−log σ(β(a − b))`                                                                      |
//! | [`f_dpo_loss`]        | `−log σ(z)`                                                                             |
//! | [`cdpo_loss`]         | `−(1 − ε) log σ(z) − ε log σ(−z)`                                                       |
//! | [`soft_dpo_loss`]     | `−q log σ(y) − (1 − q) log σ(−y)`, `y = β(a − b) − offset`                              |
//! | [`robust_loss`]       | `[−(1 − ε) log σ(z) + ε log σ(−z)]/(1 − 2ε)`                                            |
//! | [`exo_pair_loss`]     | `σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε)`                                |
//! | [`hinge_loss`]        | `max(0, 1 − z)`                                                                         |
//! | [`ipo_loss`]          | `(s(a)/n_c − s(b)/n_r − 1/(2β))²`                                                       |
//! | [`sigmoid_norm_loss`] | `−log σ(β(s(a)/n_c − s(b)/n_r))`                                                        |
//! | [`odpo_loss`]         | `−log σ(β(a − b) − offset)`                                                             |
//! | [`r_dpo_loss`]        | `−log σ(β(a − b) − α(n_c − n_r))`                                                       |
//! | [`dpop_loss`]         | `−log σ(β(a − b − λ max(0, −a)))`                                                       |
//! | [`discopop_loss`]     | `−(1 − m) log σ(z) + m·e^−z`, `m = σ(z/τ)`                                              |
//! | [`nca_pair_loss`]     | `−log σ(βa) − ½ log σ(−βa) − ½ log σ(−βb)`                                              |
//! | [`bco_pair_loss`]     | `−log σ(βa) − log σ(−βb)`                                                               |
//! | [`sppo_hard_loss`]    | `(a − 1/(2β))² + (b + 1/(2β))²`                                                         |
//! | [`apo_zero_loss`]     | `1 − σ(βa) + σ(βb)`                                                                     |
//! | [`apo_down_loss`]     | `σ(βa) + 1 − σ(β(a − b))`                                                               |
//! | [`aot_loss`]          | [`cdpo_loss`] of `z = β(sort(c − r) − sort(c_ref − r_ref))`, over a batch               |
//! | [`aot_unpaired_loss`] | [`cdpo_loss`] of `z = β(sort(a) − sort(b))`, over a batch                               |
//! | [`sft_loss`]          | `−Σc/Σn_c`, over a batch                                                                |
//! | [`nll_loss`]          | `−c/n_c`                                                                                |
//! | [`simpo_loss`]        | `−log σ(β(c/n_c − r/n_r) − γ)`                                                          |
//! | [`cpo_loss`]          | [`cdpo_loss`] of `z = β(c − r)`                                                         |
//! | [`slic_loss`]         | `max(0, δ − (c − r))`                                                                   |
//! | [`alphapo_loss`]      | `−log σ(β(ρ(c/n_c) − ρ(r/n_r)) − γ)`, `ρ(x) = (1 − e^−αx)/α`                            |
//! | [`orpo_loss`]         | `−log σ(log(odds_c/odds_r))`, `odds = p/(1 − p)`, `p = e^(c/n_c)`, `e^(r/n_r)`          |
//! | [`kto_loss`]          | `λ_D(1 − σ(β(a − kl)))` or `λ_U(1 − σ(β(kl − a)))`, of one completion                   |
//! | [`bco_loss`]          | `−log σ(βa − δ)` or `−log σ(δ − βa)`, of one completion                                 |
//! | [`plackett_luce_loss`] | `Σ_k [log Σ_{j≥k} e^(βa_j) − βa_k]`, of a ranking                                       |
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

mod anchored;
mod aot;
pub mod as_printed;
mod discopop;
mod divergence;
mod dpo;
mod labels;
mod likelihood;
mod log_probs;
mod margin;
mod metrics;
mod plackett_luce;
mod reference_free;
mod scalar;
mod targets;
mod types;
mod unpaired;

pub use anchored::{apo_down_loss, apo_zero_loss, bco_pair_loss, nca_pair_loss, sppo_hard_loss};
pub use aot::{aot_loss, aot_unpaired_loss};
pub use discopop::discopop_loss;
pub use divergence::FDivergence;
pub use dpo::{dpo_loss, f_dpo_loss, implicit_rewards};
pub use labels::{cdpo_loss, exo_pair_loss, robust_loss, soft_dpo_loss};
pub use likelihood::{nll_loss, sft_loss};
pub use log_probs::{
    SequenceLogProb, TokenRows, TokenStatistic, is_argmax, length_desensitized_sums, log_sum_sq_probs, mean_logit,
    sequence_log_probs, token_entropies_gradient, token_entropy, token_entropy_gradient, token_log_prob,
    token_log_prob_gradient, token_log_probs, token_log_probs_gradient, token_statistics, wpo_weight,
};
pub use metrics::{
    MeasuredCompletion, MeasuredPair, Metrics, SequenceStatistic, k3, margin_quantile, preference_metrics,
};
pub use plackett_luce::plackett_luce_loss;
pub use reference_free::{alphapo_loss, cpo_loss, orpo_loss, simpo_loss, slic_loss};
pub use targets::{dpop_loss, hinge_loss, ipo_loss, odpo_loss, r_dpo_loss, sigmoid_norm_loss};
pub use types::{
    BatchLossAndGradient, LossAndGradient, Pair, RankingLossAndGradient, SequencePair, UnpairedLossAndGradient,
};
pub use unpaired::{bco_loss, kto_loss};

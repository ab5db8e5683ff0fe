//! Odds Ratio Preference Optimization: its preference term.

use burn_tensor::Tensor;

use crate::{
    PairLogProbs, Result,
    compare::alone,
    expr::{Expr, exp, log1mexp, softplus},
    sides::Sides,
};

/// The odds-ratio term of ORPO: the odds of the chosen completion against those of the rejected one. One loss per pair.
///
/// ```text
/// ℓ = −log σ(log odds(c) − log odds(r)),   log odds(x) = x − log(1 − eˣ)
/// ```
///
/// `c`, `r` are the policy's log-probs per token. There is no reference. ORPO is `NLL + λ ℓ`, with
/// [`nll_loss`](crate::nll_loss) or [`sft_loss`](crate::sft_loss) and a λ (TRL's `beta`) of 0.1.
/// TRL's likelihood term counts the tokens of the prompt as well.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{PairLogProbs, orpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = orpo_loss(&policy)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.845_215_9, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// `log(1 − eˣ)` keeps its accuracy at both ends, without a magic constant. The derivatives, `−σ(−y)/(1 − e^c)` and
/// `σ(−y)/(1 − e^r)`, are exponentials of sums: a chosen completion of probability 1 has a finite one.
///
/// # Edge cases
/// - Probability 1 has infinite odds: log-probs per token above −1.2e-38 (0 among them, and those of completions without
///   counted tokens) count as −1.2e-38, whose log-odds are 87.3.
/// - A completion without counted tokens has gradient 0.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// Hong et al. 2024, eq. 7 (arXiv:2403.07691).
pub fn orpo_loss(policy: &PairLogProbs) -> Result<Tensor<1>> {
    let sums = alone(policy);
    let inverse = policy.inverse_token_counts();
    let Sides { chosen, rejected } = sums.log_probs().per_token(&inverse).map(uncertain);
    let (rest_of_chosen, rest_of_rejected) = (log1mexp(chosen.clone()), log1mexp(rejected.clone()));
    let log_odds_ratio = (chosen - rejected) - (rest_of_chosen.clone() - rest_of_rejected.clone());

    let loss = softplus(log_odds_ratio.clone().neg());
    let log_wrong = softplus(log_odds_ratio).neg(); // log σ(−y)
    let of_chosen = exp(log_wrong.clone() - rest_of_chosen).neg() * inverse.chosen;
    let of_rejected = exp(log_wrong - rest_of_rejected) * inverse.rejected;

    Ok(sums.loss(loss, Sides { chosen: of_chosen, rejected: of_rejected }))
}

/// The mean log-prob, held below 0 by the smallest normal f32 number.
fn uncertain(mean: Expr) -> Expr {
    let most = -f64::from(f32::MIN_POSITIVE);
    let certain = mean.clone().greater_elem(most);
    mean.mask_fill(certain, most)
}

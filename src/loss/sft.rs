//! Likelihood of the chosen completions: the supervised term that is mixed into preference losses.

use burn_tensor::Tensor;

use crate::{
    PairLogProbs, Result,
    compare::alone,
    expr::{Expr, sums},
};

/// Negative log-likelihood of the chosen completions per token of the *batch*, the same for every pair: TRL's `sft`.
///
/// ```text
/// ℓ = −Σ log π(chosen) / Σ n
/// ```
///
/// The sums run over all pairs of the batch; long completions weigh more. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{PairLogProbs, sft_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = sft_loss(&policy)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 2.25, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// - The one loss that mixes pairs beside [`aot_loss`](crate::aot_loss): NaN in one pair is NaN in all. [`nll_loss`] keeps pairs
///   apart.
/// - Its mean over micro-batches is not that of the whole batch, unless they have as many tokens.
/// - A completion without counted tokens has gradient 0; without any counted token the loss is 0.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// TRL's `loss_type="sft"`, formerly `rpo_alpha`.
pub fn sft_loss(policy: &PairLogProbs) -> Result<Tensor<1>> {
    let policy_sums = alone(policy);
    let (chosen, count) = (policy_sums.log_probs().chosen, policy.token_counts().chosen);
    let empty = count.clone().lower_elem(1.0);
    let totals = sums([chosen.mask_fill(empty.clone(), 0.0), count]);
    let [total, tokens] = Expr::scalars(totals, policy.pairs());
    let nothing = tokens.clone().lower_elem(1.0);
    let per_token = tokens.mask_fill(nothing, 1.0).recip().neg();
    let loss = total * per_token.clone();
    Ok(policy_sums.loss_of_all_chosen(loss, per_token.mask_fill(empty, 0.0)))
}

/// Negative log-likelihood of each chosen completion per token: one loss per pair.
///
/// ```text
/// ℓ = −log π(chosen) / n
/// ```
///
/// `n` is its number of counted tokens: every completion weighs the same. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{PairLogProbs, nll_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = nll_loss(&policy)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 2.25, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// A completion without counted tokens has loss and gradient 0.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// The term of Iterative RPO, Pang et al. 2024, eq. 1 (arXiv:2404.19733), and of SLiC and CPO.
pub fn nll_loss(policy: &PairLogProbs) -> Result<Tensor<1>> {
    let sums = alone(policy);
    let inverse = policy.inverse_token_counts();
    let loss = sums.log_probs().per_token(&inverse).chosen.neg();
    Ok(sums.loss_of_chosen(loss, inverse.chosen.neg()))
}

//! Likelihood of the chosen completions: the supervised term that is mixed into preference losses.

use burn_tensor::{FloatDType, IntDType, Tensor};

use crate::{PairLogProbs, Result, pairs::alone};

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
    let chosen = alone(policy).chosen();
    let pairs = policy.pairs();
    if pairs == 0 {
        return Ok(chosen.neg()); // a sum over nothing leaves the graph on some backends
    }
    // in 32 bits: a batch may have more tokens than the counts' own type can hold
    let token_count = policy.chosen().token_count.clone().without_autodiff().cast(IntDType::I32);
    let chosen = chosen.mask_fill(token_count.clone().lower_elem(1), 0.0);
    let tokens = token_count.sum().clamp_min(1).cast(FloatDType::from(chosen.dtype()));
    Ok((chosen.sum().neg() / tokens).expand([pairs]))
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
    let policy_sums = alone(policy);
    let chosen = policy_sums.numbers().chosen;
    let inverse = policy.inverse_token_counts(&chosen).chosen;
    let empty = inverse.clone().equal_elem(0.0);

    let loss = (chosen * inverse.clone()).mask_fill(empty, 0.0).neg();

    Ok(policy_sums.loss_of_chosen(loss, inverse.neg()))
}

//! Contrastive Preference Optimization.

use burn_tensor::Tensor;

use super::{Beta, LabelSmoothing, cdpo::smoothed};
use crate::{PairLogProbs, Result, compare::alone, expr::finite};

/// CPO: DPO with a uniform reference, which cancels. One loss per pair.
///
/// ```text
/// ℓ = −(1 − ε) log σ(z) − ε log σ(−z),   z = β (log π(chosen) − log π(rejected))
/// ```
///
/// CPO adds the likelihood of the chosen completion, without which nothing keeps the policy in place:
/// [`nll_loss`](crate::nll_loss) or [`sft_loss`](crate::sft_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, LabelSmoothing, PairLogProbs, cpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = cpo_loss(&policy, Beta::new(1.0)?, LabelSmoothing::new(0.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 1.313_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// Xu et al. 2024, section 3 (arXiv:2401.08417).
pub fn cpo_loss(policy: &PairLogProbs, beta: Beta, label_smoothing: LabelSmoothing) -> Result<Tensor<1>> {
    let policy = alone(policy);
    let z = finite(policy.log_probs().difference() * beta.get());
    let (loss, derivative) = smoothed(z, label_smoothing);
    let derivative = derivative * beta.get();
    Ok(policy.loss_of_difference(loss, derivative))
}

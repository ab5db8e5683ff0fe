//! DPO on log-probs per token.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, margin::margin_per_token};
use crate::{PairLogProbs, Result};

/// Length-normalised DPO: a long completion weighs no more than a short one. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (s(a)/n − s(b)/m))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `n`, `m` their numbers of counted tokens, `s` the score of
/// the [`FDivergence`]. β is larger than DPO's by about a completion's length: 5 to 10 is usual. Shapes, units and
/// gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, sigmoid_norm_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = sigmoid_norm_loss(&policy, &reference, Beta::new(2.0)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.313_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// A completion without counted tokens has 0 for its term, in the value and in the gradient.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Lambert et al. 2024, Tülu 3, section 5.1.2 (arXiv:2411.15124); TRL's `sigmoid_norm`.
pub fn sigmoid_norm_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin_per_token(policy, reference, beta.get(), divergence)?;
    let z = margin.z();
    Ok(margin.logistic(z))
}

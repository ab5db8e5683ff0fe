//! Identity Preference Optimization.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, margin::margin_per_token};
use crate::{PairLogProbs, Result};

/// Identity Preference Optimization: a target for the margin, instead of ever more of it. One loss per pair.
///
/// ```text
/// ℓ = (d − 1/(2β))²,   d = s(a)/n − s(b)/m
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `n`, `m` their numbers of counted tokens, `s` the score of
/// the [`FDivergence`]. `β` is the paper's `τ`: here it sets the target `1/(2β)`, in nats *per token*, and scales
/// nothing: at 0.1, usual for DPO, the target is 5 nats per token, which few pairs come near: there the loss only
/// ever pulls. Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, ipo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = ipo_loss(&policy, &reference, Beta::new(0.5)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.25, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// The square of a margin beyond 1e19 is beyond f32 and is +∞; its gradient is held at the largest finite number.
///
/// # Edge cases
/// A completion without counted tokens has 0 for its term, in the value and in the gradient.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Azar et al. 2023, eq. 17 (arXiv:2310.12036). Per token, as its authors advised and TRL does; the original DPO
/// implementation and OpenRLHF use sums. The counts are those of the pass that summed.
pub fn ipo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin_per_token(policy, reference, 1.0, divergence)?;
    let beyond = margin.z() - 0.5 / beta.get();

    let loss = beyond.clone() * beyond.clone();
    let derivative = beyond * 2.0;

    Ok(margin.loss(loss, derivative))
}

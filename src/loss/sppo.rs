//! Self-Play Preference Optimization.

use burn_tensor::Tensor;

use super::Beta;
use crate::{PairLogProbs, Result, compare::compare, sides::Sides};

/// SPPO with hard labels: the log-ratios are regressed on `±1/(2β)`. One loss per pair.
///
/// ```text
/// ℓ = (a − 1/(2β))² + (b + 1/(2β))²
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, sppo_hard_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = sppo_hard_loss(&policy, &reference, Beta::new(0.25)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 2.0, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// The square of a log-ratio beyond 1e19 is beyond f32 and is +∞; its gradient is not.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Wu et al. 2024, eq. 4.7 with win probabilities 1 and 0 (arXiv:2405.00675).
pub fn sppo_hard_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let target = 0.5 / beta.get();
    let (short, beyond) = (pairs.log_ratio.chosen - target, pairs.log_ratio.rejected + target);

    let loss = short.clone() * short.clone() + beyond.clone() * beyond.clone();

    Ok(pairs.policy.loss(loss, Sides { chosen: short * 2.0, rejected: beyond * 2.0 }))
}

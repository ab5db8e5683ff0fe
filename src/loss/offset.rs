//! DPO whose margin has to pass an offset: ODPO and R-DPO.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, TargetMargin, Weight, margin::margin};
use crate::{PairLogProbs, Result};

/// DPO with an offset: the reward margin should be more than `offset`. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (a − b) − offset)
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss). With an offset for each pair: [`annotated_dpo_loss`](crate::annotated_dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, TargetMargin, odpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = odpo_loss(&policy, &reference, Beta::new(0.5)?, TargetMargin::new(2.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 1.313_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Amini et al. 2024 (arXiv:2402.10571).
pub fn odpo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    offset: TargetMargin,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), FDivergence::ReverseKl)?;
    let z = margin.finite_z() - offset.get();
    Ok(margin.logistic(z))
}

/// R-DPO: a chosen completion that is longer has to be better by more. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (a − b) − α (n − m))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `n`, `m` their numbers of counted tokens. Shapes, units and
/// gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, Weight, r_dpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 6)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = r_dpo_loss(&policy, &reference, Beta::new(0.5)?, Weight::new(0.5)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.126_928_0, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Park et al. 2024 (arXiv:2403.19159), with the sign of the length term that penalises length.
pub fn r_dpo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    length_weight: Weight,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), FDivergence::ReverseKl)?;
    let longer = policy.token_counts().difference();
    let z = margin.finite_z() - longer * length_weight.get();
    Ok(margin.logistic(z))
}

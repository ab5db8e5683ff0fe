//! Robust DPO: an unbiased estimate of the clean loss from flipped labels.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, FlipRate, margin::margin};
use crate::{
    PairLogProbs, Result,
    expr::{sigmoid, softplus},
};

/// Robust DPO: with labels flipped at rate `ε`, its expectation is the loss under the true labels. One loss per pair.
///
/// ```text
/// ℓ = (−(1 − ε) log σ(z) + ε log σ(−z)) / (1 − 2ε) = −log σ(z) − z ε/(1 − 2ε)
/// ```
///
/// `z = β (s(a) − s(b))` as in [`cdpo_loss`](crate::cdpo_loss), which has the other sign before `ε`. Shapes, units
/// and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, FlipRate, PairLogProbs, robust_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = robust_loss(&policy, &reference, Beta::new(0.5)?, FlipRate::new(0.1)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.188_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Closed form. A margin beyond the dtype's range counts as its largest number.
///
/// # Edge cases
/// The loss has no lower bound: it falls like `−z ε/(1 − 2ε)`, and a negative loss is normal.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Chowdhury et al. 2024, section 3.1 (arXiv:2403.00409).
pub fn robust_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    flip_rate: FlipRate,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let (z, epsilon) = (margin.finite_z(), flip_rate.get());
    let bonus = epsilon / (1.0 - 2.0 * epsilon);

    let loss = softplus(z.clone().neg()) - z.clone() * bonus;
    let derivative = (sigmoid(z.neg()) + bonus).neg();

    Ok(margin.loss(loss, derivative))
}

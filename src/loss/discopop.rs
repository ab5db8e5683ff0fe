//! DiscoPOP: a loss that a language model found.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, Temperature, margin::margin};
use crate::{
    PairLogProbs, Result,
    expr::{exp, sigmoid, softplus},
};

/// DiscoPOP, the log-ratio modulated loss: logistic for small margins, exponential for large ones. One loss per pair.
///
/// ```text
/// ℓ = (1 − m) (−log σ(z)) + m e^(−z),   m = σ(z/τ),   z = β (s(a) − s(b))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `s` the score of the [`FDivergence`]. Not convex near 0.
/// Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, Temperature, discopop_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = discopop_loss(&policy, &reference, Beta::new(0.5)?, Temperature::new(0.05)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.367_879_4, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// `m e^(−z)` is computed as one exponential, so that it is 0 and not `0 · ∞` where the margin is far below 0. A margin beyond
/// the dtype's range counts as its largest number.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Lu et al. 2024, eq. 5 (arXiv:2406.08414).
pub fn discopop_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    temperature: Temperature,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let (z, tau) = (margin.finite_z(), temperature.get());
    let scaled = z.clone() / tau;
    let (exponential, logistic) = (sigmoid(scaled.clone()), sigmoid(scaled.clone().neg()));
    let softplus_against = softplus(z.clone().neg());
    let modulated = exp(z.clone().neg() - softplus(scaled.neg())); // m e^(−z)

    let loss = logistic.clone() * softplus_against.clone() + modulated.clone();
    // m′ = m (1 − m)/τ, times what it weighs; both terms with m e^(−z) together, as each may be ∞
    let derivative = modulated * (logistic.clone() / tau - 1.0)
        - (exponential * softplus_against / tau + sigmoid(z.neg())) * logistic;

    Ok(margin.loss(loss, derivative))
}

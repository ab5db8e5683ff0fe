//! Efficient Exact Optimization.

use burn_tensor::Tensor;

use super::{Beta, ExoSmoothing, FDivergence, margin::margin};
use crate::{
    PairLogProbs, Result,
    expr::{sigmoid, softplus},
};

/// EXO for pairs: the reverse KL divergence from the policy's preference to the smoothed label. One loss per pair.
///
/// ```text
/// ℓ = σ(z) (log σ(z) − log(1 − ε)) + σ(−z) (log σ(−z) − log ε),   z = β (s(a) − s(b))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `s` the score of the [`FDivergence`]. 0 where `σ(z) = 1 − ε`, its
/// least. Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, ExoSmoothing, FDivergence, PairLogProbs, exo_pair_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = exo_pair_loss(&policy, &reference, Beta::new(0.5)?, ExoSmoothing::new(0.1)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.114_082_1, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Closed form: the derivative is `σ(z) σ(−z) (z − log((1 − ε)/ε))`. A margin beyond the dtype's range counts as its largest number.
///
/// # Edge cases
/// The gradient vanishes far out on both sides: on the wrong one, too, it no longer pulls.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Ji et al. 2024, eq. 16 (arXiv:2402.00856).
pub fn exo_pair_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    label_smoothing: ExoSmoothing,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let (z, epsilon) = (margin.finite_z(), label_smoothing.get());
    let (log_wrong, log_right) = (epsilon.ln(), (-epsilon).ln_1p());
    let (right, wrong) = (sigmoid(z.clone()), sigmoid(z.clone().neg()));

    let loss = (softplus(z.clone().neg()) + log_right).neg() * right.clone()
        - (softplus(z.clone()) + log_wrong) * wrong.clone();
    let derivative = right * wrong * (z - (log_right - log_wrong));

    Ok(margin.loss(loss, derivative))
}

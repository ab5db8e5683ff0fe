//! Losses of log-probs per token, without a reference: SimPO and AlphaPO.

use burn_tensor::Tensor;

use super::{
    Alpha, Beta, TargetMargin,
    divergence::{ScoreDifference, alphapo_difference},
    margin::Margin,
};
use crate::{PairLogProbs, Result, compare::alone};

/// SimPO: the log-prob per token is the reward, and should be better by `γ`. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (log π(chosen)/n − log π(rejected)/m) − γ)
/// ```
///
/// There is no reference. β is 2 to 2.5 in the paper and up to 10 elsewhere, `γ/β` 0 to 1, with 0.5 to start from. The
/// target is `γ` here, as in the paper and in TRL (`simpo_gamma`); the authors' code is given `γ/β` (`gamma_beta_ratio`).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, TargetMargin, simpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = simpo_loss(&policy, Beta::new(2.0)?, TargetMargin::new(-0.5)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.693_147_2, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// A completion without counted tokens has 0 for its log-prob per token, in the value and in the gradient.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// Meng et al. 2024, eq. 6 (arXiv:2405.14734).
pub fn simpo_loss(policy: &PairLogProbs, beta: Beta, gamma: TargetMargin) -> Result<Tensor<1>> {
    alphapo_loss(policy, beta, Alpha::ZERO, gamma)
}

/// AlphaPO: SimPO with a bent reward. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (ρ(log π(chosen)/n) − ρ(log π(rejected)/m)) − γ),   ρ(x) = (1 − e^(−αx))/α
/// ```
///
/// There is no reference. `α = 0` is SimPO, exactly; values near it, such as ±0.25, are usual. β and γ are SimPO's.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Alpha, Beta, PairLogProbs, TargetMargin, alphapo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = alphapo_loss(&policy, Beta::new(2.0)?, Alpha::new(0.25)?, TargetMargin::new(0.5)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 1.581_038_4, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// The difference of the two rewards is computed from that of the log-probs, exact for small α, and no `∞ − ∞` where both
/// rewards are beyond the dtype's range.
///
/// # Edge cases
/// A completion without counted tokens has 0 for its log-prob per token, in the value and in the gradient.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// Gupta et al. 2025 (arXiv:2501.03884); TRL's `CPOTrainer` with `loss_type="alphapo"`.
pub fn alphapo_loss(policy: &PairLogProbs, beta: Beta, alpha: Alpha, gamma: TargetMargin) -> Result<Tensor<1>> {
    let margin = margin_of_means(policy, beta, alpha);
    let z = margin.z() - gamma.get();
    Ok(margin.logistic(z))
}

/// `β (ρ(mean chosen) − ρ(mean rejected))`.
fn margin_of_means(policy: &PairLogProbs, beta: Beta, alpha: Alpha) -> Margin {
    let sums = alone(policy);
    let inverse = policy.inverse_token_counts();
    let means = sums.log_probs().per_token(&inverse);
    let mut rewards: ScoreDifference = alphapo_difference(means, alpha);
    rewards.chosen_factors.insert(0, inverse.chosen);
    rewards.rejected_factors.insert(0, inverse.rejected);
    Margin::new(sums, rewards, beta.get())
}

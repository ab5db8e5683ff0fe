//! Noise Contrastive Alignment.

use burn_tensor::Tensor;

use super::Beta;
use crate::{
    PairLogProbs, Result,
    compare::compare,
    expr::{sigmoid, softplus},
    sides::Sides,
};

/// NCA for pairs: each reward is held against 0, so that the chosen log-prob does not fall. One loss per pair.
///
/// ```text
/// ℓ = −log σ(βa) − ½ log σ(−βa) − ½ log σ(−βb)
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, nca_pair_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = nca_pair_loss(&policy, &reference, Beta::new(0.5)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 1.198_154, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Chen et al. 2024, section 4.1 (arXiv:2402.05369); TRL's `nca_pair`.
pub fn nca_pair_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let beta = beta.get();
    let reward = pairs.log_ratio.map(|log_ratio| log_ratio * beta);

    let loss = softplus(reward.chosen.clone().neg())
        + softplus(reward.chosen.clone()) * 0.5
        + softplus(reward.rejected.clone()) * 0.5;
    let of_chosen = sigmoid(reward.chosen.clone()) * 0.5 - sigmoid(reward.chosen.neg());
    let of_rejected = sigmoid(reward.rejected) * 0.5;

    Ok(pairs.policy.loss(loss, Sides { chosen: of_chosen * beta, rejected: of_rejected * beta }))
}

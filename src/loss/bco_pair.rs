//! Binary Classifier Optimization, as TRL has it for pairs.

use burn_tensor::Tensor;

use super::Beta;
use crate::{
    PairLogProbs, Result,
    compare::compare,
    expr::{sigmoid, softplus},
    sides::Sides,
};

/// BCO for pairs: the reward as the logit of a classifier, for each completion on its own. One loss per pair.
///
/// ```text
/// ℓ = −log σ(βa) − log σ(−βb)
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss). With the paper's reward shift `δ`, and for completions that are not paired:
/// [`bco_loss`](crate::bco_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, bco_pair_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = bco_pair_loss(&policy, &reference, Beta::new(1.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.626_523_4, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Jung et al. 2024, section 4, without `δ` (arXiv:2404.04656); TRL's `bco_pair` from 0.29 on.
pub fn bco_pair_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let beta = beta.get();
    let reward = pairs.log_ratio.map(|log_ratio| log_ratio * beta);

    let loss = softplus(reward.chosen.clone().neg()) + softplus(reward.rejected.clone());
    let of_chosen = sigmoid(reward.chosen.neg()).neg();
    let of_rejected = sigmoid(reward.rejected);

    Ok(pairs.policy.loss(loss, Sides { chosen: of_chosen * beta, rejected: of_rejected * beta }))
}

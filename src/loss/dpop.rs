//! DPO-Positive (Smaug).

use burn_tensor::Tensor;

use super::{Beta, Weight};
use crate::{
    PairLogProbs, Result,
    compare::compare,
    expr::{sigmoid, softplus},
    sides::Sides,
};

/// DPO-Positive: the margin loses `λ` times what the chosen completion has become less likely. One loss per pair.
///
/// ```text
/// ℓ = −log σ(β (a − b − λ max(0, −a)))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. It answers likelihood displacement: DPO may lower both
/// log-probs as long as the rejected one falls faster. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss). λ is 5 to 50.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, Weight, dpop_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = dpop_loss(&policy, &reference, Beta::new(0.5)?, Weight::new(5.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.313_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// Where policy and reference agree the penalty's derivative is taken as 0: training starts as DPO does.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Pal et al. 2024, eq. 3 (arXiv:2402.13228).
pub fn dpop_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta, lambda: Weight) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let (beta, lambda) = (beta.get(), lambda.get());
    let fell = pairs.log_ratio.chosen.clone().lower_elem(0.0);
    let penalty = pairs.log_ratio.chosen.clone().neg().mask_fill(fell.clone().bool_not(), 0.0) * lambda;
    let z = (pairs.log_ratio.difference() - penalty) * beta;

    let loss = softplus(z.clone().neg());
    let derivative = sigmoid(z.neg()) * beta;
    let of_chosen = derivative.clone().mask_where(fell, derivative.clone() * (1.0 + lambda)).neg();

    Ok(pairs.policy.loss(loss, Sides { chosen: of_chosen, rejected: derivative }))
}

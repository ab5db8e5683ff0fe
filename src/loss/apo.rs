//! Anchored Preference Optimization.

use burn_tensor::Tensor;

use super::Beta;
use crate::{
    PairLogProbs, Result,
    compare::compare,
    expr::{Expr, sigmoid},
    sides::Sides,
};

/// APO-zero: chosen completions up, rejected ones down. For chosen completions better than what the model writes itself. One
/// loss per pair.
///
/// ```text
/// ℓ = 1 − σ(βa) + σ(βb)
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Between 0 and 2. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss). For completions that are not paired: [`kto_loss`](crate::kto_loss) with a KL of
/// 0.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, apo_zero_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = apo_zero_loss(&policy, &reference, Beta::new(1.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.537_882_8, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// `1 − σ(x)` is computed as `σ(−x)`, which does not cancel to 0 from `x = 17` on.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// D'Oosterlinck et al. 2024, eq. 7 (arXiv:2408.06266).
pub fn apo_zero_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let beta = beta.get();
    let (chosen, rejected) = (pairs.log_ratio.chosen * beta, pairs.log_ratio.rejected * beta);

    let loss = sigmoid(chosen.clone().neg()) + sigmoid(rejected.clone());
    let of_chosen = sigmoid_derivative(chosen).neg();
    let of_rejected = sigmoid_derivative(rejected);

    Ok(pairs.policy.loss(loss, Sides { chosen: of_chosen * beta, rejected: of_rejected * beta }))
}

/// APO-down: both completions down, the rejected one more. For chosen completions worse than what the model writes itself.
/// One loss per pair.
///
/// ```text
/// ℓ = σ(βa) + 1 − σ(β(a − b))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected. Between 0 and 2. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, apo_down_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = apo_down_loss(&policy, &reference, Beta::new(1.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.850_261_6, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// D'Oosterlinck et al. 2024, eq. 8 (arXiv:2408.06266).
pub fn apo_down_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let beta = beta.get();
    let chosen = pairs.log_ratio.chosen.clone() * beta;
    let margin = pairs.log_ratio.difference() * beta;

    let loss = sigmoid(chosen.clone()) + sigmoid(margin.clone().neg());
    let of_rejected = sigmoid_derivative(margin);
    let of_chosen = sigmoid_derivative(chosen) - of_rejected.clone();

    Ok(pairs.policy.loss(loss, Sides { chosen: of_chosen * beta, rejected: of_rejected * beta }))
}

/// `σ′(x) = σ(x) σ(−x)`.
pub(super) fn sigmoid_derivative(x: Expr) -> Expr {
    sigmoid(x.clone()) * sigmoid(x.neg())
}

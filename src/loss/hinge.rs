//! Hinge losses: nothing is asked beyond a margin.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, TargetMargin, margin::margin};
use crate::{PairLogProbs, Result, compare::alone, expr::Expr};

/// The hinge loss of the reward margin (SLiC's and RSO's loss in DPO's terms). One loss per pair.
///
/// ```text
/// ℓ = max(0, 1 − z),   z = β (s(a) − s(b))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `s` the score of the [`FDivergence`]. Shapes, units and
/// gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, hinge_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = hinge_loss(&policy, &reference, Beta::new(0.25)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.5, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// At the kink, `z = 1`, loss and gradient are 0.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Liu et al. 2023, RSO's hinge-norm (arXiv:2309.06657); without a reference: [`slic_loss`](crate::slic_loss).
pub fn hinge_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let (loss, derivative) = shortfall(margin.z(), 1.0);
    Ok(margin.loss(loss, derivative))
}

/// SLiC's calibration loss: the chosen completion should be `δ` nats more likely than the rejected one. One loss per pair.
///
/// ```text
/// ℓ = max(0, δ − (log π(chosen) − log π(rejected)))
/// ```
///
/// There is no reference. SLiC adds a cross-entropy term: [`nll_loss`](crate::nll_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{PairLogProbs, TargetMargin, slic_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
///
/// let loss = slic_loss(&policy, TargetMargin::new(2.0)?)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 3.0, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// At the kink loss and gradient are 0.
///
/// # Errors
/// None: a [`Result`](crate::Result) all the same, so that every member of the family is called alike.
///
/// # Source
/// Zhao et al. 2023, section 2 (arXiv:2305.10425).
pub fn slic_loss(policy: &PairLogProbs, delta: TargetMargin) -> Result<Tensor<1>> {
    let policy = alone(policy);
    let (loss, derivative) = shortfall(policy.log_probs().difference(), delta.get());
    Ok(policy.loss_of_difference(loss, derivative))
}

/// `max(0, target − z)`, and its derivative: −1 below the target, 0 from there on, NaN where `z` is.
fn shortfall(z: Expr, target: f64) -> (Expr, Expr) {
    let (below, reached) = (z.clone().lower_elem(target), z.clone().greater_equal_elem(target));
    let loss = (z.clone().neg() + target).mask_fill(reached.clone(), 0.0);
    let derivative = z.mask_fill(below, -1.0).mask_fill(reached, 0.0);
    (loss, derivative)
}

//! Conservative DPO: labels that may be wrong.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, LabelSmoothing, margin::margin};
use crate::{
    PairLogProbs, Result,
    expr::{Expr, sigmoid, softplus},
};

/// Conservative DPO (label smoothing): each label is wrong with probability `ε`. One loss per pair.
///
/// ```text
/// ℓ = −(1 − ε) log σ(z) − ε log σ(−z),   z = β (s(a) − s(b))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, `s` the score of the [`FDivergence`]. Least at `σ(z) = 1 − ε`: the
/// policy is not driven to certainty. Shapes, units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, LabelSmoothing, PairLogProbs, cdpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = cdpo_loss(&policy, &reference, Beta::new(0.5)?, LabelSmoothing::new(0.1)?, FDivergence::ReverseKl)?;
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.413_261_7, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Closed form. A margin beyond the dtype's range counts as its largest number.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO"; `label_smoothing` of the original
/// implementation. TRL's `sigmoid` ignores `label_smoothing` since 0.29: this is what it meant before.
pub fn cdpo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    label_smoothing: LabelSmoothing,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let (loss, derivative) = smoothed(margin.finite_z(), label_smoothing);
    Ok(margin.loss(loss, derivative))
}

/// `(1 − ε) log(1 + e^−z) + ε log(1 + e^z)`, and its derivative `ε σ(z) − (1 − ε) σ(−z)`.
pub(super) fn smoothed(z: Expr, label_smoothing: LabelSmoothing) -> (Expr, Expr) {
    let epsilon = label_smoothing.get();
    let against = z.clone().neg();
    let loss = softplus(against.clone()) * (1.0 - epsilon) + softplus(z.clone()) * epsilon;
    let derivative = sigmoid(z) * epsilon - sigmoid(against) * (1.0 - epsilon);
    (loss, derivative)
}

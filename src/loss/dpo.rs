//! Direct Preference Optimization.

use burn_tensor::Tensor;

use super::{Beta, FDivergence, margin::margin};
use crate::{PairLogProbs, Result};

/// Direct Preference Optimization: one loss per preference pair.
///
/// Write `Δ` for how much more than the reference the policy prefers chosen to rejected,
///
/// ```text
/// Δ = (log π(chosen) − log π_ref(chosen)) − (log π(rejected) − log π_ref(rejected))
/// ℓ = −log σ(β Δ)
/// ```
///
/// The loss is `ln 2` where policy and reference agree, falls towards 0 as `Δ` grows, and rises like `−β Δ` below.
///
/// | argument    | shape            | unit                                 | gradient |
/// |-------------|------------------|--------------------------------------|----------|
/// | `policy`    | two of `[pairs]` | nats, **summed** over counted tokens | flows    |
/// | `reference` | two of `[pairs]` | nats, **summed** over counted tokens | stopped  |
/// | `beta`      | scalar           | dimensionless                        | constant |
/// | *returns*   | `[pairs]`        | nats                                 | flows    |
///
/// Not reduced: `.mean()` is the caller's. The gradient is `∂ℓ/∂log π(chosen) = −β σ(−β Δ) = −∂ℓ/∂log π(rejected)`.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, SequenceLogProbs, dpo_loss};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default().autodiff();
/// let log_probs = |sum: Tensor<1>| SequenceLogProbs::new(sum, Tensor::<1, Int>::from_ints([4], &device));
/// let number = |nats: f32| Tensor::<1>::from_floats([nats], &device);
///
/// let chosen = number(-9.0).require_grad();
/// let policy = PairLogProbs::new(log_probs(chosen.clone())?, log_probs(number(-8.0))?)?;
/// let reference = PairLogProbs::new(log_probs(number(-10.0))?, log_probs(number(-7.0))?)?;
///
/// let losses = dpo_loss(&policy, &reference, Beta::new(0.5)?)?; // Δ = 1 − (−1) = 2
/// assert_abs_diff_eq!(losses.clone().into_scalar::<f32>(), 0.313_261_7, epsilon = 1e-6); // −log σ(1)
///
/// let gradient = chosen.grad(&losses.mean().backward()).unwrap();
/// assert_abs_diff_eq!(gradient.into_scalar::<f32>(), -0.134_470_7, epsilon = 1e-6); // −0.5 · σ(−1)
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Value and gradient are closed forms, within a few units in the last place over the whole finite range (GPUs may give 0
/// for what is below 1e-38); at `Δ = 0` the gradient is exactly `−β/2`. Log-prob sums in f16 or bf16 are computed in f32; if either model's are f64, all are.
///
/// # Edge cases
/// - NaN anywhere in a pair makes that pair's loss and gradient NaN and leaves the others alone.
/// - `β Δ = +∞` has loss 0 and gradient 0, `−∞` has loss +∞ and gradient `∓β`. Sums beyond half of the dtype's range
///   may reach either.
/// - No pairs give an empty tensor.
///
/// # Errors
/// [`Error::PairCount`](crate::Error::PairCount) if policy and reference hold different numbers of pairs,
/// [`Error::Device`](crate::Error::Device) if they are on different devices.
///
/// # Source
/// Rafailov et al. 2023, eq. 7 (arXiv:2305.18290).
pub fn dpo_loss(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Tensor<1>> {
    f_dpo_loss(policy, reference, beta, FDivergence::ReverseKl)
}

/// DPO under another divergence from the reference: one loss per pair.
///
/// ```text
/// z = β (s(log π/π_ref of chosen) − s(log π/π_ref of rejected))
/// ℓ = −log σ(z)
/// ```
///
/// `s` is the score of the [`FDivergence`]; under reverse KL this is [`dpo_loss`]. Shapes, units and gradients are
/// its as well.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, f_dpo_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
///
/// let loss = f_dpo_loss(&policy, &reference, Beta::new(0.5)?, FDivergence::ForwardKl)?;
/// let z = 0.5 * (-(-1f64).exp() + 1f64.exp()); // log-ratios 1 and −1
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), (1.0 + (-z).exp()).ln() as f32, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// Where the policy is far below the reference, forward KL's derivative grows like `e^−u`; beyond the dtype's range it is ±∞, or 0 where
/// the pair is ranked right by as much.
///
/// # Errors
/// As [`dpo_loss`].
///
/// # Source
/// Wang et al. 2024 (arXiv:2309.16240).
pub fn f_dpo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    divergence: FDivergence,
) -> Result<Tensor<1>> {
    let margin = margin(policy, reference, beta.get(), divergence)?;
    let z = margin.z();
    Ok(margin.logistic(z))
}

//! Alignment via Optimal Transport: distributions of a batch, not pairs.

use burn_tensor::{Int, Tensor};

use super::{Beta, LabelSmoothing, cdpo::smoothed};
use crate::{
    PairLogProbs, Result,
    compare::{Compared, Policy, compare},
    expr::{Expr, finite},
    ops::argsort,
};

/// AOT for pairs: the policy's preference gaps should dominate the reference's, as distributions over the batch. One loss per
/// *rank*.
///
/// ```text
/// u = sort(log π(chosen) − log π(rejected)),   v = sort(the same of the reference)
/// ℓ_k = −(1 − ε) log σ(β (u_k − v_k)) − ε log σ(−β (u_k − v_k))
/// ```
///
/// Entry `k` of the result is that of the `k`-th smallest gap, not of pair `k`. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, LabelSmoothing, PairLogProbs, aot_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-4.0, 3), (-9.0, 3)], &[(-7.0, 3), (-8.0, 3)], &device)?; // gaps 3, −1
/// let reference = PairLogProbs::from_host(&[(-5.0, 3), (-5.0, 3)], &[(-3.0, 3), (-6.0, 3)], &device)?; // gaps −2, 1
///
/// let losses = aot_loss(&policy, &reference, Beta::new(0.5)?, LabelSmoothing::new(0.0)?)?;
/// let losses = losses.into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(losses[0], 0.474_077, epsilon = 1e-6); // −log σ(½ (−1 + 2))
/// assert_abs_diff_eq!(losses[1], 0.313_262, epsilon = 1e-6); // −log σ(½ (3 − 1))
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// - Equal gaps are ranked by their place in the batch, the earlier first, on every device: the gradient is deterministic.
/// - NaN ranks last, and meets what the other model ranks there: it does not stay in its pair.
/// - The result depends on the batch: splitting it into micro-batches is another loss.
///
/// # Numerics
/// Ranks are counted by comparing all pairs with all, on the device: `pairs²` comparisons, nothing is read back.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Melnyk et al. 2024, section 3 (arXiv:2406.05882); TRL's `aot`.
pub fn aot_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    label_smoothing: LabelSmoothing,
) -> Result<Tensor<1>> {
    let Compared { policy, reference, .. } = compare(policy, reference)?;
    let of_policy = policy.log_probs().difference().evaluate();
    let of_reference = reference.difference().evaluate();
    let order = argsort(of_policy.clone());
    let margin = ordered(of_policy, &order) - sorted(of_reference);
    let (loss, derivative) = smoothed(finite(margin * beta.get()), label_smoothing);
    Ok(reordered(policy, [&order, &order]).loss_of_difference(loss, derivative * beta.get()))
}

/// AOT for unpaired completions: the log-ratios of the chosen should dominate those of the rejected, as distributions over
/// the batch. One loss per *rank*.
///
/// ```text
/// u = sort(a),   v = sort(b)
/// ℓ_k = −(1 − ε) log σ(β (u_k − v_k)) − ε log σ(−β (u_k − v_k))
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected, which need not belong to the same prompts. Entry `k` of the
/// result is that of the `k`-th smallest, not of pair `k`. Shapes, units and gradients as in
/// [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, LabelSmoothing, PairLogProbs, aot_unpaired_loss};
/// use burn::tensor::Device;
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-4.0, 3), (-9.0, 3)], &[(-7.0, 3), (-8.0, 3)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-5.0, 3), (-5.0, 3)], &[(-3.0, 3), (-6.0, 3)], &device)?;
///
/// let losses = aot_unpaired_loss(&policy, &reference, Beta::new(1.0)?, LabelSmoothing::new(0.0)?)?; // a 1, −4; b −4, −2
/// let losses = losses.into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(losses[0], 0.693_147, epsilon = 1e-6); // −log σ(−4 + 4)
/// assert_abs_diff_eq!(losses[1], 0.048_587, epsilon = 1e-6); // −log σ(1 + 2)
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// As [`aot_loss`].
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Melnyk et al. 2024, section 3 (arXiv:2406.05882); TRL's `aot_unpaired`, `aot_pair` before its 0.29.
pub fn aot_unpaired_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    beta: Beta,
    label_smoothing: LabelSmoothing,
) -> Result<Tensor<1>> {
    let Compared { policy, log_ratio, .. } = compare(policy, reference)?;
    let (chosen, rejected) = (log_ratio.chosen.evaluate(), log_ratio.rejected.evaluate());
    let (order_of_chosen, order_of_rejected) = (argsort(chosen.clone()), argsort(rejected.clone()));
    let margin = ordered(chosen, &order_of_chosen) - ordered(rejected, &order_of_rejected);
    let (loss, derivative) = smoothed(finite(margin * beta.get()), label_smoothing);
    let policy = reordered(policy, [&order_of_chosen, &order_of_rejected]);
    Ok(policy.loss_of_difference(loss, derivative * beta.get()))
}

/// Numbers, smallest first.
fn sorted(numbers: Tensor<1>) -> Expr {
    let order = argsort(numbers.clone());
    ordered(numbers, &order)
}

/// Numbers in an order.
fn ordered(numbers: Tensor<1>, order: &Tensor<1, Int>) -> Expr {
    Expr::of(&selected(numbers, order.clone()))
}

/// A policy whose chosen and rejected log-probs are each in an order.
fn reordered(policy: Policy, [chosen, rejected]: [&Tensor<1, Int>; 2]) -> Policy {
    let pairs = chosen.dims()[0] as i32;
    let order = Tensor::cat(vec![chosen.clone(), rejected.clone() + pairs], 0);
    Policy::of_stack(selected(policy.stack(), order))
}

fn selected(numbers: Tensor<1>, order: Tensor<1, Int>) -> Tensor<1> {
    if order.dims() == [0] { numbers } else { numbers.select(0, order) } // burn's selection of nothing leaves the graph
}

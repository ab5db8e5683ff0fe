//! Alignment via Optimal Transport: distributions of a batch, not pairs.

use burn_tensor::{Int, IntDType, Tensor};

use super::{Beta, LabelSmoothing, cdpo::smoothed};
use crate::{
    PairLogProbs, Result,
    numbers::{Numbers, finite},
    ops::{ascending_in_one_launch, indices, saves_launches},
    pairs::{Policy, compare},
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
    let pairs = compare(policy, reference)?;
    let of_policy = pairs.policy.numbers().difference().compute();
    let of_reference = pairs.reference.difference().compute();
    let order = ascending(of_policy.clone());
    let of_reference = sorted(of_reference);

    let (loss, slope) =
        smoothed(finite((numbers(of_policy, &order) - Numbers::of(&of_reference)) * beta.get()), label_smoothing);
    let slope = slope * beta.get();

    let [chosen, rejected] = pairs.policy.sides().map(|sums| picked(sums, &order));
    Ok(Policy::Apart { chosen, rejected }.loss_of_difference(loss, slope))
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
    let pairs = compare(policy, reference)?;
    let (chosen, rejected) = (pairs.log_ratio.chosen.compute(), pairs.log_ratio.rejected.compute());
    let (order_of_chosen, order_of_rejected) = (ascending(chosen.clone()), ascending(rejected.clone()));

    let margin = numbers(chosen, &order_of_chosen) - numbers(rejected, &order_of_rejected);
    let (loss, slope) = smoothed(finite(margin * beta.get()), label_smoothing);
    let slope = slope * beta.get();

    let [chosen, rejected] = pairs.policy.sides();
    let policy =
        Policy::Apart { chosen: picked(chosen, &order_of_chosen), rejected: picked(rejected, &order_of_rejected) };
    Ok(policy.loss_of_difference(loss, slope))
}

fn sorted(numbers: Tensor<1>) -> Tensor<1> {
    let order = ascending(numbers.clone());
    picked(numbers, &order)
}

/// Constants in that order.
fn numbers(numbers: Tensor<1>, order: &Tensor<1, Int>) -> Numbers {
    Numbers::of(&picked(numbers, order))
}

/// `numbers`, in that order. Gradient flows back to where each came from.
fn picked(numbers: Tensor<1>, order: &Tensor<1, Int>) -> Tensor<1> {
    if order.dims() == [0] { numbers } else { numbers.select(0, order.clone()) }
}

/// The index of the smallest number, of the next, …; equal ones by index, NaN last.
///
/// burn's own sort reads to the host on GPUs, and does not say which of two equal numbers comes first.
fn ascending(numbers: Tensor<1>) -> Tensor<1, Int> {
    let [count] = numbers.dims();
    let device = numbers.device();
    if count == 0 {
        return indices(count, &device);
    }
    if saves_launches(&device, numbers.dtype()) {
        return ascending_in_one_launch(numbers);
    }
    let index = indices(count, &device);
    let nan = numbers.clone().is_nan();
    let numbers = numbers.mask_fill(nan.clone(), 0.0);
    let column = |row: Tensor<1, Int>| row.reshape([count, 1]).expand([count, count]);
    let row = |row: Tensor<1, Int>| row.reshape([1, count]).expand([count, count]);
    let (earlier, nan) = (column(index.clone()).greater(row(index.clone())), nan.int().cast(IntDType::I32));
    let (mine, other) = (
        numbers.clone().reshape([count, 1]).expand([count, count]),
        numbers.reshape([1, count]).expand([count, count]),
    );
    let (nan_mine, nan_other) = (column(nan.clone()), row(nan));
    let alike = nan_mine.clone().equal(nan_other.clone());
    let smaller = other.clone().lower(mine.clone()).bool_or(other.equal(mine).bool_and(earlier.clone()));
    // among numbers by size, among NaN by index, numbers before NaN; NaN is 0 in `smaller`, so its own ties go by index
    let before = alike.bool_and(smaller).bool_or(nan_other.lower(nan_mine));
    let rank = before.int().cast(IntDType::I32).sum_dim(1);

    let at_rank = rank.reshape([1, count]).expand([count, count]).equal(column(index.clone()));
    row(index).mask_fill(at_rank.bool_not(), 0).sum_dim(1).reshape([count])
}

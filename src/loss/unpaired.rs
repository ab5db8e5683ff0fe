//! Losses of completions that are not paired: each is only known to be desirable or not.

use burn_tensor::{Bool, FloatDType, Tensor};

use super::{Beta, Weight, apo::sigmoid_derivative};
use crate::{
    Error, Result, SequenceLogProbs,
    compare::{ComparedSequences, compare_sequences},
    expr::{BoolExpr, Expr, finite, function_of, sigmoid, softplus},
    ops::{Reach, check_float, check_same_device, zero},
};

/// Kahneman–Tversky Optimization: one loss per completion.
///
/// ```text
/// desirable:    ℓ = λ_D (1 − σ(β (a − kl)))
/// undesirable:  ℓ = λ_U (1 − σ(β (kl − a)))
/// ```
///
/// `a` is the log-ratio of the completion, `kl` how far the policy is from the reference as a whole: see
/// [`kl_estimate`]. With a `kl` of 0 and both weights 1 this is the unpaired APO-zero.
///
/// | argument      | shape         | unit                                 | gradient |
/// |---------------|---------------|--------------------------------------|----------|
/// | `policy`      | `[sequences]` | nats, **summed** over counted tokens | flows    |
/// | `reference`   | `[sequences]` | nats, **summed** over counted tokens | stopped  |
/// | `desirable`   | `[sequences]` | true = desirable                     | none     |
/// | `kl`          | `[1]`         | nats                                 | stopped  |
/// | *returns*     | `[sequences]` | dimensionless, from 0 to the weight  | flows    |
///
/// The weights should balance the two sides: `λ_D n_D / (λ_U n_U)` between 1 and 4/3.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, SequenceLogProbs, Weight, kto_loss};
/// use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
///
/// let device = Device::default();
/// let completions = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([4, 4], &device))
/// };
/// let desirable = Tensor::<1, Bool>::from_data(TensorData::from([true, false]), &device);
/// let kl = Tensor::<1>::from_floats([0.0], &device);
///
/// let (policy, reference) = (completions([-9.0, -8.0])?, completions([-10.0, -7.0])?);
/// let (beta, weight) = (Beta::new(0.5)?, Weight::new(1.0)?);
/// let losses = kto_loss(&policy, &reference, &desirable, &kl, beta, weight, weight)?;
/// let losses = losses.into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(losses[0], 0.377_541, epsilon = 1e-6); // 1 − σ(½)
/// assert_abs_diff_eq!(losses[1], 0.377_541, epsilon = 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// `1 − σ(x)` is computed as `σ(−x)`. Where β (a − kl) is beyond the dtype's range, the loss is 0 or its weight.
///
/// # Edge cases
/// NaN stays in its completion; a NaN `kl` is in all. Nothing is skipped.
///
/// # Errors
/// [`Error::Shape`] if the arguments do not go together, [`Error::Device`] if they are on different devices, [`Error::DType`] for
/// a `kl` in a dtype that the device cannot compute in.
///
/// # Source
/// Ethayarajh et al. 2024, eq. 7 (arXiv:2402.01306).
pub fn kto_loss(
    policy: &SequenceLogProbs,
    reference: &SequenceLogProbs,
    desirable: &Tensor<1, Bool>,
    kl: &Tensor<1>,
    beta: Beta,
    desirable_weight: Weight,
    undesirable_weight: Weight,
) -> Result<Tensor<1>> {
    let Unpaired { policy, log_ratio, desirable, baseline } = Unpaired::new(policy, reference, desirable, "kl", kl)?;
    let reward = (log_ratio - baseline) * beta.get();
    let weight = |of: Expr, sign: f64| {
        let wanted = of.clone() * (sign * desirable_weight.get());
        (of * undesirable_weight.get()).mask_where(desirable.clone(), wanted)
    };

    // 1 − σ(x) = σ(−x); desirable: x = reward, undesirable: x = −reward
    let against = reward.clone().mask_where(desirable.clone(), reward.clone().neg());
    let loss = weight(sigmoid(against), 1.0);
    let derivative = weight(sigmoid_derivative(reward), -1.0) * beta.get();

    Ok(function_of(policy, loss, [derivative], Reach::OwnPair))
}

/// Binary Classifier Optimization: one loss per completion.
///
/// ```text
/// desirable:    ℓ = −log σ(βa − δ)
/// undesirable:  ℓ = −log σ(−(βa − δ))
/// ```
///
/// `a` is the log-ratio of the completion, `δ` the reward shift: the mean reward so far, over both sides. Keep it in a
/// [`RunningMean`](crate::RunningMean), which merges over processes; it is 0 at the start. (TRL adds each batch's rewards
/// before it reads the mean, and adds them as one number, so that small batches weigh as much as large ones.)
///
/// | argument      | shape         | unit                                 | gradient |
/// |---------------|---------------|--------------------------------------|----------|
/// | `policy`      | `[sequences]` | nats, **summed** over counted tokens | flows    |
/// | `reference`   | `[sequences]` | nats, **summed** over counted tokens | stopped  |
/// | `desirable`   | `[sequences]` | true = desirable                     | none     |
/// | `delta`       | `[1]`         | reward                               | stopped  |
/// | *returns*     | `[sequences]` | nats                                 | flows    |
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, SequenceLogProbs, bco_loss};
/// use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
///
/// let device = Device::default();
/// let completions = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([4, 4], &device))
/// };
/// let desirable = Tensor::<1, Bool>::from_data(TensorData::from([true, false]), &device);
/// let delta = Tensor::<1>::from_floats([0.5], &device);
///
/// let (policy, reference) = (completions([-9.0, -8.0])?, completions([-10.0, -7.0])?);
/// let losses = bco_loss(&policy, &reference, &desirable, &delta, Beta::new(0.5)?)?;
/// let losses = losses.into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(losses[0], 0.693_147, epsilon = 1e-6); // −log σ(½ − ½)
/// assert_abs_diff_eq!(losses[1], 0.313_262, epsilon = 1e-6); // −log σ(−(−½ − ½))
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`kto_loss`].
///
/// # Source
/// Jung et al. 2024, section 4 (arXiv:2404.04656).
pub fn bco_loss(
    policy: &SequenceLogProbs,
    reference: &SequenceLogProbs,
    desirable: &Tensor<1, Bool>,
    delta: &Tensor<1>,
    beta: Beta,
) -> Result<Tensor<1>> {
    let Unpaired { policy, log_ratio, desirable, baseline } =
        Unpaired::new(policy, reference, desirable, "delta", delta)?;
    let logit = log_ratio * beta.get() - baseline;

    let against = logit.clone().mask_where(desirable.clone(), logit.neg());
    let loss = softplus(against.clone());
    let derivative = sigmoid(against);
    let derivative = derivative.clone().mask_where(desirable, derivative.neg()) * beta.get();

    Ok(function_of(policy, loss, [derivative], Reach::OwnPair))
}

/// KTO's estimate of how far the policy is from the reference, `[1]`, in nats, without gradient.
///
/// ```text
/// kl = max(0, mean of log π(y′|x) − log π_ref(y′|x))
/// ```
///
/// over completions `y′` that belong to *other* prompts: each prompt of the batch with the completion of its
/// neighbour. NaN in one is NaN in the estimate. Without any completion it is 0. Over several processes, merge
/// [`RunningMean`](crate::RunningMean)s of the log-ratios instead, and hold their mean at 0.
///
/// # Example
/// ```
/// use burn_dpo::{SequenceLogProbs, kl_estimate};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let completions = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([4, 4], &device))
/// };
/// let kl = kl_estimate(&completions([-9.0, -8.0])?, &completions([-11.0, -8.5])?)?;
/// assert_eq!(kl.into_scalar::<f32>(), 1.25);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`kto_loss`].
///
/// # Source
/// Ethayarajh et al. 2024, section 4.1 (arXiv:2402.01306); TRL's `KTOTrainer`.
pub fn kl_estimate(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<Tensor<1>> {
    let log_ratio = compare_sequences(policy, reference)?.log_ratio.evaluate();
    let [count] = log_ratio.dims();
    if count == 0 {
        return Ok(zero(&log_ratio));
    }
    let mean = log_ratio.sum() / count as f64;
    let negative = mean.clone().lower_elem(0.0);
    Ok(mean.mask_fill(negative, 0.0))
}

/// The arguments that both losses share, checked.
struct Unpaired {
    policy: Tensor<1>,
    log_ratio: Expr,
    desirable: BoolExpr,
    /// What rewards are measured from.
    baseline: Expr,
}

impl Unpaired {
    fn new(
        policy: &SequenceLogProbs,
        reference: &SequenceLogProbs,
        desirable: &Tensor<1, Bool>,
        baseline_name: &'static str,
        baseline: &Tensor<1>,
    ) -> Result<Self> {
        let ComparedSequences { policy, log_ratio } = compare_sequences(policy, reference)?;
        let expect = |what, expected: [usize; 1], actual: [usize; 1]| {
            if expected == actual {
                Ok(())
            } else {
                Err(Error::Shape { what, expected: expected.to_vec(), actual: actual.to_vec() })
            }
        };
        expect("desirable", policy.dims(), desirable.dims())?;
        expect(baseline_name, [1], baseline.dims())?;
        check_same_device("policy", &policy.device(), "desirable", &desirable.device())?;
        check_same_device("policy", &policy.device(), baseline_name, &baseline.device())?;
        check_float(baseline_name, baseline)?;
        let dtype = FloatDType::from(policy.dtype());
        let [baseline] = Expr::scalars(baseline.clone().cast(dtype), policy.dims()[0]);
        let desirable = BoolExpr::of(desirable.clone(), dtype);
        Ok(Self { policy, log_ratio: finite(log_ratio), desirable, baseline })
    }
}

//! Between numbers on the host and tensors on a device.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use burn_dpo::{PairLogProbs, SequenceLogProbs, reference::Pair};
use proptest::{prop_assert, test_runner::TestCaseResult};

/// A float tensor of the given format. The numbers are rounded to it.
pub fn floats<const D: usize>(numbers: &[f64], shape: [usize; D], device: &Device, dtype: DType) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), shape), (device, dtype))
}

/// 32-bit token ids or counts: the integers that every device has.
pub fn integers<const D: usize>(numbers: &[i64], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(numbers.to_vec(), shape), (device, DType::I32))
}

/// A mask.
pub fn flags<const D: usize>(flags: &[bool], shape: [usize; D], device: &Device) -> Tensor<D, Bool> {
    Tensor::from_data(TensorData::new(flags.to_vec(), shape), device)
}

/// A tensor's numbers, exactly.
pub fn numbers<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    tensor.clone().into_data().iter::<f64>().collect()
}

/// A tensor's integers, exactly.
pub fn whole_numbers<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i64> {
    tensor.clone().into_data().iter::<i64>().collect()
}

/// A mask's flags.
pub fn booleans<const D: usize>(tensor: &Tensor<D, Bool>) -> Vec<bool> {
    tensor.clone().into_data().iter::<bool>().collect()
}

/// What "bit for bit" compares: `0` and `−0` differ, and NaN is NaN, whatever its payload.
pub fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits()).collect()
}

/// The gradient of the sum of `output` in `input`, which it must reach.
pub fn gradient<const D: usize, const E: usize>(output: Tensor<D>, input: &Tensor<E>) -> Vec<f64> {
    numbers(&input.grad(&output.sum().backward()).expect("the gradient reaches the input"))
}

/// NaN where NaN is expected, infinite where the expected number is beyond `dtype`, and elsewhere no farther from it than
/// `bound` of its index.
pub fn expect_close(
    what: &str,
    dtype: DType,
    actual: &[f64],
    expected: &[f64],
    bound: impl Fn(usize) -> f64,
) -> TestCaseResult {
    prop_assert!(actual.len() == expected.len(), "{what}: {} numbers, expected {}", actual.len(), expected.len());
    for (index, (&actual, &exact)) in actual.iter().zip(expected).enumerate() {
        let expected = if dtype == DType::F64 { exact } else { f64::from(exact as f32) };
        let same = actual == expected || actual.is_nan() && expected.is_nan();
        let (error, bound) = ((actual - exact).abs(), bound(index));
        prop_assert!(
            same || error <= bound,
            "{what}[{index}] is {actual:e}, expected {exact:e}: off by {error:.3e}, allowed {bound:.3e}"
        );
    }
    Ok(())
}

/// One model's log-prob sums as leaves of the graph, and the pairs made of them.
pub struct Model {
    pub chosen: Tensor<1>,
    pub rejected: Tensor<1>,
    pub pairs: PairLogProbs,
}

impl Model {
    /// The gradients of the sum of `losses` in the chosen and in the rejected log-probs.
    pub fn gradients(&self, losses: Tensor<1>) -> [Vec<f64>; 2] {
        let gradients = losses.sum().backward();
        [&self.chosen, &self.rejected]
            .map(|leaf| numbers(&leaf.grad(&gradients).expect("the gradient reaches the policy")))
    }
}

/// Log-probs that receive a gradient.
pub fn policy(sums: &[Pair], device: &Device, dtype: DType) -> Model {
    model(sums, |sums| floats(sums, [sums.len()], &device.clone().autodiff(), dtype).require_grad())
}

/// Log-probs that do not.
pub fn reference(sums: &[Pair], device: &Device, dtype: DType) -> PairLogProbs {
    model(sums, |sums| floats(sums, [sums.len()], device, dtype)).pairs
}

fn model(sums: &[Pair], side: impl Fn(&[f64]) -> Tensor<1>) -> Model {
    let chosen = side(&sums.iter().map(|pair| pair.chosen).collect::<Vec<_>>());
    let rejected = side(&sums.iter().map(|pair| pair.rejected).collect::<Vec<_>>());
    let counts = vec![[4, 3]; sums.len()];
    let pairs = pair_log_probs(chosen.clone(), rejected.clone(), &counts);
    Model { chosen, rejected, pairs }
}

/// Pairs from sums and from `[chosen, rejected]` token counts.
pub fn pair_log_probs(chosen: Tensor<1>, rejected: Tensor<1>, token_counts: &[[i64; 2]]) -> PairLogProbs {
    let side = |sum: Tensor<1>, side: usize| {
        let counts: Vec<i64> = token_counts.iter().map(|counts| counts[side]).collect();
        let token_count = integers(&counts, [counts.len()], &sum.device());
        SequenceLogProbs::new(sum, token_count).expect("as many counts as sums")
    };
    PairLogProbs::new(side(chosen, 0), side(rejected, 1)).expect("as many chosen as rejected")
}

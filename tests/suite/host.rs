//! Between numbers on the host and tensors on a device.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
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

/// A sum that is rounded once, as nearly as makes no difference: with Neumaier's correction.
pub fn exact_sum(terms: &[f64]) -> f64 {
    let (mut sum, mut correction) = (0.0f64, 0.0);
    for &term in terms {
        let next = sum + term;
        correction += if sum.abs() >= term.abs() { (sum - next) + term } else { (term - next) + sum };
        sum = next;
    }
    if sum.is_finite() { sum + correction } else { sum }
}

/// What "bit for bit" compares: `0` and `−0` differ, and NaN is NaN, whatever its payload.
pub fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|x| if x.is_nan() { f64::NAN } else { *x }.to_bits()).collect()
}

/// The gradient of the sum of `output` in `input`, which it must reach.
pub fn gradient_of_sum<const D: usize, const E: usize>(output: Tensor<D>, input: &Tensor<E>) -> Vec<f64> {
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

//! A naive oracle for the row kernels: everything again in f64, from its definition; and rows to try it on.

use super::{
    dtype::{Compute, Float},
    read_rows::read_rows,
    softmax_state::SoftmaxState,
};

/// Everything again, in f64 and from its definition.
pub(crate) struct Naive {
    pub(crate) probs: Vec<f64>,
    pub(crate) log_prob: f64,
    pub(crate) entropy: f64,
    pub(crate) log_sum_sq_probs: f64,
    pub(crate) logit_sum: f64,
    pub(crate) mean_gap: f64,
}

impl Naive {
    pub(crate) fn of(z: &[f64], target: usize) -> Self {
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        let log_p = |z: &f64| z - max - log_sum;
        let probs: Vec<f64> = z.iter().map(|z| log_p(z).exp()).collect();
        let entropy = z.iter().zip(&probs).map(|(z, p)| if *p == 0.0 { 0.0 } else { -p * log_p(z) }).sum::<f64>();
        Self {
            log_prob: log_p(&z[target]),
            entropy,
            log_sum_sq_probs: probs.iter().map(|p| p * p).sum::<f64>().ln(),
            logit_sum: z.iter().sum(),
            mean_gap: entropy - log_sum,
            probs,
        }
    }
}

/// Numbers without order, around `offset`.
pub(crate) fn logits(count: usize, spread: f64, offset: f64) -> Vec<f64> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f64::from(state) / 2f64.powi(32)
    };
    (0..count).map(|_| offset + spread * (next() + next() + next() - 1.5)).collect()
}

pub(crate) fn narrow<F: Float>(z: &[f64]) -> Vec<F> {
    z.iter().map(|&z| F::narrow(Compute::of(z))).collect()
}

pub(crate) fn widen<F: Float>(z: &[F]) -> Vec<f64> {
    z.iter().map(|z| z.widen().to_f64()).collect()
}

/// What one row holds, with statistics.
pub(crate) fn state_of<F: Float>(z: &[F], target: i32) -> SoftmaxState {
    let mut sums = [SoftmaxState::EMPTY];
    read_rows(z, z.len(), &[target], 0, true, &mut sums);
    sums[0]
}

/// Relative error of a sum of `e`: of 31 additions in a lane, of `exp` itself, and of the `d` in it. In f64 of as many
/// additions as there are blocks too, and of those of the naive sum.
pub(crate) fn bound<F: Float>(width: usize, mean_gap: f64) -> f64 {
    let single = (31.0 + 2.0 + mean_gap) * 2f64.powi(-24);
    let double = (31.0 + 4.0 + mean_gap + 2.0 * width as f64) * 2f64.powi(-53);
    if size_of::<F::Compute>() == 4 { single } else { double }
}

/// That two numbers are within a bound of each other.
pub(crate) fn assert_near(what: &str, actual: f64, expected: f64, bound: f64) {
    assert!((actual - expected).abs() <= bound, "{what}: {actual} {expected}, {:e}", (actual - expected).abs());
}

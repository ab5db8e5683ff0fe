//! Preference pairs on the host: what goes into `dpo_loss`, what comes out, and what the f64 reference makes of it.

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{
    Beta, PairLogProbs, SequenceLogProbs, dpo_loss,
    reference::{self, Pair},
};
use proptest::test_runner::TestCaseResult;

use crate::{
    devices::Tested,
    host::{expect_close, floats, integers, numbers},
    tolerance::{self, Margin, Rounding},
};

/// One preference pair's summed log-probs.
#[derive(Debug, Clone, Copy)]
pub struct Sums {
    pub policy: Pair,
    pub reference: Pair,
}

impl Sums {
    /// The pair for which `Δ` is that number, exactly.
    pub fn with_delta(delta: f64) -> Self {
        let nothing = Pair { chosen: 0.0, rejected: 0.0 };
        Self { policy: Pair { chosen: delta, ..nothing }, reference: nothing }
    }

    /// Log-ratios and β: what the loss is a function of.
    pub fn margin(self, beta: f64) -> Margin {
        let log_ratio = reference::implicit_rewards(self.policy, self.reference, 1.0);
        Margin { chosen: log_ratio.chosen, rejected: log_ratio.rejected, beta, inexact: 0.0 }
    }

    /// Every number of it.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let both = |pair: Pair| Pair { chosen: f(pair.chosen), rejected: f(pair.rejected) };
        Self { policy: both(self.policy), reference: both(self.reference) }
    }

    /// Chosen for rejected and rejected for chosen.
    pub fn swapped(self) -> Self {
        let swap = |Pair { chosen, rejected }| Pair { chosen: rejected, rejected: chosen };
        Self { policy: swap(self.policy), reference: swap(self.reference) }
    }
}

/// One model's log-prob sums, as leaves, and the pairs made of them.
pub struct Model {
    pub chosen: Tensor<1>,
    pub rejected: Tensor<1>,
    pub pairs: PairLogProbs,
}

impl Model {
    /// As many pairs as numbers. The leaves are as `leaf` makes them.
    pub fn new(sums: impl Iterator<Item = Pair>, leaf: impl Fn(&[f64]) -> Tensor<1>) -> Self {
        let (chosen, rejected): (Vec<_>, Vec<_>) = sums.map(|pair| (pair.chosen, pair.rejected)).unzip();
        let (chosen, rejected) = (leaf(&chosen), leaf(&rejected));
        let token_counts = vec![[4, 3]; chosen.dims()[0]];
        let pairs = pair_log_probs(chosen.clone(), rejected.clone(), &token_counts);
        Self { chosen, rejected, pairs }
    }

    /// The policies of these pairs, waiting for a gradient.
    pub fn policy(sums: &[Sums], device: &Device, dtype: DType) -> Self {
        Self::new(sums.iter().map(|pair| pair.policy), |numbers| {
            floats(numbers, [numbers.len()], &device.clone().autodiff(), dtype).require_grad()
        })
    }

    /// The references of these pairs, on a device without autodiff.
    pub fn reference(sums: &[Sums], device: &Device, dtype: DType) -> Self {
        Self::new(sums.iter().map(|pair| pair.reference), |numbers| floats(numbers, [numbers.len()], device, dtype))
    }

    /// The gradients of the sum of `losses` in the chosen and in the rejected log-probs.
    pub fn gradients(&self, losses: Tensor<1>) -> [Vec<f64>; 2] {
        let gradients = losses.sum().backward();
        [&self.chosen, &self.rejected]
            .map(|leaf| numbers(&leaf.grad(&gradients).expect("the gradient reaches the policy")))
    }
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

/// A β that is allowed.
pub fn beta(beta: f64) -> Beta {
    Beta::new(beta).expect("a normal number above 0")
}

/// Losses, and their gradients in the policy's log-probs: one per pair.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub losses: Vec<f64>,
    pub chosen: Vec<f64>,
    pub rejected: Vec<f64>,
}

impl Outcome {
    /// By the library.
    pub fn of(sums: &[Sums], beta: f64, device: &Device, dtype: DType) -> Self {
        let policy = Model::policy(sums, device, dtype);
        let reference = Model::reference(sums, device, dtype);
        let losses = dpo_loss(&policy.pairs, &reference.pairs, self::beta(beta)).expect("as many pairs");
        let values = numbers(&losses);
        let [chosen, rejected] = policy.gradients(losses);
        Self { losses: values, chosen, rejected }
    }

    /// By the f64 reference.
    pub fn expected(sums: &[Sums], beta: f64) -> Self {
        let of: Vec<_> = sums.iter().map(|pair| reference::dpo_loss(pair.policy, pair.reference, beta)).collect();
        Self {
            losses: of.iter().map(|loss| loss.value).collect(),
            chosen: of.iter().map(|loss| loss.gradient.chosen).collect(),
            rejected: of.iter().map(|loss| loss.gradient.rejected).collect(),
        }
    }

    /// That it is what the reference makes of the same sums, as closely as the device rounds.
    pub fn expect(&self, on: &Tested, dtype: DType, sums: &[Sums], beta: f64) -> TestCaseResult {
        let rounding = Rounding::of(on, dtype);
        let expected = Self::expected(sums, beta);
        let value = |i: usize| tolerance::dpo_value(rounding, sums[i].margin(beta), expected.losses[i]);
        let derivative = |i: usize| tolerance::dpo_slope(rounding, sums[i].margin(beta), expected.chosen[i]);
        expect_close("loss", dtype, &self.losses, &expected.losses, value)?;
        expect_close("chosen gradient", dtype, &self.chosen, &expected.chosen, derivative)?;
        expect_close("rejected gradient", dtype, &self.rejected, &expected.rejected, derivative)
    }
}

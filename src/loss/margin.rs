//! The reward margin `z`: what every loss of a difference is a function of.

use burn_tensor::Tensor;

use super::{FDivergence, divergence::ScoreDifference};
use crate::{
    PairLogProbs, Result,
    numbers::{Numbers, finite, sigmoid, softplus},
    pairs::{Policy, Sides, compare},
};

/// `z = scale · (s(a) − s(b))`, and what it was made of. The scale is β, or 1 where a loss reads its parameter otherwise.
pub(super) struct Margin {
    z: Numbers,
    scale: f64,
    policy: Policy,
    chosen_factors: Vec<Numbers>,
    rejected_factors: Vec<Numbers>,
}

/// The margin of summed log-ratios.
pub(super) fn margin(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    scale: f64,
    divergence: FDivergence,
) -> Result<Margin> {
    let pairs = compare(policy, reference)?;
    Ok(Margin::new(pairs.policy, divergence.difference(pairs.log_ratio), scale))
}

/// The margin of log-ratios per token.
pub(super) fn margin_per_token(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    scale: f64,
    divergence: FDivergence,
) -> Result<Margin> {
    let pairs = compare(policy, reference)?;
    Ok(Margin::new(pairs.policy, divergence.difference_per_token(pairs.log_ratio, policy), scale))
}

impl Margin {
    pub fn new(policy: Policy, scores: ScoreDifference, scale: f64) -> Self {
        let ScoreDifference { value, chosen_factors, rejected_factors } = scores;
        Self { z: value * scale, scale, policy, chosen_factors, rejected_factors }
    }

    /// `z`, without a graph; ±∞ where it is beyond the format.
    pub fn z(&self) -> Numbers {
        self.z.clone()
    }

    /// `z`, held at the format's largest number: for losses in which it meets a factor that may be 0.
    pub fn finite_z(&self) -> Numbers {
        finite(self.z.clone())
    }

    /// `−log σ(z)`, of a `z` that is the margin but for a constant.
    pub fn logistic(self, z: Numbers) -> Tensor<1> {
        let against = z.neg();
        let slope = sigmoid(against.clone()).neg();
        self.loss(softplus(against), slope)
    }

    /// The loss with that value, whose derivative in `z` is `slope`.
    pub fn loss(self, value: Numbers, slope: Numbers) -> Tensor<1> {
        let partial = |factors: Vec<Numbers>| {
            if factors.is_empty() {
                return slope.clone() * self.scale;
            }
            // a slope of ∞ and a factor of 0 are both too far for the format, not undefined
            factors.into_iter().fold(finite(slope.clone()) * self.scale, |slope, factor| slope * factor)
        };
        let slopes = Sides { chosen: partial(self.chosen_factors), rejected: partial(self.rejected_factors).neg() };
        self.policy.loss(value, slopes)
    }
}

//! The reward margin `z`: what every loss of a difference is a function of.

use burn_tensor::Tensor;

use super::{FDivergence, divergence::ScoreDifference};
use crate::{
    PairLogProbs, Result,
    compare::{Policy, compare},
    expr::{Expr, finite, sigmoid, softplus},
    sides::Sides,
};

/// `z = scale · (s(a) − s(b))`, and what it was made of. The scale is β, or 1 where a loss reads its parameter otherwise.
pub(super) struct Margin {
    z: Expr,
    scale: f64,
    policy: Policy,
    chosen_factors: Vec<Expr>,
    rejected_factors: Vec<Expr>,
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

    /// `z`, without a graph; ±∞ where it is beyond the dtype's range.
    pub fn z(&self) -> Expr {
        self.z.clone()
    }

    /// `z`, held at the dtype's largest number: for losses in which it meets a factor that may be 0.
    pub fn finite_z(&self) -> Expr {
        finite(self.z.clone())
    }

    /// `−log σ(z)`, of a `z` that is the margin but for a constant.
    pub fn logistic(self, z: Expr) -> Tensor<1> {
        let against = z.neg();
        let derivative = sigmoid(against.clone()).neg();
        self.loss(softplus(against), derivative)
    }

    /// The loss with that value, whose derivative in `z` is `derivative`.
    pub fn loss(self, value: Expr, derivative: Expr) -> Tensor<1> {
        let partial = |factors: Vec<Expr>| {
            if factors.is_empty() {
                return derivative.clone() * self.scale;
            }
            // a derivative of ∞ and a factor of 0 are both beyond the range of the dtype, not undefined
            factors.into_iter().fold(finite(derivative.clone()) * self.scale, |derivative, factor| derivative * factor)
        };
        let derivatives =
            Sides { chosen: partial(self.chosen_factors), rejected: partial(self.rejected_factors).neg() };
        self.policy.loss(value, derivatives)
    }
}

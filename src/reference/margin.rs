//! What most losses are functions of: one number that says how much better the policy makes the chosen completion.

use super::{
    FDivergence, LossAndGradient, Pair, SequencePair,
    divergence::Score,
    scalar::{Scaled, product, sigmoid, softplus},
};

/// `log π − log π_ref` of both completions.
pub(super) fn log_ratios(policy: Pair, reference: Pair) -> Pair {
    Pair { chosen: policy.chosen - reference.chosen, rejected: policy.rejected - reference.rejected }
}

/// `z` and its derivatives in the policy's two log-probs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Margin {
    pub z: f64,
    pub derivative: Pair,
}

impl Margin {
    /// `β·(a − b)` for any two numbers, with their derivatives.
    pub fn linear(of: Pair, beta: f64) -> Self {
        Self { z: beta * (of.chosen - of.rejected), derivative: Pair { chosen: beta, rejected: -beta } }
    }

    /// `β·(s(a) − s(b))`.
    pub fn scored(of: Pair, beta: f64, score: Score) -> Self {
        let beta_times = |scaled: Scaled| Scaled::new(beta * scaled.factor, scaled.exponent).value();
        Self {
            z: beta_times(score.difference(of.chosen, of.rejected)),
            derivative: Pair {
                chosen: beta_times(score.derivative(of.chosen)),
                rejected: -beta_times(score.derivative(of.rejected)),
            },
        }
    }

    /// `β·(s(a) − s(b))` of log-ratios.
    pub fn of(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> Self {
        Self::scored(log_ratios(policy, reference), beta, divergence.into())
    }

    /// A margin of means, in terms of the sums: an empty completion's mean is constant.
    pub fn per_token(self, policy: SequencePair) -> Self {
        let derivative = Pair {
            chosen: per_token(self.derivative.chosen, policy.chosen.token_count),
            rejected: per_token(self.derivative.rejected, policy.rejected.token_count),
        };
        Self { derivative, ..self }
    }

    /// `z − offset`.
    pub fn minus(self, offset: f64) -> Self {
        Self { z: self.z - offset, ..self }
    }

    /// A function of `z` with that value and that derivative.
    pub fn loss(self, value: f64, derivative: f64) -> LossAndGradient {
        let gradient = Pair {
            chosen: product(derivative, self.derivative.chosen),
            rejected: product(derivative, self.derivative.rejected),
        };
        LossAndGradient { value, gradient }
    }

    /// `−log σ(z)`.
    pub fn logistic(self) -> LossAndGradient {
        self.loss(softplus(-self.z), -sigmoid(-self.z))
    }

    /// `−right · log σ(z) − wrong · log σ(−z)`.
    pub fn mixture(self, right: f64, wrong: f64) -> LossAndGradient {
        self.loss(
            product(right, softplus(-self.z)) + product(wrong, softplus(self.z)),
            wrong * sigmoid(self.z) - right * sigmoid(-self.z),
        )
    }

    /// `max(0, threshold − z)`; flat at the kink.
    pub fn hinge(self, threshold: f64) -> LossAndGradient {
        let gap = threshold - self.z;
        // not `f64::max`, which would drop a NaN
        if gap <= 0.0 { self.loss(0.0, 0.0) } else { self.loss(gap, -1.0) }
    }
}

/// `x / count`, 0 for an empty completion, whatever `x`.
pub(super) fn per_token(x: f64, count: usize) -> f64 {
    if count == 0 { 0.0 } else { x / count as f64 }
}

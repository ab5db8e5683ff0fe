//! f-divergences: what DPO's reward is where the policy is held to the reference by another divergence than reverse KL.

use serde::{Deserialize, Serialize};

use super::Alpha;
use crate::{
    PairLogProbs,
    expr::{Expr, exp, exp_half, expm1, log1p_of_at_most_one, sigmoid, softplus},
    sides::Sides,
};

/// The divergence that holds the policy to the reference; it decides what a log-ratio is worth.
///
/// With `t = π/π_ref` and `u = log t`, the implicit reward is `β f′(t)`, up to a term that the prompt alone decides, and
/// only differences of it are known. That is why only losses of a *difference* of rewards have this parameter.
///
/// | divergence                | score `s(u)`                   | `s′(u)`        | elsewhere           |
/// |---------------------------|--------------------------------|----------------|---------------------|
/// | `ReverseKl` (default)     | `u`                            | `1`            | `reverse_kl`        |
/// | `ForwardKl`               | `1 − e^(−u)`                   | `e^(−u)`       | `forward_kl`        |
/// | `JsDivergence`            | `log 2 + log σ(u)`             | `σ(−u)`        | `js_divergence`     |
/// | `AlphaDivergence`         | `(e^((α−1)u) − 1) / (α − 1)`   | `e^((α−1)u)`   | `alpha_divergence`  |
///
/// `α = 1` is reverse KL and `α = 0` forward KL, exactly. This α is that of TRL from 0.29 on; TRL's older one is `1 − α`.
///
/// # Numerics
/// Exponential scores are never subtracted from each other: `s(a) − s(b)` is computed from `a − b`, so that it is exact for α
/// near 1 and no `∞ − ∞` where both completions are far less likely than under the reference. What is beyond the dtype's range is ±∞.
///
/// # Source
/// Wang et al. 2024, "Beyond Reverse KL" (arXiv:2309.16240).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FDivergence {
    /// KL(π ‖ π_ref), as in DPO itself.
    #[default]
    ReverseKl,
    /// KL(π_ref ‖ π).
    ForwardKl,
    /// Jensen–Shannon.
    JsDivergence,
    /// The α-divergence.
    AlphaDivergence {
        /// α.
        alpha: Alpha,
    },
}

/// A difference of scores, and the factors that its derivative in either log-prob is the product of (β aside).
pub(super) struct ScoreDifference {
    pub value: Expr,
    pub chosen_factors: Vec<Expr>,
    pub rejected_factors: Vec<Expr>,
}

/// What kind of function a score is.
enum Score {
    Identity,
    LogSigmoid,
    /// `(e^(κu) − 1)/κ`.
    Exponential(f64),
}

impl FDivergence {
    fn score(self) -> Score {
        match self {
            FDivergence::ReverseKl => Score::Identity,
            FDivergence::ForwardKl => Score::Exponential(-1.0),
            FDivergence::JsDivergence => Score::LogSigmoid,
            FDivergence::AlphaDivergence { alpha } => Score::exponential(alpha.get() - 1.0),
        }
    }

    /// `s(a) − s(b)`.
    pub(super) fn difference(self, log_ratio: Sides<Expr>) -> ScoreDifference {
        self.score().difference(log_ratio)
    }

    /// `s(a)/n − s(b)/m` with the token counts of `policy`; an empty completion has 0 for its term.
    pub(super) fn difference_per_token(self, log_ratio: Sides<Expr>, policy: &PairLogProbs) -> ScoreDifference {
        let inverse = policy.inverse_token_counts();
        let zero_if_empty = |log_ratio: Expr, inverse: Expr| {
            log_ratio.mask_fill(inverse.equal_elem(0.0), 0.0) // whatever a sum of nothing holds
        };
        let log_ratio = log_ratio.zip(inverse.clone(), zero_if_empty);
        let score = self.score();
        let value = score.difference_of_means(&log_ratio, &inverse);
        let factors = |log_ratio: Expr, inverse: Expr| {
            let mut factors = vec![inverse]; // first: what is beyond the dtype's range before it need not be after
            factors.extend(score.derivative_factors(log_ratio));
            factors
        };
        ScoreDifference {
            value,
            chosen_factors: factors(log_ratio.chosen, inverse.chosen),
            rejected_factors: factors(log_ratio.rejected, inverse.rejected),
        }
    }
}

/// `ρ(c) − ρ(r)` with `ρ(x) = (1 − e^(−αx))/α`, AlphaPO's reward: the score of the α-divergence `1 − α`.
pub(super) fn alphapo_difference(means: Sides<Expr>, alpha: Alpha) -> ScoreDifference {
    Score::exponential(-alpha.get()).difference(means)
}

impl Score {
    /// The limit where κ is so near to 0 that `κu` would be subnormal.
    fn exponential(kappa: f64) -> Self {
        if kappa.abs() < 1e-30 { Score::Identity } else { Score::Exponential(kappa) }
    }

    fn difference(&self, of: Sides<Expr>) -> ScoreDifference {
        let value = match *self {
            Score::Identity => of.clone().difference(),
            Score::LogSigmoid => softplus(of.rejected.clone().neg()) - softplus(of.chosen.clone().neg()),
            Score::Exponential(kappa) => Powers::of(&of, kappa).times(|scaled| scaled.gap / kappa),
        };
        ScoreDifference {
            value,
            chosen_factors: self.derivative_factors(of.chosen),
            rejected_factors: self.derivative_factors(of.rejected),
        }
    }

    fn difference_of_means(&self, of: &Sides<Expr>, inverse: &Sides<Expr>) -> Expr {
        let mean = |score: &dyn Fn(Expr) -> Expr| {
            score(of.chosen.clone()) * inverse.chosen.clone() - score(of.rejected.clone()) * inverse.rejected.clone()
        };
        match *self {
            Score::Identity => mean(&|u| u),
            Score::LogSigmoid => mean(&log_two_sigmoid),
            Score::Exponential(kappa) => {
                let small = mean(&|u| expm1(u * kappa) / kappa);
                let powers = Powers::of(of, kappa);
                let beyond = powers.largest.clone().greater_elem(1.0);
                // eˣ/n − eʸ/m = (eˣ − eʸ)/n + eʸ(1/n − 1/m)
                let counts = inverse.chosen.clone() - inverse.rejected.clone();
                let large = powers
                    .times(|scaled| (scaled.gap * inverse.chosen.clone() + scaled.rejected * counts.clone()) / kappa);
                small.mask_where(beyond, large - counts / kappa)
            }
        }
    }

    /// `s′(u)`, in factors that are finite each.
    fn derivative_factors(&self, u: Expr) -> Vec<Expr> {
        match *self {
            Score::Identity => vec![],
            Score::LogSigmoid => vec![sigmoid(u.neg())],
            Score::Exponential(kappa) => {
                let half = exp_half(u * kappa);
                vec![half.clone(), half]
            }
        }
    }
}

/// `e^(κa)` and `e^(κb)`, relative to the larger of them.
struct Powers {
    /// `max(κa, κb)`.
    largest: Expr,
    scaled: Scaled,
}

/// Over `e^largest`.
struct Scaled {
    /// `e^(κa) − e^(κb)`, from `a − b`.
    gap: Expr,
    /// `e^(κb)`.
    rejected: Expr,
}

impl Powers {
    fn of(of: &Sides<Expr>, kappa: f64) -> Self {
        let (chosen, rejected) = (of.chosen.clone() * kappa, of.rejected.clone() * kappa);
        let ahead = (of.chosen.clone() - of.rejected.clone()) * kappa;
        let behind = ahead.clone().lower_elem(0.0);
        let size = expm1(ahead.clone().abs().neg()).neg();
        Self {
            scaled: Scaled {
                gap: size.clone().mask_where(behind.clone(), size.neg()),
                rejected: exp(ahead.neg().mask_fill(behind.clone(), 0.0)),
            },
            largest: chosen.mask_where(behind, rejected),
        }
    }

    /// `f(scaled) · e^largest`.
    fn times(self, f: impl Fn(Scaled) -> Expr) -> Expr {
        let half = exp_half(self.largest);
        f(self.scaled) * half.clone() * half
    }
}

/// `log 2 + log σ(u) = −log((1 + e^−u)/2) = −log1p((e^−u − 1)/2)`, exact where it is near 0.
fn log_two_sigmoid(u: Expr) -> Expr {
    let far = u.clone().abs().greater_elem(std::f64::consts::LN_2);
    let plain = softplus(u.clone().neg()).neg() + std::f64::consts::LN_2;
    log1p_of_at_most_one(expm1(u.neg().mask_fill(far.clone(), 0.0)) / 2.0).neg().mask_where(far, plain)
}

//! The divergences that a policy can be held to its reference by, Wang et al. 2023 (arXiv:2309.16240).

use super::scalar::{Scaled, decay, sigmoid, softplus};

/// The divergence whose penalty the loss stands for: it decides how a log-ratio `u` is scored.
///
/// ```text
/// reverse KL       s(u) = u
/// forward KL       s(u) = 1 − e^−u
/// Jensen–Shannon   s(u) = log 2 + log σ(u)
/// alpha            s(u) = (e^(α−1)u − 1)/(α − 1),   u at α = 1
/// ```
///
/// `s` is `f′` at the ratio of probabilities, with the constant that makes `s(0) = 0`. α = 0 is forward KL, α = 1 reverse
/// KL.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FDivergence {
    /// `KL(π ‖ π_ref)`: DPO itself.
    ReverseKl,
    /// `KL(π_ref ‖ π)`.
    ForwardKl,
    /// Jensen–Shannon.
    JsDivergence,
    /// An α-divergence.
    AlphaDivergence {
        /// Any finite number.
        alpha: f64,
    },
}

/// `s` by its derivative: `e^κu` for three of them, `σ(−u)` for Jensen–Shannon.
#[derive(Debug, Clone, Copy)]
pub(super) enum Score {
    /// `(e^κu − 1)/κ`.
    Power { kappa: f64 },
    /// `log 2 + log σ(u)`.
    Js,
}

impl From<FDivergence> for Score {
    fn from(divergence: FDivergence) -> Self {
        match divergence {
            FDivergence::ReverseKl => Self::Power { kappa: 0.0 },
            FDivergence::ForwardKl => Self::Power { kappa: -1.0 },
            FDivergence::JsDivergence => Self::Js,
            FDivergence::AlphaDivergence { alpha } => Self::Power { kappa: alpha - 1.0 },
        }
    }
}

impl Score {
    /// `s(u)`. With `D(x) = (1 − e^−x)/x`, `(e^κu − 1)/κ = u · D(|κu|) · e^max(κu, 0)`.
    pub fn of(self, u: f64) -> Scaled {
        match self {
            Self::Power { kappa: 0.0 } => Scaled::new(u, 0.0),
            Self::Power { kappa } => Scaled::new(u * decay((kappa * u).abs()), (kappa * u).max(0.0)),
            // log 2 + log σ(u) = −log((1 + e^−u)/2), which loses nothing near 0
            Self::Js if u > -1.0 => Scaled::new(-(0.5 * (-u).exp_m1()).ln_1p(), 0.0),
            Self::Js => Scaled::new(std::f64::consts::LN_2 - softplus(-u), 0.0),
        }
    }

    /// `s′(u)`.
    pub fn derivative(self, u: f64) -> Scaled {
        match self {
            Self::Power { kappa: 0.0 } => Scaled::new(1.0, 0.0),
            Self::Power { kappa } => Scaled::new(1.0, kappa * u),
            Self::Js => Scaled::new(sigmoid(-u), 0.0),
        }
    }

    /// `s(a) − s(b)`, where both may be out of range and near each other.
    ///
    /// `(e^κa − e^κb)/κ = (a − b) · D(|κ(a − b)|) · e^max(κa, κb)`.
    pub fn difference(self, a: f64, b: f64) -> Scaled {
        match self {
            Self::Power { kappa: 0.0 } => Scaled::new(a - b, 0.0),
            Self::Power { kappa } => Scaled::new((a - b) * decay((kappa * (a - b)).abs()), (kappa * a).max(kappa * b)),
            Self::Js => Scaled::new(log_sigmoid_difference(a, b), 0.0),
        }
    }
}

/// `log σ(a) − log σ(b)`: for `a` just above `b`, `log((1 + e^−b)/(1 + e^−a)) = log(1 + (e^(a−b) − 1)·σ(−a))`.
fn log_sigmoid_difference(a: f64, b: f64) -> f64 {
    if a < b {
        -log_sigmoid_difference(b, a)
    } else if a - b < 1.0 {
        ((a - b).exp_m1() * sigmoid(-a)).ln_1p()
    } else {
        softplus(-b) - softplus(-a)
    }
}

//! Losses of the policy alone.

use super::{
    LossAndGradient, Pair, SequencePair,
    divergence::Score,
    margin::{Margin, per_token},
    scalar::{Scaled, log1mexp, sigmoid, softplus},
};

/// `−log σ(β(c/n_c − r/n_r) − γ)`: SimPO, Meng et al. 2024 (arXiv:2405.14734).
pub fn simpo_loss(policy: SequencePair, beta: f64, gamma: f64) -> LossAndGradient {
    Margin::linear(policy.means(), beta).per_token(policy).minus(gamma).logistic()
}

/// `−(1 − ε) log σ(z) − ε log σ(−z)`, `z = β(c − r)`: CPO's preference term, Xu et al. 2024 (arXiv:2401.08417).
pub fn cpo_loss(policy: Pair, beta: f64, label_smoothing: f64) -> LossAndGradient {
    Margin::linear(policy, beta).mixture(1.0 - label_smoothing, label_smoothing)
}

/// `max(0, δ − (c − r))`: SLiC's calibration term, Zhao et al. 2023 (arXiv:2305.10425). Flat at the kink.
pub fn slic_loss(policy: Pair, delta: f64) -> LossAndGradient {
    Margin::linear(policy, 1.0).hinge(delta)
}

/// `−log σ(β(ρ(c/n_c) − ρ(r/n_r)) − γ)`, `ρ(x) = (1 − e^−αx)/α`, `x` at α = 0: AlphaPO, Gupta et al. 2025
/// (arXiv:2501.03884).
pub fn alphapo_loss(policy: SequencePair, beta: f64, alpha: f64, gamma: f64) -> LossAndGradient {
    Margin::scored(policy.means(), beta, Score::Power { kappa: -alpha }).per_token(policy).minus(gamma).logistic()
}

/// `−log σ(y)`, `y = log(odds(c̄)/odds(r̄))`, `log odds(x) = x − log(1 − e^x)`, `c̄ = c/n_c`, `r̄ = r/n_r`: ORPO's odds-ratio
/// term, Hong et al. 2024 (arXiv:2403.07691).
///
/// Probability 1 has infinite odds: means are taken to be at most the largest negative normal number of f32, both in
/// the value and in the derivatives, which are `∓σ(−y)/(1 − e^x)`.
pub fn orpo_loss(policy: SequencePair) -> LossAndGradient {
    let means = policy.means();
    let below_certainty = |mean: f64| if mean > MOST_CERTAIN { MOST_CERTAIN } else { mean };
    let (chosen, rejected) = (below_certainty(means.chosen), below_certainty(means.rejected));
    let y = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected));
    // σ(−y) = σ(|y|)·e^−max(y, 0), which may be out of range where the quotient is not
    let derivative = |mean: f64| Scaled::new(sigmoid(y.abs()) / -mean.exp_m1(), -y.max(0.0)).value();
    LossAndGradient {
        value: softplus(-y),
        gradient: Pair {
            chosen: -per_token(derivative(chosen), policy.chosen.token_count),
            rejected: per_token(derivative(rejected), policy.rejected.token_count),
        },
    }
}

const MOST_CERTAIN: f64 = -(f32::MIN_POSITIVE as f64);

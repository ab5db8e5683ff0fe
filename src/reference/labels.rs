//! Losses that doubt their labels.

use super::{
    FDivergence, LossAndGradient, Pair,
    margin::{Margin, log_ratios},
    scalar::{product, sigmoid, sigmoid_derivative, softplus},
};

/// `−(1 − ε) log σ(z) − ε log σ(−z)`: conservative DPO, Mitchell 2023 (ericmitchell.ai/cdpo.pdf).
pub fn cdpo_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    Margin::of(policy, reference, beta, divergence).mixture(1.0 - label_smoothing, label_smoothing)
}

/// `−q log σ(z) − (1 − q) log σ(−z)`, `z = β(a − b) − offset`: `q` is the probability that the label is right.
pub fn soft_dpo_loss(policy: Pair, reference: Pair, beta: f64, offset: f64, label_probability: f64) -> LossAndGradient {
    Margin::linear(log_ratios(policy, reference), beta)
        .minus(offset)
        .mixture(label_probability, 1.0 - label_probability)
}

/// `[−(1 − ε) log σ(z) + ε log σ(−z)]/(1 − 2ε)`: robust DPO, Chowdhury et al. 2024 (arXiv:2403.00409).
///
/// As `log σ(−z) = log σ(z) − z`, it is `−log σ(z) − z·ε/(1 − 2ε)`, which does not cancel near ε = ½. Unbounded below.
pub fn robust_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let margin = Margin::of(policy, reference, beta, divergence);
    let tilt = label_smoothing / (1.0 - 2.0 * label_smoothing);
    margin.loss(softplus(-margin.z) - product(tilt, margin.z), -sigmoid(-margin.z) - tilt)
}

/// `σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε)`: the KL divergence of what the policy prefers from what the
/// labels say, EXO, Ji et al. 2024 (arXiv:2402.00856).
///
/// 0 at `z = log((1 − ε)/ε)`, up to rounding; flat far from there on both sides.
pub fn exo_pair_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let margin = Margin::of(policy, reference, beta, divergence);
    let z = margin.z;
    let (log_right, log_wrong) = ((-label_smoothing).ln_1p(), label_smoothing.ln());
    margin.loss(
        product(sigmoid(z), -softplus(-z) - log_right) + product(sigmoid(-z), -softplus(z) - log_wrong),
        product(sigmoid_derivative(z), z - (log_right - log_wrong)),
    )
}

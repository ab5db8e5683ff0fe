//! Losses of one completion that is desirable or is not.

use super::{
    UnpairedLossAndGradient,
    scalar::{sigmoid, sigmoid_derivative, softplus},
};

/// `λ_D(1 − σ(β(a − kl)))` for a desirable completion, `λ_U(1 − σ(β(kl − a)))` for another: KTO, Ethayarajh et al. 2024
/// (arXiv:2402.01306).
///
/// `kl` is an estimate of the divergence from the reference, a constant.
pub fn kto_loss(
    policy: f64,
    reference: f64,
    desirable: bool,
    kl: f64,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
) -> UnpairedLossAndGradient {
    let x = beta * ((policy - reference) - kl);
    let (weight, sign) = if desirable { (desirable_weight, -1.0) } else { (undesirable_weight, 1.0) };
    UnpairedLossAndGradient {
        value: weight * sigmoid(sign * x),
        gradient: weight * sign * beta * sigmoid_derivative(x),
    }
}

/// `−log σ(βa − δ)` for a desirable completion, `−log σ(δ − βa)` for another: BCO, Jung et al. 2024 (arXiv:2404.04656).
///
/// `delta` is the mean reward, a constant.
pub fn bco_loss(policy: f64, reference: f64, desirable: bool, delta: f64, beta: f64) -> UnpairedLossAndGradient {
    let x = beta * (policy - reference) - delta;
    let sign = if desirable { -1.0 } else { 1.0 };
    UnpairedLossAndGradient { value: softplus(sign * x), gradient: sign * beta * sigmoid(sign * x) }
}

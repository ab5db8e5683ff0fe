//! DiscoPOP, Lu et al. 2024 (arXiv:2406.08414): a loss that a language model proposed.

use super::{
    FDivergence, LossAndGradient, Pair,
    margin::Margin,
    scalar::{product, sigmoid, softplus},
};

/// `(1 − m)·(−log σ(z)) + m·e^−z`, `m = σ(z/τ)`: the log-ratio modulated loss.
///
/// `e^−z` overflows where `m` is 0, so their product is one exponential, `E = exp(−z − log(1 + e^(−z/τ)))`; below `z = 0`
/// its exponent is `z(1/τ − 1) − log(1 + e^(z/τ))`. The derivative in `z` is
///
/// ```text
/// −(1 − m)·σ(−z) + E·((1 − m)/τ − 1) − m(1 − m)/τ·(−log σ(z))
/// ```
///
/// Above τ = 1 the loss grows like `E` as `z` falls, and both soon are infinite; where `s′` has underflowed, the gradient is
/// then given as 0.
pub fn discopop_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    temperature: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let margin = Margin::of(policy, reference, beta, divergence);
    let z = margin.z;
    let (m, not_m) = (sigmoid(z / temperature), sigmoid(-z / temperature));
    let exponent = if z < 0.0 {
        product(z, 1.0 / temperature - 1.0) - softplus(z / temperature)
    } else {
        -z - softplus(-z / temperature)
    };
    let logistic = softplus(-z);
    let exponential = exponent.exp();
    margin.loss(
        not_m * logistic + exponential,
        product(exponential, not_m / temperature - 1.0)
            - not_m * sigmoid(-z)
            - product(m * not_m, logistic) / temperature,
    )
}

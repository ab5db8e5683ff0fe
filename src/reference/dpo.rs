//! Direct Preference Optimization, Rafailov et al. 2023 (arXiv:2305.18290).

/// A number for the chosen completion and one for the rejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// Of the chosen completion.
    pub chosen: f64,
    /// Of the rejected completion.
    pub rejected: f64,
}

/// A loss and its derivatives in the policy's two log-probs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossAndGradient {
    /// `ℓ`, nats.
    pub value: f64,
    /// `∂ℓ/∂log π(chosen)` and `∂ℓ/∂log π(rejected)`.
    pub gradient: Pair,
}

/// `r(x, y) = β log(π(y|x) / π_ref(y|x))` for both completions (section 5.1).
pub fn implicit_rewards(policy: Pair, reference: Pair, beta: f64) -> Pair {
    Pair { chosen: beta * (policy.chosen - reference.chosen), rejected: beta * (policy.rejected - reference.rejected) }
}

/// Equation 7 as printed, `−log σ(β log(π_w/π_ref,w) − β log(π_l/π_ref,l))`, with `σ(z) = 1/(1 + e^−z)`.
///
/// Right for moderate `z`; it rounds to 0 from `z ≈ 37` and overflows from `z ≈ −709`. [`dpo_loss`] is the same function
/// over the whole range.
pub fn dpo_loss_as_printed(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let z = beta * (policy.chosen - reference.chosen) - beta * (policy.rejected - reference.rejected);
    let slope = -beta * (1.0 - sigmoid(z));
    LossAndGradient { value: -sigmoid(z).ln(), gradient: Pair { chosen: slope, rejected: -slope } }
}

/// Equation 7, stable: `−log σ(z) = max(−z, 0) + log(1 + e^−|z|)` and `σ(−z) = e^−z / (1 + e^−z)` for `z ≥ 0`.
///
/// Log-probs are summed over tokens, in nats; `beta` is dimensionless.
pub fn dpo_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let delta = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected);
    let z = beta * delta;
    let small = (-z.abs()).exp();
    let sigmoid_of_minus_z = if z >= 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
    let slope = -beta * sigmoid_of_minus_z;
    // `f64::max` would drop a NaN, but the other term has it too
    LossAndGradient { value: (-z).max(0.0) + small.ln_1p(), gradient: Pair { chosen: slope, rejected: -slope } }
}

//! Direct Preference Optimization, Rafailov et al. 2023 (arXiv:2305.18290), and DPO under other divergences.

use super::{FDivergence, LossAndGradient, Pair, margin::Margin};

/// `r(x, y) = β log(π(y|x) / π_ref(y|x))` for both completions (section 5.1).
pub fn implicit_rewards(policy: Pair, reference: Pair, beta: f64) -> Pair {
    Pair { chosen: beta * (policy.chosen - reference.chosen), rejected: beta * (policy.rejected - reference.rejected) }
}

/// Equation 7, stable: `−log σ(z) = max(−z, 0) + log(1 + e^−|z|)` and `σ(−z) = e^−z / (1 + e^−z)` for `z ≥ 0`.
///
/// Log-probs are summed over tokens, in nats; `beta` is dimensionless.
pub fn dpo_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let delta = (policy.chosen - reference.chosen) - (policy.rejected - reference.rejected);
    let z = beta * delta;
    let small = (-z.abs()).exp();
    let sigmoid_of_minus_z = if z >= 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) };
    let derivative = -beta * sigmoid_of_minus_z;
    // `f64::max` would drop a NaN, but the other term has it too
    LossAndGradient {
        value: (-z).max(0.0) + small.ln_1p(),
        gradient: Pair { chosen: derivative, rejected: -derivative },
    }
}

/// `−log σ(β(s(a) − s(b)))`: DPO under another divergence, Wang et al. 2023 (arXiv:2309.16240). DPO is reverse KL.
pub fn f_dpo_loss(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    Margin::of(policy, reference, beta, divergence).logistic()
}

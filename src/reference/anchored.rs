//! Losses that pull each completion to or from the reference by itself, not only the two apart.

use super::{
    LossAndGradient, Pair,
    margin::log_ratios,
    scalar::{sigmoid, sigmoid_derivative, softplus},
};

/// `−log σ(βa) − ½ log σ(−βa) − ½ log σ(−βb)`: NCA, Chen et al. 2024 (arXiv:2402.05369).
pub fn nca_pair_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    rewards_loss(policy, reference, beta, |x, y| {
        let value = softplus(-x) + 0.5 * softplus(x) + 0.5 * softplus(y);
        (value, 0.5 * sigmoid(x) - sigmoid(-x), 0.5 * sigmoid(y))
    })
}

/// `−log σ(βa) − log σ(−βb)`: BCO on a pair and without its running shift, Jung et al. 2024 (arXiv:2404.04656).
pub fn bco_pair_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    rewards_loss(policy, reference, beta, |x, y| (softplus(-x) + softplus(y), -sigmoid(-x), sigmoid(y)))
}

/// `(a − 1/(2β))² + (b + 1/(2β))²`: SPPO with hard labels, Wu et al. 2024 (arXiv:2405.00675).
pub fn sppo_hard_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let Pair { chosen: a, rejected: b } = log_ratios(policy, reference);
    let (chosen, rejected) = (a - 0.5 / beta, b + 0.5 / beta);
    LossAndGradient {
        value: chosen * chosen + rejected * rejected,
        gradient: Pair { chosen: 2.0 * chosen, rejected: 2.0 * rejected },
    }
}

/// `1 − σ(βa) + σ(βb)`: APO-zero, D'Oosterlinck et al. 2024 (arXiv:2408.06266). Up with chosen, down with rejected.
///
/// As `1 − σ(x) = σ(−x)`, nothing cancels.
pub fn apo_zero_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    rewards_loss(policy, reference, beta, |x, y| {
        (sigmoid(-x) + sigmoid(y), -sigmoid_derivative(x), sigmoid_derivative(y))
    })
}

/// `σ(βa) + 1 − σ(β(a − b))`: APO-down, D'Oosterlinck et al. 2024 (arXiv:2408.06266). Down with both, rejected more.
///
/// The chosen derivative is a difference, which may cancel: it is right to within the rounding of `β/4`.
pub fn apo_down_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let Pair { chosen: a, rejected: b } = log_ratios(policy, reference);
    let (x, z) = (beta * a, beta * (a - b));
    LossAndGradient {
        value: sigmoid(x) + sigmoid(-z),
        gradient: Pair {
            chosen: beta * (sigmoid_derivative(x) - sigmoid_derivative(z)),
            rejected: beta * sigmoid_derivative(z),
        },
    }
}

/// A loss of both rewards `βa` and `βb`, given its value and its derivatives in them.
fn rewards_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    loss: impl Fn(f64, f64) -> (f64, f64, f64),
) -> LossAndGradient {
    let Pair { chosen: a, rejected: b } = log_ratios(policy, reference);
    let (value, chosen, rejected) = loss(beta * a, beta * b);
    LossAndGradient { value, gradient: Pair { chosen: beta * chosen, rejected: beta * rejected } }
}

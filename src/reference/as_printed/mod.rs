//! The losses of [`reference`](super) as their papers or TRL print them, differentiated by the rules of calculus: every
//! body is the equation, over numbers that carry their derivatives along, and no derivative is written down.
//!
//! They share nothing with the stable forms of the same names, to which they are equal where nothing overflows or cancels.
//! Elsewhere they give what the printed equation gives: `−log σ(z)` rounds to 0 from `z ≈ 37` and is infinite, with NaN for
//! a gradient, from `z ≈ −709`; `(e^x − 1)/x` loses its digits near 0.
//!
//! | here                | in the papers                                              |
//! |---------------------|------------------------------------------------------------|
//! | `c`, `r`            | `log π(y_w)`, `log π(y_l)`, the policy's, summed            |
//! | `a`, `b`            | `c − log π_ref(y_w)`, `r − log π_ref(y_l)`: log-ratios      |
//! | `z`                 | `β(s(a) − s(b))`, with `s` from [`FDivergence`]             |
//! | `sigmoid(x)`        | `σ(x) = 1/(1 + e^−x)`                                       |
//! | `log_sigmoid(x)`    | `log σ(x)`                                                  |
//! | `x.max(y)`          | `max(x, y)`, flat where they are equal                      |
//! | `per_token(x, n)`   | `x/n`, 0 for `n = 0`                                        |

mod dual;

use super::{
    BatchLossAndGradient, FDivergence, LossAndGradient, Pair, RankingLossAndGradient, SequenceLogProb, SequencePair,
    UnpairedLossAndGradient,
};
use dual::Dual;

/// `−log σ(β log(π_w/π_ref,w) − β log(π_l/π_ref,l))`: equation 7 of DPO.
pub fn dpo_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (-log_sigmoid(beta * a - beta * b)).into()
}

/// `−log σ(z)`.
pub fn f_dpo_loss(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    (-log_sigmoid(z)).into()
}

/// `−(1 − ε) log σ(z) − ε log σ(−z)`.
pub fn cdpo_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    smoothed(z, label_smoothing).into()
}

/// `−q log σ(z − offset) − (1 − q) log σ(offset − z)`, `z = β(a − b)`.
pub fn soft_dpo_loss(policy: Pair, reference: Pair, beta: f64, offset: f64, label_probability: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    let z = beta * (a - b) - offset;
    (-label_probability * log_sigmoid(z) - (1.0 - label_probability) * log_sigmoid(-z)).into()
}

/// `[−(1 − ε) log σ(z) + ε log σ(−z)]/(1 − 2ε)`.
pub fn robust_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    let epsilon = label_smoothing;
    ((-(1.0 - epsilon) * log_sigmoid(z) + epsilon * log_sigmoid(-z)) / (1.0 - 2.0 * epsilon)).into()
}

/// `max(0, 1 − z)`.
pub fn hinge_loss(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    (1.0 - z).max(0.0).into()
}

/// `(s(a)/n_c − s(b)/n_r − 1/(2β))²`.
pub fn ipo_loss(policy: SequencePair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let [chosen, rejected] = normalized_scores(policy, reference, divergence);
    (chosen - rejected - 1.0 / (2.0 * beta)).squared().into()
}

/// `−log σ(β(s(a)/n_c − s(b)/n_r))`.
pub fn sigmoid_norm_loss(policy: SequencePair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let [chosen, rejected] = normalized_scores(policy, reference, divergence);
    (-log_sigmoid(beta * (chosen - rejected))).into()
}

/// `σ(z)(log σ(z) − log(1 − ε)) + σ(−z)(log σ(−z) − log ε)`.
pub fn exo_pair_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    label_smoothing: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    let chosen = sigmoid(z) * (log_sigmoid(z) - (1.0 - label_smoothing).ln());
    let rejected = sigmoid(-z) * (log_sigmoid(-z) - label_smoothing.ln());
    (chosen + rejected).into()
}

/// `−log σ(βa) − ½ log σ(−βa) − ½ log σ(−βb)`.
pub fn nca_pair_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (-log_sigmoid(beta * a) - 0.5 * log_sigmoid(-beta * a) - 0.5 * log_sigmoid(-beta * b)).into()
}

/// `−log σ(βa) − log σ(−βb)`.
pub fn bco_pair_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (-log_sigmoid(beta * a) - log_sigmoid(-beta * b)).into()
}

/// `(a − 1/(2β))² + (b + 1/(2β))²`.
pub fn sppo_hard_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    ((a - 0.5 / beta).squared() + (b + 0.5 / beta).squared()).into()
}

/// `−(1 − ε) log σ(βd_k) − ε log σ(−βd_k)`, `d = sort(c − r) − sort(c_ref − r_ref)`.
pub fn aot_loss(policies: &[Pair], references: &[Pair], beta: f64, label_smoothing: f64) -> BatchLossAndGradient {
    batch(policies, |policies| {
        let policy = sort(policies.iter().map(|[c, r]| *c - *r));
        let reference = sort(references.iter().map(|reference| (reference.chosen - reference.rejected).into()));
        policy.into_iter().zip(reference).map(|(u, v)| smoothed(beta * (u - v), label_smoothing)).collect()
    })
}

/// `−(1 − ε) log σ(βd_k) − ε log σ(−βd_k)`, `d = sort(a) − sort(b)`.
pub fn aot_unpaired_loss(
    policies: &[Pair],
    references: &[Pair],
    beta: f64,
    label_smoothing: f64,
) -> BatchLossAndGradient {
    batch(policies, |policies| {
        let a = sort(policies.iter().zip(references).map(|([c, _], reference)| *c - reference.chosen));
        let b = sort(policies.iter().zip(references).map(|([_, r], reference)| *r - reference.rejected));
        a.into_iter().zip(b).map(|(a, b)| smoothed(beta * (a - b), label_smoothing)).collect()
    })
}

/// `1 − σ(βa) + σ(βb)`.
pub fn apo_zero_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (1.0 - sigmoid(beta * a) + sigmoid(beta * b)).into()
}

/// `σ(βa) + 1 − σ(β(a − b))`.
pub fn apo_down_loss(policy: Pair, reference: Pair, beta: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (sigmoid(beta * a) + 1.0 - sigmoid(beta * (a - b))).into()
}

/// `−(1 − m) log σ(z) + m·e^−z`, `m = σ(z/τ)`.
pub fn discopop_loss(
    policy: Pair,
    reference: Pair,
    beta: f64,
    temperature: f64,
    divergence: FDivergence,
) -> LossAndGradient {
    let z = margin(policy, reference, beta, divergence);
    let m = sigmoid(z / temperature);
    (-(1.0 - m) * log_sigmoid(z) + m * (-z).exp()).into()
}

/// `−Σ c / Σ n`, for every pair.
pub fn sft_loss(policies: &[SequenceLogProb]) -> BatchLossAndGradient {
    let count = policies.iter().map(|chosen| chosen.token_count).sum();
    let sums: Vec<Pair> = policies.iter().map(|chosen| Pair { chosen: chosen.sum, rejected: 0.0 }).collect();
    batch(&sums, |sums| {
        let sum: Dual = sums.iter().zip(policies).filter(|(_, of)| of.token_count > 0).map(|([c, _], _)| *c).sum();
        vec![per_token(-sum, count); policies.len()]
    })
}

/// `−c/n`.
pub fn nll_loss(chosen: SequenceLogProb) -> UnpairedLossAndGradient {
    per_token(-Dual::chosen(chosen.sum), chosen.token_count).into()
}

/// `−log σ(β(a − b − λ max(0, −a)))`.
pub fn dpop_loss(policy: Pair, reference: Pair, beta: f64, lambda: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (-log_sigmoid(beta * (a - b - lambda * (-a).max(0.0)))).into()
}

/// `−log σ(β(a − b) − offset)`.
pub fn odpo_loss(policy: Pair, reference: Pair, beta: f64, offset: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy, reference);
    (-log_sigmoid(beta * (a - b) - offset)).into()
}

/// `−log σ(β(a − b) − α(n_c − n_r))`.
pub fn r_dpo_loss(policy: SequencePair, reference: Pair, beta: f64, length_weight: f64) -> LossAndGradient {
    let [a, b] = log_ratios(policy.sums(), reference);
    let (chosen, rejected) = (policy.chosen.token_count as f64, policy.rejected.token_count as f64);
    (-log_sigmoid(beta * (a - b) - (length_weight * chosen - length_weight * rejected))).into()
}

/// `−log σ(β·c/n_c − β·r/n_r − γ)`.
pub fn simpo_loss(policy: SequencePair, beta: f64, gamma: f64) -> LossAndGradient {
    let [c, r] = means(policy);
    (-log_sigmoid(beta * c - beta * r - gamma)).into()
}

/// `−(1 − ε) log σ(z) − ε log σ(−z)`, `z = βc − βr`.
pub fn cpo_loss(policy: Pair, beta: f64, label_smoothing: f64) -> LossAndGradient {
    let [c, r] = log_probs(policy);
    smoothed(beta * c - beta * r, label_smoothing).into()
}

/// `max(0, δ − c + r)`.
pub fn slic_loss(policy: Pair, delta: f64) -> LossAndGradient {
    let [c, r] = log_probs(policy);
    (delta - c + r).max(0.0).into()
}

/// `−log σ(β·ρ(c/n_c) − β·ρ(r/n_r) − γ)`, `ρ(x) = (1 − p^−α)/α` for `p = e^x`, and `log p` at α = 0.
pub fn alphapo_loss(policy: SequencePair, beta: f64, alpha: f64, gamma: f64) -> LossAndGradient {
    let rho = |x: Dual| if alpha == 0.0 { x } else { (1.0 - (-alpha * x).exp()) / alpha };
    let [c, r] = means(policy).map(rho);
    (-log_sigmoid(beta * c - beta * r - gamma)).into()
}

/// `−log σ(log(odds_w/odds_l))`, `odds = p/(1 − p)`, `p = e^(c/n_c)` and `e^(r/n_r)`.
pub fn orpo_loss(policy: SequencePair) -> LossAndGradient {
    let odds = |mean: Dual| mean.exp() / (1.0 - mean.exp());
    let [chosen, rejected] = means(policy).map(odds);
    (-log_sigmoid((chosen / rejected).ln())).into()
}

/// `λ_D(1 − σ(β(a − kl)))` or `λ_U(1 − σ(β(kl − a)))`.
pub fn kto_loss(
    policy: f64,
    reference: f64,
    desirable: bool,
    kl: f64,
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
) -> UnpairedLossAndGradient {
    let a = Dual::chosen(policy) - reference;
    if desirable {
        (desirable_weight * (1.0 - sigmoid(beta * (a - kl)))).into()
    } else {
        (undesirable_weight * (1.0 - sigmoid(beta * (kl - a)))).into()
    }
}

/// `−log σ(βa − δ)` or `−log σ(−(βa − δ))`.
pub fn bco_loss(policy: f64, reference: f64, desirable: bool, delta: f64, beta: f64) -> UnpairedLossAndGradient {
    let a = Dual::chosen(policy) - reference;
    if desirable { (-log_sigmoid(beta * a - delta)).into() } else { (-log_sigmoid(-(beta * a - delta))).into() }
}

/// `−Σ_k log(e^(r_k) / Σ_{j ≥ k} e^(r_j))`, `r = β(log π − log π_ref)`.
pub fn plackett_luce_loss(policy: &[f64], reference: &[f64], beta: f64, ranked: usize) -> RankingLossAndGradient {
    let loss = |log_probs: &[Dual]| -> Dual {
        let strengths: Vec<Dual> =
            log_probs.iter().zip(reference).map(|(policy, reference)| (beta * (*policy - *reference)).exp()).collect();
        let places = (0..strengths.len()).take(ranked);
        -places.map(|k| (strengths[k] / strengths[k..].iter().copied().sum::<Dual>()).ln()).sum::<Dual>()
    };
    let in_one = |index: usize| {
        let enter = |(other, &log_prob): (usize, &f64)| match other == index {
            true => Dual::chosen(log_prob),
            false => log_prob.into(),
        };
        loss(&policy.iter().enumerate().map(enter).collect::<Vec<Dual>>())
    };
    let constant: Vec<Dual> = policy.iter().copied().map(Dual::from).collect();
    RankingLossAndGradient {
        value: loss(&constant).value,
        gradient: (0..policy.len()).map(|index| in_one(index).d_chosen).collect(),
    }
}

fn sigmoid(x: Dual) -> Dual {
    1.0 / (1.0 + (-x).exp())
}

fn log_sigmoid(x: Dual) -> Dual {
    sigmoid(x).ln()
}

/// `−(1 − ε) log σ(z) − ε log σ(−z)`.
fn smoothed(z: Dual, epsilon: f64) -> Dual {
    -(1.0 - epsilon) * log_sigmoid(z) - epsilon * log_sigmoid(-z)
}

/// `s(u)`.
fn score(divergence: FDivergence, u: Dual) -> Dual {
    match divergence {
        FDivergence::ReverseKl | FDivergence::AlphaDivergence { alpha: 1.0 } => u,
        FDivergence::ForwardKl => 1.0 - (-u).exp(),
        FDivergence::JsDivergence => std::f64::consts::LN_2 + log_sigmoid(u),
        FDivergence::AlphaDivergence { alpha } => (((alpha - 1.0) * u).exp() - 1.0) / (alpha - 1.0),
    }
}

/// `c` and `r`.
fn log_probs(policy: Pair) -> [Dual; 2] {
    [Dual::chosen(policy.chosen), Dual::rejected(policy.rejected)]
}

/// `c/n_c` and `r/n_r`.
fn means(policy: SequencePair) -> [Dual; 2] {
    let [c, r] = log_probs(policy.sums());
    [per_token(c, policy.chosen.token_count), per_token(r, policy.rejected.token_count)]
}

/// `a` and `b`.
fn log_ratios(policy: Pair, reference: Pair) -> [Dual; 2] {
    let [c, r] = log_probs(policy);
    [c - reference.chosen, r - reference.rejected]
}

/// `s(a)/n_c` and `s(b)/n_r`.
fn normalized_scores(policy: SequencePair, reference: Pair, divergence: FDivergence) -> [Dual; 2] {
    let [a, b] = log_ratios(policy.sums(), reference).map(|u| score(divergence, u));
    [per_token(a, policy.chosen.token_count), per_token(b, policy.rejected.token_count)]
}

/// `z`.
fn margin(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> Dual {
    let [a, b] = log_ratios(policy, reference);
    beta * (score(divergence, a) - score(divergence, b))
}

fn per_token(x: Dual, count: usize) -> Dual {
    if count == 0 { 0.0.into() } else { x / count as f64 }
}

/// Ascending; equal ones stay as they are.
fn sort(numbers: impl Iterator<Item = Dual>) -> Vec<Dual> {
    let mut numbers: Vec<Dual> = numbers.collect();
    let ascending = |x: f64, y: f64| x.partial_cmp(&y).unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()));
    numbers.sort_by(|x, y| ascending(x.value, y.value));
    numbers
}

/// Losses of a whole batch, differentiated pair by pair: each time the others are constants.
fn batch(policies: &[Pair], losses: impl Fn(&[[Dual; 2]]) -> Vec<Dual>) -> BatchLossAndGradient {
    let constant = |pair: &Pair| [pair.chosen.into(), pair.rejected.into()];
    let constants: Vec<[Dual; 2]> = policies.iter().map(constant).collect();
    let gradient = |index: usize| {
        let mut policies_with_one = constants.clone();
        policies_with_one[index] = log_probs(policies[index]);
        let sum: Dual = losses(&policies_with_one).into_iter().sum();
        Pair { chosen: sum.d_chosen, rejected: sum.d_rejected }
    };
    BatchLossAndGradient {
        values: losses(&constants).into_iter().map(|loss| loss.value).collect(),
        gradients: (0..policies.len()).map(gradient).collect(),
    }
}

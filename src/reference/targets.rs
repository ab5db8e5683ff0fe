//! Losses that hold a margin against a target: hinges, squares, offsets.

use super::{
    FDivergence, LossAndGradient, Pair, SequencePair,
    divergence::Score,
    margin::{Margin, log_ratios, per_token},
    scalar::Scaled,
};

/// `max(0, 1 − z)`: the hinge loss, Liu et al. 2023 (arXiv:2309.06657). At the kink `z = 1` the gradient is 0.
pub fn hinge_loss(policy: Pair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    Margin::of(policy, reference, beta, divergence).hinge(1.0)
}

/// `(s(a)/n_c − s(b)/n_r − 1/(2β))²`: IPO, Azar et al. 2023 (arXiv:2310.12036), whose τ is `beta`.
///
/// An empty completion contributes 0 whatever its log-prob.
pub fn ipo_loss(policy: SequencePair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let of = NormalizedScores::new(policy, reference, divergence.into());
    let gap = of.difference().minus(Scaled::new(0.5 / beta, 0.0));
    let twice = Scaled::new(2.0 * gap.factor, gap.exponent);
    LossAndGradient {
        value: gap.times(gap).value(),
        gradient: Pair {
            chosen: twice.times(of.chosen_derivative).value(),
            rejected: -twice.times(of.rejected_derivative).value(),
        },
    }
}

/// `−log σ(β(s(a)/n_c − s(b)/n_r))`: length-normalized DPO, Lambert et al. 2024 (arXiv:2411.15124).
///
/// An empty completion contributes 0 whatever its log-prob.
pub fn sigmoid_norm_loss(policy: SequencePair, reference: Pair, beta: f64, divergence: FDivergence) -> LossAndGradient {
    let of = NormalizedScores::new(policy, reference, divergence.into());
    let beta_times = |scaled: Scaled| Scaled::new(beta * scaled.factor, scaled.exponent).value();
    let derivative = Pair { chosen: beta_times(of.chosen_derivative), rejected: -beta_times(of.rejected_derivative) };
    Margin { z: beta_times(of.difference()), derivative }.logistic()
}

/// `−log σ(z − offset)`, `z = β(a − b)`: ODPO, Amini et al. 2024 (arXiv:2402.10571).
pub fn odpo_loss(policy: Pair, reference: Pair, beta: f64, offset: f64) -> LossAndGradient {
    Margin::linear(log_ratios(policy, reference), beta).minus(offset).logistic()
}

/// `−log σ(z − α(n_c − n_r))`, `z = β(a − b)`: R-DPO, Park et al. 2024 (arXiv:2403.19159).
pub fn r_dpo_loss(policy: SequencePair, reference: Pair, beta: f64, length_weight: f64) -> LossAndGradient {
    let longer = policy.chosen.token_count as f64 - policy.rejected.token_count as f64;
    Margin::linear(log_ratios(policy.sums(), reference), beta).minus(length_weight * longer).logistic()
}

/// `−log σ(z − βλ max(0, −a))`, `z = β(a − b)`: DPO-Positive, Pal et al. 2024 (arXiv:2402.13228).
///
/// At `a = 0` the penalty's derivative is 0.
pub fn dpop_loss(policy: Pair, reference: Pair, beta: f64, lambda: f64) -> LossAndGradient {
    let ratios = log_ratios(policy, reference);
    let margin = Margin::linear(ratios, beta);
    if ratios.chosen < 0.0 {
        let derivative = Pair { chosen: beta * (1.0 + lambda), ..margin.derivative };
        Margin { derivative, ..margin.minus(-beta * lambda * ratios.chosen) }.logistic()
    } else {
        margin.logistic()
    }
}

/// `s(a)/n_c` and `s(b)/n_r`, and their derivatives in the sums.
struct NormalizedScores {
    chosen: Scaled,
    rejected: Scaled,
    chosen_derivative: Scaled,
    rejected_derivative: Scaled,
}

impl NormalizedScores {
    fn new(policy: SequencePair, reference: Pair, score: Score) -> Self {
        let Pair { chosen: a, rejected: b } = log_ratios(policy.sums(), reference);
        let over = |scaled: Scaled, count| Scaled::new(per_token(scaled.factor, count), scaled.exponent);
        let (chosen, rejected) = (policy.chosen.token_count, policy.rejected.token_count);
        Self {
            chosen: over(score.of(a), chosen),
            rejected: over(score.of(b), rejected),
            chosen_derivative: over(score.derivative(a), chosen),
            rejected_derivative: over(score.derivative(b), rejected),
        }
    }

    fn difference(&self) -> Scaled {
        self.chosen.minus(self.rejected)
    }
}

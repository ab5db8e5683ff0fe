//! Rankings of any number of completions, by the model of Plackett and Luce: Rafailov et al. 2023, appendix A.3.

use super::RankingLossAndGradient;

/// `Σ_{k < ranked} [log Σ_{j ≥ k} e^(r_j) − r_k]`, `r = β(log π − log π_ref)`, best completion first.
///
/// Only the first `ranked` places are known to be in order; the others come after them. All of them, or all but the last,
/// are the whole ranking. Of `policy` and `reference`, what has no counterpart is not looked at.
pub fn plackett_luce_loss(policy: &[f64], reference: &[f64], beta: f64, ranked: usize) -> RankingLossAndGradient {
    let log_ratios: Vec<f64> = policy.iter().zip(reference).map(|(policy, reference)| policy - reference).collect();
    let mut value = 0.0;
    let mut gradient = vec![0.0; log_ratios.len()];
    for place in 0..ranked.min(log_ratios.len()) {
        let choice = Choice::new(&log_ratios[place..], beta);
        value += choice.loss();
        gradient[place] -= beta * choice.probability_of_others();
        for (derivative, probability) in gradient[place..].iter_mut().zip(choice.probabilities()).skip(1) {
            *derivative += beta * probability;
        }
    }
    RankingLossAndGradient { value, gradient }
}

/// The choice of the first of some completions.
struct Choice {
    /// `e^(r_j − max r)`.
    weights: Vec<f64>,
    /// Where the largest weight, 1, is.
    largest: usize,
    /// `max r − r_0`.
    behind: f64,
}

impl Choice {
    fn new(log_ratios: &[f64], beta: f64) -> Self {
        let larger = |best: usize, next: usize| if log_ratios[next] > log_ratios[best] { next } else { best };
        let largest = (0..log_ratios.len()).fold(0, larger);
        let max = log_ratios[largest];
        Self {
            weights: log_ratios.iter().map(|ratio| (beta * (ratio - max)).exp()).collect(),
            largest,
            behind: beta * (max - log_ratios[0]),
        }
    }

    /// `(max r − r_0) + log(1 + Σ of the weights but the largest)`.
    fn loss(&self) -> f64 {
        self.behind + self.sum_without(self.largest).ln_1p()
    }

    fn probabilities(&self) -> impl Iterator<Item = f64> {
        let sum = 1.0 + self.sum_without(self.largest);
        self.weights.iter().map(move |weight| weight / sum)
    }

    /// `1 − p_0`, as a sum: nothing cancels.
    fn probability_of_others(&self) -> f64 {
        self.sum_without(0) / (1.0 + self.sum_without(self.largest))
    }

    fn sum_without(&self, index: usize) -> f64 {
        self.weights.iter().enumerate().filter(|&(other, _)| other != index).map(|(_, weight)| weight).sum()
    }
}

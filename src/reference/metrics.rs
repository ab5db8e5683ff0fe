//! Metrics over pairs, as their definitions read.

use super::SequenceLogProb;

/// One completion, as the metrics see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredCompletion {
    /// The policy's summed log-prob.
    pub policy: SequenceLogProb,
    /// The reference's summed log-prob, nats.
    pub reference: f64,
    /// `log π − log π_ref` of each counted token, nats; if tokens are measured.
    pub token_log_ratios: Option<Vec<f64>>,
    /// What the policy's distributions were like; if that is measured.
    pub statistics: Option<SequenceStatistic>,
}

/// Sums over a completion's counted tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequenceStatistic {
    /// Of the entropy of the next-token distribution, nats.
    pub entropy: f64,
    /// Of the mean logit over the vocabulary.
    pub mean_logit: f64,
    /// How many tokens were the likeliest one.
    pub hits: usize,
    /// How many tokens there are.
    pub token_count: usize,
}

/// One pair, as the metrics see it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeasuredPair {
    /// Its loss, nats.
    pub loss: f64,
    /// The β of its rewards.
    pub beta: f64,
    /// The better completion.
    pub chosen: MeasuredCompletion,
    /// The worse one.
    pub rejected: MeasuredCompletion,
}

/// The definitions behind [`PreferenceMetrics`](crate::PreferenceMetrics): see the table there. In arrays of two the first
/// is of chosen completions and the second of rejected ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metrics {
    /// Mean loss, nats.
    pub loss: f64,
    /// Mean of `β x`, `x = log π − log π_ref`.
    pub rewards: [f64; 2],
    /// Mean of the margin, `β (a − b)`.
    pub reward_margin: f64,
    /// Share of pairs whose margin is above 0; a tie counts as wrong.
    pub reward_accuracy: f64,
    /// Number of pairs whose margin is above 0.
    pub wins: usize,
    /// Number of pairs whose margin is exactly 0.
    pub ties: usize,
    /// Number of pairs whose margin is below 0.
    pub misranked: usize,
    /// Mean summed log-prob under the policy, nats.
    pub log_probs: [f64; 2],
    /// Share of pairs whose chosen completion is less likely under the policy than under the reference.
    pub likelihood_displacement: f64,
    /// Mean of `x`, nats.
    pub drift: [f64; 2],
    /// Sum of `x` over the number of counted tokens, nats.
    pub drift_per_token: [f64; 2],
    /// Mean of [`k3`] of `x`.
    pub k3: [f64; 2],
    /// Mean of [`k3`] over counted tokens of the completions whose tokens are measured; `None` if none are.
    pub k3_per_token: Option<[f64; 2]>,
    /// Mean of `σ(−margin)`.
    pub gradient_weight: f64,
    /// Number of pairs with `σ(−margin) < 0.01`.
    pub saturated_pairs: usize,
    /// Entropy per counted token of either side, nats, where it is measured; `None` if nowhere.
    pub entropy: Option<f64>,
    /// Mean logit per counted token, where it is measured; `None` if nowhere.
    pub logits: Option<[f64; 2]>,
    /// Share of counted chosen tokens that were the likeliest, where it is measured; `None` if nowhere.
    pub mean_token_accuracy: Option<f64>,
    /// Number of counted tokens.
    pub tokens: [usize; 2],
    /// Number of completions with no counted token.
    pub empty_completions: usize,
    /// Number of pairs with NaN or ±inf in their loss, log-probs or β.
    pub non_finite_pairs: usize,
}

/// Means and counts over `pairs`. Every mean over nothing is NaN.
pub fn preference_metrics(pairs: &[MeasuredPair]) -> Metrics {
    let mean = |f: &dyn Fn(&MeasuredPair) -> f64| pairs.iter().map(f).sum::<f64>() / pairs.len() as f64;
    let count = |holds: &dyn Fn(&MeasuredPair) -> bool| pairs.iter().filter(|pair| holds(pair)).count();
    let share = |holds: &dyn Fn(&MeasuredPair) -> bool| count(holds) as f64 / pairs.len() as f64;
    let sides: [fn(&MeasuredPair) -> &MeasuredCompletion; 2] = [|pair| &pair.chosen, |pair| &pair.rejected];
    let completions = |side: fn(&MeasuredPair) -> &MeasuredCompletion| pairs.iter().map(side);

    let tokens = sides.map(|side| completions(side).map(|one| one.policy.token_count).sum::<usize>());
    let tokens_of_ratios = |side| completions(side).filter_map(|one| one.token_log_ratios.as_ref()).flatten().copied();
    let has_tokens = pairs.iter().any(|pair| pair.chosen.token_log_ratios.is_some());
    let statistics = |side| completions(side).filter_map(|one| one.statistics);
    let has_statistics = pairs.iter().any(|pair| pair.chosen.statistics.is_some());
    let counted = |side| statistics(side).map(|sums| sums.token_count).sum::<usize>() as f64;
    let [chosen, rejected] = sides;

    Metrics {
        loss: mean(&|pair| pair.loss),
        rewards: sides.map(|side| mean(&|pair| pair.beta * side(pair).log_ratio())),
        reward_margin: mean(&MeasuredPair::margin),
        reward_accuracy: share(&|pair| pair.margin() > 0.0),
        wins: count(&|pair| pair.margin() > 0.0),
        ties: count(&|pair| pair.margin() == 0.0),
        misranked: count(&|pair| pair.margin() < 0.0),
        log_probs: sides.map(|side| mean(&|pair| side(pair).policy.sum)),
        likelihood_displacement: share(&|pair| pair.chosen.log_ratio() < 0.0),
        drift: sides.map(|side| mean(&|pair| side(pair).log_ratio())),
        drift_per_token: [0, 1]
            .map(|i| completions(sides[i]).map(MeasuredCompletion::log_ratio).sum::<f64>() / tokens[i] as f64),
        k3: sides.map(|side| mean(&|pair| k3(side(pair).log_ratio()))),
        k3_per_token: has_tokens.then(|| {
            sides.map(|side| tokens_of_ratios(side).map(k3).sum::<f64>() / tokens_of_ratios(side).count() as f64)
        }),
        gradient_weight: mean(&|pair| pair.gradient_weight()),
        saturated_pairs: count(&|pair| pair.gradient_weight() < 0.01),
        entropy: has_statistics.then(|| {
            let of_both = statistics(chosen).chain(statistics(rejected)).map(|sums| sums.entropy).sum::<f64>();
            of_both / (counted(chosen) + counted(rejected))
        }),
        logits: has_statistics
            .then(|| sides.map(|side| statistics(side).map(|sums| sums.mean_logit).sum::<f64>() / counted(side))),
        mean_token_accuracy: has_statistics
            .then(|| statistics(chosen).map(|sums| sums.hits).sum::<usize>() as f64 / counted(chosen)),
        tokens,
        empty_completions: sides.map(|side| count(&|pair| side(pair).policy.token_count == 0)).iter().sum(),
        non_finite_pairs: count(&|pair| {
            let numbers = sides.map(|side| [side(pair).policy.sum, side(pair).reference]);
            !numbers.as_flattened().iter().chain([&pair.loss, &pair.beta]).all(|number| number.is_finite())
        }),
    }
}

/// The margin that a share `q` of all margins does not exceed: of `n` in order, the first number `k` for which `k/n ≥ q`. NaN
/// margins are left out; NaN of none.
pub fn margin_quantile(pairs: &[MeasuredPair], q: f64) -> f64 {
    let mut margins: Vec<f64> = pairs.iter().map(MeasuredPair::margin).filter(|margin| !margin.is_nan()).collect();
    margins.sort_by(f64::total_cmp);
    let count = margins.len();
    let rank = (1..=count).find(|&rank| rank as f64 / count as f64 >= q);
    rank.map_or(f64::NAN, |rank| margins[rank - 1])
}

/// `e^−x − 1 + x`: at least 0, and its mean over samples of `π`, `x = log π − log π_ref`, is `KL(π ‖ π_ref)`, as is the
/// mean of `x` itself.
///
/// Below `|x| = 1`, where the equation cancels, its series `x²/2 − x³/6 + …`, for as long as that changes.
pub fn k3(x: f64) -> f64 {
    if x == f64::NEG_INFINITY {
        return f64::INFINITY;
    }
    if x.abs() >= 1.0 || x.is_nan() {
        return (-x).exp() - 1.0 + x;
    }
    let (mut sum, mut term, mut k) = (0.0, x * x / 2.0, 2.0);
    while sum + term != sum {
        sum += term;
        k += 1.0;
        term *= -x / k;
    }
    sum
}

impl MeasuredPair {
    /// `β (a − b)`, rounded after the difference, so that its sign is that of `a − b` for every β.
    fn margin(&self) -> f64 {
        self.beta * (self.chosen.log_ratio() - self.rejected.log_ratio())
    }

    /// `σ(−margin)`.
    fn gradient_weight(&self) -> f64 {
        1.0 / (1.0 + self.margin().exp())
    }
}

impl MeasuredCompletion {
    /// `log π − log π_ref`.
    fn log_ratio(&self) -> f64 {
        self.policy.sum - self.reference
    }
}

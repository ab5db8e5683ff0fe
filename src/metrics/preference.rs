//! Implicit-reward metrics over preference pairs.

use std::fmt;

use burn_tensor::{FloatDType, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::sum::Sum;
use crate::{
    Beta, Error, PairLogProbs, Result,
    ops::check_same_device,
    pairs::{compare, expect_pairs},
};

/// Loss, implicit rewards, log-probs and counts over any number of preference pairs.
///
/// Kept as sums and counts, so that [`merge`](Self::merge)d parts give what the whole would: across micro-batches, steps
/// and processes, whatever their sizes. `Default` holds no pairs and merges as nothing. Serialises to those sums, NaN
/// and infinities included; [`entries`](Self::entries) gives what to log, under TRL's names.
///
/// | entry                                   | definition, over all pairs                                    |
/// |-----------------------------------------|---------------------------------------------------------------|
/// | `loss`                                  | mean of the losses passed in                                  |
/// | `rewards/chosen`, `rewards/rejected`    | mean of `β (log π − log π_ref)`                               |
/// | `rewards/margins`                       | mean of the difference                                        |
/// | `rewards/accuracies`                    | share of pairs whose margin is above 0; a tie counts as wrong, as in TRL |
/// | `rewards/ties`                          | share of pairs whose margin is exactly 0 (all, where policy = reference) |
/// | `logps/chosen`, `logps/rejected`        | mean of the policy's **summed** log-prob, nats                 |
/// | `drift/chosen`, `drift/rejected`        | mean of `log π − log π_ref`, nats: how far the policy moved    |
/// | `tokens/chosen`, `tokens/rejected`      | number of counted tokens                                      |
/// | `pairs`                                 | number of pairs                                               |
/// | `empty_completions`                     | number of completions with no counted token                   |
/// | `non_finite_pairs`                      | number of pairs with NaN or ±inf in their loss or log-ratios  |
///
/// Nothing skips NaN: a pair that has it makes the means that it enters NaN, and is counted. A mean over no pairs is NaN.
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sequences = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([3, 3], &device))
/// };
/// let policy = PairLogProbs::new(sequences([-4.0, -5.0])?, sequences([-6.0, -5.0])?)?;
/// let reference = PairLogProbs::new(sequences([-5.0, -5.0])?, sequences([-5.0, -5.0])?)?;
/// let beta = Beta::new(0.1)?;
///
/// let losses = dpo_loss(&policy, &reference, beta)?;
/// let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta)?;
/// assert_eq!(metrics.reward_accuracy(), 0.5); // one pair is ranked right, the other is a tie
/// assert_abs_diff_eq!(metrics.reward_margin(), 0.1, epsilon = 1e-9); // (0.2 + 0) / 2
///
/// let mut run = PreferenceMetrics::default();
/// run.merge(&metrics);
/// assert_eq!(run, metrics);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreferenceMetrics {
    pairs: u64,
    wins: u64,
    ties: u64,
    non_finite_pairs: u64,
    empty_completions: u64,
    tokens_chosen: u64,
    tokens_rejected: u64,
    loss: Sum,
    reward_chosen: Sum,
    reward_rejected: Sum,
    log_prob_chosen: Sum,
    log_prob_rejected: Sum,
    drift_chosen: Sum,
    drift_rejected: Sum,
}

/// One pair's numbers on the host, in the order in which [`transfer`] stacks them.
struct Pair {
    loss: f64,
    policy: [f64; 2],
    drift: [f64; 2],
    tokens: [u64; 2],
}

impl PreferenceMetrics {
    /// Measures one batch: the losses as the loss function returned them, and what they were computed from.
    ///
    /// This is the one place that reads numbers back from the device, in a single transfer. Gradients are not touched.
    ///
    /// | argument    | shape            | unit                                 |
    /// |-------------|------------------|--------------------------------------|
    /// | `losses`    | `[pairs]`        | nats                                 |
    /// | `policy`    | two of `[pairs]` | nats, summed over counted tokens     |
    /// | `reference` | two of `[pairs]` | nats, summed over counted tokens     |
    ///
    /// # Errors
    /// [`Error::PairCount`] if the three hold different numbers of pairs, [`Error::Device`] if they are on different
    /// devices, [`Error::Read`] if the device does not hand its numbers over.
    pub fn from_batch(losses: &Tensor<1>, policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Self> {
        let data = transfer(losses, policy, reference)?.try_into_data().map_err(unreadable)?;
        Ok(Self::from_transfer(data, beta))
    }

    /// [`from_batch`](Self::from_batch) where reading must not block, as on WebGPU in a browser.
    ///
    /// # Errors
    /// As [`from_batch`](Self::from_batch).
    pub async fn from_batch_async(
        losses: &Tensor<1>,
        policy: &PairLogProbs,
        reference: &PairLogProbs,
        beta: Beta,
    ) -> Result<Self> {
        let data = transfer(losses, policy, reference)?.into_data_async().await.map_err(unreadable)?;
        Ok(Self::from_transfer(data, beta))
    }

    fn from_transfer(data: TensorData, beta: Beta) -> Self {
        let numbers: Vec<f64> = data.iter::<f64>().collect();
        let pairs = numbers.len() / TRANSFERRED;
        let row = |row: usize, pair: usize| numbers[row * pairs + pair];

        let mut metrics = Self::default();
        for pair in 0..pairs {
            metrics.add(
                Pair {
                    loss: row(0, pair),
                    policy: [row(1, pair), row(2, pair)],
                    drift: [row(3, pair), row(4, pair)],
                    tokens: [row(5, pair) as u64, row(6, pair) as u64],
                },
                beta,
            );
        }
        metrics
    }

    fn add(&mut self, pair: Pair, beta: Beta) {
        let [drift_chosen, drift_rejected] = pair.drift;
        let delta = drift_chosen - drift_rejected; // its sign is the margin's for every beta, without rounding
        self.pairs += 1;
        self.wins += u64::from(delta > 0.0);
        self.ties += u64::from(delta == 0.0);
        self.non_finite_pairs += u64::from(!(pair.loss.is_finite() && pair.drift.iter().all(|nats| nats.is_finite())));
        self.empty_completions += pair.tokens.iter().filter(|&&tokens| tokens == 0).count() as u64;
        self.tokens_chosen += pair.tokens[0];
        self.tokens_rejected += pair.tokens[1];
        self.loss.add(pair.loss);
        self.reward_chosen.add(beta.get() * drift_chosen);
        self.reward_rejected.add(beta.get() * drift_rejected);
        self.log_prob_chosen.add(pair.policy[0]);
        self.log_prob_rejected.add(pair.policy[1]);
        self.drift_chosen.add(drift_chosen);
        self.drift_rejected.add(drift_rejected);
    }

    /// Adds another part of the same whole. Parts may come in any order and any grouping.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.wins += other.wins;
        self.ties += other.ties;
        self.non_finite_pairs += other.non_finite_pairs;
        self.empty_completions += other.empty_completions;
        self.tokens_chosen += other.tokens_chosen;
        self.tokens_rejected += other.tokens_rejected;
        self.loss.add(other.loss.0);
        self.reward_chosen.add(other.reward_chosen.0);
        self.reward_rejected.add(other.reward_rejected.0);
        self.log_prob_chosen.add(other.log_prob_chosen.0);
        self.log_prob_rejected.add(other.log_prob_rejected.0);
        self.drift_chosen.add(other.drift_chosen.0);
        self.drift_rejected.add(other.drift_rejected.0);
    }

    /// Number of pairs.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }

    /// Number of pairs whose margin is above 0.
    pub fn wins(&self) -> u64 {
        self.wins
    }

    /// Number of pairs whose margin is exactly 0.
    pub fn ties(&self) -> u64 {
        self.ties
    }

    /// Number of pairs with NaN or ±inf in their loss or log-ratios.
    pub fn non_finite_pairs(&self) -> u64 {
        self.non_finite_pairs
    }

    /// Number of completions, chosen or rejected, with no counted token.
    pub fn empty_completions(&self) -> u64 {
        self.empty_completions
    }

    /// Number of counted tokens in chosen completions.
    pub fn tokens_chosen(&self) -> u64 {
        self.tokens_chosen
    }

    /// Number of counted tokens in rejected completions.
    pub fn tokens_rejected(&self) -> u64 {
        self.tokens_rejected
    }

    /// Mean loss, nats.
    pub fn loss(&self) -> f64 {
        self.mean(self.loss)
    }

    /// Mean implicit reward of the chosen completions.
    pub fn reward_chosen(&self) -> f64 {
        self.mean(self.reward_chosen)
    }

    /// Mean implicit reward of the rejected completions.
    pub fn reward_rejected(&self) -> f64 {
        self.mean(self.reward_rejected)
    }

    /// Mean of `r(chosen) − r(rejected)`.
    pub fn reward_margin(&self) -> f64 {
        self.mean(Sum(self.reward_chosen.0 - self.reward_rejected.0))
    }

    /// Share of pairs whose margin is above 0: a tie counts as wrong.
    pub fn reward_accuracy(&self) -> f64 {
        self.mean(Sum(self.wins as f64))
    }

    /// Mean summed log-prob of the chosen completions under the policy, nats.
    pub fn log_prob_chosen(&self) -> f64 {
        self.mean(self.log_prob_chosen)
    }

    /// Mean summed log-prob of the rejected completions under the policy, nats.
    pub fn log_prob_rejected(&self) -> f64 {
        self.mean(self.log_prob_rejected)
    }

    /// Mean `log π − log π_ref` of the chosen completions, nats.
    pub fn drift_chosen(&self) -> f64 {
        self.mean(self.drift_chosen)
    }

    /// Mean `log π − log π_ref` of the rejected completions, nats.
    pub fn drift_rejected(&self) -> f64 {
        self.mean(self.drift_rejected)
    }

    fn mean(&self, sum: Sum) -> f64 {
        sum.0 / self.pairs as f64
    }

    /// What to log, in the order of the table above, under TRL's names where TRL has the metric.
    pub fn entries(&self) -> Vec<(&'static str, f64)> {
        vec![
            ("loss", self.loss()),
            ("rewards/chosen", self.reward_chosen()),
            ("rewards/rejected", self.reward_rejected()),
            ("rewards/margins", self.reward_margin()),
            ("rewards/accuracies", self.reward_accuracy()),
            ("rewards/ties", self.mean(Sum(self.ties as f64))),
            ("logps/chosen", self.log_prob_chosen()),
            ("logps/rejected", self.log_prob_rejected()),
            ("drift/chosen", self.drift_chosen()),
            ("drift/rejected", self.drift_rejected()),
            ("tokens/chosen", self.tokens_chosen as f64),
            ("tokens/rejected", self.tokens_rejected as f64),
            ("pairs", self.pairs as f64),
            ("empty_completions", self.empty_completions as f64),
            ("non_finite_pairs", self.non_finite_pairs as f64),
        ]
    }
}

/// One line per entry: `rewards/margins: 0.157`.
impl fmt::Display for PreferenceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.entries().into_iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{name}: {value}")?;
        }
        Ok(())
    }
}

fn unreadable(cause: impl fmt::Display) -> Error {
    Error::Read { what: "metrics", cause: cause.to_string() }
}

/// How many numbers of each pair are read back.
const TRANSFERRED: usize = 7;

/// Everything that the host needs, as one tensor `[7 · pairs]`: loss, policy chosen and rejected, log-ratio chosen and
/// rejected, token count chosen and rejected (exact in f32 up to 2²⁴ tokens a completion).
fn transfer(losses: &Tensor<1>, policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    expect_pairs("losses", losses.dims()[0], "policy", policy.pairs())?;
    check_same_device("losses", &losses.device(), "policy", &pairs.log_ratio.chosen.device())?;

    let dtype: FloatDType = pairs.log_ratio.chosen.dtype().into();
    let counts = |side: &crate::SequenceLogProbs| side.token_count.clone().without_autodiff().cast(dtype);
    let rows: [Tensor<1>; TRANSFERRED] = [
        losses.clone().without_autodiff(),
        pairs.policy.chosen.without_autodiff(),
        pairs.policy.rejected.without_autodiff(),
        pairs.log_ratio.chosen,
        pairs.log_ratio.rejected,
        counts(policy.chosen()),
        counts(policy.rejected()),
    ];
    Ok(Tensor::cat(rows.into_iter().map(|row| row.cast(dtype)).collect(), 0))
}

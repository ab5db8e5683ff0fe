//! From one batch on a device to its metrics, in one transfer.

use burn_tensor::{Bool, Tensor, TensorData, kind::Basic};

use super::{
    columns::{Columns, first_non_finite, of_batch, row_counts, summed_k3, unreadable},
    pair::{Pair, Statistics, TokenLevel},
    preference::PreferenceMetrics,
};
use crate::{
    Beta, Error, PairLogProbs, Result, SequenceStatistics, TokenLogProbs,
    compare::check_same_ld_alpha,
    error::expect_pairs,
    ops::{check_float, check_same_device},
    sides::Sides,
};

/// One batch of preference pairs, about to be measured: what there must be, and what there may be.
///
/// | given to            | what                                       | shape                              | adds |
/// |---------------------|--------------------------------------------|------------------------------------|------|
/// | `new`               | losses, as the loss function returned them | `[pairs]`                          | every metric without a condition |
/// | `new`               | log-probs of policy and reference          | two of `[pairs]` each, nats        | |
/// | `with_tokens`       | the token log-probs behind them            | `[2·pairs, time − 1]` each, nats   | `k3_per_token/*`; which token is not finite |
/// | `with_statistics`   | statistics of the policy's distributions   | `[2·pairs]` each                   | `entropy`, `logits/*`, `mean_token_accuracy` |
/// | `with_betas`        | a β for each pair                          | `[pairs]`                          | rewards with it |
/// | `with_valid`        | false = a padded duplicate                 | `[pairs]`                          | nothing of that pair |
///
/// What has `2·pairs` rows has the chosen completions in its first half and the rejected ones in its second, in the same
/// order. Nothing is checked or read before [`measure`](Self::measure).
///
/// # Example
/// ```
/// use burn_dpo::{Beta, Completions, PreferenceBatch, dpo_loss, token_log_probs};
/// use burn::tensor::{Bool, Device, Tensor};
///
/// let device = Device::default();
/// // Two pairs; the second one fills the batch up and counts for nothing.
/// let completions = Completions::from_sequences(&[[1, 2], [1, 2], [1, 3], [1, 3]], &[1; 4], 4, &device)?;
/// let logits = Tensor::<3>::zeros([4, 2, 4], &device);
/// let policy_tokens = token_log_probs(logits.clone(), &completions)?;
/// let reference_tokens = token_log_probs(logits, &completions)?;
/// let (policy, reference) = (policy_tokens.sequences().into_pairs()?, reference_tokens.sequences().into_pairs()?);
/// let beta = Beta::new(0.1)?;
/// let losses = dpo_loss(&policy, &reference, beta)?;
///
/// let metrics = PreferenceBatch::new(&losses, &policy, &reference, beta)
///     .with_tokens(&policy_tokens, &reference_tokens)
///     .with_valid(&Tensor::<1, Bool>::from_data([true, false], &device))
///     .measure()?;
/// assert_eq!((metrics.pairs(), metrics.k3_per_token_chosen()), (1, Some(0.0)));
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "nothing is measured before `measure`"]
pub struct PreferenceBatch<'a> {
    losses: &'a Tensor<1>,
    policy: &'a PairLogProbs,
    reference: &'a PairLogProbs,
    beta: Beta,
    tokens: Option<(&'a TokenLogProbs, &'a TokenLogProbs)>,
    statistics: Option<&'a SequenceStatistics>,
    betas: Option<&'a Tensor<1>>,
    valid: Option<&'a Tensor<1, Bool>>,
}

impl<'a> PreferenceBatch<'a> {
    /// The losses, what they were computed from, and the β of rewards.
    pub fn new(losses: &'a Tensor<1>, policy: &'a PairLogProbs, reference: &'a PairLogProbs, beta: Beta) -> Self {
        Self { losses, policy, reference, beta, tokens: None, statistics: None, betas: None, valid: None }
    }

    /// The log-probs of tokens that `policy` and `reference` are sums of.
    ///
    /// Where one model counts a token and the other does not there is no log-ratio: that sequence's k3 is NaN.
    pub fn with_tokens(self, policy: &'a TokenLogProbs, reference: &'a TokenLogProbs) -> Self {
        Self { tokens: Some((policy, reference)), ..self }
    }

    /// Statistics of the policy's distributions over the same completions.
    pub fn with_statistics(self, statistics: &'a SequenceStatistics) -> Self {
        Self { statistics: Some(statistics), ..self }
    }

    /// A β for each pair, in place of the one for all. They are numbers above 0, which is not checked.
    pub fn with_betas(self, betas: &'a Tensor<1>) -> Self {
        Self { betas: Some(betas), ..self }
    }

    /// Which pairs count. One that does not, such as a duplicate that fills up a last batch, changes nothing: no mean,
    /// no count, no number of a pair. (The losses of AOT are those of ranks: there entry `i` leaves with pair `i` although it is
    /// not its loss.)
    pub fn with_valid(self, valid: &'a Tensor<1, Bool>) -> Self {
        Self { valid: Some(valid), ..self }
    }

    /// Measures, reading all that is needed back from the device in a single transfer. Gradients are not touched.
    ///
    /// # Numerics
    /// What is per token is summed over each sequence on the device, in the dtype of the log-probs. The rest is computed
    /// and summed in f64 on the host. Token counts are exact up to 2²⁴ a completion.
    ///
    /// # Errors
    /// [`Error::PairCount`] if policy, reference, losses, betas or validity hold different numbers of pairs,
    /// [`Error::LdAlpha`] if policy and reference are LD-DPO's sums with different `α`, [`Error::Shape`] if tokens or statistics
    /// have not two rows for each pair, [`Error::DType`] for a dtype in which the device cannot compute, [`Error::Device`] for tensors on different devices, [`Error::Read`] if the device does
    /// not hand its numbers over.
    pub fn measure(&self) -> Result<PreferenceMetrics> {
        let data = self.columns()?.try_into_data().map_err(|cause| unreadable("metrics", cause))?;
        Ok(self.metrics(data))
    }

    /// [`measure`](Self::measure) where reading must not block, as on WebGPU in a browser.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub async fn measure_async(&self) -> Result<PreferenceMetrics> {
        let data = self.columns()?.into_data_async().await.map_err(|cause| unreadable("metrics", cause))?;
        Ok(self.metrics(data))
    }

    /// Everything that the host needs, checked: one number per pair in each column, column after column, in the order in
    /// which [`rows`](Self::rows) takes them apart. What is `[2·pairs]` is two columns.
    fn columns(&self) -> Result<Tensor<1>> {
        let (policy, reference) = (self.policy, self.reference);
        let pairs = policy.pairs();
        expect_pairs("policy", pairs, "reference", reference.pairs())?;
        check_same_ld_alpha(policy.stack(), reference.stack())?;
        expect_pairs("losses", self.losses.dims()[0], "policy", pairs)?;
        check_same_device("policy", &policy.device(), "reference", &reference.device())?;
        self.check_device("losses", self.losses)?;
        check_float("losses", self.losses)?;

        let mut columns = Columns::default();
        columns.push(&of_batch(self.losses, policy, reference));
        if let Some(valid) = self.valid {
            expect_pairs("valid", valid.dims()[0], "policy", pairs)?;
            self.check_device("valid", valid)?;
            columns.push_counts(&valid.clone().int());
        }
        if let Some(betas) = self.betas {
            expect_pairs("betas", betas.dims()[0], "policy", pairs)?;
            self.check_device("betas", betas)?;
            check_float("betas", betas)?;
            columns.push(betas);
        }
        if let Some((policy, reference)) = self.tokens {
            let [_, width] = policy.values().dims();
            self.check_rows("policy tokens", policy.values().dims(), [2 * pairs, width])?;
            self.check_rows("reference tokens", reference.values().dims(), [2 * pairs, width])?;
            self.check_device("policy tokens", &policy.values())?;
            self.check_device("reference tokens", &reference.values())?;
            columns.push(&summed_k3(policy, reference));
            columns.push_counts(&row_counts(policy.counted()));
            columns.push_counts(&first_non_finite(policy.values()));
            columns.push_counts(&first_non_finite(reference.values()));
        }
        if let Some(SequenceStatistics { entropy, mean_logit, hits, token_count, .. }) = self.statistics {
            for (what, numbers) in [("entropy", entropy), ("mean_logit", mean_logit)] {
                self.check_rows(what, numbers.dims(), [2 * pairs])?;
                self.check_device(what, numbers)?;
                check_float(what, numbers)?;
                columns.push(numbers);
            }
            for (what, counts) in [("hits", hits), ("statistics token_count", token_count)] {
                self.check_rows(what, counts.dims(), [2 * pairs])?;
                self.check_device(what, counts)?;
                columns.push_counts(counts);
            }
        }
        Ok(columns.stack())
    }

    fn check_rows<const D: usize>(&self, what: &'static str, actual: [usize; D], expected: [usize; D]) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        Err(Error::Shape { what, expected: expected.to_vec(), actual: actual.to_vec() })
    }

    fn check_device<const D: usize, K: Basic>(&self, what: &'static str, tensor: &Tensor<D, K>) -> Result<()> {
        check_same_device(what, &tensor.device(), "policy", &self.policy.device())
    }

    fn metrics(&self, data: TensorData) -> PreferenceMetrics {
        let numbers: Vec<f64> = data.iter::<f64>().collect();
        let mut metrics = PreferenceMetrics::default();
        for pair in (0..self.policy.pairs()).filter_map(|pair| self.row(&numbers, pair)) {
            metrics.add(&pair);
        }
        metrics
    }

    /// The numbers of one pair, if it counts.
    fn row(&self, numbers: &[f64], pair: usize) -> Option<Pair> {
        let mut columns = numbers[pair..].iter().step_by(self.policy.pairs()).copied();
        let mut next = || columns.next().unwrap_or(f64::NAN);
        let loss = next();
        let mut sides = || Sides { chosen: next(), rejected: next() };
        let (policy, reference, tokens) = (sides(), sides(), sides().map(|count| count as u64));
        if self.valid.is_some() && next() == 0.0 {
            return None;
        }
        let beta = if self.betas.is_some() { next() } else { self.beta.get() };
        let mut sides = || Sides { chosen: next(), rejected: next() };
        let token_level = self.tokens.map(|(policy, _)| {
            let width = policy.values().dims()[1] as u64;
            let (k3, tokens) = (sides(), sides().map(|count| count as u64));
            // Column t is the log-prob of token t + 1.
            let token = |column: f64| (column < width as f64).then_some(column as u64 + 1);
            TokenLevel { k3, tokens, policy: sides().map(token), reference: sides().map(token) }
        });
        let statistics = self.statistics.map(|_| Statistics {
            entropy: sides(),
            mean_logit: sides(),
            hits: sides().map(|count| count as u64),
            tokens: sides().map(|count| count as u64),
        });
        Some(Pair { loss, beta, policy, reference, tokens, token_level, statistics })
    }
}

impl PreferenceMetrics {
    /// Measures one batch: the losses as the loss function returned them, and what they were computed from.
    /// [`PreferenceBatch`] measures more, and leaves out pairs that do not count.
    ///
    /// Numbers are read back from the device, in a single transfer. Gradients are not touched.
    ///
    /// | argument    | shape            | unit                                 |
    /// |-------------|------------------|--------------------------------------|
    /// | `losses`    | `[pairs]`        | nats                                 |
    /// | `policy`    | two of `[pairs]` | nats, summed over counted tokens     |
    /// | `reference` | two of `[pairs]` | nats, summed over counted tokens     |
    ///
    /// # Errors
    /// As [`PreferenceBatch::measure`].
    pub fn from_batch(losses: &Tensor<1>, policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<Self> {
        PreferenceBatch::new(losses, policy, reference, beta).measure()
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
        PreferenceBatch::new(losses, policy, reference, beta).measure_async().await
    }
}

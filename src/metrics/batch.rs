//! From one batch on a device to its metrics, in one transfer.

use std::fmt;

use burn_tensor::{Bool, DType, FloatDType, Int, IntDType, Tensor, TensorData};

use super::{
    non_finite::{MeasuredTensor, NonFinite, NonFiniteValue},
    preference::PreferenceMetrics,
    sum::Sides,
};
use crate::{
    Beta, Error, PairLogProbs, Result, SequenceStatistics, TokenLogProbs, numerics,
    ops::{check_float, check_same_device},
    pairs::expect_pairs,
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
    /// no count, no number of a pair.
    pub fn with_valid(self, valid: &'a Tensor<1, Bool>) -> Self {
        Self { valid: Some(valid), ..self }
    }

    /// Measures, reading all that is needed back from the device in a single transfer. Gradients are not touched.
    ///
    /// # Numerics
    /// What is per token is summed over each sequence on the device, in the format of the log-probs. The rest is computed
    /// and summed in f64 on the host. Token counts are exact up to 2²⁴ a completion.
    ///
    /// # Errors
    /// [`Error::PairCount`] if policy, reference, losses, betas or validity hold different numbers of pairs,
    /// [`Error::Shape`] if tokens or statistics have not two rows for each pair, [`Error::DType`] for a format in which
    /// the device cannot compute, [`Error::Device`] for tensors on different devices, [`Error::Read`] if the device does
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
        expect_pairs("losses", self.losses.dims()[0], "policy", pairs)?;
        check_same_device("policy", &policy.chosen().sum.device(), "reference", &reference.chosen().sum.device())?;
        self.check_device("losses", self.losses)?;
        check_float("losses", self.losses)?;

        let mut columns = Columns::default();
        columns.push(self.losses);
        for sequences in [policy.chosen(), policy.rejected(), reference.chosen(), reference.rejected()] {
            columns.push(&sequences.sum);
        }
        columns.push_counts(&policy.chosen().token_count);
        columns.push_counts(&policy.rejected().token_count);
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

    fn check_device<const D: usize, K: burn_tensor::kind::Basic>(
        &self,
        what: &'static str,
        tensor: &Tensor<D, K>,
    ) -> Result<()> {
        check_same_device(what, &tensor.device(), "policy", &self.policy.chosen().sum.device())
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

/// One pair's numbers on the host.
pub(super) struct Pair {
    pub loss: f64,
    pub beta: f64,
    pub policy: Sides<f64>,
    pub reference: Sides<f64>,
    pub tokens: Sides<u64>,
    pub token_level: Option<TokenLevel>,
    pub statistics: Option<Statistics>,
}

/// What came from log-probs of tokens: sums over them, how many there are, and the first one that is not finite.
pub(super) struct TokenLevel {
    pub k3: Sides<f64>,
    pub tokens: Sides<u64>,
    policy: Sides<Option<u64>>,
    reference: Sides<Option<u64>>,
}

/// Sums over tokens, and how many there are.
pub(super) struct Statistics {
    pub entropy: Sides<f64>,
    pub mean_logit: Sides<f64>,
    pub hits: Sides<u64>,
    pub tokens: Sides<u64>,
}

impl Pair {
    /// `log π − log π_ref`, of each side.
    pub fn log_ratio(&self) -> Sides<f64> {
        Sides {
            chosen: self.policy.chosen - self.reference.chosen,
            rejected: self.policy.rejected - self.reference.rejected,
        }
    }

    /// The first of its numbers that is not finite, causes before what they cause.
    pub fn first_non_finite(&self, pair: u64) -> Option<NonFinite> {
        let nowhere = Sides::default();
        let (policy, reference) =
            self.token_level.as_ref().map_or((nowhere, nowhere), |tokens| (tokens.policy, tokens.reference));
        let numbers = [
            (MeasuredTensor::PolicyChosen, self.policy.chosen, policy.chosen),
            (MeasuredTensor::PolicyRejected, self.policy.rejected, policy.rejected),
            (MeasuredTensor::ReferenceChosen, self.reference.chosen, reference.chosen),
            (MeasuredTensor::ReferenceRejected, self.reference.rejected, reference.rejected),
            (MeasuredTensor::Betas, self.beta, None),
            (MeasuredTensor::Losses, self.loss, None),
        ];
        numbers.into_iter().find_map(|(tensor, number, token)| {
            NonFiniteValue::of(number).map(|value| NonFinite { tensor, pair, token, value })
        })
    }
}

/// Columns of one number per pair, brought to one format: f64 if any float among them is, else f32.
#[derive(Default)]
struct Columns {
    floats_are_wide: bool,
    columns: Vec<Column>,
}

enum Column {
    Floats(Tensor<1>),
    Counts(Tensor<1, Int>),
}

impl Columns {
    fn push(&mut self, numbers: &Tensor<1>) {
        self.floats_are_wide |= numbers.dtype() == DType::F64;
        self.columns.push(Column::Floats(numbers.clone().without_autodiff()));
    }

    fn push_counts(&mut self, counts: &Tensor<1, Int>) {
        self.columns.push(Column::Counts(counts.clone().without_autodiff()));
    }

    fn stack(self) -> Tensor<1> {
        let dtype = if self.floats_are_wide { FloatDType::F64 } else { FloatDType::F32 };
        let cast = |column| match column {
            Column::Floats(numbers) => numbers.cast(dtype),
            Column::Counts(counts) => counts.cast(dtype),
        };
        Tensor::cat(self.columns.into_iter().map(cast).collect(), 0)
    }
}

/// `Σ k₃(log π − log π_ref)` over each sequence's counted tokens, `[sequences]`; NaN where the two count different ones.
fn summed_k3(policy: &TokenLogProbs, reference: &TokenLogProbs) -> Tensor<1> {
    let [policy_values, reference_values] = [policy, reference].map(|model| model.values().without_autodiff());
    let wide = policy_values.dtype() == DType::F64 || reference_values.dtype() == DType::F64;
    let dtype = if wide { FloatDType::F64 } else { FloatDType::F32 };
    let [sequences, width] = policy_values.dims();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&policy_values.device(), DType::from(dtype)));
    }
    let [counted, counted_by_reference] = [policy, reference].map(|model| model.counted().without_autodiff());
    let log_ratio = policy_values.cast(dtype) - reference_values.cast(dtype);
    numerics::k3(log_ratio.mask_fill(counted.clone().bool_not(), 0.0))
        .mask_fill(counted.not_equal(counted_by_reference), f64::NAN)
        .sum_dim(1)
        .squeeze_dim(1)
}

/// How many are true in each row, `[sequences]`.
fn row_counts(flags: Tensor<2, Bool>) -> Tensor<1, Int> {
    let [sequences, width] = flags.dims();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&flags.device(), DType::I32));
    }
    flags.without_autodiff().int().cast(IntDType::I32).sum_dim(1).squeeze_dim(1)
}

/// The first column of each row that holds NaN or an infinity, `[sequences]`; the number of columns where none does.
fn first_non_finite(values: Tensor<2>) -> Tensor<1, Int> {
    let values = values.without_autodiff();
    let [sequences, width] = values.dims();
    let device = values.device();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&device, DType::I32));
    }
    Tensor::<1, Int>::arange(0..width as i64, (&device, DType::I32))
        .unsqueeze::<2>()
        .expand([sequences, width])
        .mask_fill(values.is_finite(), width as i64)
        .min_dim(1)
        .squeeze_dim(1)
}

pub(super) fn unreadable(what: &'static str, cause: impl fmt::Display) -> Error {
    Error::Read { what, cause: cause.to_string() }
}

//! Whether policy and reference agree where they should.

use burn_tensor::{FloatDType, Tensor, TensorData};

use crate::{
    Error, PairLogProbs, Result, SequenceLogProbs,
    compare::check_same_ld_alpha,
    error::expect_pairs,
    ops::{check_float, check_same_device, common_dtype},
};

/// How far policy and reference are from each other, completion by completion.
///
/// ```text
/// difference = |log π − log π_ref|
/// ```
///
/// Before the first step of training the two are one model, and this is 0 but for rounding. Asked then, on one batch, it
/// finds what would otherwise spoil a whole run without a sign:
///
/// - **dropout** left on in one of them, or any other noise of training: differences everywhere, new ones every time;
/// - **precision**: one model in bf16 and the other in f32, or the reference quantized;
/// - **padding**: on the other side, or without the attention mask that goes with it: the shorter completions differ;
/// - **tokens**: another tokenizer, chat template or truncation: token counts differ, or a few rows differ by far;
/// - **adapters** that were not switched off for the reference, or a checkpoint that is not the one meant.
///
/// # Example
/// ```
/// use burn_dpo::{Error, ReferenceDrift, SequenceLogProbs};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sequences = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([3, 5], &device))
/// };
/// let drift = ReferenceDrift::measure_sequences(&sequences([-4.0, -7.5])?, &sequences([-4.0, -7.0])?)?;
/// assert_eq!((drift.largest(), drift.largest_row(), drift.mean()), (0.5, Some(1), 0.25));
/// assert!(drift.expect_within(0.6).is_ok());
/// assert_eq!(drift.expect_within(0.1), Err(Error::ReferenceDrift { row: 1, difference: 0.5, tolerance: 0.1 }));
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Differences are taken in f64. What to expect between two runs of one model: exactly 0 where both went through the same
/// code in the same batch; in f32, with other batch sizes or kernels, some 1e-4 of the log-prob; in bf16, where a logit
/// keeps 8 bits, some hundredths of a nat per token.
///
/// # Edge cases
/// A difference of NaN is the largest and within no tolerance. Two log-probs of the same infinity differ by NaN. Of no
/// rows the largest difference is 0 and the mean NaN.
#[derive(Debug, Clone, PartialEq)]
pub struct ReferenceDrift {
    differences: Vec<f64>,
    token_counts: Vec<TokenCounts>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct TokenCounts {
    policy: u64,
    reference: u64,
}

/// A completion of which policy and reference counted different numbers of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenCountMismatch {
    /// Which row.
    pub row: usize,
    /// How many tokens the policy counted.
    pub policy: u64,
    /// How many tokens the reference counted.
    pub reference: u64,
}

impl ReferenceDrift {
    /// Compares pairs: the chosen completions are the first rows, the rejected ones the rest. Numbers are read back from
    /// the device, in a single transfer.
    ///
    /// # Errors
    /// [`Error::PairCount`] if the two hold different numbers of pairs, [`Error::Device`] if they are on different
    /// devices, [`Error::Read`] if the device does not hand its numbers over.
    pub fn measure(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Self> {
        Ok(Self::from_data(columns_of_pairs(policy, reference)?.try_into_data().map_err(unreadable)?))
    }

    /// [`measure`](Self::measure) where reading must not block, as on WebGPU in a browser.
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub async fn measure_async(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Self> {
        Ok(Self::from_data(columns_of_pairs(policy, reference)?.into_data_async().await.map_err(unreadable)?))
    }

    /// Compares sequences, row by row. Numbers are read back from the device, in a single transfer.
    ///
    /// # Errors
    /// [`Error::Shape`] if the two hold different numbers of sequences, or sums and token counts do, [`Error::DType`] for
    /// sums that are no float numbers, [`Error::Device`] for tensors on different devices, [`Error::Read`] if the device
    /// does not hand its numbers over.
    pub fn measure_sequences(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<Self> {
        Ok(Self::from_data(columns_of_sequences(policy, reference)?.try_into_data().map_err(unreadable)?))
    }

    /// [`measure_sequences`](Self::measure_sequences) where reading must not block, as on WebGPU in a browser.
    ///
    /// # Errors
    /// As [`measure_sequences`](Self::measure_sequences).
    pub async fn measure_sequences_async(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<Self> {
        Ok(Self::from_data(columns_of_sequences(policy, reference)?.into_data_async().await.map_err(unreadable)?))
    }

    /// The differences, row by row, nats.
    pub fn by_row(&self) -> &[f64] {
        &self.differences
    }

    /// The largest difference, nats: NaN if there is any, 0 of no rows.
    pub fn largest(&self) -> f64 {
        self.largest_row().map_or(0.0, |row| self.differences[row])
    }

    /// The row of the largest difference, the first of several.
    pub fn largest_row(&self) -> Option<usize> {
        let nan = self.differences.iter().position(|difference| difference.is_nan());
        let later_only_if_larger =
            |&a: &usize, &b: &usize| self.differences[a].total_cmp(&self.differences[b]).then(b.cmp(&a));
        nan.or_else(|| (0..self.differences.len()).max_by(later_only_if_larger))
    }

    /// The mean difference, nats: NaN if any is, and of no rows.
    pub fn mean(&self) -> f64 {
        self.differences.iter().sum::<f64>() / self.differences.len() as f64
    }

    /// The first row of which the two counted different numbers of tokens: the sums of such a row are of different things.
    pub fn token_count_mismatch(&self) -> Option<TokenCountMismatch> {
        let differ = |counts: &TokenCounts| counts.policy != counts.reference;
        let row = self.token_counts.iter().position(differ)?;
        let TokenCounts { policy, reference } = self.token_counts[row];
        Some(TokenCountMismatch { row, policy, reference })
    }

    /// That every row is within `tolerance` nats, and of as many tokens under both.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a tolerance that is not at least 0, [`Error::TokenCount`] for the first row whose token
    /// counts differ, [`Error::ReferenceDrift`] for the row of the largest difference if that is not within.
    pub fn expect_within(&self, tolerance: f64) -> Result<()> {
        if tolerance.is_nan() || tolerance < 0.0 {
            return Err(Error::Parameter { name: "tolerance", value: tolerance, expected: "a number of at least 0" });
        }
        if let Some(TokenCountMismatch { row, policy, reference }) = self.token_count_mismatch() {
            return Err(Error::TokenCount { row, policy, reference });
        }
        match self.largest_row().map(|row| (row, self.differences[row])) {
            Some((row, difference)) if difference.is_nan() || difference > tolerance => {
                Err(Error::ReferenceDrift { row, difference, tolerance })
            }
            _ => Ok(()),
        }
    }

    /// From sums of policy and reference, and token counts of policy and reference.
    fn from_data(data: TensorData) -> Self {
        let numbers: Vec<f64> = data.iter::<f64>().collect();
        let rows = numbers.len() / 4;
        let number = |column: usize, row: usize| numbers[column * rows + row];
        Self {
            differences: (0..rows).map(|row| (number(0, row) - number(1, row)).abs()).collect(),
            token_counts: (0..rows)
                .map(|row| TokenCounts { policy: number(2, row) as u64, reference: number(3, row) as u64 })
                .collect(),
        }
    }
}

fn columns_of_pairs(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Tensor<1>> {
    expect_pairs("policy", policy.pairs(), "reference", reference.pairs())?;
    columns(policy.stack(), reference.stack())
}

fn columns_of_sequences(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<Tensor<1>> {
    policy.check("policy token_count")?;
    reference.check("reference token_count")?;
    check_float("policy sum", &policy.sum)?;
    check_float("reference sum", &reference.sum)?;
    if policy.sum.dims() != reference.sum.dims() {
        let [expected, actual] = [policy, reference].map(|model| model.sum.dims().to_vec());
        return Err(Error::Shape { what: "reference sum", expected, actual });
    }
    columns(policy, reference)
}

/// Both models' sums, and then their token counts, one after the other.
fn columns(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<Tensor<1>> {
    check_same_device("policy", &policy.sum.device(), "reference", &reference.sum.device())?;
    check_same_ld_alpha(policy, reference)?;
    let dtype = FloatDType::from(common_dtype([policy.sum.dtype(), reference.sum.dtype()]));
    let models = [policy, reference];
    let sums = models.map(|model| model.sum.clone().without_autodiff().cast(dtype));
    let counts = models.map(|model| model.token_count.clone().without_autodiff().cast(dtype));
    Ok(Tensor::cat([sums, counts].concat(), 0))
}

fn unreadable(cause: impl std::fmt::Display) -> Error {
    Error::Read { what: "reference drift", cause: cause.to_string() }
}

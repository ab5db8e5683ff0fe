//! Log-probabilities of preference pairs, under one model and under two.

use burn_tensor::{DType, Device, FloatDType, Tensor, TensorData};

use crate::{
    Error, Result, SequenceLogProbs,
    ops::{check_float, check_same_device, check_same_strategy},
};

/// One model's log-probabilities of the chosen and of the rejected completion of each pair.
///
/// | field      | shape           | unit                                 | gradient |
/// |------------|-----------------|--------------------------------------|----------|
/// | `chosen`   | two of `[pairs]` | nats, **summed**, and counted tokens | flows   |
/// | `rejected` | two of `[pairs]` | nats, **summed**, and counted tokens | flows   |
///
/// Which model it is is said by the argument that it is passed as. That policy and reference saw the *same* tokens
/// under the same mask cannot be checked here: make both from the same [`Completions`](crate::Completions).
///
/// # Example
/// ```
/// use burn_dpo::{PairLogProbs, SequenceLogProbs};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sequences = |sums: [f32; 2], counts: [i32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints(counts, &device))
/// };
/// let pairs = PairLogProbs::new(sequences([-4.0, -7.5], [3, 5])?, sequences([-6.0, -7.0], [4, 4])?)?;
/// assert_eq!(pairs.pairs(), 2);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PairLogProbs {
    chosen: SequenceLogProbs,
    rejected: SequenceLogProbs,
}

impl PairLogProbs {
    /// From the chosen and the rejected completions, in the same order.
    ///
    /// # Errors
    /// [`Error::PairCount`] if there are not as many of each, [`Error::Shape`] if sums and token counts differ in
    /// length, [`Error::DType`] for sums that are no float numbers, [`Error::Device`] for tensors on different devices,
    /// [`Error::Checkpointing`] for two sides recorded under different gradient checkpointing strategies.
    pub fn new(chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> Result<Self> {
        chosen.check("chosen token_count")?;
        rejected.check("rejected token_count")?;
        check_float("chosen sum", &chosen.sum)?;
        check_float("rejected sum", &rejected.sum)?;
        check_same_device("chosen", &chosen.sum.device(), "rejected", &rejected.sum.device())?;
        check_same_strategy(&[
            ("chosen", chosen.sum.gradient_checkpointing_strategy()),
            ("rejected", rejected.sum.gradient_checkpointing_strategy()),
        ])?;
        expect_pairs("chosen", chosen.sum.dims()[0], "rejected", rejected.sum.dims()[0])?;
        Ok(Self { chosen, rejected })
    }

    /// From numbers on the host: `(summed log-prob, counted tokens)` of each completion, as a reference model's are kept
    /// when they are computed once, before training. They carry no gradient.
    ///
    /// # Example
    /// ```
    /// use burn_dpo::PairLogProbs;
    /// use burn::tensor::Device;
    ///
    /// let pairs = PairLogProbs::from_host(&[(-4.0, 3), (-7.5, 5)], &[(-6.0, 4), (-7.0, 4)], &Device::default())?;
    /// assert_eq!(pairs.pairs(), 2);
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::PairCount`] if there are not as many of each, [`Error::Length`] for a token count beyond 32 bits.
    pub fn from_host(chosen: &[(f32, usize)], rejected: &[(f32, usize)], device: &Device) -> Result<Self> {
        Self::new(
            SequenceLogProbs::from_host("chosen token count", chosen, device)?,
            SequenceLogProbs::from_host("rejected token count", rejected, device)?,
        )
    }

    /// The chosen completions.
    pub fn chosen(&self) -> &SequenceLogProbs {
        &self.chosen
    }

    /// The rejected completions.
    pub fn rejected(&self) -> &SequenceLogProbs {
        &self.rejected
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.chosen.sum.dims()[0]
    }

    /// Refuses a policy that nothing can be learned through: log-probs computed on a device without autodiff, from frozen
    /// parameters, or detached. Its loss and metrics would look as they should, and its parameters never move.
    ///
    /// # Example
    /// ```
    /// use burn_dpo::PairLogProbs;
    /// use burn::tensor::Device;
    ///
    /// let pairs = PairLogProbs::from_host(&[(-4.0, 3)], &[(-6.0, 4)], &Device::default())?;
    /// assert_eq!(
    ///     pairs.expect_tracked().unwrap_err().to_string(),
    ///     "chosen is not part of a graph: no gradient would reach the policy",
    /// );
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::NotTracked`] naming the first side that is not part of a graph.
    pub fn expect_tracked(&self) -> Result<()> {
        for (what, side) in [("chosen", &self.chosen), ("rejected", &self.rejected)] {
            if !side.sum.is_tracked() {
                return Err(Error::NotTracked { what });
            }
        }
        Ok(())
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { chosen: self.chosen.detach(), rejected: self.rejected.detach() }
    }
}

/// A number for the chosen completion of each pair, and one for the rejected: `[pairs]` each.
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    pub chosen: Tensor<1>,
    pub rejected: Tensor<1>,
}

impl Sides {
    /// The same function of either side.
    pub fn map(self, f: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        Self { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    /// Chosen − rejected.
    pub fn difference(self) -> Tensor<1> {
        self.chosen - self.rejected
    }

    pub fn without_autodiff(self) -> Self {
        self.map(Tensor::without_autodiff)
    }

    /// Sums by their [`inverse_token_counts`](PairLogProbs::inverse_token_counts): 0 for an empty completion, whatever its sum.
    pub fn per_token(self, inverse: &Sides) -> Self {
        let mean = |sum: Tensor<1>, inverse: &Tensor<1>| {
            let empty = inverse.clone().equal_elem(0.0);
            sum.mask_fill(empty, 0.0) * inverse.clone()
        };
        Self { chosen: mean(self.chosen, &inverse.chosen), rejected: mean(self.rejected, &inverse.rejected) }
    }
}

/// Policy beside reference, checked, in one number format.
pub(crate) struct Compared {
    /// The policy's log-probs, in the graph that made them.
    pub policy: Sides,
    /// The reference's, without a graph.
    pub reference: Sides,
    /// `log π − log π_ref`, without a graph.
    pub log_ratio: Sides,
}

/// Checks that the two go together, and takes the reference out of any graph.
///
/// Formats are brought to f64 if any is f64, else to f32.
pub(crate) fn compare(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Compared> {
    expect_pairs("policy", policy.pairs(), "reference", reference.pairs())?;
    check_same_device("policy", &policy.device(), "reference", &reference.device())?;
    let dtype = common_dtype(policy.dtypes().into_iter().chain(reference.dtypes()));
    let (policy, reference) = (policy.sums(dtype), reference.sums(dtype).without_autodiff());
    let constant = policy.clone().without_autodiff();
    let log_ratio = Sides {
        chosen: constant.chosen - reference.chosen.clone(),
        rejected: constant.rejected - reference.rejected.clone(),
    };
    Ok(Compared { policy, reference, log_ratio })
}

/// The policy's log-probs of completions that are not paired, in the graph that made them, and their log-ratios without one.
pub(crate) struct ComparedSequences {
    pub policy: Tensor<1>,
    pub log_ratio: Tensor<1>,
}

/// [`compare`] for completions that are not paired.
pub(crate) fn compare_sequences(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<ComparedSequences> {
    policy.check("policy token_count")?;
    reference.check("reference token_count")?;
    if policy.sum.dims() != reference.sum.dims() {
        let (expected, actual) = (policy.sum.dims().to_vec(), reference.sum.dims().to_vec());
        return Err(Error::Shape { what: "reference", expected, actual });
    }
    check_same_device("policy", &policy.sum.device(), "reference", &reference.sum.device())?;
    let dtype = common_dtype([policy.sum.dtype(), reference.sum.dtype()]);
    let [policy, reference] = [policy, reference].map(|model| model.sum.clone().cast(FloatDType::from(dtype)));
    let log_ratio = policy.clone().without_autodiff() - reference.without_autodiff();
    Ok(ComparedSequences { policy, log_ratio })
}

/// One policy alone, in one number format: for losses without a reference.
pub(crate) fn alone(policy: &PairLogProbs) -> Sides {
    policy.sums(common_dtype(policy.dtypes()))
}

impl PairLogProbs {
    /// The same numbers, out of any graph and on a device without autodiff.
    pub(crate) fn without_autodiff(mut self) -> Self {
        for side in [&mut self.chosen, &mut self.rejected] {
            side.sum = side.sum.clone().without_autodiff();
        }
        self
    }

    /// Where its numbers are.
    pub fn device(&self) -> Device {
        self.chosen.sum.device()
    }

    fn dtypes(&self) -> [DType; 2] {
        [self.chosen.sum.dtype(), self.rejected.sum.dtype()]
    }

    fn sums(&self, dtype: DType) -> Sides {
        let [chosen, rejected] =
            [&self.chosen, &self.rejected].map(|side| side.sum.clone().cast(FloatDType::from(dtype)));
        Sides { chosen, rejected }
    }

    /// 1 / token count, and 0 for an empty completion, in the format of `like`.
    pub(crate) fn inverse_token_counts(&self, like: &Tensor<1>) -> Sides {
        let inverse = |side: &SequenceLogProbs| {
            let count = side.token_count.clone().without_autodiff();
            let empty = count.clone().lower_elem(1);
            count.clamp_min(1).cast(FloatDType::from(like.dtype())).recip().mask_fill(empty, 0.0)
        };
        Sides { chosen: inverse(&self.chosen), rejected: inverse(&self.rejected) }
    }
}

impl SequenceLogProbs {
    fn from_host(what: &'static str, sequences: &[(f32, usize)], device: &Device) -> Result<Self> {
        let device = device.clone().without_autodiff();
        let (sums, counts): (Vec<f32>, Vec<usize>) = sequences.iter().copied().unzip();
        let narrow = |(sequence, length): (usize, usize)| {
            i32::try_from(length).map_err(|_| Error::Length {
                sequence,
                what,
                length,
                limit_name: "the largest number of tokens",
                limit: i32::MAX as usize,
            })
        };
        let counts: Vec<i32> = counts.into_iter().enumerate().map(narrow).collect::<Result<_>>()?;
        let shape = [sequences.len()];
        Self::new(
            Tensor::from_data(TensorData::new(sums, shape), (&device, DType::F32)),
            Tensor::from_data(TensorData::new(counts, shape), (&device, DType::I32)),
        )
    }
}

/// The format in which numbers of these formats are computed together: f64 if any is, else f32.
pub(crate) fn common_dtype(dtypes: impl IntoIterator<Item = DType>) -> DType {
    if dtypes.into_iter().any(|dtype| dtype == DType::F64) { DType::F64 } else { DType::F32 }
}

pub(crate) fn expect_pairs(
    left: &'static str,
    left_pairs: usize,
    right: &'static str,
    right_pairs: usize,
) -> Result<()> {
    if left_pairs == right_pairs { Ok(()) } else { Err(Error::PairCount { left, left_pairs, right, right_pairs }) }
}

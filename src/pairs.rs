//! One model's log-probabilities of preference pairs.

use burn_tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData, kind::Basic, s};

use crate::{
    Error, Result, SequenceLogProbs,
    error::expect_pairs,
    ops::{check_float, check_same_device, check_same_strategy, common_dtype, independent_of},
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
    /// The chosen completions, and then the rejected ones, `[2 · pairs]`.
    stack: SequenceLogProbs,
    /// The side that was not part of a graph when the two were put together, if only one was.
    untracked: Option<&'static str>,
}

impl PairLogProbs {
    /// From the chosen and the rejected completions, in the same order.
    ///
    /// They are concatenated here, in the graph that computed them: one backward pass goes through all losses of a `PairLogProbs`.
    /// Where their dtypes differ, both become f64 if either is, else f32.
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
        let untracked = match (chosen.sum.is_tracked(), rejected.sum.is_tracked()) {
            (false, true) => Some("chosen"),
            (true, false) => Some("rejected"),
            _ => None,
        };
        let stack = SequenceLogProbs {
            ld_alpha: chosen.ld_alpha.filter(|alpha| rejected.ld_alpha == Some(*alpha)),
            sum: stacked_sums(chosen.sum, rejected.sum),
            token_count: stacked_counts(chosen.token_count, rejected.token_count),
        };
        Ok(Self { stack, untracked })
    }

    /// From a checked stack: chosen completions in its first half, rejected ones in the second.
    pub(crate) fn of_stack(stack: SequenceLogProbs) -> Self {
        Self { stack, untracked: None }
    }

    /// From numbers on the host: `(summed log-prob, counted tokens)` of each completion. A reference model's log-probs are stored
    /// like that when they are computed once, before training. They carry no gradient.
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
        let counts_of_chosen = narrow_counts("chosen token count", chosen)?;
        let counts_of_rejected = narrow_counts("rejected token count", rejected)?;
        expect_pairs("chosen", chosen.len(), "rejected", rejected.len())?;
        let sums: Vec<f32> = chosen.iter().chain(rejected).map(|(sum, _)| *sum).collect();
        let counts = [counts_of_chosen, counts_of_rejected].concat();
        let (device, shape) = (device.clone().without_autodiff(), [sums.len()]);
        let sum = Tensor::from_data(TensorData::new(sums, shape), (&device, DType::F32));
        SequenceLogProbs::new(sum, Tensor::from_data(TensorData::new(counts, shape), (&device, DType::I32)))?
            .into_pairs()
    }

    /// The chosen completions.
    pub fn chosen(&self) -> SequenceLogProbs {
        self.half(0)
    }

    /// The rejected completions.
    pub fn rejected(&self) -> SequenceLogProbs {
        self.half(1)
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        self.stack.sum.dims()[0] / 2
    }

    /// The device of the log-probs.
    pub fn device(&self) -> Device {
        self.stack.sum.device()
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
        match self.untracked {
            _ if !self.stack.sum.is_tracked() => Err(Error::NotTracked { what: "chosen" }),
            Some(what) => Err(Error::NotTracked { what }),
            None => Ok(()),
        }
    }

    /// The same numbers, cut off from the graph that computed them.
    pub fn detach(self) -> Self {
        Self::of_stack(self.stack.detach())
    }

    /// The same numbers, out of any graph and on a device without autodiff.
    pub(crate) fn without_autodiff(self) -> Self {
        Self::of_stack(SequenceLogProbs { sum: self.stack.sum.without_autodiff(), ..self.stack })
    }

    /// The chosen completions, and then the rejected ones.
    pub(crate) fn stack(&self) -> &SequenceLogProbs {
        &self.stack
    }

    fn half(&self, half: usize) -> SequenceLogProbs {
        let SequenceLogProbs { sum, token_count, ld_alpha } = self.stack.clone();
        if self.pairs() == 0 {
            return self.stack.clone(); // burn's empty slice would leave the graph
        }
        SequenceLogProbs { sum: half_of(sum, half), token_count: half_of(token_count, half), ld_alpha }
    }
}

fn half_of<K: Basic>(stack: Tensor<1, K>, half: usize) -> Tensor<1, K> {
    let pairs = stack.dims()[0] / 2;
    stack.slice(s![half * pairs..(half + 1) * pairs])
}

fn stacked_sums(chosen: Tensor<1>, rejected: Tensor<1>) -> Tensor<1> {
    let (one, two) = (chosen.dtype(), rejected.dtype());
    let dtype = FloatDType::from(if one == two { one } else { common_dtype([one, two]) });
    let sums = [chosen, rejected].map(|sum| if sum.dtype() == DType::from(dtype) { sum } else { sum.cast(dtype) });
    if sums[0].dims() == [0] {
        let [chosen, rejected] = sums;
        return independent_of(chosen, &rejected); // burn's empty concatenation would leave the graph
    }
    Tensor::cat(sums.to_vec(), 0)
}

fn stacked_counts(chosen: Tensor<1, Int>, rejected: Tensor<1, Int>) -> Tensor<1, Int> {
    let counts = [chosen, rejected].map(Tensor::without_autodiff);
    let alike = counts[0].dtype() == counts[1].dtype();
    let counts = if alike { counts } else { counts.map(|count| count.cast(IntDType::I32)) };
    Tensor::cat(counts.to_vec(), 0)
}

/// Token counts in 32 bits.
fn narrow_counts(what: &'static str, sequences: &[(f32, usize)]) -> Result<Vec<i32>> {
    let narrow = |(sequence, &(_, length)): (usize, &(f32, usize))| {
        i32::try_from(length).map_err(|_| Error::Length {
            sequence,
            what,
            length,
            limit_name: "the largest number of tokens",
            limit: i32::MAX as usize,
        })
    };
    sequences.iter().enumerate().map(narrow).collect()
}

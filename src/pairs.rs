//! Log-probabilities of preference pairs, under one model and under two.

use std::sync::OnceLock;

use burn_tensor::{DType, Device, FloatDType, Int, IntDType, Tensor, TensorData, kind::Basic, s};

use crate::{
    Error, Result, SequenceLogProbs,
    numbers::{Numbers, function_of},
    ops::{check_float, check_same_device, check_same_strategy, closed_form, saves_launches},
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
    /// The chosen ones and the rejected ones below each other: what they are halves of, or made when asked for.
    stack: OnceLock<SequenceLogProbs>,
    /// Likewise.
    sides: OnceLock<[SequenceLogProbs; 2]>,
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
        Ok(Self { stack: OnceLock::new(), sides: [chosen, rejected].into() })
    }

    /// From a checked stack of at least one pair.
    pub(crate) fn of_stack(stack: SequenceLogProbs) -> Self {
        Self { stack: stack.into(), sides: OnceLock::new() }
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
    pub fn chosen(&self) -> &SequenceLogProbs {
        &self.sides()[0]
    }

    /// The rejected completions.
    pub fn rejected(&self) -> &SequenceLogProbs {
        &self.sides()[1]
    }

    /// How many pairs there are.
    pub fn pairs(&self) -> usize {
        match self.stack.get() {
            Some(stack) => stack.sum.dims()[0] / 2,
            None => self.chosen().sum.dims()[0],
        }
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
        if self.stack.get().is_some_and(|stack| stack.sum.is_tracked()) {
            return Ok(());
        }
        for (what, side) in ["chosen", "rejected"].into_iter().zip(self.sides()) {
            if !side.sum.is_tracked() {
                return Err(Error::NotTracked { what });
            }
        }
        Ok(())
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        self.map(SequenceLogProbs::detach)
    }
}

/// A number for the chosen completion of each pair, and one for the rejected.
#[derive(Debug, Clone)]
pub(crate) struct Sides {
    pub chosen: Numbers,
    pub rejected: Numbers,
}

impl Sides {
    /// The same function of either side.
    pub fn map(self, f: impl Fn(Numbers) -> Numbers) -> Self {
        Self { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    /// Chosen − rejected.
    pub fn difference(self) -> Numbers {
        self.chosen - self.rejected
    }

    /// Sums by their [`inverse_token_counts`](PairLogProbs::inverse_token_counts): 0 for an empty completion, whatever its sum.
    pub fn per_token(self, inverse: &Sides) -> Self {
        let mean = |sum: Numbers, inverse: &Numbers| {
            let empty = inverse.clone().equal_elem(0.0);
            sum.mask_fill(empty, 0.0) * inverse.clone()
        };
        Self { chosen: mean(self.chosen, &inverse.chosen), rejected: mean(self.rejected, &inverse.rejected) }
    }
}

/// A policy's log-probs, in the graph that made them: what losses are functions of.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant)] // tensors are large
pub(crate) enum Policy {
    /// Of chosen and of rejected completions, `[pairs]` each.
    Apart { chosen: Tensor<1>, rejected: Tensor<1> },
    /// The chosen ones and then the rejected ones, `[2 · pairs]`: where each slice is a launch.
    Stacked(Tensor<1>),
}

impl Policy {
    /// The numbers, without the graph.
    pub fn numbers(&self) -> Sides {
        match self {
            Self::Apart { chosen, rejected } => Sides { chosen: Numbers::of(chosen), rejected: Numbers::of(rejected) },
            Self::Stacked(stack) => Sides::of_stack(stack),
        }
    }

    /// The sides as tensors: chosen, and rejected.
    pub fn sides(self) -> [Tensor<1>; 2] {
        match self {
            Self::Apart { chosen, rejected } => [chosen, rejected],
            Self::Stacked(stack) => [0, 1].map(|side| half(&stack, side)),
        }
    }

    /// The chosen side as a tensor.
    pub fn chosen(self) -> Tensor<1> {
        match self {
            Self::Apart { chosen, .. } => chosen,
            Self::Stacked(stack) => half(&stack, 0),
        }
    }

    /// The loss with that value, whose derivatives in chosen and rejected log-probs are the slopes.
    pub fn loss(self, value: Numbers, slopes: Sides) -> Tensor<1> {
        match self {
            Self::Apart { chosen, rejected } => {
                let value = function_of(chosen, value, [slopes.chosen]);
                if rejected.is_tracked() { closed_form(value, [(rejected, slopes.rejected.compute())]) } else { value }
            }
            Self::Stacked(stack) => function_of(stack, value, [slopes.chosen, slopes.rejected]),
        }
    }

    /// The loss of a difference, in which it has that slope: what pulls on one pushes on the other.
    pub fn loss_of_difference(self, value: Numbers, slope: Numbers) -> Tensor<1> {
        self.loss(value, Sides { chosen: slope.clone(), rejected: slope.neg() })
    }

    /// The loss of chosen completions alone: the rejected ones are out of reach of whatever comes in.
    pub fn loss_of_chosen(self, value: Numbers, slope: Numbers) -> Tensor<1> {
        match self {
            Self::Stacked(stack) if !stack.is_tracked() => value.compute(), // which is no slice
            policy => function_of(policy.chosen(), value, [slope]),
        }
    }
}

impl Sides {
    fn of_stack(stack: &Tensor<1>) -> Self {
        let [chosen, rejected] = Numbers::parts_of(stack);
        Self { chosen, rejected }
    }
}

/// Policy beside reference, checked, in one number format.
pub(crate) struct Compared {
    /// The policy's log-probs, in the graph that made them.
    pub policy: Policy,
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
    let (policy, reference) = (policy.sums(dtype), reference.sums(dtype).numbers());
    let constant = policy.numbers();
    let log_ratio = Sides {
        chosen: constant.chosen - reference.chosen.clone(),
        rejected: constant.rejected - reference.rejected.clone(),
    };
    Ok(Compared { policy, reference, log_ratio })
}

/// The policy's log-probs of completions that are not paired, in the graph that made them, and their log-ratios without one.
pub(crate) struct ComparedSequences {
    pub policy: Tensor<1>,
    pub log_ratio: Numbers,
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
    let log_ratio = Numbers::of(&policy) - Numbers::of(&reference);
    Ok(ComparedSequences { policy, log_ratio })
}

/// One policy alone, in one number format: for losses without a reference.
pub(crate) fn alone(policy: &PairLogProbs) -> Policy {
    policy.sums(common_dtype(policy.dtypes()))
}

impl PairLogProbs {
    /// The same numbers, out of any graph and on a device without autodiff.
    pub(crate) fn without_autodiff(self) -> Self {
        self.map(|side| SequenceLogProbs { sum: side.sum.without_autodiff(), ..side })
    }

    /// Where its numbers are.
    pub fn device(&self) -> Device {
        self.known().sum.device()
    }

    pub(crate) fn dtypes(&self) -> Vec<DType> {
        match self.stack.get() {
            Some(stack) => vec![stack.sum.dtype()],
            None => self.sides().iter().map(|side| side.sum.dtype()).collect(),
        }
    }

    /// In one format.
    pub(crate) fn sums(&self, dtype: DType) -> Policy {
        let cast = |sum: Tensor<1>| sum.cast(FloatDType::from(dtype));
        if self.pairs() > 0 && saves_launches(&self.device(), dtype) {
            return Policy::Stacked(cast(self.stacked_sums()));
        }
        let [chosen, rejected] = self.sides().clone().map(|side| cast(side.sum));
        Policy::Apart { chosen, rejected }
    }

    /// 1 / token count, and 0 for an empty completion, as numbers of the kind of `like`.
    pub(crate) fn inverse_token_counts(&self, like: &Numbers) -> Sides {
        self.token_counts(like).map(|count| {
            let empty = count.clone().lower_elem(1.0);
            count.mask_fill(empty.clone(), 1.0).recip().mask_fill(empty, 0.0)
        })
    }

    /// Token counts, as numbers of the kind of `like`.
    pub(crate) fn token_counts(&self, like: &Numbers) -> Sides {
        let [chosen, rejected] = match like {
            Numbers::Noted(_) => Numbers::counts_of(&self.stacked_counts(), like),
            Numbers::Computed(_) => {
                let [chosen, rejected] = self.sides();
                [chosen, rejected].map(|side| {
                    let [numbers] = Numbers::counts_of(&side.token_count, like);
                    numbers
                })
            }
        };
        Sides { chosen, rejected }
    }

    /// Chosen and rejected.
    fn sides(&self) -> &[SequenceLogProbs; 2] {
        self.sides.get_or_init(|| {
            let SequenceLogProbs { sum, token_count } = self.known();
            [0, 1].map(|side| SequenceLogProbs { sum: half(sum, side), token_count: half(token_count, side) })
        })
    }

    /// Sums of chosen ones, and of rejected ones below them.
    ///
    /// Put together anew for each loss if they are part of a graph: that is good for one backward pass.
    fn stacked_sums(&self) -> Tensor<1> {
        let stack = |sums: [Tensor<1>; 2]| {
            let dtype = FloatDType::from(common_dtype(sums.iter().map(Tensor::dtype)));
            Tensor::cat(sums.map(|sum| sum.cast(dtype)).to_vec(), 0)
        };
        let sums = || self.sides().clone().map(|side| side.sum);
        match self.stack.get() {
            Some(stack) => stack.sum.clone(),
            None if sums().iter().any(Tensor::is_tracked) => stack(sums()),
            // what would change its format is not kept: sides are to be found as they were given
            None if !self.is_f32_with_narrow_counts() => stack(sums()),
            None => self
                .stack
                .get_or_init(|| SequenceLogProbs { sum: stack(sums()), token_count: self.stacked_counts() })
                .sum
                .clone(),
        }
    }

    fn is_f32_with_narrow_counts(&self) -> bool {
        self.sides().iter().all(|side| side.sum.dtype() == DType::F32 && side.token_count.dtype() == DType::I32)
    }

    fn stacked_counts(&self) -> Tensor<1, Int> {
        match self.stack.get() {
            Some(stack) => stack.token_count.clone(),
            None => {
                let counts = self.sides().clone().map(|side| side.token_count.without_autodiff().cast(IntDType::I32));
                Tensor::cat(counts.to_vec(), 0)
            }
        }
    }

    /// The stack, or one side.
    fn known(&self) -> &SequenceLogProbs {
        self.stack.get().unwrap_or_else(|| self.chosen())
    }

    fn map(self, f: impl Fn(SequenceLogProbs) -> SequenceLogProbs) -> Self {
        let mapped = Self { stack: OnceLock::new(), sides: OnceLock::new() };
        match (self.stack.into_inner(), self.sides.into_inner()) {
            (Some(stack), _) => Self { stack: f(stack).into(), ..mapped },
            (None, sides) => Self { sides: sides.expect("a stack, or sides").map(f).into(), ..mapped },
        }
    }
}

/// What a stack holds of the chosen side, 0, or of the rejected one, 1.
fn half<K: Basic>(stack: &Tensor<1, K>, side: usize) -> Tensor<1, K> {
    let pairs = stack.dims()[0] / 2;
    stack.clone().slice(s![side * pairs..(side + 1) * pairs])
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

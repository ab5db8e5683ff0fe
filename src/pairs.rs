//! Log-probabilities of preference pairs, under one model and under two.

use burn_tensor::{DType, FloatDType, Tensor};

use crate::{
    Error, Result, SequenceLogProbs,
    ops::{check_float, check_same_device, to_arithmetic_dtype},
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
        let strategy = |side: &SequenceLogProbs| side.sum.gradient_checkpointing_strategy();
        if chosen.sum.is_autodiff() && rejected.sum.is_autodiff() && strategy(&chosen) != strategy(&rejected) {
            return Err(Error::Checkpointing { left: "chosen", right: "rejected" });
        }
        expect_pairs("chosen", chosen.sum.dims()[0], "rejected", rejected.sum.dims()[0])?;
        Ok(Self { chosen, rejected })
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

/// Policy beside reference, checked, in one number format.
pub(crate) struct Compared {
    /// The policy's log-probs, in the graph that made them.
    pub policy: Sides,
    /// `log π − log π_ref`, without a graph.
    pub log_ratio: Sides,
}

/// Checks that the two go together, and takes the reference out of any graph.
///
/// Formats are brought to f64 if any is f64, else to f32.
pub(crate) fn compare(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Compared> {
    expect_pairs("policy", policy.pairs(), "reference", reference.pairs())?;
    check_same_device("policy", &policy.chosen.sum.device(), "reference", &reference.chosen.sum.device())?;

    let sums = [policy, reference].map(|model| [model.chosen.sum.dtype(), model.rejected.sum.dtype()]);
    let wide = sums.as_flattened().contains(&DType::F64);
    let sides = |model: &PairLogProbs| {
        let [chosen, rejected] = [&model.chosen, &model.rejected].map(|sequences| {
            let sum = sequences.sum.clone();
            if wide { sum.cast(FloatDType::F64) } else { to_arithmetic_dtype(sum) }
        });
        Sides { chosen, rejected }
    };
    let (policy, reference) = (sides(policy), sides(reference).without_autodiff());
    let constant = policy.clone().without_autodiff();
    Ok(Compared {
        log_ratio: Sides {
            chosen: constant.chosen - reference.chosen,
            rejected: constant.rejected - reference.rejected,
        },
        policy,
    })
}

impl Sides {
    fn without_autodiff(self) -> Self {
        Self { chosen: self.chosen.without_autodiff(), rejected: self.rejected.without_autodiff() }
    }
}

pub(crate) fn expect_pairs(
    left: &'static str,
    left_pairs: usize,
    right: &'static str,
    right_pairs: usize,
) -> Result<()> {
    if left_pairs == right_pairs { Ok(()) } else { Err(Error::PairCount { left, left_pairs, right, right_pairs }) }
}

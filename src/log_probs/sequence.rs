//! Log-probabilities of whole completions.

use burn_tensor::{FloatDType, Int, Tensor};

use crate::{Error, LdAlpha, PairLogProbs, Result, ops::to_arithmetic_dtype};

/// The log-probability of each completion, summed over its tokens, beside how many tokens were summed.
///
/// | field         | shape         | unit                                | gradient |
/// |---------------|---------------|-------------------------------------|----------|
/// | `sum`         | `[sequences]` | nats, **summed** over counted tokens | flows   |
/// | `token_count` | `[sequences]` | counted tokens                      | none     |
///
/// Usually made by [`TokenLogProbs::sequences`](crate::TokenLogProbs::sequences). Built with [`new`](Self::new) where
/// the numbers were kept on the host, as a reference model's are when they are computed once before training.
///
/// The fields can be read, not put together: that sum and count fit is checked by [`new`](Self::new).
///
/// # Example
/// ```
/// use burn_dpo::SequenceLogProbs;
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sum = Tensor::<1>::from_floats([-6.0, 0.0], &device);
/// let token_count = Tensor::<1, Int>::from_ints([3, 0], &device);
///
/// let mean = SequenceLogProbs::new(sum, token_count)?.mean().into_data();
/// assert_eq!(mean.try_to_vec::<f32>().unwrap(), [-2.0, 0.0]); // an empty completion has mean 0, not NaN
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SequenceLogProbs {
    /// Log-prob of each completion, `[sequences]`, in nats, summed over its counted tokens.
    pub sum: Tensor<1>,
    /// How many tokens were summed, `[sequences]`.
    pub token_count: Tensor<1, Int>,
    /// LD-DPO's `α` of the sums; none if it is not known.
    pub(crate) ld_alpha: Option<LdAlpha>,
}

impl SequenceLogProbs {
    /// From sums and token counts, `[sequences]` each.
    ///
    /// # Errors
    /// [`Error::Shape`] if they differ in length, [`Error::Device`] if they are on different devices, [`Error::DType`]
    /// for a sum or count in a dtype that the device cannot compute in.
    pub fn new(sum: Tensor<1>, token_count: Tensor<1, Int>) -> Result<Self> {
        let sequences = Self { sum, token_count, ld_alpha: None };
        sequences.check("token_count")?;
        crate::ops::check_float("sum", &sequences.sum)?;
        crate::ops::check_int("token_count", &sequences.token_count)?;
        Ok(sequences)
    }

    /// The log-prob per token, `[sequences]`, in nats: `sum / token_count`. Gradient flows.
    ///
    /// Where nothing was counted it is 0, whatever the sum holds there; elsewhere NaN and infinities stay.
    pub fn mean(&self) -> Tensor<1> {
        let sum = to_arithmetic_dtype(self.sum.clone());
        let count = self.token_count.clone().without_autodiff();
        let nothing = count.clone().lower_elem(1);
        let count = count.clamp_min(1).cast(FloatDType::from(sum.dtype()));
        sum.mask_fill(nothing, 0.0) / count
    }

    /// Splits a stack whose first half is chosen and whose second half is rejected, in the same order.
    ///
    /// # Errors
    /// [`Error::OddSequences`] if it cannot be halved, and those of [`PairLogProbs::new`].
    pub fn into_pairs(self) -> Result<PairLogProbs> {
        self.check("token_count")?;
        let [sequences] = self.sum.dims();
        if sequences % 2 != 0 {
            return Err(Error::OddSequences { sequences });
        }
        let pairs = sequences / 2;
        if pairs == 0 {
            return PairLogProbs::new(self.clone(), self); // burn's empty slice would leave the graph
        }
        crate::ops::check_float("chosen sum", &self.sum)?;
        Ok(PairLogProbs::of_stack(self))
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { sum: self.sum.detach(), ..self }
    }

    /// That sum and count fit each other: the fields are public, so this is asked again where it matters.
    pub(crate) fn check(&self, what: &'static str) -> Result<()> {
        if self.sum.dims() != self.token_count.dims() {
            return Err(Error::Shape {
                what,
                expected: self.sum.dims().to_vec(),
                actual: self.token_count.dims().to_vec(),
            });
        }
        crate::ops::check_same_device("sum", &self.sum.device(), what, &self.token_count.device())
    }
}

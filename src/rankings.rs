//! Log-probabilities of ranked completions, under one model.

use burn_tensor::Tensor;

use crate::{Error, Result, SequenceLogProbs, ops::check_float};

/// One model's log-probs of several completions of each prompt, best first.
///
/// | field | shape               | unit                                 | gradient |
/// |-------|---------------------|--------------------------------------|----------|
/// | `sum` | `[rankings, items]` | nats, **summed** over counted tokens | flows    |
///
/// # Example
/// ```
/// use burn_dpo::{RankedLogProbs, SequenceLogProbs};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// // Two prompts with three completions each, in one stack.
/// let stack = SequenceLogProbs::new(
///     Tensor::<1>::from_floats([-4.0, -5.0, -9.0, -3.0, -3.5, -4.0], &device),
///     Tensor::<1, Int>::from_ints([4, 4, 7, 3, 3, 3], &device),
/// )?;
/// assert_eq!(RankedLogProbs::from_sequences(&stack, 3)?.sum().dims(), [2, 3]);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RankedLogProbs {
    sum: Tensor<2>,
}

impl RankedLogProbs {
    /// From sums, `[rankings, items]`.
    ///
    /// # Errors
    /// [`Error::Parameter`] for fewer than two items, [`Error::DType`] for a dtype that the device cannot compute in.
    pub fn new(sum: Tensor<2>) -> Result<Self> {
        check_float("sum", &sum)?;
        let [_, items] = sum.dims();
        if items < 2 {
            return Err(too_few(items));
        }
        Ok(Self { sum })
    }

    /// From a stack in which `items` consecutive sequences are one ranking, best first.
    ///
    /// # Errors
    /// [`Error::Parameter`] for fewer than two items, [`Error::Shape`] if the stack does not divide into rankings.
    pub fn from_sequences(sequences: &SequenceLogProbs, items: usize) -> Result<Self> {
        let [count] = sequences.sum.dims();
        if items < 2 {
            return Err(too_few(items));
        }
        let rankings = count / items;
        if count != rankings * items {
            return Err(Error::Shape {
                what: "sequences",
                expected: vec![(rankings + 1) * items],
                actual: vec![count],
            });
        }
        Self::new(sequences.sum.clone().reshape([rankings, items]))
    }

    /// The sums, `[rankings, items]`, in nats. Gradient flows.
    pub fn sum(&self) -> Tensor<2> {
        self.sum.clone()
    }
}

fn too_few(items: usize) -> Error {
    Error::Parameter { name: "the number of items in a ranking", value: items as f64, expected: "at least 2" }
}

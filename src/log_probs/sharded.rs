//! A vocabulary in several parts: on several devices, in several processes, or read one after the other.

use burn_tensor::{DType, Device, FloatDType, Tensor};

use super::{
    TokenLogProbs,
    token::{check_logits, nothing_predicted},
};
use crate::{
    Completions, Error, Result,
    ops::{
        Implementation, SoftmaxState, arithmetic_dtype, check_float, check_same_device, computes_in, independent_of,
        with_row_gradient,
    },
};

/// What one part of the vocabulary, or several together, says of every position: enough to know log-probs and gradient
/// once all parts are [merged](Self::merge).
///
/// With `m` the largest of the part's logits and `e_v = exp(z_v − m)`:
///
/// | column of [`to_tensor`](Self::to_tensor) | what |
/// |---|---|
/// | 0 | `m`; −∞ of nothing |
/// | 1 | how many of its logits equal `m` |
/// | 2 | `Σ e_v` over all others, so that near certainty nothing is lost |
/// | 3, 4, 5, 6 | nothing |
/// | 7 | the logit of the position's token; NaN if it is in another part |
///
/// # Example
/// Two halves of a vocabulary of four:
///
/// ```
/// use burn::tensor::{Device, Tensor, s};
/// use burn_dpo::{Completions, VocabularyPart, token_log_probs};
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 3, 1]], &[1], 4, &device)?;
/// let logits = Tensor::<3>::from_floats([[[0.0, 1.0, 2.0, 3.0], [4.0, 3.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]], &device);
/// let halves = [0, 2].map(|offset| logits.clone().slice(s![.., .., offset..offset + 2]));
///
/// let one = VocabularyPart::of(&halves[0], &completions, 0, 4)?;
/// let two = VocabularyPart::of(&halves[1], &completions, 2, 4)?;
/// let whole = one.merge(two)?;
///
/// // each half's gradient comes through its own call; the values are the same
/// let log_probs = whole.token_log_probs(halves[0].clone(), &completions, 0, 4)?.values();
/// let difference = (log_probs - token_log_probs(logits, &completions)?.values()).abs().max();
/// assert!(difference.into_scalar::<f32>() < 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Source
/// The online softmax of Milakov and Gimelshein 2018 (arXiv:1805.02867), whose `(m, Σ)` merge in any order.
#[derive(Debug, Clone)]
pub struct VocabularyPart {
    state: SoftmaxState,
}

impl VocabularyPart {
    /// How many numbers there are for each position.
    pub const NUMBERS: usize = SoftmaxState::COLUMNS;

    /// Of logits `[sequences, time, part of the vocabulary]` that begin at id `offset` of a vocabulary of `vocab_size`.
    ///
    /// A constant: no gradient flows through it.
    ///
    /// # Errors
    /// Those of [`token_log_probs`](crate::token_log_probs); [`Error::Shape`] if the part ends beyond the vocabulary.
    pub fn of(logits: &Tensor<3>, completions: &Completions, offset: usize, vocab_size: usize) -> Result<Self> {
        check_part(logits, completions, offset, vocab_size)?;
        let [sequences, time, columns] = logits.dims();
        let z = logits.clone().without_autodiff();
        if sequences * time == 0 {
            return Ok(Self { state: SoftmaxState::empty(&z.device(), z.dtype()) });
        }
        let implementation = Implementation::fastest(&z.device(), z.dtype());
        let targets = completions.targets(vocab_size, implementation);
        let z = z.reshape([sequences * time, columns]);
        Ok(Self { state: SoftmaxState::of(&z, &targets.ids, offset, None, implementation) })
    }

    /// Of two parts what is known of both together.
    ///
    /// ```text
    /// m = max(m₁, m₂)        Σ = exp(m₁ − m) Σ₁ + exp(m₂ − m) Σ₂        target = whichever has it
    /// ```
    ///
    /// Associative and commutative up to rounding, so parts may be merged in any order, in any tree. If one is in f64, so is
    /// the result.
    ///
    /// # Errors
    /// [`Error::Shape`] if they are of different numbers of positions, [`Error::Device`] if they are on different devices.
    pub fn merge(self, other: Self) -> Result<Self> {
        let (one, two) = (self.to_tensor(), other.to_tensor());
        if one.dims() != two.dims() {
            let (expected, actual) = (one.dims().to_vec(), two.dims().to_vec());
            return Err(Error::Shape { what: "the other part", expected, actual });
        }
        check_same_device("one part", &one.device(), "the other", &two.device())?;
        if one.dims()[0] == 0 {
            return Ok(self);
        }
        Ok(Self { state: self.state.merge(other.state) })
    }

    /// The log-probs, given what is known of the whole vocabulary, in the graph of this part's logits.
    ///
    /// The values are the same for every part; a backward pass from them reaches the logits of this one. Give the offset that the
    /// part was made with: where in the vocabulary these logits belong cannot be seen from them. Ids that the vocabulary has but
    /// no merged part had are NaN, and so is their gradient.
    ///
    /// # Errors
    /// Those of [`of`](Self::of); [`Error::Shape`] if `self` is of another number of positions.
    pub fn token_log_probs(
        &self,
        logits: Tensor<3>,
        completions: &Completions,
        offset: usize,
        vocab_size: usize,
    ) -> Result<TokenLogProbs> {
        check_part(&logits, completions, offset, vocab_size)?;
        let [sequences, time, columns] = logits.dims();
        let expected = vec![sequences * time, Self::NUMBERS];
        if self.state.columns().dims().to_vec() != expected {
            return Err(Error::Shape {
                what: "the merged parts",
                expected,
                actual: self.state.columns().dims().to_vec(),
            });
        }
        check_same_device("logits", &logits.device(), "the merged parts", &self.state.columns().device())?;
        if sequences * time.saturating_sub(1) == 0 {
            let nothing = nothing_predicted(completions, arithmetic_dtype(logits.dtype()));
            return Ok(TokenLogProbs { values: independent_of(nothing.values, &logits), ..nothing });
        }
        let implementation = Implementation::fastest(&logits.device(), logits.dtype());
        let targets = completions.targets(vocab_size, implementation);
        let z = logits.reshape([sequences * time, columns]);
        let state = self.state.clone().with_implementation(implementation);
        let log_probs = with_row_gradient(state.outputs(false), z, &targets.ids, &state, offset);
        Ok(TokenLogProbs::of_rows(&targets, log_probs, implementation))
    }

    /// The numbers, `[sequences · time, 8]`, to be sent elsewhere: f64 from burn's CPU backends, else in the dtype that is computed in.
    pub fn to_tensor(&self) -> Tensor<2> {
        self.state.columns()
    }

    /// From [`to_tensor`](Self::to_tensor)'s numbers, on the device that they are to be merged on.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are 8 for each position, [`Error::DType`] for a dtype that the device cannot compute in, and
    /// for 16 bits, which cannot hold them.
    pub fn from_tensor(numbers: Tensor<2>) -> Result<Self> {
        let [rows, columns] = numbers.dims();
        if columns != Self::NUMBERS {
            return Err(Error::Shape {
                what: "a part of the vocabulary",
                expected: vec![rows, Self::NUMBERS],
                actual: vec![rows, columns],
            });
        }
        check_float("a part of the vocabulary", &numbers)?;
        if arithmetic_dtype(numbers.dtype()) != numbers.dtype() {
            let (dtype, device) = (format!("{:?}", numbers.dtype()), format!("{:?}", numbers.device()));
            return Err(Error::DType { what: "a part of the vocabulary", dtype, device });
        }
        Ok(Self { state: SoftmaxState::from_columns(numbers.without_autodiff()) })
    }

    /// The same on another device, in f32 if it does not compute in f64.
    pub fn to_device(self, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let columns = self.state.columns();
        let dtype = if computes_in(&device, DType::F64) { columns.dtype() } else { DType::F32 };
        Self { state: SoftmaxState::from_columns(columns.cast(FloatDType::from(dtype)).to_device(&device)) }
    }
}

fn check_part(logits: &Tensor<3>, completions: &Completions, offset: usize, vocab_size: usize) -> Result<()> {
    check_logits(logits, completions)?;
    let [sequences, time, columns] = logits.dims();
    if vocab_size > i32::MAX as usize {
        let expected = "at most 2147483647, what ids of 32 bits can name";
        return Err(Error::Parameter { name: "vocab_size", value: vocab_size as f64, expected });
    }
    if offset.saturating_add(columns) > vocab_size {
        let left = vocab_size.saturating_sub(offset);
        return Err(Error::Shape {
            what: "a part of the vocabulary",
            expected: vec![sequences, time, left],
            actual: vec![sequences, time, columns],
        });
    }
    Ok(())
}

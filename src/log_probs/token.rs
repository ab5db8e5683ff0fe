//! What a causal model's logits say of each completion token.

use burn_tensor::{Bool, DType, Tensor, s};

use super::SequenceLogProbs;
use crate::{
    Completions, Error, Result,
    completions::NextTokens,
    ops::{check_float, check_same_device, to_arithmetic_dtype},
};

/// The log-probability of every completion token, from the logits of a causal model.
///
/// ```text
/// log p(token t+1) = z[t, token t+1] − log Σ_v exp z[t, v]
/// ```
///
/// `logits` are taken exactly as the model returns them, `[sequences, time, vocab]`: the shift between a token and the
/// position that predicts it is made here.
///
/// | argument      | shape                       | unit         | gradient |
/// |---------------|-----------------------------|--------------|----------|
/// | `logits`      | `[sequences, time, vocab]`  | nats, up to a constant per position | flows |
/// | `completions` | `[sequences, time]`         | token ids    | none     |
/// | *returns*     | `[sequences, time − 1]`     | nats, ≤ 0    | flows    |
///
/// # Example
/// ```
/// use burn_dpo::{Completions, token_log_probs};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 1, 1]], &[1], 2, &device)?;
/// let logits = Tensor::<3>::from_floats([[[0.0, 0.0], [0.0, 3f32.ln()], [0.0, 0.0]]], &device);
///
/// let log_probs = token_log_probs(logits, &completions)?.values().into_data().try_to_vec::<f32>().unwrap();
/// assert!((log_probs[0] - 0.5f32.ln()).abs() < 1e-6); // position 0 predicts token 1
/// assert!((log_probs[1] - 0.75f32.ln()).abs() < 1e-6); // position 1 predicts token 2
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// f16 and bf16 logits are computed in f32 and give f32; f64 stays f64. The row's largest logit is subtracted first, so
/// no finite logit overflows, and the target's logit is taken relative to it, so a large common offset costs nothing.
///
/// # Edge cases
/// - What the mask leaves out cannot be seen: NaN, ±inf or any id at an uncounted position changes no value and no
///   gradient, bit for bit.
/// - A counted id outside the vocabulary gives NaN there, on every backend; nothing is read out of bounds.
/// - A −inf logit has probability 0. NaN or +inf anywhere in a counted position's logits, or −inf in all of them, gives
///   NaN at that position.
///
/// # Errors
/// [`Error::Shape`] if `logits` and `completions` differ in sequences or time, [`Error::EmptyVocabulary`],
/// [`Error::DType`] for a format in which the device cannot compute, [`Error::Device`] if the two are on different ones.
pub fn token_log_probs(logits: Tensor<3>, completions: &Completions) -> Result<TokenLogProbs> {
    let [sequences, time, vocab] = logits.dims();
    if [sequences, time] != completions.dims() {
        let [expected_sequences, expected_time] = completions.dims();
        return Err(Error::Shape {
            what: "logits",
            expected: vec![expected_sequences, expected_time, vocab],
            actual: vec![sequences, time, vocab],
        });
    }
    if vocab == 0 {
        return Err(Error::EmptyVocabulary { what: "logits" });
    }
    check_float("logits", &logits)?;
    check_same_device("logits", &logits.device(), "completions", &completions.device())?;

    let NextTokens { ids, counted } = completions.next_tokens();
    let predicted = time.saturating_sub(1);
    let rows = sequences * time;
    if sequences * predicted == 0 {
        // Nothing is predicted. The empty result still belongs to the logits' graph (an empty slice would not), so that
        // a training loop's backward pass can start from it.
        let first = Tensor::arange(0..predicted as i64, &completions.device());
        let values = to_arithmetic_dtype(logits).sum_dim(2).squeeze_dim::<2>(2).select(1, first);
        return Ok(TokenLogProbs { values, counted: counted.slice(s![.., 0..predicted]) });
    }
    let uncounted = counted.clone().bool_not().reshape([rows, 1]);
    let ids = ids.reshape([rows, 1]);
    let out_of_range = ids.clone().lower_elem(0).bool_or(ids.clone().greater_equal_elem(vocab as i64));
    let ids = ids.mask_fill(uncounted.clone().bool_or(out_of_range.clone()), 0);

    // Uncounted rows leave before anything is computed from them: a NaN times 0 would still be NaN in the gradient.
    let logits =
        to_arithmetic_dtype(logits).reshape([rows, vocab]).mask_fill(uncounted.clone().expand([rows, vocab]), 0.0);
    let max = finite_or_zero_max(&logits);
    let shifted = logits - max;
    let log_sum = shifted.clone().exp().sum_dim(1).log();
    let log_probs = (shifted.gather(1, ids) - log_sum)
        .mask_fill(out_of_range, f64::NAN)
        .mask_fill(uncounted, 0.0)
        .reshape([sequences, time]);

    Ok(TokenLogProbs { values: log_probs.slice(s![.., 0..predicted]), counted: counted.slice(s![.., 0..predicted]) })
}

/// The largest entry of each row, as a constant; 0 for a row of nothing but −inf, where any other would give `inf − inf`.
fn finite_or_zero_max(logits: &Tensor<2>) -> Tensor<2> {
    let max = logits.clone().without_autodiff().max_dim(1);
    let lowest = if max.dtype() == DType::F64 { f64::MIN } else { f32::MIN as f64 };
    let all_infinite = max.clone().lower_elem(lowest);
    max.mask_fill(all_infinite, 0.0)
}

/// One log-probability per predicted token, and which of them count.
///
/// | field     | shape                   | unit                                        | gradient |
/// |-----------|-------------------------|---------------------------------------------|----------|
/// | `values`  | `[sequences, time − 1]` | nats; exactly 0 where not counted           | flows    |
/// | `counted` | `[sequences, time − 1]` | true = belongs to the completion            | none     |
///
/// Column `t` is the log-prob of token `t + 1`.
#[derive(Debug, Clone)]
pub struct TokenLogProbs {
    values: Tensor<2>,
    counted: Tensor<2, Bool>,
}

impl TokenLogProbs {
    /// The log-probs, `[sequences, time − 1]`, in nats; exactly 0 where not counted. Gradient flows.
    pub fn values(&self) -> Tensor<2> {
        self.values.clone()
    }

    /// Which of them count, `[sequences, time − 1]`.
    pub fn counted(&self) -> Tensor<2, Bool> {
        self.counted.clone()
    }

    /// `log π(completion | prompt)`: the sum over each sequence's counted tokens, beside how many there are.
    ///
    /// Both come from the same mask, so a mean over them cannot be off by a token. A sequence with no counted token has
    /// sum 0 and count 0.
    ///
    /// # Numerics
    /// The sum is rounded about once, however many tokens it has: a preference is the small difference of such sums,
    /// and what they lose is not got back.
    pub fn sequences(&self) -> SequenceLogProbs {
        let whole = eighths(self.values.clone().without_autodiff());
        let rest = self.values.clone() - whole.clone();
        SequenceLogProbs {
            sum: (rest.sum_dim(1) + whole.sum_dim(1)).squeeze_dim(1),
            token_count: self.counted.clone().int().sum_dim(1).squeeze_dim(1),
        }
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { values: self.values.detach(), counted: self.counted }
    }
}

/// The multiple of 1/8 just below each value; 0 where there is none.
///
/// Their sums are exact: up to 2²¹ nats in f32, in any order. What is left of each value is below 1/8, and its sum so
/// small that its rounding hardly shows beside the final one.
fn eighths(values: Tensor<2>) -> Tensor<2> {
    let whole = (values * 8.0).floor() / 8.0;
    let none = whole.clone().is_finite().bool_not();
    whole.mask_fill(none, 0.0)
}

//! What a causal model's logits say of each completion token.

use burn_tensor::{Bool, DType, Int, Tensor, kind::Basic, s};

use super::SequenceLogProbs;
use crate::{
    Completions, Error, Result,
    completions::NextTokens,
    numerics::log1p_of_non_negative,
    ops::{
        arithmetic_dtype, check_float, check_same_device, closed_form, count, independent_of, max_of_rows,
        sum_in_blocks, to_arithmetic_dtype,
    },
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
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Completions, token_log_probs};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 1, 1]], &[1], 2, &device)?;
/// let logits = Tensor::<3>::from_floats([[[0.0, 0.0], [0.0, 3f32.ln()], [0.0, 0.0]]], &device);
///
/// let log_probs = token_log_probs(logits, &completions)?.values().into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(log_probs[0], 0.5f32.ln(), epsilon = 1e-6); // position 0 predicts token 1
/// assert_abs_diff_eq!(log_probs[1], 0.75f32.ln(), epsilon = 1e-6); // position 1 predicts token 2
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// f16 and bf16 logits are computed in f32 and give f32; f64 stays f64. The row's largest logit is subtracted first, so
/// finite logits do not overflow (but for a difference beyond the format), and the target's logit is taken relative to
/// it, so a large common offset costs nothing.
///
/// # Edge cases
/// - What the mask leaves out cannot be seen: NaN, ±inf or any id at an uncounted position changes no value and no
///   gradient, bit for bit.
/// - A counted id outside the vocabulary gives NaN there, in the value and in that position's gradient, on every
///   backend; nothing is read out of bounds.
/// - A −inf logit has probability 0. NaN or +inf anywhere in a counted position's logits, or −inf in all of them, gives
///   NaN at that position.
///
/// # Errors
/// [`Error::Shape`] if `logits` and `completions` differ in sequences or time, [`Error::EmptyVocabulary`],
/// [`Error::DType`] for a format in which the device cannot compute, [`Error::Device`] if the two are on different ones.
///
/// # Source
/// The softmax likelihood of an autoregressive model; the same quantity as `selective_log_softmax` in TRL.
pub fn token_log_probs(logits: Tensor<3>, completions: &Completions) -> Result<TokenLogProbs> {
    if let Some(nothing) = nothing_to_predict(&logits, completions)? {
        return Ok(nothing);
    }
    let (logits, rows) = select(logits, completions);
    let softmax = softmax(&logits);
    Ok(rows.log_probs(logits, softmax))
}

/// Checks that logits and completions fit. If nothing is predicted, the empty log-probs, in the graph of the logits.
pub(super) fn nothing_to_predict(logits: &Tensor<3>, completions: &Completions) -> Result<Option<TokenLogProbs>> {
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
    check_float("logits", logits)?;
    check_same_device("logits", &logits.device(), "completions", &completions.device())?;

    let predicted = time.saturating_sub(1);
    if sequences * predicted > 0 {
        return Ok(None);
    }
    let nothing = Tensor::zeros([sequences, predicted], (&completions.device(), arithmetic_dtype(logits.dtype())));
    let counted = completions.mask().slice(s![.., 0..predicted]);
    Ok(Some(TokenLogProbs { values: independent_of(nothing, logits), counted }))
}

/// What each row predicts.
pub(super) struct Rows {
    /// The token, `[rows, 1]`; 0 where none is counted or it is outside the vocabulary.
    pub(super) ids: Tensor<2, Int>,
    /// A counted token outside the vocabulary, `[rows, 1]`.
    pub(super) out_of_range: Tensor<2, Bool>,
    /// `[rows, 1]`.
    pub(super) uncounted: Tensor<2, Bool>,
    /// `[sequences, time]`.
    counted: Tensor<2, Bool>,
}

/// The logits, one row per position, `[rows, vocab]`, in the format that is computed in and in the caller's graph; all 0
/// where nothing is counted. And what each row predicts.
///
/// Uncounted rows leave before anything is computed from them: a NaN times 0 would still be NaN in the gradient.
pub(super) fn select(logits: Tensor<3>, completions: &Completions) -> (Tensor<2>, Rows) {
    let [sequences, time, vocab] = logits.dims();
    let NextTokens { ids, counted } = completions.next_tokens();
    let rows = sequences * time;
    let uncounted = counted.clone().bool_not().reshape([rows, 1]);
    let ids = ids.reshape([rows, 1]);
    let out_of_range = ids.clone().lower_elem(0).bool_or(ids.clone().greater_equal_elem(vocab as i64));
    let out_of_range = out_of_range.bool_and(uncounted.clone().bool_not());
    let ids = ids.mask_fill(uncounted.clone().bool_or(out_of_range.clone()), 0);
    let logits =
        to_arithmetic_dtype(logits).reshape([rows, vocab]).mask_fill(uncounted.clone().expand([rows, vocab]), 0.0);
    (logits, Rows { ids, out_of_range, uncounted, counted })
}

/// Each row's softmax before it is normalised, as constants.
pub(super) struct Softmax {
    /// `m`, the largest logit, `[rows, 1]`; it may be infinite or NaN.
    pub(super) max: Tensor<2>,
    /// `z − m`, `[rows, vocab]`.
    pub(super) shifted: Tensor<2>,
    /// `exp(z − m)`, `[rows, vocab]`.
    pub(super) exp: Tensor<2>,
}

pub(super) fn softmax(logits: &Tensor<2>) -> Softmax {
    let logits = logits.clone().without_autodiff();
    let max = max_of_rows(logits.clone());
    let shifted = logits - finite_or_zero(max.clone());
    Softmax { exp: shifted.clone().exp(), shifted, max }
}

impl Rows {
    /// `log p = (z_y − m) − log Σ_v exp(z_v − m)`: a gather, less a sum whose derivative in `z_v` is `exp(z_v − m)/Σ`.
    pub(super) fn log_probs(&self, logits: Tensor<2>, Softmax { max, exp, .. }: Softmax) -> TokenLogProbs {
        let target = logits.clone().gather(1, self.ids.clone()) - finite_or_zero(max);
        let sum = sum_in_blocks(exp.clone());
        // the largest adds 1: near certainty log1p is as accurate as there, and only nothing but −∞ has less
        let nowhere = self.out_of_range.clone().bool_or(sum.clone().lower_elem(0.5));
        let log_sum = log1p_of_non_negative(sum.clone() - 1.0).mask_fill(nowhere, f64::NAN);
        let log_sum = if logits.is_tracked() {
            let nowhere = self.out_of_range.clone().expand(exp.dims());
            closed_form(log_sum, [(logits, (exp / sum).mask_fill(nowhere, f64::NAN))])
        } else {
            log_sum
        };
        let log_probs = (target - log_sum).mask_fill(self.uncounted.clone(), 0.0);
        TokenLogProbs { values: self.predictions(log_probs), counted: self.predictions(self.counted.clone()) }
    }

    /// One per row, or per position, as one per prediction, `[sequences, time − 1]`: the last position predicts nothing.
    pub(super) fn predictions<K: Basic>(&self, rows: Tensor<2, K>) -> Tensor<2, K> {
        let [sequences, time] = self.counted.dims();
        rows.reshape([sequences, time]).slice(s![.., 0..time - 1])
    }
}

/// The largest entry of each row; 0 for a row of nothing but −inf, where any other would give `inf − inf`.
fn finite_or_zero(max: Tensor<2>) -> Tensor<2> {
    let lowest = if max.dtype() == DType::F64 { f64::MIN } else { f32::MIN as f64 };
    let all_infinite = max.clone().lower_elem(lowest);
    max.mask_fill(all_infinite, 0.0)
}

/// The sum of each row, `[rows, 1]`: the value in blocks, the gradient a plain sum's, which costs less.
fn row_sums(terms: Tensor<2>) -> Tensor<2> {
    let exact = sum_in_blocks(terms.clone().without_autodiff());
    let plain = terms.sum_dim(1);
    let lost = exact - plain.clone().without_autodiff();
    let infinite = lost.clone().is_finite().bool_not(); // the plain sum is then right already
    plain + lost.mask_fill(infinite, 0.0)
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
    pub(super) values: Tensor<2>,
    pub(super) counted: Tensor<2, Bool>,
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
        let [sequences, predicted] = self.values.dims();
        if sequences * predicted == 0 {
            let (device, dtype) = (self.counted.device(), self.values.dtype());
            let sum = independent_of(Tensor::zeros([sequences], (&device, dtype)), &self.values);
            return SequenceLogProbs { sum, token_count: Tensor::zeros([sequences], (&device, DType::I32)) };
        }
        SequenceLogProbs { sum: accurate_sums(self.values.clone()), token_count: count(self.counted.clone()) }
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { values: self.values.detach(), counted: self.counted }
    }
}

/// The sum of each row, `[rows]`, rounded about once, however long the row.
pub(super) fn accurate_sums(values: Tensor<2>) -> Tensor<1> {
    let whole = eighths(values.clone().without_autodiff());
    let rest = values - whole.clone();
    (row_sums(rest) + sum_in_blocks(whole)).squeeze_dim(1)
}

/// The multiple of 1/8 nearest to each value; 0 where there is none.
///
/// Their sums are exact: up to 2²¹ nats in f32, in any order. What is left of each value is exact too, and at most
/// 1/16, so that the rounding of its sum hardly shows beside the final one; near 0 it is the value itself.
fn eighths(values: Tensor<2>) -> Tensor<2> {
    let whole = (values * 8.0).round() / 8.0;
    let none = whole.clone().is_finite().bool_not();
    whole.mask_fill(none, 0.0)
}

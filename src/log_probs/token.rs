//! What a causal model's logits say of each completion token.

use burn_tensor::{Bool, DType, Int, Tensor, s};

use super::SequenceLogProbs;
use crate::{
    Completions, Error, Result,
    completions::Predictions,
    ops::{
        self, Road, RowSums, UNCOUNTED, arithmetic_dtype, check_float, check_same_device, independent_of, predictions,
        saves_launches, sum_in_blocks, with_row_gradient,
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
/// it, so a large common offset costs nothing. Near certainty the log-prob is as accurate as it is small.
///
/// # Speed and memory
/// On burn's CPU backends and on GPUs each counted row is read once, and the backward pass makes the gradient in the logits' own
/// buffer if nobody else holds it: give the logits away (`token_log_probs(model.forward(…), …)`). Elsewhere, and for f64 on a
/// GPU, burn's operations are used. Nothing is read back. Between the passes the logits are kept, and eight numbers per position. Where they do not fit,
/// [`LmHead`](crate::LmHead) does without them.
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
    let road = Road::fastest(&logits.device(), logits.dtype());
    Ok(of_logits(logits, completions, road))
}

/// The log-probs of at least one prediction.
pub(super) fn of_logits(logits: Tensor<3>, completions: &Completions, road: Road) -> TokenLogProbs {
    let [sequences, time, vocab] = logits.dims();
    let targets = Targets::of(completions, vocab, road);
    let z = logits.reshape([sequences * time, vocab]);
    let sums = RowSums::of(&z, &targets.ids, 0, None, road);
    let log_probs = with_row_gradient(sums.outputs(false, road), z, &targets.ids, &sums, 0, road);
    targets.log_probs(log_probs)
}

/// Checks that logits and completions fit. If nothing is predicted, the empty log-probs, in the graph of the logits.
pub(super) fn nothing_to_predict(logits: &Tensor<3>, completions: &Completions) -> Result<Option<TokenLogProbs>> {
    check_logits(logits, completions)?;
    let [sequences, time, _] = logits.dims();
    if sequences * time.saturating_sub(1) > 0 {
        return Ok(None);
    }
    let nothing = nothing_predicted(completions, arithmetic_dtype(logits.dtype()));
    Ok(Some(TokenLogProbs { values: independent_of(nothing.values, logits), ..nothing }))
}

/// Checks that logits and completions fit.
pub(super) fn check_logits(logits: &Tensor<3>, completions: &Completions) -> Result<()> {
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
    check_same_device("logits", &logits.device(), "completions", &completions.device())
}

/// Log-probs of predictions none of which is counted, as constants.
pub(super) fn nothing_predicted(completions: &Completions, dtype: DType) -> TokenLogProbs {
    let [sequences, time] = completions.dims();
    let predicted = time.saturating_sub(1);
    let counted = completions.mask().slice(s![.., time - predicted..time]);
    TokenLogProbs {
        values: Tensor::zeros([sequences, predicted], (&completions.device(), dtype)),
        counted,
        token_count: Tensor::zeros([sequences], (&completions.device(), DType::I32)),
    }
}

/// What each position predicts, and how numbers of positions become numbers of predictions.
pub(super) struct Targets {
    /// The token, `[rows]` in 32 bits; [`UNCOUNTED`] where none is counted, [`NOWHERE`](crate::ops::NOWHERE) where it is outside the
    /// vocabulary.
    pub(super) ids: Tensor<1, Int>,
    /// `[sequences, time − 1]`.
    counted: Tensor<2, Bool>,
    /// `[sequences]`.
    token_count: Tensor<1, Int>,
    road: Road,
}

impl Targets {
    pub(super) fn of(completions: &Completions, vocab: usize, road: Road) -> Self {
        let Predictions { ids, counted, token_count } = match road {
            Road::Kernels => completions.predictions(vocab),
            Road::Portable => completions.portable_predictions(vocab),
        };
        Self { ids, counted, token_count, road }
    }

    /// A column of numbers of all positions, `[rows, columns]`, as those of predictions, `[sequences, time − 1]`; 0 where not counted.
    pub(super) fn counted_only(&self, rows: Tensor<2>, column: usize) -> Tensor<2> {
        let [_, columns] = rows.dims();
        let [sequences, predicted] = self.counted.dims();
        if self.road == Road::Kernels && saves_launches(&rows.device(), rows.dtype()) {
            return predictions(rows, &self.ids, predicted + 1, column);
        }
        let of_column = if columns == 1 { rows } else { rows.slice(s![.., column..=column]) };
        let of_column = of_column.mask_fill(self.counted_rows().bool_not(), 0.0);
        of_column.reshape([sequences, predicted + 1]).slice(s![.., 0..predicted])
    }

    /// [`counted_only`](Self::counted_only) of the first column, as log-probs.
    pub(super) fn log_probs(&self, rows: Tensor<2>) -> TokenLogProbs {
        TokenLogProbs {
            values: self.counted_only(rows, 0),
            counted: self.counted.clone(),
            token_count: self.token_count.clone(),
        }
    }

    /// Flags of all positions as those of predictions; none set where nothing is counted.
    pub(super) fn flags(&self, rows: Tensor<2, Bool>) -> Tensor<2, Bool> {
        let [sequences, predicted] = self.counted.dims();
        rows.reshape([sequences, predicted + 1]).slice(s![.., 0..predicted]).bool_and(self.counted.clone())
    }

    /// `[rows, 1]`.
    fn counted_rows(&self) -> Tensor<2, Bool> {
        self.ids.clone().not_equal_elem(UNCOUNTED).unsqueeze_dim(1)
    }
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
    /// How many of them, `[sequences]`.
    pub(super) token_count: Tensor<1, Int>,
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
        SequenceLogProbs { sum: accurate_sums(self.values.clone()), token_count: self.token_count.clone() }
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { values: self.values.detach(), ..self }
    }
}

/// The sum of each row, `[rows]`, rounded about once, however long the row.
pub(super) fn accurate_sums(values: Tensor<2>) -> Tensor<1> {
    if saves_launches(&values.device(), values.dtype()) {
        return ops::accurate_sums(values);
    }
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

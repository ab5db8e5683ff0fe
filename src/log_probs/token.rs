//! The log-probability of each completion token.

use burn_tensor::{Bool, DType, Int, Tensor, s};

use super::SequenceLogProbs;
use crate::{
    Completions, Error, LdAlpha, Result,
    ops::{
        Implementation, SoftmaxState, accurate_sums, arithmetic_dtype, check_float, check_same_device, independent_of,
        with_row_gradient,
    },
    targets::Targets,
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
/// finite logits do not overflow (but for a difference beyond the dtype's range), and the target's logit is taken relative to
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
/// [`Error::DType`] for a dtype that the device cannot compute in, [`Error::Device`] if the two are on different ones.
///
/// # Source
/// The softmax likelihood of an autoregressive model; the same quantity as `selective_log_softmax` in TRL.
pub fn token_log_probs(logits: Tensor<3>, completions: &Completions) -> Result<TokenLogProbs> {
    if let Some(nothing) = nothing_to_predict(&logits, completions)? {
        return Ok(nothing);
    }
    let implementation = Implementation::fastest(&logits.device(), logits.dtype());
    Ok(of_logits(logits, completions, implementation))
}

/// The log-probs of at least one prediction.
pub(super) fn of_logits(logits: Tensor<3>, completions: &Completions, implementation: Implementation) -> TokenLogProbs {
    let [sequences, time, vocab] = logits.dims();
    let targets = completions.targets(vocab, implementation);
    let z = logits.reshape([sequences * time, vocab]);
    let state = SoftmaxState::of(&z, &targets.ids, 0, None, implementation);
    let log_probs = with_row_gradient(state.outputs(false), z, &targets.ids, &state, 0);
    TokenLogProbs::of_rows(&targets, log_probs, implementation)
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
    /// From log-probs of all positions, the first column of `[sequences · time, columns]`.
    pub(super) fn of_rows(targets: &Targets, rows: Tensor<2>, implementation: Implementation) -> Self {
        Self {
            values: targets.predictions(rows, 0, implementation),
            counted: targets.counted.clone(),
            token_count: targets.token_count.clone(),
        }
    }

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
    /// The sum is rounded about once, however many tokens it has: a preference is the small difference of such sums, and cannot
    /// recover what they lose.
    pub fn sequences(&self) -> SequenceLogProbs {
        let [sequences, predicted] = self.values.dims();
        if sequences * predicted == 0 {
            let (device, dtype) = (self.counted.device(), self.values.dtype());
            let sum = independent_of(Tensor::zeros([sequences], (&device, dtype)), &self.values);
            let token_count = Tensor::zeros([sequences], (&device, DType::I32));
            return SequenceLogProbs { sum, token_count, ld_alpha: Some(LdAlpha::ONE) };
        }
        let (sum, token_count) = (accurate_sums(self.values.clone()), self.token_count.clone());
        SequenceLogProbs { sum, token_count, ld_alpha: Some(LdAlpha::ONE) }
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { values: self.values.detach(), ..self }
    }
}

//! What else a causal model's logits say at each completion token: how sure the model was, and whether it would have
//! chosen that token itself.

use burn_tensor::{Bool, DType, FloatDType, Int, Tensor};

use super::{TokenLogProbs, token::nothing_to_predict};
use crate::{
    Completions, Result,
    ops::{Implementation, SoftmaxState, accurate_sums, arithmetic_dtype, count, with_row_gradient},
    targets::Targets,
};

/// The log-probability of every completion token beside the entropy and other statistics of the distribution that it was
/// drawn from.
///
/// With `p_v = exp z_v / Σ_u exp z_u` at the position that predicts the token:
///
/// ```text
/// entropy      H = −Σ_v p_v log p_v          ∂H/∂z_v = −p_v (log p_v + H)
/// log Σ p²       = log Σ_v p_v²
/// mean logit     = (1/V) Σ_v z_v
/// is argmax      : z_token is the largest of all z_v, the first of equals
/// ```
///
/// Log-probs are those of [`token_log_probs`](crate::token_log_probs), bit for bit; all the rest is counted by the same
/// mask.
///
/// | argument      | shape                       | unit         | gradient |
/// |---------------|-----------------------------|--------------|----------|
/// | `logits`      | `[sequences, time, vocab]`  | nats, up to a constant per position | flows |
/// | `completions` | `[sequences, time]`         | token ids    | none     |
/// | *returns*     | five of `[sequences, time − 1]` | see [`TokenStatistics`] | flows into log-probs and entropy |
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Completions, token_statistics};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 1, 0]], &[1], 2, &device)?;
/// let logits = Tensor::<3>::from_floats([[[0.0, 0.0], [0.0, 3f32.ln()], [0.0, 0.0]]], &device);
///
/// let statistics = token_statistics(logits, &completions)?; // probabilities ½ and ½, then ¼ and ¾
/// let entropy = statistics.entropy().into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(entropy[0], 2f32.ln(), epsilon = 1e-6);
/// assert_abs_diff_eq!(entropy[1], 0.562_335, epsilon = 1e-6);
/// let is_argmax = statistics.is_argmax().into_data();
/// assert_eq!(is_argmax.iter::<bool>().collect::<Vec<_>>(), [false, false]); // id 1 ties with id 0, which comes first
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// f16 and bf16 logits are computed in f32 and give f32; f64 stays f64. Entropy and log Σp² are accurate *relative to
/// themselves*, also where the model is nearly certain and both are nearly 0: the largest logit is left out of the sums,
/// and the logarithm taken of one plus what remains. Both are sums of terms of one sign. The mean logit is that of the raw
/// logits, divided before they are added, so that it does not overflow.
///
/// The gradient of the entropy is the closed form, made with that of the log-prob in one pass; nothing more is kept for it.
///
/// # Edge cases
/// - What the mask leaves out cannot be seen: NaN, ±inf or any id at an uncounted position changes no value and no
///   gradient, bit for bit. Every number is 0 there, and no flag is set.
/// - A −inf logit has probability 0, adds 0 to the entropy and gets gradient 0.
/// - NaN or +inf anywhere in a counted position's logits, or −inf in all of them, gives NaN in log-prob, entropy, its
///   gradient, and log Σp². The mean logit is what the sum gives. Where there is NaN no token is the argmax; +inf is the
///   largest number, and the first of nothing but −inf is the argmax as well.
/// - A counted id outside the vocabulary gives a log-prob of NaN and is not the argmax; nothing else depends on the id.
///
/// # Errors
/// Those of [`token_log_probs`](crate::token_log_probs).
///
/// # Source
/// Shannon's entropy, and Rényi's of order 2 (`−log Σ p²`), which WPO weighs tokens by (arXiv:2406.11827). The same
/// quantities as `entropy_from_logits` and the WPO term in TRL.
pub fn token_statistics(logits: Tensor<3>, completions: &Completions) -> Result<TokenStatistics> {
    if let Some(nothing) = nothing_to_predict(&logits, completions)? {
        return Ok(TokenStatistics::of_nothing(nothing));
    }
    let implementation = Implementation::fastest(&logits.device(), logits.dtype());
    Ok(of_logits(logits, completions, implementation))
}

/// The statistics of at least one prediction.
pub(super) fn of_logits(
    logits: Tensor<3>,
    completions: &Completions,
    implementation: Implementation,
) -> TokenStatistics {
    let [sequences, time, vocab] = logits.dims();
    let targets = completions.targets(vocab, implementation);
    let z = logits.reshape([sequences * time, vocab]);
    let state = SoftmaxState::of(&z, &targets.ids, 0, Some(vocab), implementation);
    let dtype = arithmetic_dtype(z.dtype());
    let outputs = with_row_gradient(state.outputs(true), z, &targets.ids, &state, 0);
    TokenStatistics::of_rows(&targets, outputs, &Constants::of(&state, &targets.ids, dtype), implementation)
}

/// What has no gradient, `[rows, 1]` each.
pub(super) struct Constants {
    pub log_sum_sq_probs: Tensor<2>,
    pub mean_logit: Tensor<2>,
    pub is_argmax: Tensor<2, Bool>,
}

impl Constants {
    pub(super) fn of(state: &SoftmaxState, targets: &Tensor<1, Int>, dtype: DType) -> Self {
        let dtype = FloatDType::from(dtype);
        Self {
            log_sum_sq_probs: state.log_sum_sq_probs().cast(dtype),
            mean_logit: state.mean_logit().cast(dtype),
            is_argmax: state.is_argmax(targets),
        }
    }
}

/// What is known of each predicted token.
///
/// | method                | shape                   | unit                                             | gradient |
/// |-----------------------|-------------------------|--------------------------------------------------|----------|
/// | [`log_probs`](Self::log_probs)   | `[sequences, time − 1]` | nats, ≤ 0                             | flows    |
/// | [`entropy`](Self::entropy)       | `[sequences, time − 1]` | nats, 0 to `ln V`                     | flows    |
/// | [`log_sum_sq_probs`](Self::log_sum_sq_probs) | `[sequences, time − 1]` | nats, `−ln V` to 0        | none     |
/// | [`mean_logit`](Self::mean_logit) | `[sequences, time − 1]` | as the logits                         | none     |
/// | [`is_argmax`](Self::is_argmax)   | `[sequences, time − 1]` | true = the token has the largest logit | none    |
/// | [`counted`](Self::counted)       | `[sequences, time − 1]` | true = belongs to the completion      | none     |
///
/// Numbers are exactly 0, and flags false, where not counted. Column `t` is of token `t + 1`. Made by
/// [`token_statistics`].
#[derive(Debug, Clone)]
pub struct TokenStatistics {
    log_probs: TokenLogProbs,
    entropy: Tensor<2>,
    log_sum_sq_probs: Tensor<2>,
    mean_logit: Tensor<2>,
    is_argmax: Tensor<2, Bool>,
}

impl TokenStatistics {
    /// All of nothing is as empty as its log-probs.
    pub(super) fn of_nothing(log_probs: TokenLogProbs) -> Self {
        let constant = log_probs.values().without_autodiff();
        Self {
            entropy: log_probs.values(),
            log_sum_sq_probs: constant.clone(),
            mean_logit: constant,
            is_argmax: log_probs.counted(),
            log_probs,
        }
    }

    /// From the numbers of all positions, `[rows, 2]` and `[rows, 1]`.
    pub(super) fn of_rows(
        targets: &Targets,
        outputs: Tensor<2>,
        constants: &Constants,
        implementation: Implementation,
    ) -> Self {
        let predictions = |rows: &Tensor<2>, column| targets.predictions(rows.clone(), column, implementation);
        Self {
            entropy: predictions(&outputs, 1),
            log_probs: TokenLogProbs::of_rows(targets, outputs, implementation),
            log_sum_sq_probs: predictions(&constants.log_sum_sq_probs, 0),
            mean_logit: predictions(&constants.mean_logit, 0),
            is_argmax: targets.flags(constants.is_argmax.clone()),
        }
    }

    /// The log-probs: what [`token_log_probs`](crate::token_log_probs) gives, bit for bit. Gradient flows.
    pub fn log_probs(&self) -> TokenLogProbs {
        self.log_probs.clone()
    }

    /// `−Σ_v p_v log p_v`, `[sequences, time − 1]`, in nats; 0 where not counted. Gradient flows.
    pub fn entropy(&self) -> Tensor<2> {
        self.entropy.clone()
    }

    /// `log Σ_v p_v²`, `[sequences, time − 1]`, in nats: at least `−entropy`, at most 0. No gradient.
    pub fn log_sum_sq_probs(&self) -> Tensor<2> {
        self.log_sum_sq_probs.clone()
    }

    /// The mean over the vocabulary of the logits as they came, `[sequences, time − 1]`; 0 where not counted. No gradient.
    pub fn mean_logit(&self) -> Tensor<2> {
        self.mean_logit.clone()
    }

    /// Whether the token has the largest logit, the first of equals, `[sequences, time − 1]`.
    ///
    /// False where not counted, where a logit is NaN, and for an id outside the vocabulary.
    pub fn is_argmax(&self) -> Tensor<2, Bool> {
        self.is_argmax.clone()
    }

    /// Which tokens count, `[sequences, time − 1]`.
    pub fn counted(&self) -> Tensor<2, Bool> {
        self.log_probs.counted()
    }

    /// Sums over each sequence's counted tokens, to be divided by a count of one's choice. No gradient.
    ///
    /// # Example
    /// ```
    /// use burn_dpo::{Completions, token_statistics};
    /// use burn::tensor::{Device, Tensor};
    ///
    /// let device = Device::default();
    /// let completions = Completions::from_sequences(&[[0, 1, 0]], &[1], 2, &device)?;
    /// let logits = Tensor::<3>::from_floats([[[0.0, 1.0], [4.0, 3.0], [0.0, 0.0]]], &device);
    ///
    /// let sequences = token_statistics(logits, &completions)?.sequences();
    /// assert_eq!(sequences.hits.into_scalar::<i32>(), 2); // both tokens are what the model would have chosen
    /// assert_eq!(sequences.token_count.into_scalar::<i32>(), 2);
    /// assert_eq!(sequences.mean_logit.into_scalar::<f32>(), 4.0); // 0.5 + 3.5
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    pub fn sequences(&self) -> SequenceStatistics {
        let [sequences, predicted] = self.entropy.dims();
        if sequences * predicted == 0 {
            let (device, dtype) = (self.counted().device(), self.entropy.dtype());
            let nothing = Tensor::zeros([sequences], (&device, dtype));
            let none = Tensor::zeros([sequences], (&device, DType::I32));
            return SequenceStatistics {
                entropy: nothing.clone(),
                mean_logit: nothing,
                hits: none.clone(),
                token_count: none,
            };
        }
        SequenceStatistics {
            entropy: accurate_sums(self.entropy.clone().without_autodiff()),
            mean_logit: accurate_sums(self.mean_logit.clone()),
            hits: count(self.is_argmax.clone()),
            token_count: self.log_probs.token_count.clone(),
        }
    }

    /// WPO's weight of each pair: how likely its completions are under the policy, as if the policy had written them.
    ///
    /// ```text
    /// w(y)  = (1/n) Σ_t [log p(y_t) − log Σ_v p_v²]        over the n counted tokens; 0 if there are none
    /// w     = exp(w(chosen) + w(rejected))
    /// ```
    ///
    /// `log Σ_v p_v²` is what a token drawn from the policy has on (logarithmic) average, so a completion that the policy
    /// itself could have written weighs about 1. Multiply each pair's loss by it. The first half of the sequences is
    /// chosen, the second rejected, in the same order.
    ///
    /// | *returns* | `[pairs]` | dimensionless, ≥ 0 | none |
    /// |-----------|-----------|--------------------|------|
    ///
    /// # Example
    /// ```
    /// use approx::assert_abs_diff_eq;
    /// use burn_dpo::{Completions, token_statistics};
    /// use burn::tensor::{Device, Tensor};
    ///
    /// let device = Device::default();
    /// let completions = Completions::from_sequences(&[[0, 1], [0, 0]], &[1, 1], 2, &device)?;
    /// let quarter = [[0.0, 3f32.ln()], [0.0, 0.0]]; // probabilities ¼ and ¾: Σ p² = 10/16
    /// let logits = Tensor::<3>::from_floats([quarter, quarter], &device);
    ///
    /// let weight = token_statistics(logits, &completions)?.wpo_weights()?.into_scalar::<f32>();
    /// assert_abs_diff_eq!(weight, (0.75 / 0.625) * (0.25 / 0.625), epsilon = 1e-6);
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Numerics
    /// The weights are not clamped: a pair of completions that are likelier than what the policy would draw weighs more
    /// than 1. TRL does the same from 0.29 on; before, it cut them at 1.
    ///
    /// # Errors
    /// [`Error::OddSequences`](crate::Error::OddSequences) if the sequences cannot be halved.
    ///
    /// # Source
    /// Zhou et al. 2024 (arXiv:2406.11827), the sampled alignment.
    pub fn wpo_weights(&self) -> Result<Tensor<1>> {
        let relative = self.log_probs.clone().detach().values().without_autodiff() - self.log_sum_sq_probs();
        let relative = TokenLogProbs { values: relative, ..self.log_probs.clone() };
        let pairs = relative.sequences().into_pairs()?;
        Ok((pairs.chosen().mean() + pairs.rejected().mean()).exp())
    }

    /// The same numbers, cut off from the graph that made them.
    pub fn detach(self) -> Self {
        Self { log_probs: self.log_probs.detach(), entropy: self.entropy.detach(), ..self }
    }
}

/// [`TokenStatistics`] summed over each sequence's counted tokens.
///
/// | field         | shape         | unit                                     | gradient |
/// |---------------|---------------|------------------------------------------|----------|
/// | `entropy`     | `[sequences]` | nats, **summed** over counted tokens     | none     |
/// | `mean_logit`  | `[sequences]` | as the logits, **summed** over counted tokens | none |
/// | `hits`        | `[sequences]` | counted tokens that have the largest logit | none   |
/// | `token_count` | `[sequences]` | counted tokens                           | none     |
///
/// Of a sequence with no counted token all are 0.
#[derive(Debug, Clone)]
pub struct SequenceStatistics {
    /// Entropy, summed over counted tokens, `[sequences]`, nats.
    pub entropy: Tensor<1>,
    /// The vocabulary's mean logit, summed over counted tokens, `[sequences]`.
    pub mean_logit: Tensor<1>,
    /// How many counted tokens have the largest logit, `[sequences]`.
    pub hits: Tensor<1, Int>,
    /// How many tokens were counted, `[sequences]`.
    pub token_count: Tensor<1, Int>,
}

//! What else a causal model's logits say at each completion token: how sure the model was, and whether it would have
//! chosen that token itself.

use burn_tensor::{Bool, DType, Int, IntDType, Tensor};

use super::{
    TokenLogProbs,
    token::{Rows, Softmax, accurate_sums, nothing_to_predict, select, softmax},
};
use crate::{
    Completions, Result,
    numerics::log1p_of_non_negative,
    ops::{closed_form, count, indices, max_of_rows, sum_in_blocks},
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
/// The gradient of the entropy is the closed form; while there is one to come, it keeps one number per logit.
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
    let (logits, rows) = select(logits, completions);
    let softmax = softmax(&logits);
    let constant = logits.clone().without_autodiff();

    let is_argmax = rows.is_argmax(&constant, softmax.max.clone());
    let per_logit = 1.0 / constant.dims()[1] as f64;
    let mean_logit = rows.counted_only(sum_in_blocks(constant * per_logit));

    let spread = Spread::of(&softmax);
    let log_sum_sq_probs = rows.counted_only(spread.log_sum_sq_probs());
    let entropy = spread.entropy();
    let entropy =
        if logits.is_tracked() { closed_form(entropy, [(logits.clone(), spread.gradient())]) } else { entropy };

    Ok(TokenStatistics {
        entropy: rows.counted_only(entropy),
        log_sum_sq_probs,
        mean_logit,
        is_argmax: rows.predictions(is_argmax),
        log_probs: rows.log_probs(logits, softmax),
    })
}

impl Rows {
    /// Whether each row's token is the first of its largest logits, `[rows, 1]`.
    ///
    /// By comparison: burn's `argmax` gives indices of the device's default type, which may be too narrow to count a vocabulary,
    /// and on wgpu it leaves out the end of some long rows.
    fn is_argmax(&self, logits: &Tensor<2>, max: Tensor<2>) -> Tensor<2, Bool> {
        let [rows, vocab] = logits.dims();
        let ids = self.ids.clone().cast(IntDType::I32);
        let index = indices(vocab, &logits.device()).reshape([1, vocab]);
        let earlier = index.expand([rows, vocab]).lower(ids.expand([rows, vocab]));
        let largest = logits.clone().equal(max.clone().expand([rows, vocab]));
        let before = max_of_rows(logits.zeros_like().mask_fill(largest.bool_and(earlier), 1.0));
        let is_largest = logits.clone().gather(1, self.ids.clone()).equal(max);
        let nowhere = self.uncounted.clone().bool_or(self.out_of_range.clone());
        is_largest.bool_and(before.equal_elem(0.0)).bool_and(nowhere.bool_not())
    }

    /// `[rows, 1]` as `[sequences, time − 1]`, 0 where not counted.
    fn counted_only(&self, rows: Tensor<2>) -> Tensor<2> {
        self.predictions(rows.mask_fill(self.uncounted.clone(), 0.0))
    }
}

/// How far each row's distribution is from certainty, as constants: `[rows, vocab]` and `[rows, 1]`.
///
/// With `d_v = m − z_v ≥ 0`, `e_v = exp(−d_v)` and `R = Σ_v e_v − 1`, which is known better than the sum: one of the
/// largest logits, whose `e_v` is exactly 1, is never added to the rest.
struct Spread {
    /// `d`; 0 where it is infinite, as `e = 0` there.
    depth: Tensor<2>,
    /// `e`.
    exp: Tensor<2>,
    /// `e`, 0 at the largest logits.
    below: Tensor<2>,
    /// The number of largest logits, less one; NaN where no distribution is: if the largest is NaN, +inf or −inf.
    ties: Tensor<2>,
    /// `1 + R`.
    sum: Tensor<2>,
    /// `log(1 + R)`.
    log_sum: Tensor<2>,
    /// `Σ p_v d_v`.
    mean_depth: Tensor<2>,
}

impl Spread {
    fn of(softmax: &Softmax) -> Self {
        let exp = softmax.exp.clone();
        let depth = softmax.shifted.clone().neg();
        let largest = depth.clone().equal_elem(0.0);
        let infinite = depth.clone().is_inf();
        let depth = depth.mask_fill(infinite, 0.0);

        let nowhere = softmax.max.clone().is_finite().bool_not();
        let ties = sum_in_blocks(exp.zeros_like().mask_fill(largest.clone(), 1.0)) - 1.0;
        let ties = ties.mask_fill(nowhere, f64::NAN);
        let below = exp.clone().mask_fill(largest, 0.0);

        let rest = sum_in_blocks(below.clone()) + ties.clone();
        let sum = rest.clone() + 1.0;
        let mean_depth = sum_in_blocks(below.clone() * depth.clone()) / sum.clone();
        Self { log_sum: log1p_of_non_negative(rest), sum, mean_depth, ties, below, exp, depth }
    }

    /// `−Σ p_v log p_v = log(1 + R) + Σ p_v d_v`, as `log p_v = −d_v − log(1 + R)`.
    fn entropy(&self) -> Tensor<2> {
        self.log_sum.clone() + self.mean_depth.clone()
    }

    /// `−p_v (log p_v + H) = p_v (d_v − Σ p_u d_u)`: `log(1 + R)` cancels.
    fn gradient(self) -> Tensor<2> {
        self.exp / self.sum * (self.depth - self.mean_depth)
    }

    /// `log Σ p_v² = log Σ e_v² − 2 log Σ e_v`.
    fn log_sum_sq_probs(&self) -> Tensor<2> {
        let squares = sum_in_blocks(self.below.clone() * self.below.clone()) + self.ties.clone();
        log1p_of_non_negative(squares) - self.log_sum.clone() * 2.0
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
    fn of_nothing(log_probs: TokenLogProbs) -> Self {
        let constant = log_probs.values().without_autodiff();
        Self {
            entropy: log_probs.values(),
            log_sum_sq_probs: constant.clone(),
            mean_logit: constant,
            is_argmax: log_probs.counted(),
            log_probs,
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
            token_count: count(self.counted()),
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
        let relative = TokenLogProbs { values: relative, counted: self.counted() };
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

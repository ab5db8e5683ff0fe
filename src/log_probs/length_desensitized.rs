//! Log-probabilities of pairs in which the longer completion's surplus counts for less.

use burn_tensor::{Int, IntDType, Tensor, s};

use super::{SequenceLogProbs, TokenLogProbs};
use crate::{LdAlpha, PairLogProbs, Result, ops::accurate_sums};

impl TokenLogProbs {
    /// LD-DPO's log-prob of each completion: tokens beyond the length of the pair's shorter completion are scaled by `α`.
    ///
    /// With `ℓ` the smaller of the two completions' numbers of counted tokens, and `t` running over a completion's counted
    /// tokens from 1 (prompt, padding and holes in the mask are not counted as positions):
    ///
    /// ```text
    /// sum = Σ_{t ≤ ℓ} log p_t + α Σ_{t > ℓ} log p_t
    /// ```
    ///
    /// The first half of the sequences is chosen, the second rejected, in the same order. `α = 1` is
    /// [`sequences`](Self::sequences)`().`[`into_pairs`](SequenceLogProbs::into_pairs)`()`, bit for bit. Use it for
    /// **policy and reference alike**: their margin would not start at 0, so losses refuse two models with different `α`.
    ///
    /// | *returns*     | two of `[pairs]` | nats, **summed** as above                  | flows |
    /// |---------------|------------------|--------------------------------------------|-------|
    /// | `token_count` | two of `[pairs]` | *all* counted tokens, those beyond `ℓ` too | none  |
    ///
    /// # Example
    /// ```
    /// use approx::assert_abs_diff_eq;
    /// use burn_dpo::{Completions, LdAlpha, token_log_probs};
    /// use burn::tensor::{Device, Tensor};
    ///
    /// let device = Device::default();
    /// let completions = Completions::from_sequences(&[vec![0, 1, 1, 1], vec![0, 1]], &[1, 1], 2, &device)?;
    /// let log_probs = token_log_probs(Tensor::zeros([2, 4, 2], &device), &completions)?; // ln ½ everywhere
    ///
    /// let pairs = log_probs.length_desensitized_pairs(LdAlpha::new(0.5)?)?;
    /// let chosen = pairs.chosen().sum.clone().into_scalar::<f32>();
    /// assert_abs_diff_eq!(chosen, 2.0 * 0.5f32.ln(), epsilon = 1e-6); // one token, and half of the two beyond
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Edge cases
    /// `α = 0` leaves the tokens beyond `ℓ` out: NaN there changes no sum and no gradient; any other `α` scales what there is. Beside an empty completion all of the other is
    /// beyond.
    ///
    /// # Errors
    /// [`Error::OddSequences`](crate::Error::OddSequences) if the sequences cannot be halved.
    ///
    /// # Source
    /// Liu et al. 2024 (arXiv:2409.06411). TRL calls `α` `ld_alpha`.
    pub fn length_desensitized_pairs(&self, ld_alpha: LdAlpha) -> Result<PairLogProbs> {
        let [sequences, predicted] = self.values.dims();
        let alpha = ld_alpha.get();
        if alpha == 1.0 || sequences * predicted == 0 || sequences % 2 != 0 {
            return SequenceLogProbs { ld_alpha: Some(ld_alpha), ..self.sequences() }.into_pairs();
        }
        let token_count = self.token_count.clone();
        let beyond = self.nth_token().greater(shorter_of_pair(&token_count).expand([sequences, predicted]));

        let mut sum = accurate_sums(self.values.clone().mask_fill(beyond.clone(), 0.0));
        if alpha != 0.0 {
            let surplus = self.values.clone().mask_fill(beyond.bool_not(), 0.0);
            sum = sum + accurate_sums(surplus) * alpha;
        }
        SequenceLogProbs { sum, token_count, ld_alpha: Some(ld_alpha) }.into_pairs()
    }

    /// At each prediction, how many counted tokens its sequence has up to and with it, `[sequences, time − 1]`.
    fn nth_token(&self) -> Tensor<2, Int> {
        self.counted.clone().int().cast(IntDType::I32).cumsum(1)
    }
}

/// The smaller token count of each sequence's pair, `[sequences, 1]`.
fn shorter_of_pair(token_count: &Tensor<1, Int>) -> Tensor<2, Int> {
    let [sequences] = token_count.dims();
    let pairs = sequences / 2;
    let chosen = token_count.clone().slice(s![0..pairs]);
    let rejected = token_count.clone().slice(s![pairs..sequences]);
    let shorter = chosen.clone().mask_where(rejected.clone().lower(chosen), rejected);
    Tensor::cat(vec![shorter.clone(), shorter], 0).unsqueeze_dim(1)
}

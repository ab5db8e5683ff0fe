//! Loss and gradient of a trained head together: the one place where tokens and preferences meet.

use burn_tensor::{FloatDType, Tensor};

use crate::{
    Completions, Error, LmHead, LossMixture, PairLogProbs, Result,
    error::expect_pairs,
    log_probs::Rows,
    ops::{Forward, HeadGradients, HeadInputs, LogitCache, closed_form},
};

/// What [`LmHead::preference_step`] gives.
///
/// | field    | shape            | unit                                   | gradient                               |
/// |----------|------------------|----------------------------------------|----------------------------------------|
/// | `loss`   | `[1]`            | nats, **mean** over pairs              | into hidden states, weight and bias    |
/// | `losses` | `[pairs]`        | nats                                   | none                                   |
/// | `policy` | two of `[pairs]` | nats, **summed** over counted tokens   | none                                   |
/// | `cached` | scalar           | share of the logits, 0 to 1            | none                                   |
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PreferenceStep {
    /// The mean of the losses, `[1]`: what to call `backward` on. May be multiplied, or added to other terms.
    pub loss: Tensor<1>,
    /// The loss of each pair, `[pairs]`, for metrics.
    pub losses: Tensor<1>,
    /// The policy's log-probs, for metrics.
    pub policy: PairLogProbs,
    /// The share of the logits that was computed once and used for loss and gradient: from 0 to 1.
    pub cached: f64,
}

impl LmHead {
    /// The mean loss over pairs of sequences, chosen ones first, and its gradient, from hidden states
    /// `[sequences, time, hidden]`.
    ///
    /// The same as
    ///
    /// ```text
    /// policy = head.token_log_probs(hidden, completions).sequences().into_pairs()
    /// losses = loss.losses(policy, reference)
    /// losses.mean()
    /// ```
    ///
    /// and computed by the same code. But the gradient is computed at once, so the logits are cached in the buffer of the weight's
    /// gradient and need not be computed again: `6 N H V` operations instead of 8, in no more memory. The cache holds the logits of
    /// as many counted tokens as there are hidden numbers, and as one tile has (see
    /// [`with_memory_budget`](Self::with_memory_budget)); the others are computed again ([`PreferenceStep::cached`] is the share of
    /// the cached ones). Where the weight is not trained, or does not have the dtype that is computed in, the step is computed as
    /// above.
    ///
    /// # Example
    /// ```
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use burn_dpo::{Beta, Completions, FDivergence, LmHead, PairLogProbs, PreferenceLoss};
    ///
    /// let device = Device::default();
    /// let weight = Tensor::<2>::random([8, 50], Distribution::Default, &device).autodiff().require_grad();
    /// let hidden = Tensor::<3>::ones([2, 4, 8], &device).autodiff().require_grad();
    /// let completions = Completions::from_sequences(&[[1, 2, 3, 4], [1, 2, 5, 6]], &[2, 2], 50, &device)?;
    /// let reference = PairLogProbs::from_host(&[(-8.0, 2)], &[(-8.0, 2)], &device)?;
    /// let loss = PreferenceLoss::Dpo { beta: Beta::new(0.1)?, divergence: FDivergence::ReverseKl };
    ///
    /// let head = LmHead::new(weight.clone(), None);
    /// let step = head.preference_step(hidden.clone(), &completions, &reference, &loss.into())?;
    /// assert_eq!(step.cached, 1.0); // 4 counted tokens, 8 hidden numbers
    /// let gradients = step.loss.backward();
    /// assert!(weight.grad(&gradients).is_some() && hidden.grad(&gradients).is_some());
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Numerics
    /// Those of the steps above, but for the order of additions. The gradient is computed before `loss` is multiplied by anything,
    /// and multiplied in the backward pass.
    ///
    /// # Errors
    /// Those of [`token_log_probs`](Self::token_log_probs) and of the losses; [`Error::OddSequences`] if the sequences cannot be
    /// halved; [`Error::PairCount`] if the reference has another number of pairs.
    pub fn preference_step(
        &self,
        hidden: Tensor<3>,
        completions: &Completions,
        reference: &PairLogProbs,
        loss: &LossMixture,
    ) -> Result<PreferenceStep> {
        self.check(&hidden, completions)?;
        let [sequences, _] = completions.dims();
        if sequences % 2 != 0 {
            return Err(Error::OddSequences { sequences });
        }
        expect_pairs("policy", sequences / 2, "reference", reference.pairs())?;
        if self.can_cache_logits(&hidden)
            && let Some(rows) = self.rows(hidden.clone(), completions)?
        {
            return rows.step(reference, loss);
        }
        let policy = self.token_log_probs(hidden, completions)?.sequences().into_pairs()?;
        let losses = loss.losses(&policy, reference)?;
        let (loss, losses) = (losses.clone().mean(), losses.without_autodiff());
        Ok(PreferenceStep { loss, losses, policy: policy.without_autodiff(), cached: 0.0 })
    }
}

impl Rows {
    fn step(self, reference: &PairLogProbs, loss: &LossMixture) -> Result<PreferenceStep> {
        let Rows { inputs, head, .. } = &self;
        let HeadInputs { hidden, weight, bias, .. } = inputs;
        let [rows, _] = hidden.dims();
        let mut cache = LogitCache::new(head, weight, rows, hidden.dtype());
        let cached = cache.rows as f64 / rows as f64;
        let Forward { state, .. } = head.forward(inputs, None, false, Some(&mut cache));

        // the losses, and the gradient that each counted token's log-prob receives from them
        let log_probs = state.outputs(false).cast(FloatDType::from(hidden.dtype())).autodiff().require_grad();
        let policy = self.token_log_probs(log_probs.clone()).sequences().into_pairs()?;
        let losses = loss.losses(&policy, reference)?;
        let mean = losses.clone().mean();
        let upstream = if mean.is_tracked() { log_probs.grad(&mean.clone().backward()) } else { None };
        let upstream = upstream.unwrap_or_else(|| log_probs.without_autodiff().zeros_like());

        let gradients: HeadGradients<Option<Tensor<2>>> = head.gradient(inputs, &state, upstream, cache);
        let mut loss = mean.without_autodiff();
        if let Some(gradient) = gradients.hidden {
            loss = closed_form(loss, [(hidden.clone(), gradient)]);
        }
        if let Some(gradient) = gradients.weight {
            loss = closed_form(loss, [(weight.clone(), gradient)]);
        }
        if let Some(gradient) = gradients.bias {
            loss = closed_form(loss, [(bias.clone(), gradient.squeeze_dim(0))]);
        }
        let (losses, policy) = (losses.without_autodiff(), policy.without_autodiff());
        Ok(PreferenceStep { loss, losses, policy, cached })
    }
}

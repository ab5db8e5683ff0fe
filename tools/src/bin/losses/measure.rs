//! Losses and their derivatives, from the library.

use anyhow::Context;
use burn::tensor::{Device, Int, Tensor};
use burn_dpo::{
    PairLogProbs, PreferenceLoss, SequenceLogProbs,
    reference::{Pair, SequenceLogProb, SequencePair},
};

/// One pair of completions of one token each, under two models: log-probs in nats, as f32 has them.
#[derive(Clone, Copy)]
pub struct Placed {
    pub policy: Pair,
    pub reference: Pair,
}

impl Placed {
    /// Where the chosen completion is `chosen` nats above its reference and the rejected one `rejected` nats; without a
    /// reference, where they are that far from a common level.
    ///
    /// Log-probs are not above 0. So what a completion would gain is taken from the other side, and the best of all has
    /// log-prob `most`.
    pub fn new(loss: &PreferenceLoss, chosen: f64, rejected: f64, most: f64) -> Self {
        let [chosen, rejected] = [chosen, rejected].map(|nats| f64::from(nats as f32));
        if loss.needs_reference() {
            let up_to_most = |gain: f64| (most + gain.min(0.0), most - gain.max(0.0));
            let ((chosen, reference_chosen), (rejected, reference_rejected)) =
                (up_to_most(chosen), up_to_most(rejected));
            let reference = Pair { chosen: reference_chosen, rejected: reference_rejected };
            return Self { policy: Pair { chosen, rejected }, reference };
        }
        let best = chosen.max(rejected);
        let policy = Pair { chosen: most + (chosen - best), rejected: most + (rejected - best) };
        Self { policy, reference: Pair { chosen: most, rejected: most } }
    }

    /// The policy's side for the f64 reference, which counts tokens.
    pub fn policy_sequences(&self) -> SequencePair {
        let one_token = |sum| SequenceLogProb { sum, token_count: 1 };
        SequencePair { chosen: one_token(self.policy.chosen), rejected: one_token(self.policy.rejected) }
    }
}

/// A loss, and its derivative in the policy's log-prob of the chosen completion.
#[derive(Clone, Copy)]
pub struct Measured {
    pub value: f64,
    pub derivative: f64,
}

/// Each pair's loss and derivative.
pub fn measure(loss: &PreferenceLoss, pairs: &[Placed], device: &Device) -> anyhow::Result<Vec<Measured>> {
    let leaf = |log_prob: fn(&Placed) -> f64, device: &Device| {
        let numbers: Vec<f32> = pairs.iter().map(|pair| log_prob(pair) as f32).collect();
        Tensor::<1>::from_floats(numbers.as_slice(), device)
    };
    let model = |chosen: Tensor<1>, rejected: Tensor<1>| {
        let one_token = |sum: Tensor<1>| SequenceLogProbs::new(sum, Tensor::<1, Int>::ones([pairs.len()], device));
        PairLogProbs::new(one_token(chosen)?, one_token(rejected)?)
    };
    let learning = device.clone().autodiff();
    let chosen = leaf(|pair| pair.policy.chosen, &learning).require_grad();
    let policy = model(chosen.clone(), leaf(|pair| pair.policy.rejected, &learning))?;
    let reference = model(leaf(|pair| pair.reference.chosen, device), leaf(|pair| pair.reference.rejected, device))?;

    let losses = loss.losses(&policy, &reference)?;
    let values = losses.clone().try_into_data()?;
    let gradient =
        chosen.grad(&losses.sum().backward()).context("the loss does not depend on the chosen completion")?;
    let derivatives = gradient.try_into_data()?;
    Ok(values.iter().zip(derivatives.iter()).map(|(value, derivative)| Measured { value, derivative }).collect())
}

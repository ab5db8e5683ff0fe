//! Supervised warm-up on both completions of each pair: a reference that knows every style, and prefers none.

use anyhow::Context;
use burn::tensor::Device;
use burn_dpo::{Completions, SequenceLogProbs, token_log_probs};
use rand::rngs::StdRng;

use super::{
    descent::{Descent, Taken},
    model::Transformer,
    tokens::{self, Batches, Pair},
};

/// A model's log-prob of every completion.
pub fn log_probs(model: &Transformer, completions: &Completions) -> burn_dpo::Result<SequenceLogProbs> {
    Ok(token_log_probs(model.forward(completions.tokens()), completions)?.sequences())
}

/// Trains on chosen and rejected completions alike; `after_step` is told the step's number, its loss, and how it was taken.
pub fn imitate(
    mut model: Transformer,
    train: &[Pair],
    batch_size: usize,
    mut descent: Descent,
    rng: &mut StdRng,
    device: &Device,
    mut after_step: impl FnMut(usize, f64, Taken) -> anyhow::Result<()>,
) -> anyhow::Result<Transformer> {
    let mut batches = Batches::new(train.len(), batch_size);
    for step in 1..=descent.steps {
        let batch: Vec<&Pair> = batches.draw(rng).map(|index| &train[index]).collect();
        let sequences = log_probs(&model, &tokens::either_completion(&batch, rng, device)?)?;

        // The mean over all tokens of the batch: long completions weigh more, as in any language model's training.
        let loss = -sequences.sum.sum() / sequences.token_count.sum().float();
        let value = loss.clone().try_into_scalar::<f64>()?;

        let taken;
        (model, taken) = descent.step(step, model, loss).with_context(|| format!("warm-up step {step}"))?;
        after_step(step, value, taken)?;
    }
    Ok(model)
}

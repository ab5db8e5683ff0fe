//! Supervised warm-up, the reference's log-probs, and the DPO loop: what to copy into a trainer of one's own.

use anyhow::Context;
use burn::{
    module::Module,
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer},
    tensor::{Device, Int, Tensor},
};
use burn_dpo::{Completions, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss, token_log_probs};
use rand::rngs::StdRng;

use crate::{
    args::Args,
    clip::clip_by_global_norm,
    log::{Log, Step},
    model::Transformer,
    tokens::{self, Batches, Pair},
};

/// What every phase of the training needs.
pub struct Trainer<'a> {
    pub args: &'a Args,
    /// Without autodiff: what is to be differentiated is the model's parameters, and they bring it along.
    pub device: Device,
    pub rng: StdRng,
    pub log: Log,
}

/// A pair, and the reference's log-probs of its completions, kept on the host.
pub struct ScoredPair {
    pub pair: Pair,
    chosen: LogProb,
    rejected: LogProb,
}

#[derive(Clone, Copy)]
struct LogProb {
    sum: f32,
    token_count: i32,
}

/// A model's log-prob of every completion.
fn log_probs(model: &Transformer, completions: &Completions) -> burn_dpo::Result<SequenceLogProbs> {
    Ok(token_log_probs(model.forward(completions.tokens()), completions)?.sequences())
}

impl Trainer<'_> {
    /// One DPO step on one batch: the page to copy.
    fn dpo_step(
        &self,
        policy: Transformer,
        optimizer: &mut ModuleOptimizer,
        batch: &[&ScoredPair],
        learning_rate: f64,
    ) -> anyhow::Result<(Transformer, Step)> {
        let beta = self.args.beta;
        let completions = self.completions(batch)?;
        let from_policy = log_probs(&policy, &completions)?.into_pairs()?;
        let from_reference = self.reference_log_probs(batch)?;

        let losses = dpo_loss(&from_policy, &from_reference, beta)?;
        let metrics = PreferenceMetrics::from_batch(&losses, &from_policy, &from_reference, beta)?;

        let mut gradients = GradientsParams::from_grads(losses.mean().backward(), &policy);
        let grad_norm = clip_by_global_norm(&mut gradients, &policy, self.args.max_grad_norm)?;
        let step = Step { learning_rate, grad_norm, metrics: metrics.entries() };
        Ok((optimizer.step(learning_rate, policy, gradients), step))
    }

    /// Trains the policy to prefer chosen to rejected, held to the reference that scored the pairs.
    pub fn dpo(
        &mut self,
        mut policy: Transformer,
        train: &[ScoredPair],
        held_out: &[ScoredPair],
    ) -> anyhow::Result<Transformer> {
        let Args { steps, batch_size, eval_every, .. } = *self.args;
        let mut optimizer = AdamWConfig::new().init();
        let mut batches = Batches::new(train.len(), batch_size);
        self.log.begin("dpo", steps)?;
        self.log.held_out(0, &self.evaluate(&policy.valid(), held_out)?)?;
        for step in 1..=steps {
            let batch: Vec<&ScoredPair> = batches.draw(&mut self.rng).map(|index| &train[index]).collect();
            let learning_rate = learning_rate(self.args.learning_rate, step, steps);

            let (stepped, result) = self
                .dpo_step(policy, &mut optimizer, &batch, learning_rate)
                .with_context(|| format!("DPO step {step}"))?;
            policy = stepped;

            self.log.step(step, result)?;
            if step % eval_every == 0 || step == steps {
                self.log.held_out(step, &self.evaluate(&policy.valid(), held_out)?)?;
            }
        }
        self.log.end();
        Ok(policy)
    }

    /// Supervised training on the chosen completions, so that there is a model worth comparing with.
    pub fn warm_up(&mut self, mut model: Transformer, train: &[Pair]) -> anyhow::Result<Transformer> {
        let Args { warmup_steps: steps, batch_size, .. } = *self.args;
        let mut optimizer = AdamWConfig::new().init();
        let mut batches = Batches::new(train.len(), batch_size);
        self.log.begin("warm-up", steps)?;
        for step in 1..=steps {
            let batch: Vec<&Pair> = batches.draw(&mut self.rng).map(|index| &train[index]).collect();
            let completions = tokens::chosen_completions(&batch, &self.device)?;
            let sequences = log_probs(&model, &completions)?;

            // The mean over all tokens of the batch: long completions weigh more, as in any language model's training.
            let loss = -sequences.sum.sum() / sequences.token_count.sum().float();
            let value = loss.clone().try_into_scalar::<f64>()?;

            let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
            let grad_norm = clip_by_global_norm(&mut gradients, &model, self.args.max_grad_norm)
                .with_context(|| format!("warm-up step {step}"))?;
            let learning_rate = learning_rate(self.args.warmup_learning_rate, step, steps);
            model = optimizer.step(learning_rate, model, gradients);
            self.log.step(step, Step { learning_rate, grad_norm, metrics: vec![("loss", value)] })?;
        }
        self.log.end();
        Ok(model)
    }

    /// Keeps the reference's log-probs of every pair. The reference never changes: once is enough.
    pub fn score(&self, reference: &Transformer, pairs: Vec<Pair>) -> anyhow::Result<Vec<ScoredPair>> {
        let mut sides = Vec::new();
        for batch in pairs.chunks(self.args.batch_size) {
            let completions = tokens::completions(&batch.iter().collect::<Vec<_>>(), &self.device)?;
            let sequences = log_probs(reference, &completions)?;
            let (sums, counts) = (sequences.sum.try_into_data()?, sequences.token_count.try_into_data()?);
            let log_probs: Vec<LogProb> =
                sums.iter().zip(counts.iter()).map(|(sum, token_count)| LogProb { sum, token_count }).collect();
            let (chosen, rejected) = log_probs.split_at(batch.len());
            sides.extend(chosen.iter().copied().zip(rejected.iter().copied()));
        }
        let scored = |(pair, (chosen, rejected))| ScoredPair { pair, chosen, rejected };
        Ok(pairs.into_iter().zip(sides).map(scored).collect())
    }

    /// The reference's log-probs of a batch, back from the host.
    fn reference_log_probs(&self, batch: &[&ScoredPair]) -> burn_dpo::Result<PairLogProbs> {
        let side = |log_prob: fn(&ScoredPair) -> LogProb| {
            let sums: Vec<f32> = batch.iter().map(|scored| log_prob(scored).sum).collect();
            let counts: Vec<i32> = batch.iter().map(|scored| log_prob(scored).token_count).collect();
            let sums = Tensor::<1>::from_floats(sums.as_slice(), &self.device);
            SequenceLogProbs::new(sums, Tensor::<1, Int>::from_ints(counts.as_slice(), &self.device))
        };
        PairLogProbs::new(side(|scored| scored.chosen)?, side(|scored| scored.rejected)?)
    }

    /// Measures a model on all pairs, in the batches in which they were scored: equal weights give equal numbers.
    pub fn evaluate(&self, model: &Transformer, pairs: &[ScoredPair]) -> anyhow::Result<PreferenceMetrics> {
        let beta = self.args.beta;
        let mut metrics = PreferenceMetrics::default();
        for batch in pairs.chunks(self.args.batch_size) {
            let batch: Vec<&ScoredPair> = batch.iter().collect();
            let from_model = log_probs(model, &self.completions(&batch)?)?.into_pairs()?;
            let from_reference = self.reference_log_probs(&batch)?;
            let losses = dpo_loss(&from_model, &from_reference, beta)?;
            metrics.merge(&PreferenceMetrics::from_batch(&losses, &from_model, &from_reference, beta)?);
        }
        Ok(metrics)
    }

    fn completions(&self, batch: &[&ScoredPair]) -> burn_dpo::Result<Completions> {
        tokens::completions(&batch.iter().map(|scored| &scored.pair).collect::<Vec<_>>(), &self.device)
    }
}

/// Up in a line over the first tenth of the steps, and from there down in a line to 0 behind the last.
fn learning_rate(peak: f64, step: usize, steps: usize) -> f64 {
    let rising = (steps / 10).max(1);
    let up = step as f64 / rising as f64;
    let down = ((steps - step) as f64 + 1.0) / ((steps - rising) as f64 + 1.0);
    peak * up.min(down)
}

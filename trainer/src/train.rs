//! Supervised warm-up, the reference's log-probs, and the DPO loop: what to copy into a trainer of one's own.

use anyhow::Context;
use burn::{module::Module, tensor::Device};
use burn_dpo::{
    Completions, PairLogProbs, PreferenceBatch, PreferenceMetrics, ReferenceDrift, TokenStatistics, token_statistics,
};
use rand::rngs::StdRng;

use crate::{
    args::Args,
    descent::Descent,
    imitation::{imitate, log_probs},
    log::{Log, Step},
    model::Transformer,
    objective::Objective,
    report::Comparison,
    tokens::{self, Batches, Pair},
};

/// How far policy and reference may be apart before the first step, in nats of a completion. Other batches mean other
/// padding and other rounding; what it is to catch, such as dropout left on, is far larger.
const REFERENCE_TOLERANCE: f64 = 0.1;

/// What every phase of the training needs.
pub struct Trainer<'a> {
    pub args: &'a Args,
    pub objective: Objective,
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

/// Summed over a completion's tokens, and how many they are.
type LogProb = (f32, usize);

impl Trainer<'_> {
    /// One DPO step on one batch: the page to copy.
    fn dpo_step(
        &self,
        policy: Transformer,
        descent: &mut Descent,
        step: usize,
        batch: &[&ScoredPair],
    ) -> anyhow::Result<(Transformer, Step)> {
        let completions = self.completions(batch)?;
        let statistics = token_statistics(policy.forward(completions.tokens()), &completions)?;
        let from_policy = statistics.log_probs().sequences().into_pairs()?;
        let from_reference = self.reference_log_probs(batch)?;

        let losses = self.objective.losses.losses(&from_policy, &from_reference)?;
        let metrics = PreferenceBatch::new(&losses, &from_policy, &from_reference, self.objective.reward_beta())
            .with_statistics(&statistics.sequences())
            .measure()?;

        let (policy, taken) = descent.step(step, policy, losses.mean())?;
        Ok((policy, Step { taken, metrics: metrics.entries() }))
    }

    /// Trains the policy to prefer chosen to rejected, held to the reference that scored the pairs.
    pub fn dpo(
        &mut self,
        mut policy: Transformer,
        reference: &Transformer,
        train: &[ScoredPair],
        held_out: &[ScoredPair],
    ) -> anyhow::Result<Transformer> {
        let Args { steps, batch_size, eval_every, learning_rate, max_grad_norm, .. } = *self.args;
        let mut descent = Descent::new(steps, learning_rate, max_grad_norm);
        let mut batches = Batches::new(train.len(), batch_size);
        self.log.begin("dpo", steps)?;
        self.log.held_out(0, &self.compare(reference, &policy.valid(), held_out)?.after)?;
        for step in 1..=steps {
            let batch: Vec<&ScoredPair> = batches.draw(&mut self.rng).map(|index| &train[index]).collect();

            let result;
            (policy, result) =
                self.dpo_step(policy, &mut descent, step, &batch).with_context(|| format!("DPO step {step}"))?;

            self.log.step(step, result)?;
            if step % eval_every == 0 || step == steps {
                self.log.held_out(step, &self.compare(reference, &policy.valid(), held_out)?.after)?;
            }
        }
        self.log.end();
        Ok(policy)
    }

    /// Supervised training on both completions of each pair.
    pub fn warm_up(&mut self, model: Transformer, train: &[Pair]) -> anyhow::Result<Transformer> {
        let Args { warmup_steps, batch_size, warmup_learning_rate, max_grad_norm, .. } = *self.args;
        let descent = Descent::new(warmup_steps, warmup_learning_rate, max_grad_norm);
        let Self { rng, device, log, .. } = self;
        log.begin("warm-up", warmup_steps)?;
        let model = imitate(model, train, batch_size, descent, rng, device, |step, loss, taken| {
            log.step(step, Step { taken, metrics: vec![("loss", loss)] })
        })?;
        log.end();
        Ok(model)
    }

    /// That the policy gives what the reference gave, before it learns: on one batch from all over the training pairs,
    /// among other neighbours than those with which the reference saw them.
    pub fn check_reference(&self, policy: &Transformer, train: &[ScoredPair]) -> anyhow::Result<()> {
        let stride = train.len().div_ceil(self.args.batch_size);
        let batch: Vec<&ScoredPair> = train.iter().step_by(stride).collect();
        let from_policy = log_probs(policy, &self.completions(&batch)?)?.into_pairs()?;
        let drift = ReferenceDrift::measure(&from_policy, &self.reference_log_probs(&batch)?)?;
        drift.expect_within(REFERENCE_TOLERANCE).context("before the first step")?;
        self.log.note(&format!(
            "policy and reference agree before the first step: {:.1e} nats apart at most in {} completions",
            drift.largest(),
            drift.by_row().len()
        ));
        Ok(())
    }

    /// Keeps the reference's log-probs of every pair. The reference never changes: once is enough.
    pub fn score(&self, reference: &Transformer, pairs: Vec<Pair>) -> anyhow::Result<Vec<ScoredPair>> {
        let mut sides = Vec::new();
        for batch in pairs.chunks(self.args.batch_size) {
            let completions = tokens::completions(&batch.iter().collect::<Vec<_>>(), &self.device)?;
            let sequences = log_probs(reference, &completions)?;
            let (sums, counts) = (sequences.sum.try_into_data()?, sequences.token_count.try_into_data()?);
            let log_probs: Vec<LogProb> =
                sums.iter().zip(counts.iter()).map(|(sum, count): (f32, i64)| (sum, count as usize)).collect();
            let (chosen, rejected) = log_probs.split_at(batch.len());
            sides.extend(chosen.iter().copied().zip(rejected.iter().copied()));
        }
        let scored = |(pair, (chosen, rejected))| ScoredPair { pair, chosen, rejected };
        Ok(pairs.into_iter().zip(sides).map(scored).collect())
    }

    /// The reference's log-probs of a batch, back from the host.
    fn reference_log_probs(&self, batch: &[&ScoredPair]) -> burn_dpo::Result<PairLogProbs> {
        let side = |side: fn(&ScoredPair) -> LogProb| batch.iter().map(|scored| side(scored)).collect::<Vec<_>>();
        PairLogProbs::from_host(&side(|scored| scored.chosen), &side(|scored| scored.rejected), &self.device)
    }

    /// Measures reference and policy on all pairs, in the batches in which they were scored: equal weights give equal
    /// numbers.
    pub fn compare(
        &self,
        reference: &Transformer,
        policy: &Transformer,
        pairs: &[ScoredPair],
    ) -> anyhow::Result<Comparison> {
        let mut comparison = Comparison::default();
        for batch in pairs.chunks(self.args.batch_size) {
            let completions = self.completions(&batch.iter().collect::<Vec<_>>())?;
            let statistics = |model: &Transformer| token_statistics(model.forward(completions.tokens()), &completions);
            let (reference, policy) = (statistics(reference)?, statistics(policy)?);
            comparison.before.merge(&self.measure(&reference, &reference)?);
            comparison.after.merge(&self.measure(&policy, &reference)?);
        }
        Ok(comparison)
    }

    /// Everything that there is to measure about a model, beside the reference on the same completions.
    fn measure(&self, model: &TokenStatistics, reference: &TokenStatistics) -> burn_dpo::Result<PreferenceMetrics> {
        let (tokens, reference_tokens) = (model.log_probs(), reference.log_probs());
        let (pairs, reference) = (tokens.sequences().into_pairs()?, reference_tokens.sequences().into_pairs()?);
        let losses = self.objective.losses.losses(&pairs, &reference)?;
        PreferenceBatch::new(&losses, &pairs, &reference, self.objective.reward_beta())
            .with_tokens(&tokens, &reference_tokens)
            .with_statistics(&model.sequences())
            .measure()
    }

    fn completions(&self, batch: &[&ScoredPair]) -> burn_dpo::Result<Completions> {
        tokens::completions(&batch.iter().map(|scored| &scored.pair).collect::<Vec<_>>(), &self.device)
    }
}

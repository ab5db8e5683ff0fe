//! Completions of held-out prompts, sampled before DPO and after, from the same random numbers.

use rand::{SeedableRng, rngs::StdRng};

use crate::{
    model::Transformer,
    style::Style,
    tokens,
    train::{ScoredPair, Trainer},
};

/// One prompt, completed before and after.
pub struct Sample {
    pub prompt: String,
    pub before: String,
    pub after: String,
}

/// What was sampled.
pub struct Samples {
    /// One completion of each of the first prompts.
    pub shown: Vec<Sample>,
    /// The style of completions before and after; None where it cannot be judged.
    pub style: Option<[Style; 2]>,
}

impl Samples {
    /// Samples as many completions as the options ask for, going round the held-out prompts.
    pub fn draw(
        trainer: &Trainer,
        held_out: &[ScoredPair],
        reference: &Transformer,
        policy: &Transformer,
    ) -> anyhow::Result<Self> {
        let mut prompts: Vec<&[u32]> = Vec::new();
        for scored in held_out {
            if !prompts.contains(&scored.pair.prompt()) {
                prompts.push(scored.pair.prompt());
            }
        }
        let shown = trainer.args.samples.min(prompts.len());
        let judged = match prompts.iter().all(|prompt| Style::knows(&tokens::text(prompt))) {
            true => trainer.args.win_rate_samples,
            false => 0,
        };
        let prompts: Vec<&[u32]> = prompts.iter().copied().cycle().take(shown.max(judged)).collect();

        let complete = |model: &Transformer| -> anyhow::Result<Vec<String>> {
            let mut seeds = StdRng::seed_from_u64(trainer.args.seed);
            let mut rngs: Vec<StdRng> = prompts.iter().map(|_| StdRng::from_rng(&mut seeds)).collect();
            let completions = model.sample(&prompts, &mut rngs, &trainer.device)?;
            Ok(completions.iter().map(|tokens| tokens::text(tokens)).collect())
        };
        let (before, after) = (complete(reference)?, complete(policy)?);
        let prompts: Vec<String> = prompts.iter().map(|prompt| tokens::text(prompt)).collect();

        let style = |completions: &[String]| {
            Style::of(
                prompts.iter().zip(completions).take(judged).map(|(prompt, text)| (prompt.as_str(), text.as_str())),
            )
        };
        let style = style(&before).zip(style(&after)).map(<[Style; 2]>::from);
        let sample = |((prompt, before), after)| Sample { prompt, before, after };
        Ok(Self { style, shown: prompts.into_iter().zip(before).zip(after).take(shown).map(sample).collect() })
    }
}

//! Learning from rankings of several answers: DPO's generalisation by the Plackett–Luce model.
//!
//! ```text
//! cargo run --release --example plackett_luce
//! cargo run --release --example plackett_luce -- --ranked 1     # only the best answer is known
//! ```
//!
//! The shipped data compares three answers to each prompt: the kind one is liked better than the curt one, and that one
//! better than the rude one.

#[path = "../common/mod.rs"]
mod common;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use burn::{
    module::Module,
    tensor::{Device, Tensor, s},
};
use burn_dpo::{Completions, RankedItems, RankedLogProbs, plackett_luce_loss};
use clap::{Parser, builder::RangedU64ValueParser};
use common::{
    exit,
    imitation::log_probs,
    model::Transformer,
    options::Options,
    start::{Start, before_and_after, progress, start},
    tokens::{self, Batches, Pair},
};

/// Trains a small byte-level transformer on rankings of three answers, by Plackett–Luce.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
struct Args {
    /// How many places of each ranking are known, from the best on [default: all]
    #[arg(long, value_name = "PLACES", value_parser = RangedU64ValueParser::<usize>::new().range(1..=3))]
    ranked: Option<usize>,

    #[command(flatten)]
    options: Options,
}

/// A prompt, and answers to it, best first.
struct Ranking<'a> {
    prompt: &'a [u32],
    answers: [&'a [u32]; 3],
}

fn main() -> ExitCode {
    exit::status(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let Options { beta, steps, batch_size, .. } = args.options;
    let known = args.ranked.map_or(RankedItems::All, RankedItems::First);
    let Start { model: mut policy, train, held_out, device, mut rng, mut descent } = start(&args.options)?;
    let reference = policy.valid();

    let (train, held_out) = (rankings(&train), rankings(&held_out));
    let mut batches = Batches::new(train.len(), batch_size);
    for step in 1..=steps {
        let batch: Vec<&Ranking> = batches.draw(&mut rng).map(|index| &train[index]).collect();
        let completions = completions(&batch, &device)?;
        let from_policy = ranked_log_probs(&policy, &completions)?;
        let from_reference = ranked_log_probs(&reference, &completions)?;

        let loss = plackett_luce_loss(&from_policy, &from_reference, beta, known)?.mean();
        let value = loss.clone().try_into_scalar::<f64>()?;
        (policy, _) = descent.step(step, policy, loss)?;
        progress("step", step, steps, &format!("loss {value:.3}"));
    }

    let completions = completions(&held_out.iter().collect::<Vec<_>>(), &device)?;
    let from_reference = ranked_log_probs(&reference, &completions)?.sum();
    let measure = |model: &Transformer| {
        measure((ranked_log_probs(model, &completions)?.sum() - from_reference.clone()) * beta.get())
    };
    let rows = measure(&reference)?.into_iter().zip(measure(&policy.valid())?);
    let rows: Vec<_> = rows.map(|((name, before), (_, after))| (name, before, after)).collect();
    Ok(writeln!(io::stdout(), "{}", before_and_after(&rows))?)
}

/// Mean rewards `[rankings, 3]` of each kind of answer, and the shares of rankings that have two of them in order.
fn measure(rewards: Tensor<2>) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let [kind, curt, rude] = [0, 1, 2].map(|place| rewards.clone().slice(s![.., place..=place]));
    let in_order = |better: &Tensor<2>, worse: &Tensor<2>| better.clone().greater(worse.clone()).float();
    let (first, second, third) = (in_order(&kind, &curt), in_order(&curt, &rude), in_order(&kind, &rude));
    let numbers = [
        ("kind answers: mean reward", kind),
        ("curt answers: mean reward", curt),
        ("rude answers: mean reward", rude),
        ("kind over curt: share in order", first.clone()),
        ("curt over rude: share in order", second.clone()),
        ("kind over rude: share in order", third.clone()),
        ("all pairs: share in order", (first + second + third) / 3.0),
    ];
    numbers.into_iter().map(|(name, numbers)| Ok((name, numbers.mean().try_into_scalar()?))).collect()
}

/// Pairs that share an answer, joined: what is rejected in one is chosen in the other.
fn rankings(pairs: &[Pair]) -> Vec<Ranking<'_>> {
    let joined = |first: &Pair, second: &Pair| first.prompt() == second.prompt() && first.rejected() == second.chosen();
    let rankings = pairs.iter().flat_map(|first| {
        pairs.iter().filter(move |second| joined(first, second)).map(move |second| Ranking {
            prompt: first.prompt(),
            answers: [first.chosen(), first.rejected(), second.rejected()],
        })
    });
    rankings.collect()
}

/// The answers of each ranking, best first, one ranking after the other.
fn completions(rankings: &[&Ranking], device: &Device) -> burn_dpo::Result<Completions> {
    let answers = rankings.iter().flat_map(|ranking| ranking.answers.map(|answer| (ranking.prompt, answer)));
    tokens::answers(answers, device)
}

fn ranked_log_probs(model: &Transformer, completions: &Completions) -> burn_dpo::Result<RankedLogProbs> {
    RankedLogProbs::from_sequences(&log_probs(model, completions)?, 3)
}

//! DPO end to end: a small transformer learns from preference pairs which of two answers people like better.
//!
//! ```text
//! cargo run --release -p burn-dpo-trainer
//! cargo run --release -p burn-dpo-trainer -- train --data pairs.jsonl --out runs/mine
//! cargo run --release -p burn-dpo-trainer -- train --loss ipo
//! ```
//!
//! The training loop is in `train.rs`; everything else is what a program needs around it.

mod args;
mod clip;
mod curves;
mod data;
mod descent;
mod device;
mod drawing;
mod exit;
mod imitation;
mod log;
mod model;
mod objective;
mod options;
mod out;
mod output;
mod report;
mod samples;
mod style;
mod tokens;
mod train;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context;
use args::{Args, Cli};
use burn::{
    module::Module,
    store::{ModuleSnapshot, SafetensorsStore},
};
use log::Log;
use model::Transformer;
use out::OutDir;
use rand::{SeedableRng, rngs::StdRng};
use report::Comparison;
use samples::Samples;
use tokens::{Encoded, Limits};
use train::{ScoredPair, Trainer};

fn main() -> ExitCode {
    exit::status(run(&Cli::options()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let device = device::by_name(&args.device).map_err(anyhow::Error::msg)?;
    let objective = args.objective()?;
    let mut rng = StdRng::seed_from_u64(args.seed);
    device.seed(args.seed);

    let source = args.data.as_deref().map_or_else(data::shipped, data::read)?;
    let limits = args.limits();
    let encoded = tokens::encode(&source, &limits)?;
    let (context, cuts) = (encoded.longest, cuts(&encoded, &limits));
    let (train, held_out) =
        tokens::split(encoded.pairs, args.held_out, &mut rng).with_context(|| source.name.clone())?;

    let (out, metrics) = args.out.as_deref().map(OutDir::create).transpose()?.unzip();
    let mut trainer = Trainer { args, objective, device: device.clone(), rng, log: Log::new(metrics) };
    let model = Transformer::new(context, &device.clone().autodiff()).train();
    let parameters = model.num_params();
    trainer.log.note(&format!(
        "{}: {} training and {} held-out pairs{cuts}; {parameters} parameters on {}; loss {}",
        source.name,
        train.len(),
        held_out.len(),
        args.device,
        trainer.objective,
    ));

    let policy = trainer.warm_up(model, &train)?;
    let reference = policy.valid(); // frozen: DPO moves the policy away from it, and it stays
    let train = trainer.score(&reference, train)?;
    let held_out = trainer.score(&reference, held_out)?;
    trainer.check_reference(&policy, &train)?;
    let policy = trainer.dpo(policy, &reference, &train, &held_out)?.valid();

    let compare = |pairs: &[ScoredPair]| trainer.compare(&reference, &policy, pairs);
    let (on_held_out, on_train) = (compare(&held_out)?, compare(&train)?);
    let samples = Samples::draw(&trainer, &held_out, &reference, &policy)?;
    if samples.style.is_none() && args.win_rate_samples > 0 {
        trainer.log.note("no win_rate: only answers to the pairs that ship with the program can be judged");
    }

    if let Some(out) = &out {
        let mut weights = SafetensorsStore::from_bytes(None);
        policy.save_into(&mut weights)?;
        out.write(out::WEIGHTS, &weights.get_bytes()?)?;
        out.write(out::CURVES, curves::svg(&trainer.log, &trainer.objective.to_string())?.as_bytes())?;
        let summary = report::summary(&trainer, &source.name, parameters, &on_held_out, &on_train, &samples)?;
        out.write(out::SUMMARY, summary.as_bytes())?;
    }
    // Last, because whoever reads it may close the pipe early.
    print(&on_held_out, &on_train, &samples).context("stdout")?;
    trainer.log.note(&format!("{} s", started.elapsed().as_secs()));
    Ok(())
}

fn print(held_out: &Comparison, train: &Comparison, samples: &Samples) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", report::metrics_table(held_out, train, samples.style))?;
    if !samples.shown.is_empty() {
        writeln!(stdout, "{}", report::samples_table(&samples.shown))?;
    }
    stdout.flush()
}

/// What had to be cut, in words for the opening line.
fn cuts(encoded: &Encoded, limits: &Limits) -> String {
    let cut = |count: usize, what: &str| if count == 0 { String::new() } else { format!("; {count} {what}") };
    [
        cut(encoded.cut_prompts, &format!("prompts cut to their last {} bytes", limits.prompt)),
        cut(encoded.cut_completions, &format!("pairs cut to their first {} tokens", limits.length)),
        cut(encoded.equal, "pairs without a difference left"),
    ]
    .concat()
}

//! Learning from single answers that people liked or not: KTO, or BCO.
//!
//! ```text
//! cargo run --release --example kto
//! cargo run --release --example kto -- --loss bco
//! ```
//!
//! Of each pair of the shipped data one answer is shown and rated; the other one is never seen. Whether the policy has
//! learned what people like is then asked with held-out pairs.

#[path = "../common/mod.rs"]
mod common;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use burn::{
    module::Module,
    tensor::{Bool, Device, Tensor, TensorData},
};
use burn_dpo::{RunningMean, Weight, bco_loss, implicit_rewards, kl_estimate, kto_loss};
use clap::{Parser, ValueEnum};
use common::{
    exit,
    imitation::log_probs,
    model::Transformer,
    options::Options,
    start::{Start, before_and_after, progress, start},
    tokens::{self, Batches, Pair},
};

/// Trains a small byte-level transformer on answers that are each known to be liked or not, by KTO or BCO.
#[derive(Parser)]
#[command(allow_negative_numbers = true)]
struct Args {
    /// The loss
    #[arg(long, value_enum, default_value = "kto")]
    loss: Loss,

    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Copy, ValueEnum)]
enum Loss {
    Kto,
    Bco,
}

/// An answer that somebody liked or did not.
struct Rated<'a> {
    prompt: &'a [u32],
    answer: &'a [u32],
    liked: bool,
}

fn main() -> ExitCode {
    exit::status(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let Options { beta, steps, batch_size, .. } = args.options;
    let Start { model: mut policy, train, held_out, device, mut rng, mut descent } = start(&args.options)?;
    let reference = policy.valid();

    let rated: Vec<Rated> = train.iter().enumerate().map(|(index, pair)| rated(pair, index % 2 == 0)).collect();
    let mut batches = Batches::new(rated.len(), batch_size);
    let mut mean_reward = RunningMean::default();
    for step in 1..=steps {
        let batch: Vec<&Rated> = batches.draw(&mut rng).map(|index| &rated[index]).collect();
        let completions = tokens::answers(batch.iter().map(|rated| (rated.prompt, rated.answer)), &device)?;
        let (from_policy, from_reference) = (log_probs(&policy, &completions)?, log_probs(&reference, &completions)?);
        let liked = TensorData::new(batch.iter().map(|rated| rated.liked).collect(), [batch.len()]);
        let liked = Tensor::<1, Bool>::from_data(liked, &device);

        let (losses, baseline) = match args.loss {
            Loss::Kto => {
                // How far the policy is from the reference, seen on answers that belong to other prompts.
                let answers = batch.iter().cycle().skip(1).map(|rated| rated.answer);
                let mismatched = tokens::answers(batch.iter().map(|rated| rated.prompt).zip(answers), &device)?;
                let kl = kl_estimate(&log_probs(&policy.valid(), &mismatched)?, &log_probs(&reference, &mismatched)?)?;
                let (liked_weight, disliked_weight) = (Weight::ONE, Weight::ONE); // as many are liked as are not
                let losses = kto_loss(&from_policy, &from_reference, &liked, &kl, beta, liked_weight, disliked_weight)?;
                (losses, format!("kl {:.3}", kl.try_into_scalar::<f64>()?))
            }
            Loss::Bco => {
                let drift = from_policy.sum.clone().without_autodiff() - from_reference.sum.clone();
                mean_reward.add(&(drift * beta.get()))?;
                let delta = mean_reward.mean_or(0.0);
                let shift = Tensor::<1>::from_floats([delta as f32], &device);
                (bco_loss(&from_policy, &from_reference, &liked, &shift, beta)?, format!("δ {delta:.3}"))
            }
        };
        let loss = losses.mean();
        let value = loss.clone().try_into_scalar::<f64>()?;
        (policy, _) = descent.step(step, policy, loss)?;
        progress("step", step, steps, &format!("loss {value:.3}, {baseline}"));
    }

    let measure = |model: &Transformer| measure(model, &reference, &held_out, args, &device);
    let (before, after) = (measure(&reference)?, measure(&policy.valid())?);
    let names = ["reward of the liked answer", "reward of the other", "margin", "share of pairs in order"];
    let rows: Vec<_> = (0..4).map(|row| (names[row], before[row], after[row])).collect();
    Ok(writeln!(io::stdout(), "{}", before_and_after(&rows))?)
}

fn rated(pair: &Pair, liked: bool) -> Rated<'_> {
    Rated { prompt: pair.prompt(), answer: if liked { pair.chosen() } else { pair.rejected() }, liked }
}

/// Mean rewards of both sides, mean margin, and the share of pairs with a margin above 0.
fn measure(
    model: &Transformer,
    reference: &Transformer,
    pairs: &[Pair],
    args: &Args,
    device: &Device,
) -> anyhow::Result<[f64; 4]> {
    let completions = tokens::completions(&pairs.iter().collect::<Vec<_>>(), device)?;
    let (model, reference) = (log_probs(model, &completions)?, log_probs(reference, &completions)?);
    let rewards = implicit_rewards(&model.into_pairs()?, &reference.into_pairs()?, args.options.beta)?;
    let ranked_right = rewards.margins().greater_elem(0.0).float();
    let mut means = [0.0; 4];
    for (mean, of) in means.iter_mut().zip([&rewards.chosen, &rewards.rejected, &rewards.margins(), &ranked_right]) {
        *mean = of.clone().mean().try_into_scalar()?;
    }
    Ok(means)
}

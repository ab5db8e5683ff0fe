//! How many kernels a GPU is asked to run in one DPO step, and which: what a small batch's time goes into.
//!
//! ```text
//! cargo run --release -p burn-dpo-tools --features wgpu --bin launches -- --device wgpu
//! ```
//!
//! Each part of a step is run once to be compiled, then once more to be counted. What the device itself does (copies from the
//! host, reading back) is no launch.

use std::{process::ExitCode, sync::Arc};

use anyhow::ensure;
use burn::tensor::{Device, Gradients, Tensor};
use burn_dpo::{
    Beta, Completions, FDivergence, LmHead, PairLogProbs, PreferenceBatch, PreferenceLoss, TokenLogProbs, dpo_loss,
    portable, token_log_probs,
};
use burn_dpo_tools::{device, exit};
use clap::Parser;
use cubecl::logging::LaunchObservation;

#[allow(dead_code)] // shared with a test
mod observer;

const PROMPT: usize = 4;

#[derive(Parser)]
struct Args {
    /// wgpu, vulkan, metal, webgpu, cuda or rocm.
    #[arg(long, default_value = "wgpu")]
    device: String,
    /// Names the kernels too.
    #[arg(long)]
    names: bool,
    /// Says how long they took, each alone.
    #[arg(long)]
    times: bool,
    #[arg(long, default_value_t = 8)]
    sequences: usize,
    /// Tokens in a sequence, 4 of them of the prompt.
    #[arg(long, default_value_t = 16)]
    time: usize,
    #[arg(long, default_value_t = 32)]
    hidden: usize,
    #[arg(long, default_value_t = 1000)]
    vocab: usize,
    /// Only the parts whose name contains this.
    #[arg(long, default_value = "")]
    only: String,
}

/// What one pass over a batch computes from.
struct Batch {
    completions: Completions,
    logits: Tensor<3>,
    hidden: Tensor<3>,
    weight: Tensor<2>,
    reference: PairLogProbs,
}

impl Batch {
    fn new(args: &Args, device: &Device) -> burn_dpo::Result<Self> {
        let Args { sequences, time, hidden, vocab, .. } = *args;
        let rows: Vec<Vec<u32>> =
            (0..sequences).map(|row| (0..time).map(|t| ((row * 37 + t * 11) % vocab) as u32).collect()).collect();
        let completions = Completions::from_sequences(&rows, &vec![PROMPT; sequences], vocab, device)?;
        let recorded = device.clone().autodiff();
        let drawn = |shape: [usize; 3]| {
            Tensor::<3>::random(shape, burn::tensor::Distribution::Normal(0.0, 1.0), &recorded).require_grad()
        };
        let reference: Vec<(f32, usize)> = (0..sequences / 2).map(|_| (-80.0, time - PROMPT)).collect();
        Ok(Self {
            logits: drawn([sequences, time, vocab]),
            hidden: drawn([sequences, time, hidden]),
            weight: drawn([1, hidden, vocab]).reshape([hidden, vocab]).detach().require_grad(),
            reference: PairLogProbs::from_host(&reference, &reference, device)?,
            completions,
        })
    }
}

fn main() -> ExitCode {
    exit::status(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let device = device::by_name(&args.device).map_err(anyhow::Error::msg)?;
    ensure!(args.vocab > 0, "--vocab 0, expected at least 1");
    let beta = Beta::new(0.1)?;
    let batch = Batch::new(args, &device)?;
    let Batch { completions, logits, hidden, weight, reference } = &batch;
    let loss = |scored: TokenLogProbs| -> anyhow::Result<Tensor<1>> {
        Ok(dpo_loss(&scored.sequences().into_pairs()?, reference, beta)?.mean())
    };
    let report = |what: &str, part: &dyn Fn() -> anyhow::Result<Vec<Tensor<1>>>| launches(what, &device, args, part);
    report("logits → log-probs", &|| {
        let scored = token_log_probs(logits.clone().detach(), completions)?;
        Ok(vec![scored.values().reshape([-1])])
    })?;
    report("logits → log-probs → gradient of logits", &|| {
        let values = token_log_probs(logits.clone(), completions)?.values();
        Ok(gradient_of(logits, &values.sum().backward()))
    })?;
    report("the same, portable", &|| {
        let values = portable::token_log_probs(logits.clone(), completions)?.values();
        Ok(gradient_of(logits, &values.sum().backward()))
    })?;
    let scored = token_log_probs(logits.clone().detach(), completions)?;
    report("log-probs → DPO loss", &|| Ok(vec![loss(scored.clone())?]))?;
    report("logits → DPO loss → gradient of logits", &|| {
        Ok(gradient_of(logits, &loss(token_log_probs(logits.clone(), completions)?)?.backward()))
    })?;
    report("hidden states → DPO loss → gradients, one head", &|| {
        let head = LmHead::new(weight.clone(), None);
        let gradients = loss(head.token_log_probs(hidden.clone(), completions)?)?.backward();
        Ok([gradient_of(hidden, &gradients), gradient_of(weight, &gradients)].concat())
    })?;
    report("hidden states → DPO loss → gradients, in one step", &|| {
        let dpo = PreferenceLoss::Dpo { beta, divergence: FDivergence::ReverseKl };
        let head = LmHead::new(weight.clone(), None);
        let gradients = head.preference_step(hidden.clone(), completions, reference, &dpo.into())?.loss.backward();
        Ok([gradient_of(hidden, &gradients), gradient_of(weight, &gradients)].concat())
    })?;
    report("hidden states → logits → DPO loss → gradients, portable", &|| {
        let logits = burn::tensor::module::linear(hidden.clone(), weight.clone(), None);
        let gradients = loss(portable::token_log_probs(logits, completions)?)?.backward();
        Ok([gradient_of(hidden, &gradients), gradient_of(weight, &gradients)].concat())
    })?;
    report("metrics of a step", &|| {
        let policy = scored.clone().sequences().into_pairs()?;
        let losses = dpo_loss(&policy, reference, beta)?;
        PreferenceBatch::new(&losses, &policy, reference, beta).measure()?;
        Ok(Vec::new())
    })
}

/// The gradient, if there is one.
fn gradient_of<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> Vec<Tensor<1>> {
    leaf.grad(gradients).map(|gradient| gradient.reshape([-1])).into_iter().collect()
}

/// Runs a part of a step twice, and prints what the second time launched.
fn launches(
    what: &str,
    device: &Device,
    args: &Args,
    part: &dyn Fn() -> anyhow::Result<Vec<Tensor<1>>>,
) -> anyhow::Result<()> {
    if !what.contains(&args.only) {
        return Ok(());
    }
    drop(part()?);
    device.sync()?;
    let seen = Arc::new(observer::Launches { times: args.times, ..Default::default() });
    let watching = LaunchObservation::new(seen.clone());
    let results = part()?;
    device.sync()?;
    drop(watching);
    drop(results);
    let kernels = seen.kernels.lock().expect("no launch panics");
    println!("{:5}  {what}", kernels.values().map(|(count, _)| count).sum::<usize>());
    for (name, (count, time)) in kernels.iter().filter(|_| args.names || args.times) {
        let time = if args.times { format!("{:9.3} ms  ", 1e3 * time.as_secs_f64()) } else { String::new() };
        println!("       {count:5}  {time}{name}");
    }
    Ok(())
}

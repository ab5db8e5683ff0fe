//! How many kernels a GPU is asked to run in one DPO step, and which: what a small batch's time goes into.
//!
//! ```text
//! cargo run --features wgpu --example launches -- --device wgpu
//! ```
//!
//! Each part of a step is run once to be compiled, then once more to be counted. What the device itself does (copies from the
//! host, reading back) is no launch.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{Arc, Mutex},
};

use burn::tensor::{Device, Tensor};
use burn_dpo::{
    Beta, Completions, LmHead, PairLogProbs, PreferenceBatch, TokenLogProbs, dpo_loss, portable, token_log_probs,
};
use clap::Parser;
use cubecl::{
    config::{TypeNameFormatLevel, type_name_format},
    logging::{LaunchObservation, LaunchObserver},
};

#[path = "common/device.rs"]
mod device;
#[path = "common/exit.rs"]
mod exit;
#[path = "common/output.rs"]
#[allow(dead_code)] // shared with other examples
mod output;

const SEQUENCES: usize = 8;
const TIME: usize = 16;
const HIDDEN: usize = 32;
const VOCAB: usize = 1000;

#[derive(Parser)]
struct Args {
    /// wgpu, vulkan, metal, webgpu, cuda or rocm.
    #[arg(long, default_value = "wgpu")]
    device: String,
    /// Names the kernels too.
    #[arg(long)]
    names: bool,
}

/// Counts what is launched, by name.
#[derive(Default)]
struct Counts(Mutex<BTreeMap<String, usize>>);

impl LaunchObserver for Counts {
    fn launched(&self, kernel: &'static str) {
        let name = type_name_format(kernel, TypeNameFormatLevel::Short);
        *self.0.lock().expect("no launch panics").entry(name).or_default() += 1;
    }
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
    fn new(device: &Device) -> burn_dpo::Result<Self> {
        let rows: Vec<Vec<u32>> = (0..SEQUENCES as u32)
            .map(|row| (0..TIME as u32).map(|t| (row * 37 + t * 11) % VOCAB as u32).collect())
            .collect();
        let completions = Completions::from_sequences(&rows, &[4; SEQUENCES], VOCAB, device)?;
        let recorded = device.clone().autodiff();
        let drawn = |shape: [usize; 3]| {
            Tensor::<3>::random(shape, burn::tensor::Distribution::Normal(0.0, 1.0), &recorded).require_grad()
        };
        let reference: Vec<(f32, usize)> = (0..SEQUENCES / 2).map(|_| (-80.0, TIME - 4)).collect();
        Ok(Self {
            logits: drawn([SEQUENCES, TIME, VOCAB]),
            hidden: drawn([SEQUENCES, TIME, HIDDEN]),
            weight: drawn([1, HIDDEN, VOCAB]).reshape([HIDDEN, VOCAB]).detach().require_grad(),
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
    let beta = Beta::new(0.1)?;
    let batch = Batch::new(&device)?;
    let Batch { completions, logits, hidden, weight, reference } = &batch;
    let loss = |scored: TokenLogProbs| -> anyhow::Result<Tensor<1>> {
        Ok(dpo_loss(&scored.sequences().into_pairs()?, reference, beta)?.mean())
    };
    let report =
        |what: &str, part: &dyn Fn() -> anyhow::Result<Vec<Tensor<1>>>| launches(what, &device, args.names, part);
    report("logits → log-probs", &|| {
        let scored = token_log_probs(logits.clone().detach(), completions)?;
        Ok(vec![scored.values().reshape([-1])])
    })?;
    report("logits → log-probs → gradient of logits", &|| {
        let values = token_log_probs(logits.clone(), completions)?.values();
        let gradient = logits.grad(&values.sum().backward());
        Ok(gradient.into_iter().map(|gradient| gradient.reshape([-1])).collect())
    })?;
    report("the same, portable", &|| {
        let values = portable::token_log_probs(logits.clone(), completions)?.values();
        let gradient = logits.grad(&values.sum().backward());
        Ok(gradient.into_iter().map(|gradient| gradient.reshape([-1])).collect())
    })?;
    let scored = token_log_probs(logits.clone().detach(), completions)?;
    report("log-probs → DPO loss", &|| Ok(vec![loss(scored.clone())?]))?;
    report("logits → DPO loss → gradient of logits", &|| {
        let gradient = logits.grad(&loss(token_log_probs(logits.clone(), completions)?)?.backward());
        Ok(gradient.into_iter().map(|gradient| gradient.reshape([-1])).collect())
    })?;
    report("hidden states → DPO loss → gradients, one head", &|| {
        let head = LmHead::new(weight.clone(), None);
        let gradients = loss(head.token_log_probs(hidden.clone(), completions)?)?.backward();
        let of_hidden = hidden.grad(&gradients).map(|gradient| gradient.reshape([-1]));
        Ok(of_hidden.into_iter().chain(weight.grad(&gradients).map(|gradient| gradient.reshape([-1]))).collect())
    })?;
    report("metrics of a step", &|| {
        let policy = scored.clone().sequences().into_pairs()?;
        let losses = dpo_loss(&policy, reference, beta)?;
        PreferenceBatch::new(&losses, &policy, reference, beta).measure()?;
        Ok(Vec::new())
    })
}

/// Runs a part of a step twice, and prints what the second time launched.
fn launches(
    what: &str,
    device: &Device,
    names: bool,
    part: &dyn Fn() -> anyhow::Result<Vec<Tensor<1>>>,
) -> anyhow::Result<()> {
    drop(part()?);
    device.sync()?;
    let counts = Arc::new(Counts::default());
    let watching = LaunchObservation::new(counts.clone());
    let results = part()?;
    device.sync()?;
    drop(watching);
    drop(results);
    let counts = counts.0.lock().expect("no launch panics");
    println!("{:5}  {what}", counts.values().sum::<usize>());
    if names {
        counts.iter().for_each(|(name, count)| println!("       {count:5} {name}"));
    }
    Ok(())
}

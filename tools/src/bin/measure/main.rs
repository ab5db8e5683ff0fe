//! How long the way from a model's output to a gradient takes, and how much memory, for anyone who wants to compare.
//!
//! ```text
//! cargo run --release -p burn-dpo-tools --bin measure -- --work logits --rows 2048 --vocab 32000 [--implementation fast]
//! ```
//!
//! Prints one JSON object:
//!
//! | key | what |
//! |---|---|
//! | `forward_s` | seconds of each repeat, without a graph |
//! | `forward_backward_s` | seconds of each repeat, to the gradient |
//! | `peak_extra_bytes` | the most that forward and backward held at a time beyond what they were given: see `--help` |
//! | `checksum` | Σ of what was computed, Σ of absolute values of gradients: about the same for all; null of a floor |
//! | `threads` | how many work on the CPU |
//! | `device` | what a GPU calls itself; null on the CPU |
//!
//! Before each, everything is computed once untimed. What the work is: see [`work::Logits`] and [`work::Heads`].

mod allocator;
mod files;
mod timing;
mod work;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::ensure;
use burn::tensor::{DType, Device};
use burn_dpo_tools::{device, exit, output};
use clap::{Parser, ValueEnum};
use files::Source;
use serde_json::json;
use timing::measure;
use work::{Heads, Implementation, Logits, Loss, Size, floor};

/// Times one kind of work, and prints one JSON object.
///
/// What `peak_extra_bytes` counts: on the CPU, what was allocated at a time, by this program's allocator. On a GPU, what
/// burn's allocator holds after one more pass, beyond what it held before, while each buffer has memory of its own size that is
/// reused by buffers of that size alone: at least what is needed at a time, without what pages that buffers share would add.
/// Null where burn does not say.
#[derive(Parser)]
struct Args {
    #[arg(long, value_enum)]
    work: Kind,
    /// Of `logits`: positions. Of the others: sequences of --time tokens, of `dpo` an even number, chosen half first.
    #[arg(long, value_parser = at_least::<1>)]
    rows: usize,
    #[arg(long, value_parser = at_least::<1>)]
    vocab: usize,
    /// How wide hidden states are.
    #[arg(long, default_value_t = 1024, value_parser = at_least::<1>)]
    hidden: usize,
    /// Tokens in a sequence: the first is not predicted.
    #[arg(long, default_value_t = 128, value_parser = at_least::<2>)]
    time: usize,
    /// Which part of the tokens is counted, the last ones of each row (of `logits`: the last rows). Token 0 never is.
    #[arg(long, default_value_t = 1.0, value_parser = share)]
    density: f64,
    /// The dtype of logits, or of hidden states and weight.
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Float,
    /// The policy's weight gets no gradient.
    #[arg(long)]
    frozen_head: bool,
    #[arg(long, value_enum, default_value = "fast")]
    implementation: Implementation,
    /// Instead of the work, what no implementation is without, by burn's own kernels on a GPU: of `logits` one read and one
    /// write of each, the same for both passes; of the others the matrix products of the counted tokens: 1 (`dpo`: 2)
    /// forward, and 2 more with a backward pass, 1 more if the head is frozen.
    #[arg(long, conflicts_with_all = ["implementation", "inputs", "outputs"])]
    floor: bool,
    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm.
    #[arg(long, default_value = "flex")]
    device: String,
    /// How often each is timed.
    #[arg(long, default_value_t = 5, value_parser = at_least::<1>)]
    repeat: usize,
    /// Reads the numbers from `inputs.safetensors` in this folder, instead of drawing them.
    #[arg(long)]
    inputs: Option<PathBuf>,
    /// Writes what was computed to `outputs.safetensors` in this folder.
    #[arg(long)]
    outputs: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Kind {
    /// Logits → log-probs.
    Logits,
    /// Hidden states → log-probs.
    Head,
    /// Hidden states of policy and reference → the DPO loss.
    Dpo,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F32,
    Bf16,
    F16,
}

fn main() -> ExitCode {
    exit::status(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let device = device::by_name(&args.device).map_err(anyhow::Error::msg)?;
    let dtype = match args.dtype {
        Float::F32 => DType::F32,
        Float::Bf16 => DType::BF16,
        Float::F16 => DType::F16,
    };
    ensure!(device.supports_dtype(dtype), "device `{}` does not compute in {}", args.device, dtype.name());
    ensure!(args.work != Kind::Dpo || args.rows.is_multiple_of(2), "--rows {}, expected pairs", args.rows);
    let size = args.size();
    let on_host = args.is_on_host();
    ensure!(!(args.floor && on_host), "--floor is of a GPU: on `{}` burn's own operations are none", args.device);
    let printed = match args.work {
        Kind::Logits if args.floor => printed(args, &device, |_| Ok(floor::Copied::new(&size, dtype, &device)))?,
        kind if args.floor => {
            printed(args, &device, |_| Ok(floor::Products::new(&size, kind == Kind::Dpo, dtype, &device)))?
        }
        Kind::Logits => printed(args, &device, |source| Logits::new(&size, dtype, source, &device))?,
        Kind::Head => printed(args, &device, |source| Heads::new(&size, Loss::Sum, dtype, source, &device))?,
        Kind::Dpo => printed(args, &device, |source| Heads::new(&size, Loss::Dpo, dtype, source, &device))?,
    };
    writeln!(io::stdout(), "{printed}")?;
    Ok(())
}

impl Args {
    /// Whether tensors are where this program's allocator counts them.
    fn is_on_host(&self) -> bool {
        ["flex", "ndarray"].contains(&self.device.as_str())
    }

    fn size(&self) -> Size {
        Size {
            rows: self.rows,
            vocab: self.vocab,
            hidden: self.hidden,
            time: self.time,
            density: self.density,
            frozen_head: self.frozen_head,
            implementation: self.implementation,
        }
    }
}

fn printed<W: work::Work>(
    args: &Args,
    device: &Device,
    work: impl FnOnce(&Source) -> anyhow::Result<W>,
) -> anyhow::Result<serde_json::Value> {
    // what was read is forgotten before anything is measured
    let work = work(&Source::open(args.inputs.as_deref())?)?;
    let measured = measure(&work, device, args.is_on_host(), args.repeat)?;
    if let Some(folder) = &args.outputs {
        files::write(folder, &measured.results)?;
    }
    Ok(json!({
        "forward_s": measured.forward,
        "forward_backward_s": measured.forward_backward,
        "peak_extra_bytes": measured.peak_extra_bytes,
        "checksum": if args.floor { json!(null) } else { output::number(checksum(&measured.results)) },
        "threads": rayon::current_num_threads(),
        "device": name_of(device),
    }))
}

/// What a GPU calls itself.
#[cfg(feature = "cube")]
fn name_of(device: &Device) -> Option<String> {
    device.identity().map(|identity| identity.name)
}

#[cfg(not(feature = "cube"))]
fn name_of(_: &Device) -> Option<String> {
    None
}

fn checksum(results: &work::Results) -> f64 {
    let sum = |(name, data): &(&str, burn::tensor::TensorData)| match name.starts_with("gradient") {
        true => data.iter::<f64>().map(f64::abs).sum::<f64>(),
        false => data.iter::<f64>().sum(),
    };
    results.iter().map(sum).sum()
}

fn at_least<const LEAST: usize>(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&value| value >= LEAST)
        .ok_or_else(|| format!("expected a whole number, at least {LEAST}"))
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| (0.0..=1.0).contains(value)).ok_or_else(|| "expected a number from 0 to 1".into())
}

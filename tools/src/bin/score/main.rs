//! The library as a calculator: reads batches of hidden states and loss configurations, and prints what the library
//! makes of them, so that it can be checked from outside.
//!
//! ```text
//! cargo run --release -p burn-dpo-tools --bin score -- FILE.json [--device flex] [--float f64] [--path hidden]
//! ```
//!
//! Exit status: 0 if every configuration was answered, 2 otherwise. A configuration that cannot be answered (a loss that is
//! not known, a key missing or not read, a parameter out of range) has an `error` in its place, and everything else is
//! printed; a file whose data does not fit itself is refused whole, in one line.

mod config;
mod input;
mod losses;
mod model;

use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use burn::tensor::{DType, Device, Tensor};
use burn_dpo_tools::{
    device,
    output::{self, is_broken_pipe, number},
};
use clap::{Parser, ValueEnum};
use config::Config;
use input::{Case, Input, Run};
use model::{Answer, Model, ModelOutput, numbers};
use serde_json::{Value, json};

/// Scores every case of FILE under every configuration in it, and prints one JSON object.
#[derive(Parser)]
struct Args {
    /// JSON in the format of the golden values: `cases`, each with tokens, masks, hidden states, head weights and runs.
    file: PathBuf,
    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm.
    #[arg(long, default_value = "flex")]
    device: String,
    /// The dtype of hidden states and weights: f64 on a CPU, f32 elsewhere, unless given. f64 tells a wrong number
    /// from one that f32 rounds.
    #[arg(long, value_enum)]
    float: Option<Float>,
    /// From the logits that the hidden states make, or from the hidden states themselves, through the library's head.
    #[arg(long, value_enum, default_value = "logits")]
    path: Path,
}

#[derive(Clone, Copy, ValueEnum)]
enum Path {
    Logits,
    Hidden,
}

#[derive(Clone, Copy, ValueEnum)]
enum Float {
    F32,
    F64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(all_answered) if all_answered => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(2),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let device = device::by_name(&args.device).map_err(anyhow::Error::msg)?;
    let float = match args.float {
        Some(Float::F32) => DType::F32,
        Some(Float::F64) => DType::F64,
        None if ["flex", "ndarray"].contains(&args.device.as_str()) => DType::F64,
        None => DType::F32, // no GPU is sure to have the other
    };
    let path = match args.path {
        Path::Logits => ModelOutput::Logits,
        Path::Hidden => ModelOutput::Hidden,
    };
    let input = read(&args.file)?;
    let mut all_answered = true;
    let mut cases = Vec::new();
    for (index, case) in input.cases.iter().enumerate() {
        let (answer, answered) =
            answer(case, &device, float, path).with_context(|| format!("{}: case {index}", args.file.display()))?;
        all_answered &= answered;
        cases.push(answer);
    }
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &json!({ "device": args.device, "float": float.name(), "cases": cases }))
        .map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(all_answered)
}

fn read(path: &std::path::Path) -> anyhow::Result<Input> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// Everything about one case, and whether each of its configurations was answered.
fn answer(case: &Case, device: &Device, float: DType, path: ModelOutput) -> anyhow::Result<(Value, bool)> {
    let model = Model::new(case, device, float, path)?;
    let (_, statistics) = model.policy()?;
    let mut all_answered = true;
    let mut runs = Vec::new();
    for Run { config } in &case.runs {
        let answer = Config::parse(config).and_then(|config| model.run(&config));
        all_answered &= answer.is_ok();
        runs.push(match answer {
            Ok(answer) => rendered(config, answer),
            Err(error) => json!({ "config": config, "error": format!("{error:#}") }),
        });
    }
    let case = json!({
        "token_log_probs": rows(statistics.log_probs().values()),
        "reference_token_log_probs": rows(model.reference().values()),
        "entropy": rows(statistics.entropy()),
        "log_sum_sq_probs": rows(statistics.log_sum_sq_probs()),
        "runs": runs,
    });
    Ok((case, all_answered))
}

fn rendered(config: &Value, answer: Answer) -> Value {
    let list = |numbers: Vec<f64>| numbers.into_iter().map(number).collect::<Value>();
    let norm = |gradient: Vec<f64>| number(gradient.iter().map(|x| x * x).sum::<f64>().sqrt());
    json!({
        "config": config,
        "loss": number(answer.metrics.loss()),
        "per_pair": list(answer.losses),
        "metrics": output::entries(&answer.metrics),
        "sequence_log_probs": { "policy": list(answer.policy), "reference": list(answer.reference) },
        "grad_hidden_norm": norm(answer.grad_hidden),
        "grad_weight_norm": norm(answer.grad_weight),
    })
}

fn rows(values: Tensor<2>) -> Vec<Vec<Value>> {
    let [_, width] = values.dims();
    let values: Vec<Value> = numbers(values).into_iter().map(number).collect();
    values.chunks(width.max(1)).map(<[Value]>::to_vec).collect()
}

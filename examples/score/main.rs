//! The library as a calculator: reads batches of hidden states and loss configurations, and prints what the library
//! makes of them, so that it can be checked from outside.
//!
//! ```text
//! cargo run --release --example score -- FILE.json [--device flex]
//! ```
//!
//! Exit status: 0 if every configuration was answered, 2 otherwise. A configuration that is not supported has an `error` in
//! its place, and everything else is printed; a file whose data does not fit itself is refused whole, in one line.

#[path = "../common/device.rs"]
mod device;
mod input;
#[path = "../common/output.rs"]
mod output;

use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use burn::tensor::{Bool, DType, Device, Gradients, Int, Tensor, TensorData};
use burn_dpo::{Beta, Completions, PairLogProbs, PreferenceMetrics, TokenLogProbs, dpo_loss, token_log_probs};
use clap::Parser;
use input::{Case, Config, Input};
use output::{is_broken_pipe, number};
use serde_json::{Map, Value, json};

/// Scores every case of FILE under every configuration in it, and prints one JSON object.
#[derive(Parser)]
struct Args {
    /// JSON in the format of the golden values: `cases`, each with tokens, masks, hidden states, head weights and runs.
    file: PathBuf,
    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm.
    #[arg(long, default_value = "flex")]
    device: String,
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
    let input = read(&args.file)?;
    let mut all_answered = true;
    let mut cases = Vec::new();
    for (index, case) in input.cases.iter().enumerate() {
        let model = Model::new(case, &device).with_context(|| format!("{}: case {index}", args.file.display()))?;
        let mut runs = Vec::new();
        for run in &case.runs {
            let answer = Config::parse(&run.config).and_then(|config| model.run(config));
            runs.push(match answer {
                Ok(mut answer) => {
                    answer.insert("config".into(), run.config.clone());
                    Value::Object(answer)
                }
                Err(error) => {
                    all_answered = false;
                    json!({ "config": run.config, "error": format!("{error:#}") })
                }
            });
        }
        cases.push(json!({
            "token_log_probs": rows(&model.policy()?.1)?,
            "reference_token_log_probs": rows(&model.reference)?,
            "runs": runs,
        }));
    }
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &json!({ "device": args.device, "cases": cases })).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(all_answered)
}

fn read(path: &Path) -> anyhow::Result<Input> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    serde_json::from_reader(BufReader::new(file)).with_context(|| path.display().to_string())
}

/// One case on the device: what a language model would hand over, and the head that makes logits of it.
struct Model {
    completions: Completions,
    hidden: TensorData,
    weight: TensorData,
    reference: TokenLogProbs,
    device: Device,
}

/// What a policy's forward pass started from.
struct Leaves {
    hidden: Tensor<3>,
    weight: Tensor<2>,
}

impl Model {
    fn new(case: &Case, device: &Device) -> anyhow::Result<Self> {
        let tokens = Tensor::<2, Int>::from_data(input::token_ids(&case.tokens)?, (device, DType::I32));
        let mask = Tensor::<2, Bool>::from_data(input::data2("completion_mask", &case.mask()?)?, device);
        let completions = Completions::new(tokens, mask)?;

        let hidden = Tensor::from_data(input::data3("reference_hidden", &case.reference_hidden)?, device);
        let weight = Tensor::from_data(input::data2("reference_weight", &case.reference_weight)?, device);
        Ok(Self {
            hidden: input::data3("policy_hidden", &case.policy_hidden)?,
            weight: input::data2("policy_weight", &case.policy_weight)?,
            reference: token_log_probs(logits(hidden, weight)?, &completions)?,
            completions,
            device: device.clone(),
        })
    }

    fn policy(&self) -> anyhow::Result<(Leaves, TokenLogProbs)> {
        let device = self.device.clone().autodiff();
        let hidden = Tensor::from_data(self.hidden.clone(), &device).require_grad();
        let weight = Tensor::from_data(self.weight.clone(), &device).require_grad();
        let log_probs = token_log_probs(logits(hidden.clone(), weight.clone())?, &self.completions)?;
        Ok((Leaves { hidden, weight }, log_probs))
    }

    fn run(&self, config: Config) -> anyhow::Result<Map<String, Value>> {
        let (leaves, log_probs) = self.policy()?;
        let policy = log_probs.sequences().into_pairs()?;
        let reference = self.reference.sequences().into_pairs()?;
        let losses = losses(&policy, &reference, &config)?;
        let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, config.beta())?;

        let per_pair = numbers(losses.clone().into_data());
        let gradients = losses.mean().backward();
        let metrics = output::entries(&metrics);

        let mut answer = Map::new();
        answer.insert("loss".into(), metrics["loss"].clone());
        answer.insert("per_pair".into(), per_pair.into_iter().map(number).collect());
        answer.insert("grad_hidden_norm".into(), number(norm(&leaves.hidden, &gradients)?));
        answer.insert("grad_weight_norm".into(), number(norm(&leaves.weight, &gradients)?));
        answer.insert("metrics".into(), metrics.into());
        Ok(answer)
    }
}

fn losses(policy: &PairLogProbs, reference: &PairLogProbs, config: &Config) -> anyhow::Result<Tensor<1>> {
    match config {
        Config::Sigmoid { beta } => Ok(dpo_loss(policy, reference, *beta)?),
    }
}

/// `hidden · weightᵀ`, `[sequences, time, vocab]`.
fn logits(hidden: Tensor<3>, weight: Tensor<2>) -> anyhow::Result<Tensor<3>> {
    let ([sequences, time, hidden_size], [vocab, expected]) = (hidden.dims(), weight.dims());
    anyhow::ensure!(hidden_size == expected, "hidden states are {hidden_size} wide, the head's rows {expected}");
    let rows = hidden.reshape([sequences * time, hidden_size]);
    Ok(rows.matmul(weight.transpose()).reshape([sequences, time, vocab]))
}

fn norm<const D: usize>(leaf: &Tensor<D>, gradients: &Gradients) -> anyhow::Result<f64> {
    let gradient = leaf.grad(gradients).context("the loss does not depend on this input")?;
    Ok(numbers(gradient.into_data()).iter().map(|x| x * x).sum::<f64>().sqrt())
}

fn rows(log_probs: &TokenLogProbs) -> anyhow::Result<Vec<Vec<Value>>> {
    let [_, width] = log_probs.values().dims();
    let values: Vec<Value> = numbers(log_probs.values().into_data()).into_iter().map(number).collect();
    Ok(values.chunks(width.max(1)).map(<[Value]>::to_vec).collect())
}

fn numbers(data: TensorData) -> Vec<f64> {
    data.iter::<f64>().collect()
}

impl Config {
    fn beta(&self) -> Beta {
        match self {
            Config::Sigmoid { beta } => *beta,
        }
    }
}

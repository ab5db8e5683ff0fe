//! The command line.

use std::path::PathBuf;

use burn_dpo::{Beta, PreferenceLoss};
use clap::{Args as Arguments, Parser, Subcommand};
use serde::Serialize;

use crate::{
    objective::Objective,
    options::{at_least_one, number, positive},
    tokens::Limits,
};

/// Preference optimization, from pairs to a trained model. Without a command: `train` with every default.
#[derive(Parser)]
#[command(allow_negative_numbers = true)] // so that they are refused for what they are
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(allow_negative_numbers = true)]
    Train(Box<Args>),
}

impl Cli {
    /// The options of the command line, or the defaults of `train`.
    pub fn options() -> Args {
        let Command::Train(args) =
            Self::parse().command.or_else(|| Self::parse_from(["burn-dpo", "train"]).command).expect("train is named");
        *args
    }
}

/// Trains a small byte-level transformer on preference pairs by Direct Preference Optimization, or by any other member
/// of the family.
///
/// A supervised warm-up on all completions, a frozen copy as the reference, then DPO, with a held-out split measured
/// before, during and after. Results go to stdout, progress to stderr; nothing is written without --out.
#[derive(Arguments, Serialize, Debug)]
pub struct Args {
    /// Preference pairs as JSON lines, plain or gzipped: `prompt`, `chosen` and `rejected`, as text or as lists of
    /// `{"role", "content"}`; without `prompt`, what chosen and rejected begin with is the prompt
    /// [default: 400 pairs that ship with the program]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)] // summary.json names it beside the arguments, and a path may be anything but text
    pub data: Option<PathBuf>,

    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm
    #[arg(long, default_value = "flex")]
    pub device: String,

    /// The loss, by name and with its usual parameters: dpo, ipo, hinge, simpo, … (an unknown name lists them all)
    /// [default: dpo with a β of 1, and 5 times sft: DPO alone lowers the likelihood of chosen completions too, and so small a
    /// model then misspells them]
    #[arg(long, value_name = "NAME")]
    #[serde(skip)] // summary.json has the whole loss
    loss: Option<PreferenceLoss>,

    /// The loss with its parameters: {"loss": "cdpo", "beta": 0.1, "label_smoothing": 0.2}, or a list of weighted ones:
    /// [{"weight": 1, "loss": {"loss": "sigmoid", "beta": 0.1}}, {"weight": 0.5, "loss": {"loss": "nll"}}]
    #[arg(long, value_name = "JSON", conflicts_with_all = ["loss", "beta"])]
    #[serde(skip)]
    loss_config: Option<String>,

    /// β, for a loss that has one: how strongly the policy is held to the reference [default: 1 for the default loss, and what is
    /// usual for one that --loss names: 0.1 for most]
    #[arg(long)]
    #[serde(skip)]
    beta: Option<Beta>,

    /// DPO steps
    #[arg(long, default_value_t = 150, value_parser = at_least_one)]
    pub steps: usize,

    /// Supervised steps on both completions of each pair, before DPO; may be 0
    #[arg(long, default_value_t = 1200)]
    pub warmup_steps: usize,

    /// Pairs in a step
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub batch_size: usize,

    /// Peak learning rate of DPO
    #[arg(long, default_value_t = 1.5e-4, value_parser = positive)]
    pub learning_rate: f64,

    /// Peak learning rate of the supervised warm-up
    #[arg(long, default_value_t = 1e-2, value_parser = positive)]
    pub warmup_learning_rate: f64,

    /// The gradient of all parameters together is scaled down to this norm if it is longer
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub max_grad_norm: f64,

    /// Share of the prompts that are held out, above 0 and below 1
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = share)]
    pub held_out: f64,

    /// Measure the held-out pairs every so many DPO steps
    #[arg(long, default_value_t = 10, value_name = "STEPS", value_parser = at_least_one)]
    pub eval_every: usize,

    /// Longest prompt and completion together, in bytes and two marks; the start is kept, and a prompt that leaves
    /// nothing of a completion is an error [default: 256, with --max-prompt-length 128]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one)]
    pub max_length: Option<usize>,

    /// Keep only the end of longer prompts [default: 128; no limit if --max-length is given]
    #[arg(long, value_name = "BYTES", value_parser = at_least_one)]
    pub max_prompt_length: Option<usize>,

    /// Completions of held-out prompts to sample, at temperature 0.7, and to judge, before and after: `win_rate` is the share
    /// that has the preferred style, `well_formed` the share without a mistake. Only answers to the pairs that ship with the
    /// program can be judged
    #[arg(long, default_value_t = 100, value_name = "COMPLETIONS")]
    pub win_rate_samples: usize,

    /// Held-out prompts whose completions are shown, before and after
    #[arg(long, default_value_t = 8)]
    pub samples: usize,

    /// Seed of everything that is random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,

    /// Directory for metrics.jsonl, summary.json, policy.safetensors and curves.svg; those of an earlier run there are
    /// replaced
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub out: Option<PathBuf>,
}

impl Args {
    /// The loss that the three options come to.
    pub fn objective(&self) -> anyhow::Result<Objective> {
        match &self.loss_config {
            Some(json) => Objective::from_json(json),
            None => Objective::named(self.loss, self.beta),
        }
    }

    /// The lengths to cut at. The two defaults belong together: alone, `--max-length` cuts no prompt.
    pub fn limits(&self) -> Limits {
        let prompt = match (self.max_length, self.max_prompt_length) {
            (_, Some(bytes)) => bytes,
            (None, None) => 128,
            (Some(_), None) => usize::MAX,
        };
        Limits { length: self.max_length.unwrap_or(256), prompt }
    }
}

fn share(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value > 0.0 && value < 1.0 { Ok(value) } else { Err("expected a number above 0 and below 1".into()) }
}

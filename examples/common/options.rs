//! What the small examples are told on the command line, and how numbers are checked there.

use burn_dpo::Beta;
use clap::Args;

/// How to train; the same for every loss.
#[derive(Args, Clone)]
pub struct Options {
    /// flex, ndarray, wgpu, vulkan, metal, cuda or rocm
    #[arg(long, default_value = "flex")]
    pub device: String,

    /// β: how tightly the policy is held to the reference
    #[arg(long, default_value = "0.1")]
    pub beta: Beta,

    /// Steps of preference training
    #[arg(long, default_value_t = 150, value_parser = at_least_one)]
    pub steps: usize,

    /// Supervised steps on the chosen completions before; may be 0
    #[arg(long, default_value_t = 300)]
    pub warmup_steps: usize,

    /// Prompts in a step
    #[arg(long, default_value_t = 16, value_parser = at_least_one)]
    pub batch_size: usize,

    /// Peak learning rate of preference training
    #[arg(long, default_value_t = 1e-4, value_parser = positive)]
    pub learning_rate: f64,

    /// Seed of everything that is random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

pub fn positive(text: &str) -> Result<f64, String> {
    let value = number(text)?;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err("expected a finite number above 0".into()) }
}

pub fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(value) => Ok(value),
        Err(_) => Err("expected a whole number".into()),
    }
}

pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number".into())
}

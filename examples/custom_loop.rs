//! A whole DPO training loop with burn and this library alone: the page to copy into a trainer of your own.
//!
//! ```text
//! cargo run --release --example custom_loop
//! ```
//!
//! A prompt is two digits. Both completions repeat them: the chosen one begins with a polite word, the rejected one with a rude
//! word. A small LSTM first learns to give either. A frozen copy of it becomes the reference, and DPO teaches the policy manners.

use std::error::Error;

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, Lstm, LstmConfig},
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, Int, Tensor},
};
use burn_dpo::{
    Beta, Completions, PreferenceMetrics, ReferenceDrift, Result, SequenceLogProbs, dpo_loss, token_log_probs,
};

/// Tokens beside the ten digits.
const POLITE: u32 = 10;
const RUDE: u32 = 11;
/// Ends a completion. The model learns it like any other token, so it belongs to the completion.
const END: u32 = 12;
const VOCAB: usize = 13;

/// Your model: anything that maps tokens `[sequences, time]` to logits `[sequences, time, vocab]`.
#[derive(Module, Debug)]
struct Model {
    embedding: Embedding,
    lstm: Lstm,
    head: Linear,
}

impl Model {
    fn new(device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(VOCAB, 16).init(device),
            lstm: LstmConfig::new(16, 64, true).init(device),
            head: LinearConfig::new(64, VOCAB).init(device),
        }
    }

    fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let (hidden, _) = self.lstm.forward(self.embedding.forward(tokens), None);
        self.head.forward(hidden)
    }

    /// The log-prob of every completion in the batch, summed over its tokens.
    fn log_probs(&self, completions: &Completions) -> Result<SequenceLogProbs> {
        Ok(token_log_probs(self.forward(completions.tokens()), completions)?.sequences())
    }
}

/// The completions of some prompts: all chosen ones first, then all rejected ones, in the same order.
fn batch(prompts: &[[u32; 2]], device: &Device) -> Result<Completions> {
    let chosen = prompts.iter().map(|&[a, b]| [a, b, POLITE, a, b, END]);
    let rejected = prompts.iter().map(|&[a, b]| [a, b, RUDE, a, b, END]);
    let sequences: Vec<[u32; 6]> = chosen.chain(rejected).collect();
    Completions::from_sequences(&sequences, &vec![2; sequences.len()], VOCAB, device)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let device = Device::default().autodiff(); // parameters are differentiated, so they are made on this device
    device.seed(0);
    let prompts = (0..100).map(|n| [n / 10, n % 10]);
    let (held_out, train): (Vec<_>, Vec<_>) = prompts.partition(|[a, b]| (a + b) % 5 == 0);
    let (train, held_out) = (batch(&train, &device)?, batch(&held_out, &device)?);

    // Supervised training on both completions.
    let mut policy = Model::new(&device).train();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..150 {
        let log_probs = policy.log_probs(&train)?;
        let loss = -log_probs.sum.sum() / log_probs.token_count.sum().float();
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(1e-2, policy, gradients);
    }

    // The reference is a frozen copy, so its log-probs never change: compute them once.
    let reference = policy.valid();
    let from_reference = reference.log_probs(&train)?.into_pairs()?;
    ReferenceDrift::measure(&policy.log_probs(&train)?.into_pairs()?, &from_reference)?.expect_within(1e-3)?;

    let beta = Beta::new(0.1)?;
    let mut optimizer = AdamWConfig::new().init();
    for step in 1..=100 {
        let from_policy = policy.log_probs(&train)?.into_pairs()?;
        let losses = dpo_loss(&from_policy, &from_reference, beta)?; // one per pair
        if step % 20 == 0 {
            let metrics = PreferenceMetrics::from_batch(&losses, &from_policy, &from_reference, beta)?;
            println!("step {step:>3}: loss {:.4}, accuracy {:.2}", metrics.loss(), metrics.reward_accuracy());
        }
        let gradients = GradientsParams::from_grads(losses.mean().backward(), &policy);
        policy = optimizer.step(2e-4, policy, gradients);
    }

    println!("\nOn prompts that it was not trained on:");
    let from_policy = policy.valid().log_probs(&held_out)?.into_pairs()?;
    let from_reference = reference.log_probs(&held_out)?.into_pairs()?;
    let losses = dpo_loss(&from_policy, &from_reference, beta)?;
    println!("{}", PreferenceMetrics::from_batch(&losses, &from_policy, &from_reference, beta)?);
    Ok(())
}

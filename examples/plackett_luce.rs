//! Learning from rankings of several completions: DPO's generalization by the Plackett–Luce model.
//!
//! ```text
//! cargo run --release --example plackett_luce
//! cargo run --release --example plackett_luce -- 1     # only the best completion of each ranking is known
//! ```
//!
//! A prompt is two digits. Its three completions repeat them after a polite word, after no word, or after a rude word, and are
//! ranked in this order.

use std::error::Error;

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, Lstm, LstmConfig},
    optim::{AdamWConfig, GradientsParams},
    tensor::{Device, s},
};
use burn_dpo::{
    Beta, Completions, RankedItems, RankedLogProbs, Result, SequenceLogProbs, plackett_luce_loss, token_log_probs,
};

/// Tokens beside the ten digits.
const POLITE: u32 = 10;
const RUDE: u32 = 11;
const END: u32 = 12;
const VOCAB: usize = 13;
/// Completions in a ranking.
const ITEMS: usize = 3;

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

    fn log_probs(&self, completions: &Completions) -> Result<SequenceLogProbs> {
        let (hidden, _) = self.lstm.forward(self.embedding.forward(completions.tokens()), None);
        Ok(token_log_probs(self.head.forward(hidden), completions)?.sequences())
    }
}

/// The completions of each ranking, best first, one ranking after the other.
fn batch(prompts: &[[u32; 2]], device: &Device) -> Result<Completions> {
    let ranking =
        |&[a, b]: &[u32; 2]| [vec![a, b, POLITE, a, b, END], vec![a, b, a, b, END], vec![a, b, RUDE, a, b, END]];
    let sequences: Vec<Vec<u32>> = prompts.iter().flat_map(ranking).collect();
    Completions::from_sequences(&sequences, &vec![2; sequences.len()], VOCAB, device)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let known = match std::env::args().nth(1) {
        None => RankedItems::All,
        Some(count) => RankedItems::First(count.parse().map_err(|_| format!("`{count}`: expected a number"))?),
    };
    let device = Device::default().autodiff();
    device.seed(0);
    let prompts = (0..100).map(|n| [n / 10, n % 10]);
    let (held_out, train): (Vec<_>, Vec<_>) = prompts.partition(|[a, b]| (a + b) % 5 == 0);
    let (train, held_out) = (batch(&train, &device)?, batch(&held_out, &device)?);

    // Supervised training on all three completions of each prompt.
    let mut policy = Model::new(&device).train();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..150 {
        let log_probs = policy.log_probs(&train)?;
        let loss = -log_probs.sum.sum() / log_probs.token_count.sum().float();
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(1e-2, policy, gradients);
    }
    let reference = policy.valid();

    let beta = Beta::new(0.1)?;
    let rankings = |model: &Model, completions| RankedLogProbs::from_sequences(&model.log_probs(completions)?, ITEMS);
    let from_reference = rankings(&reference, &train)?;
    let mut optimizer = AdamWConfig::new().init();
    for step in 1..=100 {
        let loss = plackett_luce_loss(&rankings(&policy, &train)?, &from_reference, beta, known)?.mean();
        if step % 20 == 0 {
            println!("step {step:>3}: loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(1e-3, policy, gradients);
    }

    let log_ratios = rankings(&policy.valid(), &held_out)?.sum() - rankings(&reference, &held_out)?.sum();
    let [best, second, third] = [0, 1, 2].map(|item| (log_ratios.clone() * beta.get()).slice(s![.., item..=item]));
    println!("\nOn prompts that it was not trained on:");
    for (item, rewards) in [("best", &best), ("second", &second), ("third", &third)] {
        println!("mean reward of the {item:<6} completion {:>8.3}", rewards.clone().mean().into_scalar::<f32>());
    }
    for (order, better, worse) in [("best before second", &best, &second), ("second before third", &second, &third)] {
        let share = better.clone().greater(worse.clone()).float().mean().into_scalar::<f32>();
        println!("share of rankings with {order:<20} {share:>8.3}");
    }
    Ok(())
}

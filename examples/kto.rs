//! Learning from single completions, each known to be desirable or not: KTO, or BCO.
//!
//! ```text
//! cargo run --release --example kto
//! cargo run --release --example kto -- bco
//! ```
//!
//! A prompt is two digits. A completion repeats them. It is desirable if it begins with a polite word, and undesirable if it begins
//! with a rude one. Each prompt has one of the two. Held-out pairs then show whether the policy has learned which is better.

use std::error::Error;

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Linear, LinearConfig, Lstm, LstmConfig},
    optim::{AdamWConfig, GradientsParams},
    tensor::{Bool, Device, Tensor, TensorData},
};
use burn_dpo::{
    Beta, Completions, Result, RunningMean, SequenceLogProbs, Weight, bco_loss, implicit_rewards, kl_estimate,
    kto_loss, token_log_probs,
};

/// Tokens beside the ten digits.
const POLITE: u32 = 10;
const RUDE: u32 = 11;
const END: u32 = 12;
const VOCAB: usize = 13;

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

type Digits = [u32; 2];

/// One completion for each prompt, with the word that it begins with.
fn batch(prompts: &[Digits], words: &[u32], device: &Device) -> Result<Completions> {
    let sequence = |(&[a, b], &word): (&Digits, &u32)| [a, b, word, a, b, END];
    let sequences: Vec<[u32; 6]> = prompts.iter().zip(words).map(sequence).collect();
    Completions::from_sequences(&sequences, &vec![2; sequences.len()], VOCAB, device)
}

/// Both completions of each prompt: the polite ones first, then the rude ones.
fn pairs(prompts: &[Digits], device: &Device) -> Result<Completions> {
    let words = [vec![POLITE; prompts.len()], vec![RUDE; prompts.len()]].concat();
    batch(&[prompts, prompts].concat(), &words, device)
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let bco = match std::env::args().nth(1).as_deref() {
        None | Some("kto") => false,
        Some("bco") => true,
        Some(other) => return Err(format!("`{other}`: expected `kto` or `bco`").into()),
    };
    let device = Device::default().autodiff();
    device.seed(0);
    let prompts = (0..100).map(|n| [n / 10, n % 10]);
    let (held_out, train): (Vec<Digits>, Vec<Digits>) = prompts.partition(|[a, b]| (a + b) % 5 == 0);
    let (both, held_out) = (pairs(&train, &device)?, pairs(&held_out, &device)?);

    // Supervised training on both completions of each prompt.
    let mut policy = Model::new(&device).train();
    let mut optimizer = AdamWConfig::new().init();
    for _ in 0..150 {
        let log_probs = policy.log_probs(&both)?;
        let loss = -log_probs.sum.sum() / log_probs.token_count.sum().float();
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(1e-2, policy, gradients);
    }
    let reference = policy.valid();

    // One completion of each prompt, with its label. Half of them are desirable.
    let labels: Vec<bool> = (0..train.len()).map(|index| index % 2 == 0).collect();
    let words: Vec<u32> = labels.iter().map(|&desirable| if desirable { POLITE } else { RUDE }).collect();
    let completions = batch(&train, &words, &device)?;
    let desirable = Tensor::<1, Bool>::from_data(TensorData::new(labels.clone(), [labels.len()]), &device);
    // KTO estimates the KL divergence on completions of other prompts: each prompt gets the completion of the next one.
    let other = (0..train.len()).map(|index| (index + 1) % train.len());
    let sequences: Vec<[u32; 6]> = train
        .iter()
        .zip(other)
        .map(|(&[a, b], other)| [a, b, words[other], train[other][0], train[other][1], END])
        .collect();
    let mismatched = Completions::from_sequences(&sequences, &vec![2; sequences.len()], VOCAB, &device)?;

    let beta = Beta::new(0.1)?;
    let from_reference = reference.log_probs(&completions)?;
    let mismatched_reference = reference.log_probs(&mismatched)?;
    let mut mean_reward = RunningMean::default();
    let mut optimizer = AdamWConfig::new().init();
    for step in 1..=100 {
        let from_policy = policy.log_probs(&completions)?;
        let losses = if bco {
            let log_ratios = from_policy.sum.clone().without_autodiff() - from_reference.sum.clone();
            mean_reward.add(&(log_ratios * beta.get()))?;
            let shift = Tensor::<1>::from_floats([mean_reward.mean_or(0.0) as f32], &device);
            bco_loss(&from_policy, &from_reference, &desirable, &shift, beta)?
        } else {
            let kl = kl_estimate(&policy.valid().log_probs(&mismatched)?, &mismatched_reference)?;
            let equal = (Weight::ONE, Weight::ONE); // there are as many desirable completions as others
            kto_loss(&from_policy, &from_reference, &desirable, &kl, beta, equal.0, equal.1)?
        };
        let loss = losses.mean();
        if step % 20 == 0 {
            println!("step {step:>3}: loss {:.4}", loss.clone().into_scalar::<f32>());
        }
        let gradients = GradientsParams::from_grads(loss.backward(), &policy);
        policy = optimizer.step(1e-3, policy, gradients);
    }

    let from_policy = policy.valid().log_probs(&held_out)?.into_pairs()?;
    let rewards = implicit_rewards(&from_policy, &reference.log_probs(&held_out)?.into_pairs()?, beta)?;
    let mean = |tensor: Tensor<1>| tensor.mean().into_scalar::<f32>();
    println!("\nOn {} prompts that it was not trained on:", from_policy.pairs());
    println!("mean reward of the desirable completion   {:>8.3}", mean(rewards.chosen.clone()));
    println!("mean reward of the undesirable completion {:>8.3}", mean(rewards.rejected.clone()));
    println!("share with the right one ahead            {:>8.3}", mean(rewards.margins().greater_elem(0.0).float()));
    Ok(())
}

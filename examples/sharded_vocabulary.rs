//! A language model's head split over workers, each with its part of the vocabulary: no worker ever holds all logits of a
//! position, and every one of them ends with the log-probs of the whole vocabulary and the gradient of its own part.
//!
//! ```text
//! cargo run --release --example sharded_vocabulary -- 4
//! ```
//!
//! Workers are threads here, and what they tell each other goes through channels: eight numbers per position, whatever the
//! vocabulary. Between devices or processes it would be an all-gather of the same numbers.

use std::{
    error::Error,
    ops::Range,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use burn::tensor::{Device, Distribution, Tensor, TensorData, s};
use burn_dpo::{Completions, VocabularyPart, token_log_probs};

const SEQUENCES: usize = 4;
const TIME: usize = 16;
const HIDDEN: usize = 64;
const VOCAB: usize = 1000;
/// Numbers of a size of about 10 and less, in f32; products of 64 terms, in another order.
const TOLERANCE: f32 = 1e-5;

type Failure = Box<dyn Error + Send + Sync>;

/// What a model hands to its head, the same for every worker.
struct Batch {
    hidden: Tensor<3>,
    completions: Completions,
}

/// What a worker ends with.
struct Answer {
    log_probs: Tensor<2>,
    /// Of its own part of the weight, `[hidden, part]`.
    of_weight: Tensor<2>,
    /// What its part adds to the gradient of the hidden states: the sum over workers is the gradient.
    of_hidden: Tensor<3>,
}

fn main() -> Result<(), Failure> {
    let shards = std::env::args().nth(1).map_or(Ok(4), |count| count.parse())?;
    if !(1..=VOCAB).contains(&shards) {
        return Err(format!("{shards} shards, expected 1 to {VOCAB}").into());
    }
    let device = Device::flex();
    device.seed(0);
    let tokens: Vec<u32> = (0..SEQUENCES * TIME).map(|i| (i * 389 % VOCAB) as u32).collect();
    let (prompts, totals) = ([4; SEQUENCES], [TIME; SEQUENCES]);
    let normal = Distribution::Normal(0.0, 1.0);
    let batch = Batch {
        hidden: Tensor::random([SEQUENCES, TIME, HIDDEN], normal, &device),
        completions: Completions::from_lengths(&tokens, TIME, &prompts, &totals, VOCAB, &device)?,
    };
    let weight = Tensor::<2>::random([HIDDEN, VOCAB], normal, &device) / (HIDDEN as f64).sqrt();

    let whole = batch.unsharded(weight.clone())?;
    let answers = sharded(&batch, &weight, shards)?;

    let of_weight = Tensor::cat(answers.iter().map(|answer| answer.of_weight.clone()).collect(), 1);
    let of_hidden = answers.iter().map(|answer| answer.of_hidden.clone()).reduce(|sum, part| sum + part);
    let log_probs = largest(answers.iter().map(|answer| difference(&answer.log_probs, &whole.log_probs)));
    println!("{shards} shards of a vocabulary of {VOCAB}; the largest differences from one:");
    for (what, distance) in [
        ("log-probs, of any shard", log_probs),
        ("gradient of the weight", difference(&of_weight, &whole.of_weight)),
        ("gradient of the hidden states", difference(&of_hidden.ok_or("no shards")?, &whole.of_hidden)),
    ] {
        println!("  {what:<30} {distance:.1e}");
        if distance.is_nan() || distance > TOLERANCE {
            return Err(format!("{what} are further apart than {TOLERANCE:e}").into());
        }
    }
    Ok(())
}

/// Every worker's answer, in the order of their parts.
fn sharded(batch: &Batch, weight: &Tensor<2>, shards: usize) -> Result<Vec<Answer>, Failure> {
    let (to_workers, inboxes): (Vec<_>, Vec<_>) = (0..shards).map(|_| channel()).unzip();
    thread::scope(|scope| {
        let workers: Vec<_> = inboxes
            .into_iter()
            .enumerate()
            .map(|(rank, inbox)| {
                let part = rank * VOCAB / shards..(rank + 1) * VOCAB / shards;
                let own = weight.clone().slice(s![.., part.clone()]);
                let collective = Collective { rank, to_workers: to_workers.clone(), inbox };
                scope.spawn(move || batch.worker(own, part, collective))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    })
}

impl Batch {
    /// What one worker does, with its part of the weight.
    fn worker(&self, weight: Tensor<2>, part: Range<usize>, collective: Collective) -> Result<Answer, Failure> {
        let (hidden, weight) = (self.hidden.clone().autodiff().require_grad(), weight.autodiff().require_grad());
        let logits = hidden.clone().matmul(weight.clone().unsqueeze());

        let own = VocabularyPart::of(&logits, &self.completions, part.start, VOCAB)?;
        let whole = collective.merged(own, &logits.device())?;
        let log_probs = whole.token_log_probs(logits, &self.completions, part.start, VOCAB)?.values();
        Answer::of(log_probs, &hidden, &weight)
    }

    fn unsharded(&self, weight: Tensor<2>) -> Result<Answer, Failure> {
        let (hidden, weight) = (self.hidden.clone().autodiff().require_grad(), weight.autodiff().require_grad());
        let logits = hidden.clone().matmul(weight.clone().unsqueeze());
        Answer::of(token_log_probs(logits, &self.completions)?.values(), &hidden, &weight)
    }
}

impl Answer {
    fn of(log_probs: Tensor<2>, hidden: &Tensor<3>, weight: &Tensor<2>) -> Result<Self, Failure> {
        let gradients = log_probs.clone().sum().backward();
        Ok(Self {
            log_probs: log_probs.without_autodiff(),
            of_weight: weight.grad(&gradients).ok_or("no gradient of the weight")?,
            of_hidden: hidden.grad(&gradients).ok_or("no gradient of the hidden states")?,
        })
    }
}

/// How a worker speaks to all others.
struct Collective {
    rank: usize,
    to_workers: Vec<Sender<(usize, TensorData)>>,
    inbox: Receiver<(usize, TensorData)>,
}

impl Collective {
    /// What all parts say together. They are merged in the same order everywhere, so that all workers agree to the last bit;
    /// any other order, or a tree, gives the same up to rounding.
    fn merged(self, own: VocabularyPart, device: &Device) -> Result<VocabularyPart, Failure> {
        let numbers = own.to_tensor();
        let dtype = numbers.dtype();
        let numbers = numbers.into_data();
        for worker in &self.to_workers {
            worker.send((self.rank, numbers.clone()))?;
        }
        let mut parts: Vec<_> = self.inbox.iter().take(self.to_workers.len()).collect();
        parts.sort_by_key(|(rank, _)| *rank);
        let parts = parts
            .into_iter()
            .map(|(_, numbers)| VocabularyPart::from_tensor(Tensor::from_data(numbers, (device, dtype))));
        let merged = parts.reduce(|whole, part| whole?.merge(part?)).ok_or("no shards")?;
        Ok(merged?)
    }
}

/// NaN if there is one.
fn largest(numbers: impl Iterator<Item = f32>) -> f32 {
    numbers.max_by(f32::total_cmp).unwrap_or(0.0)
}

fn difference<const D: usize>(one: &Tensor<D>, two: &Tensor<D>) -> f32 {
    largest((one.clone() - two.clone()).abs().into_data().iter::<f32>())
}

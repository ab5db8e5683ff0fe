//! Texts as bytes, cut to length and split; and the batches that the library takes.

use std::collections::HashSet;

use anyhow::ensure;
use burn::tensor::Device;
use burn_dpo::Completions;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

use super::data::{Preference, Source};

/// Every byte, and two marks.
pub const VOCAB_SIZE: usize = 258;
/// Ends a prompt. Without it the first token of a completion whose prompt is empty would be predicted from nothing.
const END_OF_PROMPT: u32 = 256;
/// Ends a completion, and counts as its last token: when to stop is learned too.
pub const END: u32 = 257;

/// What is cut off where a text is too long, in tokens.
pub struct Limits {
    /// Prompt and completion together: the start is kept.
    pub length: usize,
    /// The prompt's text alone: the end is kept.
    pub prompt: usize,
}

/// A preference pair in tokens.
pub struct Pair {
    /// Of both sequences, with the mark that ends it.
    prompt_length: usize,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
}

impl Pair {
    fn new(preference: &Preference, limits: &Limits) -> anyhow::Result<Self> {
        let prompt = preference.prompt.as_bytes();
        let prompt = &prompt[prompt.len().saturating_sub(limits.prompt)..];
        let prompt_length = prompt.len() + 1;
        ensure!(
            prompt_length < limits.length,
            "nothing is left of the completions: the prompt takes {prompt_length} tokens of --max-length {}; \
             raise it, or shorten prompts with --max-prompt-length",
            limits.length
        );
        let sequence = |completion: &str| {
            let completion = completion.bytes().map(u32::from).chain([END]);
            let all = prompt.iter().copied().map(u32::from).chain([END_OF_PROMPT]).chain(completion);
            all.take(limits.length).collect()
        };
        Ok(Self { prompt_length, chosen: sequence(&preference.chosen), rejected: sequence(&preference.rejected) })
    }

    pub fn prompt(&self) -> &[u32] {
        &self.chosen[..self.prompt_length]
    }

    fn longest(&self) -> usize {
        self.chosen.len().max(self.rejected.len())
    }
}

/// All pairs of a file, and what had to be cut to make them.
pub struct Encoded {
    pub pairs: Vec<Pair>,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// How many pairs lost the start of their prompt.
    pub cut_prompts: usize,
    /// How many pairs lost the end of a completion.
    pub cut_completions: usize,
    /// How many pairs were left without a difference by that.
    pub equal: usize,
}

/// # Errors
/// The first line whose prompt leaves no room for its completions.
pub fn encode(source: &Source, limits: &Limits) -> anyhow::Result<Encoded> {
    let mut encoded = Encoded { pairs: Vec::new(), longest: 0, cut_prompts: 0, cut_completions: 0, equal: 0 };
    for (line, preference) in &source.preferences {
        let pair = Pair::new(preference, limits).map_err(|error| error.context(format!("{}:{line}", source.name)))?;
        let whole = pair.prompt_length + preference.chosen.len().max(preference.rejected.len()) + 1;
        encoded.longest = encoded.longest.max(pair.longest());
        encoded.cut_prompts += usize::from(preference.prompt.len() > limits.prompt);
        encoded.cut_completions += usize::from(whole > limits.length);
        encoded.equal += usize::from(pair.chosen == pair.rejected);
        encoded.pairs.push(pair);
    }
    Ok(encoded)
}

/// Holds out a share of the *prompts*, at least one, and leaves at least one: no held-out prompt is trained on.
pub fn split(pairs: Vec<Pair>, held_out: f64, rng: &mut StdRng) -> anyhow::Result<(Vec<Pair>, Vec<Pair>)> {
    let mut seen = HashSet::new();
    let mut prompts: Vec<Vec<u32>> =
        pairs.iter().map(|pair| pair.prompt().to_vec()).filter(|prompt| seen.insert(prompt.clone())).collect();
    ensure!(prompts.len() >= 2, "one prompt is not enough: some are held out, and none of those is trained on");
    prompts.shuffle(rng);
    let count = (prompts.len() as f64 * held_out).round() as usize;
    let held_out: HashSet<Vec<u32>> = prompts.drain(..count.clamp(1, prompts.len() - 1)).collect();
    Ok(pairs.into_iter().partition(|pair| !held_out.contains(pair.prompt())))
}

/// One completion of each pair, chosen or rejected by chance, for supervised training.
pub fn either_completion(pairs: &[&Pair], rng: &mut StdRng, device: &Device) -> burn_dpo::Result<Completions> {
    let either = |pair: &&Pair| if rng.random() { pair.chosen.clone() } else { pair.rejected.clone() };
    let sequences: Vec<Vec<u32>> = pairs.iter().map(either).collect();
    let prompts: Vec<usize> = pairs.iter().map(|pair| pair.prompt_length).collect();
    Completions::from_sequences(&sequences, &prompts, VOCAB_SIZE, device)
}

/// The chosen completions of all pairs, and then the rejected ones in the same order.
pub fn completions(pairs: &[&Pair], device: &Device) -> burn_dpo::Result<Completions> {
    let chosen = pairs.iter().map(|pair| pair.chosen.as_slice());
    let sequences: Vec<&[u32]> = chosen.chain(pairs.iter().map(|pair| pair.rejected.as_slice())).collect();
    let prompts: Vec<usize> = pairs.iter().chain(pairs).map(|pair| pair.prompt_length).collect();
    Completions::from_sequences(&sequences, &prompts, VOCAB_SIZE, device)
}

/// Endless batches of indices: every pair once before any comes again, in a new order each time.
pub struct Batches {
    size: usize,
    order: Vec<usize>,
    next: usize,
}

impl Batches {
    /// Batches of `size`, or of everything there is.
    pub fn new(pairs: usize, size: usize) -> Self {
        Self { size: size.min(pairs), order: (0..pairs).collect(), next: pairs }
    }

    pub fn draw(&mut self, rng: &mut StdRng) -> impl Iterator<Item = usize> {
        (0..self.size).map(|_| {
            if self.next == self.order.len() {
                self.order.shuffle(rng);
                self.next = 0;
            }
            self.next += 1;
            self.order[self.next - 1]
        })
    }
}

/// Tokens as text, for people: what is not UTF-8 is replaced, marks are left out.
pub fn text(tokens: &[u32]) -> String {
    let bytes: Vec<u8> = tokens.iter().filter_map(|&token| u8::try_from(token).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

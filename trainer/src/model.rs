//! A small decoder-only transformer over bytes, made of burn's modules.

use std::iter;

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        activation::ActivationConfig,
        attention::generate_autoregressive_mask,
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
    },
    tensor::{Device, Int, Tensor, TensorData, activation::softmax},
};
use rand::{Rng, rngs::StdRng};

use super::tokens::{END, VOCAB_SIZE};

const WIDTH: usize = 64;
const HEADS: usize = 4;
const BLOCKS: usize = 2;
/// What logits are divided by before a token is drawn: below 1, unlikely tokens are drawn less often.
const TEMPERATURE: f64 = 0.7;

/// Token and position embeddings, pre-norm blocks under a causal mask, a final norm, a head.
#[derive(Module, Debug)]
pub struct Transformer {
    tokens: Embedding,
    positions: Embedding,
    /// burn calls it an encoder; the causal mask is what makes it a decoder.
    blocks: TransformerEncoder,
    norm: LayerNorm,
    head: Linear,
}

impl Transformer {
    /// Random weights, for sequences of at most `context` tokens.
    pub fn new(context: usize, device: &Device) -> Self {
        // Embeddings of burn's default size, 1, drown what the blocks add to them.
        let narrow = Initializer::Normal { mean: 0.0, std: 0.1 };
        Self {
            tokens: EmbeddingConfig::new(VOCAB_SIZE, WIDTH).with_initializer(narrow.clone()).init(device),
            positions: EmbeddingConfig::new(context, WIDTH).with_initializer(narrow).init(device),
            // No dropout: policy and reference must give the same tokens the same log-probs as long as they agree.
            blocks: TransformerEncoderConfig::new(WIDTH, 4 * WIDTH, HEADS, BLOCKS)
                .with_dropout(0.0)
                .with_norm_first(true)
                .with_activation(ActivationConfig::Relu)
                .init(device),
            norm: LayerNormConfig::new(WIDTH).init(device),
            head: LinearConfig::new(WIDTH, VOCAB_SIZE).with_bias(false).init(device),
        }
    }

    /// Tokens `[sequences, time]` to logits `[sequences, time, vocab]`. Padding on the right is seen by nothing before it.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let ([sequences, time], device) = (tokens.dims(), tokens.device());
        let positions = Tensor::<1, Int>::arange(0..time as i64, &device).unsqueeze();
        let embedded = self.tokens.forward(tokens) + self.positions.forward(positions);
        let causal = generate_autoregressive_mask(sequences, time, &device);
        let hidden = self.blocks.forward(TransformerEncoderInput::new(embedded).mask_attn(causal));
        self.head.forward(self.norm.forward(hidden))
    }

    /// Continues prompts, token by token, until the model ends each completion or the context is full. Each prompt has its own
    /// random numbers, so that its completion does not depend on the others.
    pub fn sample(&self, prompts: &[&[u32]], rngs: &mut [StdRng], device: &Device) -> anyhow::Result<Vec<Vec<u32>>> {
        let [context, _] = self.positions.weight.dims();
        let mut sequences: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.to_vec()).collect();
        let mut open: Vec<usize> = (0..sequences.len()).filter(|&row| sequences[row].len() < context).collect();
        while !open.is_empty() {
            let time = open.iter().map(|&row| sequences[row].len()).max().unwrap_or(0);
            let padded = open.iter().flat_map(|&row| {
                let padding = iter::repeat_n(END, time - sequences[row].len());
                sequences[row].iter().copied().chain(padding)
            });
            let tokens = TensorData::new(padded.map(|token| token as i32).collect(), [open.len(), time]);
            let logits = self.forward(Tensor::from_data(tokens, device));
            let last = open.iter().enumerate().map(|(index, &row)| (index * time + sequences[row].len() - 1) as i32);
            let last = TensorData::new(last.collect(), [open.len()]);
            let next = logits.reshape([open.len() * time, VOCAB_SIZE]).select(0, Tensor::from_data(last, device));
            let probabilities = softmax(next / TEMPERATURE, 1).try_into_data()?.iter::<f64>().collect::<Vec<_>>();
            let mut still_open = Vec::new();
            for (&row, probabilities) in open.iter().zip(probabilities.chunks(VOCAB_SIZE)) {
                match draw(probabilities, &mut rngs[row]) {
                    END => {}
                    token => {
                        sequences[row].push(token);
                        still_open.extend((sequences[row].len() < context).then_some(row));
                    }
                }
            }
            open = still_open;
        }
        Ok(sequences.into_iter().zip(prompts).map(|(mut sequence, prompt)| sequence.split_off(prompt.len())).collect())
    }
}

/// An index, with the probability that it has.
fn draw(probabilities: &[f64], rng: &mut StdRng) -> u32 {
    let mut left: f64 = rng.random();
    for (token, probability) in probabilities.iter().enumerate() {
        left -= probability;
        if left < 0.0 {
            return token as u32;
        }
    }
    END // what rounding leaves over
}

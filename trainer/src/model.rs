//! A small decoder-only transformer over bytes, made of burn's modules.

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig, Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig,
        activation::ActivationConfig,
        attention::generate_autoregressive_mask,
        transformer::{TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput},
    },
    tensor::{Device, Int, Tensor, activation::softmax, s},
};
use rand::{Rng, rngs::StdRng};

use super::tokens::{END, VOCAB_SIZE};

const WIDTH: usize = 64;
const HEADS: usize = 4;
const BLOCKS: usize = 2;

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

    /// Continues a prompt, token by token, until the model ends it or the context is full.
    pub fn sample(&self, prompt: &[u32], rng: &mut StdRng, device: &Device) -> anyhow::Result<Vec<u32>> {
        let [context, _] = self.positions.weight.dims();
        let mut sequence = prompt.to_vec();
        while sequence.len() < context {
            let tokens = Tensor::<1, Int>::from_ints(sequence.as_slice(), device).unsqueeze();
            let logits = self.forward(tokens).slice(s![.., -1, ..]);
            let probabilities = softmax(logits, 2).try_into_data()?;
            match draw(probabilities.iter::<f64>(), rng) {
                END => break,
                token => sequence.push(token),
            }
        }
        Ok(sequence.split_off(prompt.len()))
    }
}

/// An index, with the probability that stands there.
fn draw(probabilities: impl Iterator<Item = f64>, rng: &mut StdRng) -> u32 {
    let mut left: f64 = rng.random();
    for (token, probability) in probabilities.enumerate() {
        left -= probability;
        if left < 0.0 {
            return token as u32;
        }
    }
    END // what rounding leaves over
}

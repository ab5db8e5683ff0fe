//! One case on a device, and what the library makes of it under a configuration.

use anyhow::{Context, ensure};
use burn::tensor::{Bool, DType, Device, Gradients, Int, Tensor, TensorData};
use burn_dpo::{
    Completions, LmHead, PairLogProbs, PreferenceBatch, PreferenceMetrics, TokenLogProbs, TokenStatistics,
    token_log_probs, token_statistics,
};

use super::{
    config::Config,
    input::{self, Case},
    losses::Scored,
};

/// What log-probs are made from.
#[derive(Debug, Clone, Copy)]
pub enum ModelOutput {
    Logits,
    Hidden,
}

/// What a language model would hand over, and the head that makes logits of it.
pub struct Model {
    completions: Completions,
    hidden: TensorData,
    weight: TensorData,
    reference: TokenLogProbs,
    device: Device,
    float: DType,
    path: ModelOutput,
}

/// What a policy's forward pass started from.
pub struct Leaves {
    hidden: Tensor<3>,
    weight: Tensor<2>,
}

/// What one configuration gives.
pub struct Answer {
    /// One loss for each pair, completion or ranking.
    pub losses: Vec<f64>,
    pub metrics: PreferenceMetrics,
    /// The sums that the loss was computed from, chosen first.
    pub policy: Vec<f64>,
    pub reference: Vec<f64>,
    /// Of the mean loss.
    pub grad_hidden: Vec<f64>,
    pub grad_weight: Vec<f64>,
}

impl Model {
    pub fn new(case: &Case, device: &Device, float: DType, path: ModelOutput) -> anyhow::Result<Self> {
        let tokens = Tensor::<2, Int>::from_data(input::token_ids(&case.tokens)?, (device, DType::I32));
        let mask = Tensor::<2, Bool>::from_data(input::data2("completion_mask", &case.mask()?)?, device);
        let completions = Completions::new(tokens, mask)?;

        let hidden = Tensor::from_data(input::data3("reference_hidden", &case.reference_hidden)?, (device, float));
        let weight = Tensor::from_data(input::data2("reference_weight", &case.reference_weight)?, (device, float));
        Ok(Self {
            hidden: input::data3("policy_hidden", &case.policy_hidden)?,
            weight: input::data2("policy_weight", &case.policy_weight)?,
            reference: path.log_probs(hidden, weight, &completions)?,
            completions,
            device: device.clone(),
            float,
            path,
        })
    }

    pub fn reference(&self) -> &TokenLogProbs {
        &self.reference
    }

    /// A forward pass of the policy, recorded.
    pub fn policy(&self) -> anyhow::Result<(Leaves, TokenStatistics)> {
        let device = self.device.clone().autodiff();
        let hidden = Tensor::from_data(self.hidden.clone(), (&device, self.float)).require_grad();
        let weight = Tensor::from_data(self.weight.clone(), (&device, self.float)).require_grad();
        let statistics = self.path.statistics(hidden.clone(), weight.clone(), &self.completions)?;
        Ok((Leaves { hidden, weight }, statistics))
    }

    pub fn run(&self, config: &Config) -> anyhow::Result<Answer> {
        let (leaves, statistics) = self.policy()?;
        let tokens = statistics.log_probs();
        let pairs = |tokens: &TokenLogProbs| match config.ld_alpha {
            Some(alpha) => tokens.length_desensitized_pairs(alpha),
            None => tokens.sequences().into_pairs(),
        };
        let scored = Scored {
            policy: pairs(&tokens)?,
            reference: pairs(&self.reference)?,
            policy_sequences: tokens.sequences(),
            reference_sequences: self.reference.sequences(),
            statistics,
        };
        let losses = config.losses(&scored, (&self.device, self.float))?;
        let Scored { policy, reference, statistics, .. } = &scored;

        let mean = losses.clone().mean();
        // Metrics are of pairs: where losses are of something else, each pair has their mean.
        let pairs = policy.pairs();
        let of_pairs = if losses.dims() == [pairs] { losses.clone() } else { mean.clone().expand([pairs]) };
        let (statistics, betas) = (statistics.sequences(), config.beta.each((&self.device, self.float)));
        let mut batch = PreferenceBatch::new(&of_pairs, policy, reference, config.beta.first()?)
            .with_tokens(&tokens, &self.reference)
            .with_statistics(&statistics);
        if let Some(betas) = &betas {
            batch = batch.with_betas(betas);
        }
        let metrics = batch.measure()?;

        let gradients = mean.backward();
        Ok(Answer {
            losses: numbers(losses),
            metrics,
            policy: sums(policy),
            reference: sums(reference),
            grad_hidden: gradient(leaves.hidden, &gradients)?,
            grad_weight: gradient(leaves.weight, &gradients)?,
        })
    }
}

impl ModelOutput {
    /// Of the tokens, under the distribution that a head's weight, `[vocab, hidden]`, makes of hidden states.
    fn log_probs(
        self,
        hidden: Tensor<3>,
        weight: Tensor<2>,
        completions: &Completions,
    ) -> anyhow::Result<TokenLogProbs> {
        Ok(match self {
            Self::Logits => token_log_probs(logits(hidden, weight)?, completions)?,
            Self::Hidden => LmHead::new(weight.transpose(), None).token_log_probs(hidden, completions)?,
        })
    }

    /// Of the same distribution.
    fn statistics(
        self,
        hidden: Tensor<3>,
        weight: Tensor<2>,
        completions: &Completions,
    ) -> anyhow::Result<TokenStatistics> {
        Ok(match self {
            Self::Logits => token_statistics(logits(hidden, weight)?, completions)?,
            Self::Hidden => LmHead::new(weight.transpose(), None).token_statistics(hidden, completions)?,
        })
    }
}

/// `hidden · weightᵀ`, `[sequences, time, vocab]`.
fn logits(hidden: Tensor<3>, weight: Tensor<2>) -> anyhow::Result<Tensor<3>> {
    let ([sequences, time, hidden_size], [vocab, expected]) = (hidden.dims(), weight.dims());
    ensure!(hidden_size == expected, "hidden states are {hidden_size} wide, the head's rows {expected}");
    let rows = hidden.reshape([sequences * time, hidden_size]);
    Ok(rows.matmul(weight.transpose()).reshape([sequences, time, vocab]))
}

fn gradient<const D: usize>(leaf: Tensor<D>, gradients: &Gradients) -> anyhow::Result<Vec<f64>> {
    Ok(numbers(leaf.grad(gradients).context("the loss does not depend on this input")?))
}

fn sums(pairs: &PairLogProbs) -> Vec<f64> {
    [pairs.chosen(), pairs.rejected()].into_iter().flat_map(|side| numbers(side.sum.clone())).collect()
}

pub fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

//! From hidden states, through a language model's head.

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, module::linear};
use burn_dpo::{Beta, Completions, FDivergence, LmHead, PairLogProbs, PreferenceLoss, SequenceLogProbs, dpo_loss};

use super::{Answer, Implementation, Results, Size, Step, Work, drawn, naive};
use crate::files::Source;

const BETA: f64 = 0.1;

/// What is made of the log-probs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Their sum.
    Sum,
    /// DPO's mean loss, against a reference with a head of its own. The first half of the sequences are chosen.
    Dpo,
}

/// Log-probs of sequences of tokens from hidden states, and the gradient of a loss in hidden states and, unless it is frozen,
/// in the head's weight.
pub struct Heads {
    policy: Model,
    reference: Option<Model>,
    completions: Completions,
    frozen_head: bool,
    implementation: Implementation,
}

/// What a model returns before its head, and that head.
#[derive(Clone)]
pub struct Model {
    /// `[sequences, time, hidden]`.
    hidden: Tensor<3>,
    /// `[hidden, vocab]`.
    weight: Tensor<2>,
}

impl Heads {
    pub fn new(size: &Size, loss: Loss, dtype: DType, source: &Source, device: &Device) -> anyhow::Result<Self> {
        let Size { rows, vocab, hidden, time, frozen_head, implementation, .. } = *size;
        let (states, weights, scale) = (rows * time * hidden, hidden * vocab, (hidden as f32).powf(-0.5));
        // a reference is near the policy, as it is after some steps of training
        let model = |prefix: &str, distance: f32| -> anyhow::Result<Model> {
            let hidden_states = source.numbers(&format!("{prefix}hidden"), [rows, time, hidden], || {
                drawn::near(drawn::normal(1, states, 1.0), 3, distance)
            })?;
            let weight = source.numbers(&format!("{prefix}weight"), [hidden, vocab], || {
                drawn::near(drawn::normal(2, weights, scale), 4, distance * scale)
            })?;
            Ok(Model {
                hidden: Tensor::from_data(hidden_states, (device, dtype)),
                weight: Tensor::from_data(weight, (device, dtype)),
            })
        };
        let prompt = time - size.counted(time);
        let tokens = source.numbers("tokens", [rows, time], || drawn::ids(5, rows * time, vocab))?;
        let mask = source.numbers("mask", [rows, time], || {
            (0..rows * time).map(|place| u8::from(place % time >= prompt)).collect()
        })?;
        let mask: Vec<bool> = mask.iter::<u8>().map(|counted| counted != 0).collect();
        Ok(Self {
            policy: model("", 0.0)?,
            reference: (loss == Loss::Dpo).then(|| model("reference_", 0.02)).transpose()?,
            completions: Completions::new(
                Tensor::<2, Int>::from_data(tokens, (device, DType::I32)),
                Tensor::<2, Bool>::from_data(TensorData::new(mask, [rows, time]), device),
            )?,
            frozen_head,
            implementation,
        })
    }

    fn head(&self, weight: Tensor<2>) -> LmHead {
        let head = LmHead::new(weight, None);
        if self.implementation == Implementation::Portable { head.with_portable_operations() } else { head }
    }

    fn log_probs(&self, Model { hidden, weight }: Model) -> burn_dpo::Result<SequenceLogProbs> {
        match self.implementation {
            Implementation::Naive => naive::sequence_log_probs(linear(hidden, weight, None), &self.completions),
            _ => Ok(self.head(weight).token_log_probs(hidden, &self.completions)?.sequences()),
        }
    }

    fn answer(&self, policy: Model) -> anyhow::Result<Answer> {
        let Some(reference) = &self.reference else {
            let log_probs = self.log_probs(policy)?.sum;
            return Ok(Answer { loss: log_probs.clone().sum(), log_probs });
        };
        let reference = self.log_probs(reference.clone())?.into_pairs()?;
        let beta = Beta::new(BETA)?;
        if self.implementation == Implementation::Fast {
            let loss = PreferenceLoss::Dpo { beta, divergence: FDivergence::ReverseKl }.into();
            let Model { hidden, weight } = policy;
            let step = self.head(weight).preference_step(hidden, &self.completions, &reference, &loss)?;
            return Ok(Answer { loss: step.loss, log_probs: of_sequences(&step.policy) });
        }
        let policy = self.log_probs(policy)?.into_pairs()?;
        Ok(Answer { loss: dpo_loss(&policy, &reference, beta)?.mean(), log_probs: of_sequences(&policy) })
    }
}

fn of_sequences(pairs: &PairLogProbs) -> Tensor<1> {
    Tensor::cat(vec![pairs.chosen().sum.clone(), pairs.rejected().sum.clone()], 0)
}

impl Work for Heads {
    type Answer = Answer;
    type Start = Model;
    type Step = Step<Model>;

    fn forward(&self) -> anyhow::Result<Answer> {
        self.answer(self.policy.clone())
    }

    fn start(&self) -> Model {
        let Model { hidden, weight } = self.policy.clone();
        Model {
            hidden: hidden.autodiff().require_grad(),
            weight: if self.frozen_head { weight } else { weight.autodiff().require_grad() },
        }
    }

    fn forward_backward(&self, model: Model) -> anyhow::Result<Step<Model>> {
        Ok(Step::of(self.answer(model.clone())?, model))
    }

    fn results(&self, step: Step<Model>) -> anyhow::Result<Results> {
        let mut results = vec![("gradient_hidden", step.gradient(&step.leaves.hidden)?.into_data())];
        if !self.frozen_head {
            results.push(("gradient_weight", step.gradient(&step.leaves.weight)?.into_data()));
        }
        results.push(("loss", step.answer.loss.into_data()));
        results.push(("log_probs", step.answer.log_probs.into_data()));
        Ok(results)
    }
}

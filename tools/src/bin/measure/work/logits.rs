//! From logits.

use std::ops::Range;

use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, s};
use burn_dpo::{Completions, portable, token_log_probs};

use super::{Answer, Implementation, Results, Size, Step, Work, drawn, naive};
use crate::files::Source;

/// How many rows of the gradient are looked at.
const SAMPLE: usize = 4;

/// The log-prob of each row's target, and the gradient of `Σ upstream · log-prob` in the logits.
///
/// Rows are positions of one sequence; one more position, the last, predicts nothing and is not counted.
///
/// Logits come as they do from a model: not a leaf, and nobody else holds their buffer, so that whoever can may overwrite it
/// with the gradient. What they depend on is a few of their rows, which are a leaf: so nothing of the model's own backward
/// pass is in the time, and these rows of the gradient can be looked at.
pub struct Logits {
    /// `[1, rows + 1, vocab]`.
    logits: Tensor<3>,
    completions: Completions,
    /// `[1, rows]`.
    upstream: Tensor<2>,
    /// The first rows that are counted.
    sample: Range<usize>,
    implementation: Implementation,
}

impl Logits {
    pub fn new(size: &Size, dtype: DType, source: &Source, device: &Device) -> anyhow::Result<Self> {
        let Size { rows, vocab, implementation, .. } = *size;
        let logits = source.numbers("logits", [rows, vocab], || drawn::normal(1, rows * vocab, 4.0))?;
        let targets = source.numbers("targets", [rows], || drawn::ids(2, rows, vocab))?;
        let upstream = source.numbers("upstream", [rows], || drawn::normal(3, rows, 1.0))?;

        let logits = Tensor::<2>::from_data(logits, (device, dtype));
        let logits = Tensor::cat(vec![logits, Tensor::zeros([1, vocab], (device, dtype))], 0).unsqueeze();
        // the first token is not predicted
        let tokens: Vec<i32> = [0].into_iter().chain(targets.iter::<i32>()).collect();
        let first = rows - size.counted(rows);
        let mask: Vec<bool> = (0..=rows).map(|token| token > first).collect();
        Ok(Self {
            logits,
            completions: Completions::new(
                Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, rows + 1]), (device, DType::I32)),
                Tensor::<2, Bool>::from_data(TensorData::new(mask, [1, rows + 1]), device),
            )?,
            upstream: Tensor::<1>::from_data(upstream, (device, DType::F32)).unsqueeze(),
            sample: first.min(rows - 1)..(first + SAMPLE).min(rows),
            implementation,
        })
    }

    fn answer(&self, logits: Tensor<3>) -> anyhow::Result<Answer> {
        let log_probs = match self.implementation {
            Implementation::Fast => token_log_probs(logits, &self.completions)?.values(),
            Implementation::Portable => portable::token_log_probs(logits, &self.completions)?.values(),
            Implementation::Naive => naive::token_log_probs(logits, &self.completions),
        };
        let loss = (log_probs.clone() * self.upstream.clone()).sum();
        Ok(Answer { loss, log_probs: log_probs.squeeze_dim(0) })
    }
}

/// Logits, and those of their rows that they depend on.
pub struct Start {
    logits: Tensor<3>,
    rows: Tensor<3>,
}

impl Work for Logits {
    type Answer = Answer;
    type Start = Start;
    type Step = Step<Tensor<3>>;

    fn forward(&self) -> anyhow::Result<Answer> {
        self.answer(self.logits.clone())
    }

    fn start(&self) -> Start {
        let place = s![.., self.sample.clone(), ..];
        let rows = self.logits.clone().slice(place).autodiff().require_grad();
        // as `self` holds the others' buffer as well, this copies them
        let logits = self.logits.clone().autodiff().slice_assign(place, rows.clone());
        Start { logits, rows }
    }

    fn forward_backward(&self, Start { logits, rows }: Start) -> anyhow::Result<Step<Tensor<3>>> {
        Ok(Step::of(self.answer(logits)?, rows))
    }

    fn results(&self, step: Step<Tensor<3>>) -> anyhow::Result<Results> {
        let gradient = step.gradient(&step.leaves)?.squeeze_dim::<2>(0);
        Ok(vec![("log_probs", step.answer.log_probs.into_data()), ("gradient", gradient.into_data())])
    }
}

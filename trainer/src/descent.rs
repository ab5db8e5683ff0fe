//! Steps of gradient descent: AdamW, a learning rate that rises and falls, and a gradient that is clipped as a whole.

use burn::{
    optim::{AdamWConfig, GradientsParams, ModuleOptimizer},
    tensor::Tensor,
};

use super::{clip::clip_by_global_norm, model::Transformer};

/// Small models on few pairs need more than usual, or they learn prompts by heart.
const WEIGHT_DECAY: f32 = 0.03;

/// A number of steps, and how they are taken.
pub struct Descent {
    optimizer: ModuleOptimizer,
    pub steps: usize,
    peak: f64,
    max_grad_norm: f64,
}

/// What a step was taken with.
pub struct Taken {
    pub learning_rate: f64,
    /// Before clipping.
    pub grad_norm: f64,
}

impl Descent {
    pub fn new(steps: usize, peak_learning_rate: f64, max_grad_norm: f64) -> Self {
        Self {
            optimizer: AdamWConfig::new().with_weight_decay(WEIGHT_DECAY).init(),
            steps,
            peak: peak_learning_rate,
            max_grad_norm,
        }
    }

    /// Takes step number `step`, from 1, down the gradient of `loss`.
    ///
    /// # Errors
    /// If the gradient has no direction.
    pub fn step(&mut self, step: usize, model: Transformer, loss: Tensor<1>) -> anyhow::Result<(Transformer, Taken)> {
        let mut gradients = GradientsParams::from_grads(loss.backward(), &model);
        let grad_norm = clip_by_global_norm(&mut gradients, &model, self.max_grad_norm)?;
        let learning_rate = learning_rate(self.peak, step, self.steps);
        Ok((self.optimizer.step(learning_rate, model, gradients), Taken { learning_rate, grad_norm }))
    }
}

/// Up in a line over the first tenth of the steps, and from there down in a line to 0 behind the last.
fn learning_rate(peak: f64, step: usize, steps: usize) -> f64 {
    let rising = (steps / 10).max(1);
    let up = step as f64 / rising as f64;
    let down = ((steps - step) as f64 + 1.0) / ((steps - rising) as f64 + 1.0);
    peak * up.min(down)
}

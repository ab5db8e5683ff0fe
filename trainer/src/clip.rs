//! Gradient clipping by the norm over all parameters together, as `torch.nn.utils.clip_grad_norm_` does it. burn's own
//! clips every parameter by itself, which turns the direction of the step.

use anyhow::ensure;
use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};

/// Scales the gradients down so that their common norm is at most `max_norm`; returns the norm that they had.
///
/// # Errors
/// If that norm is not a number or infinite: there is no direction to step in.
pub fn clip_by_global_norm<M: Module>(
    gradients: &mut GradientsParams,
    model: &M,
    max_norm: f64,
) -> anyhow::Result<f64> {
    let mut squares = SumOfSquares { gradients, sum: None };
    model.visit(&mut squares);
    let norm: f64 = squares.sum.map_or(Ok(0.0), |sum| sum.sqrt().try_into_scalar())?;
    ensure!(norm.is_finite(), "the norm of the gradient is {norm}; a lower learning rate may help");
    if norm > max_norm {
        model.visit(&mut Scale { gradients, factor: max_norm / norm });
    }
    Ok(norm)
}

struct SumOfSquares<'a> {
    gradients: &'a GradientsParams,
    sum: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.sum = Some(match self.sum.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.gradients.register(param.id, gradient * self.factor);
        }
    }
}

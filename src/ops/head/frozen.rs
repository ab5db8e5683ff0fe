//! Log-probs of a head, whose gradient needs no second pass over the vocabulary where only the hidden states are trained.

use burn_tensor::{FloatDType, Tensor};

use super::{Head, HeadInputs, forward::softcap_derivative};
use crate::ops::{LogitTransform, SoftmaxState, graph::closed_form};

impl Head {
    /// The log-prob of each row's target, `[rows, 1]`, in the graph.
    pub(crate) fn log_probs(&self, inputs: &HeadInputs) -> Tensor<2> {
        let HeadInputs { hidden, weight, bias, .. } = inputs;
        let frozen = hidden.is_tracked() && !weight.is_tracked() && !bias.is_tracked();
        let forward = self.forward(inputs, None, frozen, None);
        match forward.weighted {
            None => self.with_gradient(forward.state.outputs(false), inputs, &forward.state),
            Some(weighted) => {
                let log_prob = forward.state.outputs(false).cast(FloatDType::from(hidden.dtype()));
                let derivative = self.hidden_derivative(inputs, weighted, &forward.state, &log_prob);
                closed_form(log_prob, [(hidden.clone(), derivative)])
            }
        }
    }

    /// `∂ log p/∂hidden = scale (c_y W_y − Σ_v p_v c_v W_v)`, `[rows, hidden]`, where `c_v` is the derivative of the soft cap.
    fn hidden_derivative(
        &self,
        inputs: &HeadInputs,
        weighted: Tensor<2>,
        state: &SoftmaxState,
        log_prob: &Tensor<2>,
    ) -> Tensor<2> {
        let dtype = FloatDType::from(inputs.hidden.dtype());
        let LogitTransform { scale, softcap } = self.transform;
        let of_target = self.target_columns(inputs);
        let of_target = match softcap {
            None => of_target,
            Some(softcap) => of_target * softcap_derivative(state.target_logit(), softcap).cast(dtype),
        };
        let derivative = (of_target - weighted / state.sum_exp().cast(dtype)) * scale;
        let undefined = log_prob.clone().is_nan().expand(derivative.dims());
        derivative.mask_fill(undefined, f64::NAN)
    }
}

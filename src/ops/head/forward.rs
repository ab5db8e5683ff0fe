//! One pass over the vocabulary.

use std::ops::Range;

use burn::backend::Dispatch;
use burn_tensor::{DType, FloatDType, Tensor, s};

use super::{Head, HeadInputs, LogitCache, MatmulInto, columns_of, logits, row_parts, tile};
use crate::ops::{Implementation, RowKernels, SoftmaxState, constants::zeros, portable, softmax_state::finite_or_zero};

/// The result of one pass over the vocabulary.
pub(crate) struct Forward {
    pub(crate) state: SoftmaxState,
    /// `Σ_v e_v ∂z_v/∂x_v W_v`, `[rows, hidden]`, if it was asked for.
    pub(crate) weighted: Option<Tensor<2>>,
}

impl Head {
    /// The softmax state of each row of hidden states; and with `weighted`, the weighted sum that a frozen head's gradient is
    /// computed from. Without a graph. The logits of the first rows are stored in the cache.
    pub(crate) fn forward(
        &self,
        inputs: &HeadInputs,
        statistics: Option<usize>,
        weighted: bool,
        mut cache: Option<&mut LogitCache>,
    ) -> Forward {
        let HeadInputs { hidden, weight, bias, targets } = &inputs.without_autodiff();
        let ([rows, width], [_, vocab], dtype) = (hidden.dims(), self.dims(weight), hidden.dtype());
        let cached_rows = cache.as_ref().map_or(0, |cache| cache.rows);
        let zeros = |rows: usize| zeros(hidden, [rows, width], dtype);
        let mut parts: Vec<Part> = row_parts(rows, self.tiling.rows, cached_rows)
            .into_iter()
            .map(|rows| Part { state: None, weighted: weighted.then(|| zeros(rows.len())), rows })
            .collect();
        let factors = hidden.clone().cast(FloatDType::from(self.factors));
        let mut workspace = None;
        for columns in columns_of(vocab, self.tiling.columns) {
            let tile = Tensor::from_dispatch(tile::<Dispatch>(self, &weight.clone().into_dispatch(), columns.clone()));
            for part in &mut parts {
                let hidden = factors.clone().slice(s![part.rows.clone(), ..]);
                let targets = targets.clone().slice(s![part.rows.clone()]);
                let z = self.logits(workspace.take(), hidden, &tile, bias, columns.clone(), dtype);
                part.add(SoftmaxState::of(&z, &targets, columns.start, statistics, self.implementation));
                if let Some(cache) = cache.as_deref_mut().filter(|cache| part.rows.end <= cache.rows) {
                    cache.store(self, z.clone(), columns.clone());
                }
                workspace = Some(if weighted { part.weigh(self, z, &tile) } else { z });
            }
        }
        let (states, weighted): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.state().clone(), part.weighted)).unzip();
        let weighted: Option<Vec<_>> = weighted.into_iter().collect();
        Forward { state: SoftmaxState::cat(states), weighted: weighted.map(|parts| Tensor::cat(parts, 0)) }
    }

    /// The logits of some rows and columns, `[rows, columns]`, in the workspace if it fits.
    fn logits(
        &self,
        workspace: Option<Tensor<2>>,
        hidden: Tensor<2>,
        tile: &Tensor<2>,
        bias: &Tensor<1>,
        columns: Range<usize>,
        dtype: DType,
    ) -> Tensor<2> {
        Tensor::from_dispatch(logits::<Dispatch>(
            self,
            workspace.map(Tensor::into_dispatch),
            hidden.into_dispatch(),
            tile.clone().into_dispatch(),
            &bias.clone().into_dispatch(),
            columns,
            dtype,
        ))
    }
}

/// Some rows on their way through the vocabulary.
struct Part {
    rows: Range<usize>,
    state: Option<SoftmaxState>,
    weighted: Option<Tensor<2>>,
}

impl Part {
    /// Merges the state of another tile. The weighted sum is rescaled from the largest logit so far to the new one.
    fn add(&mut self, tile: SoftmaxState) {
        let Some(before) = self.state.take() else {
            self.state = Some(tile);
            return;
        };
        let (max, merged) = (before.max(), before.merge(tile));
        self.weighted = self.weighted.take().map(|weighted| {
            let same = max.clone().equal(merged.max());
            let factor = (max - merged.max()).mask_fill(same, 0.0).exp(); // ∞ − ∞ where both are
            let dtype = weighted.dtype();
            weighted * factor.cast(FloatDType::from(dtype))
        });
        self.state = Some(merged);
    }

    fn state(&self) -> &SoftmaxState {
        self.state.as_ref().expect("a vocabulary has at least one tile")
    }

    /// Adds the columns of the tile's weight, each times its `exp(z − max)`. Returns the buffer of the logits.
    fn weigh(&mut self, head: &Head, z: Tensor<2>, tile: &Tensor<2>) -> Tensor<2> {
        let exps = exp_rows(z, self.state(), head.transform.softcap, head.implementation);
        let [rows, width] = [self.rows.len(), tile.dims()[0]];
        let tile = tile.clone().cast(FloatDType::from(exps.dtype()));
        self.weighted = self.weighted.take().map(|weighted| {
            let into = MatmulInto { rows: 0..rows, columns: 0..width, accumulate: true, scale: 1.0 };
            let [weighted, exps, tile] = [weighted, exps.clone(), tile.transpose()].map(Tensor::into_dispatch);
            Tensor::from_dispatch(head.implementation.matmul_into::<Dispatch>(weighted, exps, tile, into))
        });
        exps
    }
}

/// `exp(z − max) ∂z/∂x` of each logit.
fn exp_rows(z: Tensor<2>, state: &SoftmaxState, softcap: Option<f64>, implementation: Implementation) -> Tensor<2> {
    match implementation {
        Implementation::Kernels => {
            Tensor::from_dispatch(Dispatch::exp_rows(z.into_dispatch(), state.columns().into_dispatch(), softcap))
        }
        Implementation::Portable => {
            // 0 where all logits so far are −∞
            let exp = (z.clone() - finite_or_zero(state.max().cast(FloatDType::from(z.dtype())))).exp();
            match softcap {
                None => exp,
                Some(softcap) => exp * softcap_derivative(z, softcap),
            }
        }
    }
}

/// The derivative of a soft cap at `z`: `1 − (z/softcap)²`.
pub(super) fn softcap_derivative(z: Tensor<2>, softcap: f64) -> Tensor<2> {
    Tensor::from_dispatch(portable::softcap_derivative::<Dispatch>(z.into_dispatch(), softcap))
}

//! One pass over the vocabulary.

use std::ops::Range;

use burn::backend::Dispatch;
use burn_tensor::{DType, FloatDType, Tensor, s};

use super::{
    Head, HeadInputs, Kept, Product, Road, RowKernels, RowSums, columns_of, finite_or_zero, logits, row_parts,
    slope_of_cap, tile, zeros,
};

/// What one pass over the vocabulary gives.
pub(crate) struct Forward {
    pub(crate) sums: RowSums,
    /// `Σ_v e_v ∂z_v/∂x_v W_v`, `[rows, hidden]`, if it was asked for.
    pub(crate) weighted: Option<Tensor<2>>,
}

impl Head {
    /// What is known of each row of hidden states; and with `weighted`, what a frozen head's gradient is made of. Without a
    /// graph. The logits of the first rows are left with `kept`.
    pub(crate) fn forward(
        &self,
        inputs: &HeadInputs,
        statistics: Option<usize>,
        weighted: bool,
        mut kept: Option<&mut Kept>,
    ) -> Forward {
        let HeadInputs { hidden, weight, bias, targets } = &inputs.without_autodiff();
        let ([rows, width], [_, vocab], dtype) = (hidden.dims(), self.dims(weight), hidden.dtype());
        let kept_rows = kept.as_ref().map_or(0, |kept| kept.rows);
        let zeros = |rows: usize| zeros(hidden, [rows, width], dtype);
        let mut parts: Vec<Part> = row_parts(rows, self.tiling.rows, kept_rows)
            .into_iter()
            .map(|rows| Part { sums: None, weighted: weighted.then(|| zeros(rows.len())), rows })
            .collect();
        let factors = hidden.clone().cast(FloatDType::from(self.factors));
        let mut workspace = None;
        for columns in columns_of(vocab, self.tiling.columns) {
            let tile = Tensor::from_dispatch(tile::<Dispatch>(self, &weight.clone().into_dispatch(), columns.clone()));
            for part in &mut parts {
                let hidden = factors.clone().slice(s![part.rows.clone(), ..]);
                let targets = targets.clone().slice(s![part.rows.clone()]);
                let z = self.logits(workspace.take(), hidden, &tile, bias, columns.clone(), dtype);
                part.add(RowSums::of(&z, &targets, columns.start, statistics, self.road), self.road);
                if let Some(kept) = kept.as_deref_mut().filter(|kept| part.rows.end <= kept.rows) {
                    kept.put(self, z.clone(), columns.clone());
                }
                workspace = Some(if weighted { part.weigh(self, z, &tile) } else { z });
            }
        }
        let (sums, weighted): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.sums().0.clone(), part.weighted)).unzip();
        let weighted: Option<Vec<_>> = weighted.into_iter().collect();
        Forward { sums: RowSums(Tensor::cat(sums, 0)), weighted: weighted.map(|parts| Tensor::cat(parts, 0)) }
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
    sums: Option<RowSums>,
    weighted: Option<Tensor<2>>,
}

impl Part {
    /// Takes in what another tile adds. What was weighted with the largest logit so far is weighted with the new one.
    fn add(&mut self, tile: RowSums, road: Road) {
        let Some(before) = self.sums.take() else {
            self.sums = Some(tile);
            return;
        };
        let (max, merged) = (before.max(), before.merge(tile, road));
        self.weighted = self.weighted.take().map(|weighted| {
            let same = max.clone().equal(merged.max());
            let factor = (max - merged.max()).mask_fill(same, 0.0).exp(); // ∞ − ∞ where both are
            let dtype = weighted.dtype();
            weighted * factor.cast(FloatDType::from(dtype))
        });
        self.sums = Some(merged);
    }

    fn sums(&self) -> &RowSums {
        self.sums.as_ref().expect("a vocabulary has at least one tile")
    }

    /// Adds the tile's weight, each column times what its logit weighs so far. Gives back the memory of the logits.
    fn weigh(&mut self, head: &Head, z: Tensor<2>, tile: &Tensor<2>) -> Tensor<2> {
        let probs = exp_rows(z, self.sums(), head.chain.cap, head.road);
        let [rows, width] = [self.rows.len(), tile.dims()[0]];
        let tile = tile.clone().cast(FloatDType::from(probs.dtype()));
        self.weighted = self.weighted.take().map(|weighted| {
            let product = Product { rows: 0..rows, columns: 0..width, accumulate: true, scale: 1.0 };
            let [weighted, probs, tile] = [weighted, probs.clone(), tile.transpose()].map(Tensor::into_dispatch);
            Tensor::from_dispatch(head.road.product_into::<Dispatch>(weighted, probs, tile, product))
        });
        probs
    }
}

/// `exp(z − max) ∂z/∂x` of each logit, with what is known of its row.
fn exp_rows(z: Tensor<2>, sums: &RowSums, cap: Option<f64>, road: Road) -> Tensor<2> {
    match road {
        Road::Kernels => {
            Tensor::from_dispatch(Dispatch::exp_rows(z.into_dispatch(), sums.0.clone().into_dispatch(), cap))
        }
        Road::Portable => {
            // of nothing but −∞ so far nothing weighs
            let exp = (z.clone() - finite_or_zero(sums.max().cast(FloatDType::from(z.dtype())))).exp();
            match cap {
                None => exp,
                Some(cap) => exp * slope_of_cap(z, cap),
            }
        }
    }
}

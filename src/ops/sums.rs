//! What is known of rows of logits, or of parts of them.

use burn::backend::Dispatch;
use burn_tensor::{Bool, DType, FloatDType, Int, Tensor, s};

use super::{Road, RowKernels, arithmetic_dtype, indices, max_of_rows, sum_in_blocks};
use crate::numerics::log1p_of_non_negative;

/// The columns of [`RowSums`].
pub(super) mod column {
    pub const MAX: usize = 0;
    pub const TIES: usize = 1;
    pub const REST: usize = 2;
    pub const DEPTH: usize = 3;
    pub const SQUARES: usize = 4;
    pub const MEAN: usize = 5;
    pub const ARGMAX: usize = 6;
    pub const TARGET: usize = 7;
}

/// What a block of logits adds to its rows, `[rows, 8]`, as constants: enough to know a log-prob and its gradient once all
/// blocks of a row are [merged](Self::merge).
///
/// With `e_v = exp(z_v − max)`:
///
/// | column    | what                                                                                    |
/// |-----------|-----------------------------------------------------------------------------------------|
/// | `max`     | the largest logit                                                                       |
/// | `ties`    | how many there are of it                                                                |
/// | `rest`    | `Σ e_v` over all others: near certainty it is nearly 0, and as accurate as there        |
/// | `depth`   | `Σ e_v (max − z_v)`                                                                     |
/// | `squares` | `Σ e_v²` over all but the largest                                                       |
/// | `mean`    | `(1/V) Σ z_v`, `V` the size of the whole vocabulary                                     |
/// | `argmax`  | the first column of the largest; NaN where there is NaN                                 |
/// | `target`  | the target's logit; NaN if its column is not here                                       |
///
/// The four from `depth` to `argmax` say nothing unless statistics were asked for. In f64 where a CPU's kernels made them, else in the format computed in.
#[derive(Debug, Clone)]
pub(crate) struct RowSums(pub(crate) Tensor<2>);

impl RowSums {
    /// How many numbers there are for each row.
    pub(crate) const COLUMNS: usize = 8;

    /// Of logits `[rows, columns]` that begin at column `offset` of the vocabulary; with `statistics`, if its size is given.
    pub(crate) fn of(
        z: &Tensor<2>,
        targets: &Tensor<1, Int>,
        offset: usize,
        statistics: Option<usize>,
        road: Road,
    ) -> Self {
        let z = z.clone().without_autodiff();
        match road {
            Road::Kernels => Self(Tensor::from_dispatch(Dispatch::row_sums(
                z.into_dispatch(),
                targets.clone().into_dispatch(),
                offset,
                statistics,
            ))),
            Road::Portable => portable(z, targets, offset, statistics),
        }
    }

    fn column(&self, index: usize) -> Tensor<2> {
        self.0.clone().slice(s![.., index..index + 1])
    }

    /// `max`, `[rows, 1]`.
    pub(crate) fn max(&self) -> Tensor<2> {
        self.column(column::MAX)
    }

    /// The target's logit, `[rows, 1]`.
    pub(crate) fn target(&self) -> Tensor<2> {
        self.column(column::TARGET)
    }

    /// `S = Σ e_v`, `[rows, 1]`.
    pub(crate) fn sum(&self) -> Tensor<2> {
        self.column(column::TIES) + self.column(column::REST)
    }

    /// Of two parts of the same rows what is known of both together. Associative and commutative, up to rounding.
    pub(crate) fn merge(self, other: Self, road: Road) -> Self {
        match road {
            Road::Kernels => {
                Self(Tensor::from_dispatch(Dispatch::merge(self.0.into_dispatch(), other.0.into_dispatch())))
            }
            Road::Portable => self.merge_portable(other),
        }
    }

    /// A part whose largest logit is `gap` below the other's has its `e_v` multiplied by `exp(−gap)`, its largest logits
    /// join the rest, and all its depths grow by `gap`.
    fn merge_portable(self, other: Self) -> Self {
        let (one, two) = (self.max(), other.max());
        let max = one.clone().mask_where(two.clone().greater(one.clone()), two.clone());
        let max = max.mask_where(two.clone().is_nan(), two);
        let (here, there) = (self.below(&max), other.below(&max));
        let nan = self.column(column::ARGMAX).is_nan().bool_or(other.column(column::ARGMAX).is_nan());
        Self(Tensor::cat(
            vec![
                max,
                here.ties + there.ties,
                here.rest + there.rest,
                here.depth + there.depth,
                here.squares + there.squares,
                self.column(column::MEAN) + other.column(column::MEAN),
                here.argmax.min_pair(there.argmax).mask_fill(nan, f64::NAN),
                self.target().mask_where(self.target().is_nan(), other.target()),
            ],
            1,
        ))
    }

    /// The same part, measured from a `max` that is not below its own.
    fn below(&self, max: &Tensor<2>) -> Below {
        let own = self.max();
        let same = own.clone().equal(max.clone());
        let gap = (max.clone() - own).mask_fill(same.clone(), 0.0); // ∞ − ∞ where both are
        let factor = gap.clone().neg().exp();
        let infinite = gap.clone().is_inf();
        let gap = gap.mask_fill(infinite, 0.0); // its factor is 0
        let (ties, rest) = (self.column(column::TIES), self.column(column::REST));
        let joining = ties.clone().mask_fill(same.clone(), 0.0);
        let all = ties.clone() + rest.clone();
        Below {
            ties: ties.mask_fill(same.clone().bool_not(), 0.0),
            rest: (rest + joining.clone()) * factor.clone(),
            depth: (self.column(column::DEPTH) + all * gap) * factor.clone(),
            squares: (self.column(column::SQUARES) + joining) * factor.clone() * factor,
            argmax: self.column(column::ARGMAX).mask_fill(same.bool_not(), f64::INFINITY),
        }
    }

    /// Log-prob, `[rows, 1]`, or with the entropy beside it, `[rows, 2]`; NaN where there is no distribution or no target.
    pub(crate) fn outputs(&self, entropy: bool, road: Road) -> Tensor<2> {
        match (road, entropy) {
            (Road::Kernels, _) => Tensor::from_dispatch(Dispatch::outputs(self.0.clone().into_dispatch(), entropy)),
            (Road::Portable, false) => self.log_prob(),
            (Road::Portable, true) => Tensor::cat(vec![self.log_prob(), self.entropy()], 1),
        }
    }

    /// `log p = (z_y − max) − log S`, `[rows, 1]`; NaN where there is no distribution or no target.
    fn log_prob(&self) -> Tensor<2> {
        (self.target() - self.max()) - self.log_sum()
    }

    /// `log S = log(1 + (S − 1))`, `[rows, 1]`; NaN where there is no distribution.
    fn log_sum(&self) -> Tensor<2> {
        let sum = self.sum();
        let nowhere = self.max().is_finite().bool_not().bool_or(sum.lower_elem(0.5));
        let above_one = self.column(column::REST) + (self.column(column::TIES) - 1.0);
        log1p_of_non_negative(above_one).mask_fill(nowhere, f64::NAN)
    }

    /// `−Σ p_v log p_v = log S + Σ p_v d_v`, `[rows, 1]`, as `log p_v = −d_v − log S`.
    fn entropy(&self) -> Tensor<2> {
        self.log_sum() + self.column(column::DEPTH) / self.sum()
    }

    /// `log Σ p_v² = log Σ e_v² − 2 log S`, `[rows, 1]`.
    pub(crate) fn log_sum_sq_probs(&self) -> Tensor<2> {
        let squares = self.column(column::SQUARES) + (self.column(column::TIES) - 1.0);
        log1p_of_non_negative(squares) - self.log_sum() * 2.0
    }

    /// `(1/V) Σ z_v`, `[rows, 1]`.
    pub(crate) fn mean_logit(&self) -> Tensor<2> {
        self.column(column::MEAN)
    }

    /// Whether the target is the first of the largest logits, `[rows, 1]`.
    pub(crate) fn is_argmax(&self, targets: &Tensor<1, Int>) -> Tensor<2, Bool> {
        let argmax = self.column(column::ARGMAX);
        let targets = targets.clone().cast(FloatDType::from(argmax.dtype())).unsqueeze_dim(1);
        argmax.equal(targets)
    }
}

/// A part's columns that depend on which `max` they are measured from.
struct Below {
    ties: Tensor<2>,
    rest: Tensor<2>,
    depth: Tensor<2>,
    squares: Tensor<2>,
    argmax: Tensor<2>,
}

/// By burn's operations alone: one pass over the block each.
fn portable(z: Tensor<2>, targets: &Tensor<1, Int>, offset: usize, statistics: Option<usize>) -> RowSums {
    let z = z.clone().cast(FloatDType::from(arithmetic_dtype(z.dtype())));
    let max = max_of_rows(z.clone());
    let shifted = z.clone() - finite_or_zero(max.clone());
    let largest = shifted.clone().equal_elem(0.0);
    let ties = sum_in_blocks(largest.clone().float().cast(FloatDType::from(z.dtype())));
    let below = shifted.clone().exp().mask_fill(largest, 0.0);
    let rest = sum_in_blocks(below.clone());
    let target = targets_logits(z.clone(), targets, offset);
    let none = rest.zeros_like();
    let [depth, squares, mean, argmax] = if let Some(vocab) = statistics {
        let depth = shifted.neg();
        let infinite = depth.clone().is_inf();
        [
            sum_in_blocks(below.clone() * depth.mask_fill(infinite, 0.0)),
            sum_in_blocks(below.clone() * below),
            sum_in_blocks(z.clone() / vocab as f64), // divided first, so that it does not overflow
            first_of_largest(z, &max, offset),
        ]
    } else {
        [none.clone(), none.clone(), none.clone(), none]
    };
    RowSums(Tensor::cat(vec![max, ties, rest, depth, squares, mean, argmax, target], 1))
}

/// The largest entry of each row; 0 for a row of nothing but −inf, where any other would give `inf − inf`.
pub(super) fn finite_or_zero(max: Tensor<2>) -> Tensor<2> {
    let lowest = if max.dtype() == DType::F64 { f64::MIN } else { f32::MIN as f64 };
    let all_infinite = max.clone().lower_elem(lowest);
    max.mask_fill(all_infinite, 0.0)
}

/// The logit of each row's target, NaN if it is not in this block, `[rows, 1]`.
fn targets_logits(z: Tensor<2>, targets: &Tensor<1, Int>, offset: usize) -> Tensor<2> {
    let [_, columns] = z.dims();
    let (offset, end) = (offset as i64, (offset + columns) as i64);
    let targets = targets.clone().unsqueeze_dim::<2>(1);
    let elsewhere = targets.clone().lower_elem(offset).bool_or(targets.clone().greater_equal_elem(end));
    let ids = targets.mask_fill(elsewhere.clone(), offset).sub_scalar(offset);
    z.gather(1, ids).mask_fill(elsewhere, f64::NAN)
}

/// The first column of each row's largest logit, `[rows, 1]`; NaN where there is NaN.
///
/// By comparison: burn's `argmax` gives indices of the device's default type, which may be too narrow to count a vocabulary,
/// and on wgpu it leaves out the end of some long rows.
fn first_of_largest(z: Tensor<2>, max: &Tensor<2>, offset: usize) -> Tensor<2> {
    let [rows, columns] = z.dims();
    let largest = z.clone().equal(max.clone().expand([rows, columns]));
    let from_end = indices(columns, &z.device()).cast(FloatDType::from(z.dtype())).neg() + columns as f64;
    let from_end = from_end.reshape([1, columns]).expand([rows, columns]).mask_fill(largest.bool_not(), 0.0);
    let first = max_of_rows(from_end).neg() + (columns + offset) as f64;
    first.mask_fill(max.clone().is_nan(), f64::NAN)
}

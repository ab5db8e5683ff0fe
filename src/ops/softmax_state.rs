//! The state of an online softmax over rows of logits, or over parts of them.

use burn::backend::Dispatch;
use burn_tensor::{Bool, DType, Device, FloatDType, Int, Tensor, s};

use super::{
    Implementation, RowKernels,
    constants::indices,
    dtype::{arithmetic_dtype, common_dtype},
    math::log1p_of_non_negative,
    reduce::{max_of_rows, sum_in_blocks},
};

/// The columns of [`SoftmaxState`].
pub(super) mod column {
    pub const MAX: usize = 0;
    pub const MAX_COUNT: usize = 1;
    pub const SUM_EXP_REST: usize = 2;
    pub const SUM_EXP_GAP: usize = 3;
    pub const SUM_EXP_SQ: usize = 4;
    pub const MEAN_LOGIT: usize = 5;
    pub const ARGMAX: usize = 6;
    pub const TARGET_LOGIT: usize = 7;
}

/// Eight numbers of each row, `[rows, 8]`, as constants. Once the states of all blocks of a row are [merged](Self::merge), its
/// log-prob and gradient follow from them.
///
/// With `gap_v = max − z_v` and `e_v = exp(−gap_v)`:
///
/// | column         | what                                                                              |
/// |----------------|-----------------------------------------------------------------------------------|
/// | `max`          | the largest logit                                                                 |
/// | `max_count`    | how many logits are equal to it                                                   |
/// | `sum_exp_rest` | `Σ e_v` over all others: near certainty it is small, and keeps its relative accuracy |
/// | `sum_exp_gap`  | `Σ e_v gap_v`                                                                     |
/// | `sum_exp_sq`   | `Σ e_v²` over all but the largest                                                 |
/// | `mean_logit`   | `(1/V) Σ z_v`, `V` the size of the whole vocabulary                               |
/// | `argmax`       | the first column of the largest; NaN where there is NaN                           |
/// | `target_logit` | the target's logit; NaN if its column is not in the block                         |
///
/// The four columns from `sum_exp_gap` to `argmax` hold statistics, and are undefined unless those were asked for. The dtype is
/// f64 where a CPU's kernels computed the state, else the dtype that is computed in.
#[derive(Debug, Clone)]
pub(crate) struct SoftmaxState {
    columns: Tensor<2>,
    implementation: Implementation,
}

impl SoftmaxState {
    /// How many numbers there are for each row.
    pub(crate) const COLUMNS: usize = 8;

    /// Of logits `[rows, columns]` that begin at column `offset` of the vocabulary. With statistics, if the size of the vocabulary
    /// is given.
    pub(crate) fn of(
        z: &Tensor<2>,
        targets: &Tensor<1, Int>,
        offset: usize,
        statistics: Option<usize>,
        implementation: Implementation,
    ) -> Self {
        let z = z.clone().without_autodiff();
        let columns = match implementation {
            Implementation::Kernels => Tensor::from_dispatch(Dispatch::softmax_state(
                z.into_dispatch(),
                targets.clone().into_dispatch(),
                offset,
                statistics,
            )),
            Implementation::Portable => portable(z, targets, offset, statistics),
        };
        Self { columns, implementation }
    }

    /// From the numbers of [`columns`](Self::columns), `[rows, 8]`.
    pub(crate) fn from_columns(columns: Tensor<2>) -> Self {
        let implementation = Implementation::fastest(&columns.device(), columns.dtype());
        Self { columns, implementation }
    }

    /// The same numbers, for another implementation to compute with.
    pub(crate) fn with_implementation(self, implementation: Implementation) -> Self {
        Self { implementation, ..self }
    }

    /// Of no rows.
    pub(crate) fn empty(device: &Device, dtype: DType) -> Self {
        Self::from_columns(Tensor::zeros([0, Self::COLUMNS], (device, arithmetic_dtype(dtype))))
    }

    /// Of several groups of rows, one after the other, all by one implementation.
    pub(super) fn cat(states: Vec<Self>) -> Self {
        let implementation = states[0].implementation;
        Self { columns: Tensor::cat(states.into_iter().map(|state| state.columns).collect(), 0), implementation }
    }

    /// The numbers, `[rows, 8]`.
    pub(crate) fn columns(&self) -> Tensor<2> {
        self.columns.clone()
    }

    /// What computed them.
    pub(super) fn implementation(&self) -> Implementation {
        self.implementation
    }

    fn column(&self, index: usize) -> Tensor<2> {
        self.columns.clone().slice(s![.., index..index + 1])
    }

    /// `max`, `[rows, 1]`.
    pub(super) fn max(&self) -> Tensor<2> {
        self.column(column::MAX)
    }

    /// The target's logit, `[rows, 1]`.
    pub(super) fn target_logit(&self) -> Tensor<2> {
        self.column(column::TARGET_LOGIT)
    }

    /// `S = Σ e_v`, `[rows, 1]`.
    pub(super) fn sum_exp(&self) -> Tensor<2> {
        self.column(column::MAX_COUNT) + self.column(column::SUM_EXP_REST)
    }

    /// The state of two parts of the same rows together; in f64 if either is. Associative and commutative, up to rounding.
    pub(crate) fn merge(self, other: Self) -> Self {
        let dtype = common_dtype([self.columns.dtype(), other.columns.dtype()]);
        let implementation = match self.columns.dtype() == other.columns.dtype() {
            true => self.implementation,
            false => Implementation::fastest(&self.columns.device(), dtype),
        };
        let [one, two] =
            [self, other].map(|part| Self { columns: part.columns.cast(FloatDType::from(dtype)), implementation });
        let columns = match implementation {
            Implementation::Kernels => {
                Tensor::from_dispatch(Dispatch::merge(one.columns.into_dispatch(), two.columns.into_dispatch()))
            }
            Implementation::Portable => one.merge_portable(two),
        };
        Self { columns, implementation }
    }

    /// A part whose largest logit is `gap` below the other's has its `e_v` multiplied by `exp(−gap)`, its largest logits
    /// join the rest, and all its gaps grow by `gap`.
    fn merge_portable(self, other: Self) -> Tensor<2> {
        let (one, two) = (self.max(), other.max());
        let max = one.clone().mask_where(two.clone().greater(one.clone()), two.clone());
        let max = max.mask_where(two.clone().is_nan(), two);
        let (a, b) = (self.relative_to(&max), other.relative_to(&max));
        let nan = self.column(column::ARGMAX).is_nan().bool_or(other.column(column::ARGMAX).is_nan());
        Tensor::cat(
            vec![
                max,
                a.max_count + b.max_count,
                a.sum_exp_rest + b.sum_exp_rest,
                a.sum_exp_gap + b.sum_exp_gap,
                a.sum_exp_sq + b.sum_exp_sq,
                self.column(column::MEAN_LOGIT) + other.column(column::MEAN_LOGIT),
                a.argmax.min_pair(b.argmax).mask_fill(nan, f64::NAN),
                self.target_logit().mask_where(self.target_logit().is_nan(), other.target_logit()),
            ],
            1,
        )
    }

    /// The same part, relative to a `max` that is not below its own.
    fn relative_to(&self, max: &Tensor<2>) -> Rescaled {
        let own = self.max();
        let same = own.clone().equal(max.clone());
        let gap = (max.clone() - own).mask_fill(same.clone(), 0.0); // ∞ − ∞ where both are
        let factor = gap.clone().neg().exp();
        let infinite = gap.clone().is_inf();
        let gap = gap.mask_fill(infinite, 0.0); // its factor is 0
        let max_count = self.column(column::MAX_COUNT);
        let joining = max_count.clone().mask_fill(same.clone(), 0.0);
        Rescaled {
            max_count: max_count.mask_fill(same.clone().bool_not(), 0.0),
            sum_exp_rest: (self.column(column::SUM_EXP_REST) + joining.clone()) * factor.clone(),
            sum_exp_gap: (self.column(column::SUM_EXP_GAP) + self.sum_exp() * gap) * factor.clone(),
            sum_exp_sq: (self.column(column::SUM_EXP_SQ) + joining) * factor.clone() * factor,
            argmax: self.column(column::ARGMAX).mask_fill(same.bool_not(), f64::INFINITY),
        }
    }

    /// Log-prob, `[rows, 1]`, or log-prob and entropy, `[rows, 2]`; NaN where there is no distribution or no target.
    pub(crate) fn outputs(&self, entropy: bool) -> Tensor<2> {
        match (self.implementation, entropy) {
            (Implementation::Kernels, _) => {
                Tensor::from_dispatch(Dispatch::outputs(self.columns().into_dispatch(), entropy))
            }
            (Implementation::Portable, false) => self.log_prob(),
            (Implementation::Portable, true) => Tensor::cat(vec![self.log_prob(), self.entropy()], 1),
        }
    }

    /// `log p = (z_y − max) − log S`, `[rows, 1]`; NaN where there is no distribution or no target.
    fn log_prob(&self) -> Tensor<2> {
        (self.target_logit() - self.max()) - self.log_sum_exp()
    }

    /// `log S = log(1 + (S − 1))`, `[rows, 1]`; NaN where there is no distribution.
    fn log_sum_exp(&self) -> Tensor<2> {
        let no_distribution = self.max().is_finite().bool_not().bool_or(self.sum_exp().lower_elem(0.5));
        let above_one = self.column(column::SUM_EXP_REST) + (self.column(column::MAX_COUNT) - 1.0);
        log1p_of_non_negative(above_one).mask_fill(no_distribution, f64::NAN)
    }

    /// `−Σ p_v log p_v = log S + Σ p_v gap_v`, `[rows, 1]`, as `log p_v = −gap_v − log S`.
    fn entropy(&self) -> Tensor<2> {
        self.log_sum_exp() + self.column(column::SUM_EXP_GAP) / self.sum_exp()
    }

    /// `log Σ p_v² = log Σ e_v² − 2 log S`, `[rows, 1]`.
    pub(crate) fn log_sum_sq_probs(&self) -> Tensor<2> {
        let squares = self.column(column::SUM_EXP_SQ) + (self.column(column::MAX_COUNT) - 1.0);
        log1p_of_non_negative(squares) - self.log_sum_exp() * 2.0
    }

    /// `(1/V) Σ z_v`, `[rows, 1]`.
    pub(crate) fn mean_logit(&self) -> Tensor<2> {
        self.column(column::MEAN_LOGIT)
    }

    /// Whether the target is the first of the largest logits, `[rows, 1]`.
    pub(crate) fn is_argmax(&self, targets: &Tensor<1, Int>) -> Tensor<2, Bool> {
        let argmax = self.column(column::ARGMAX);
        let targets = targets.clone().cast(FloatDType::from(argmax.dtype())).unsqueeze_dim(1);
        argmax.equal(targets)
    }
}

/// The columns of a part that depend on the `max` they are relative to.
struct Rescaled {
    max_count: Tensor<2>,
    sum_exp_rest: Tensor<2>,
    sum_exp_gap: Tensor<2>,
    sum_exp_sq: Tensor<2>,
    argmax: Tensor<2>,
}

/// The state by burn's operations alone, each of them a pass over the block.
fn portable(z: Tensor<2>, targets: &Tensor<1, Int>, offset: usize, statistics: Option<usize>) -> Tensor<2> {
    let z = z.clone().cast(FloatDType::from(arithmetic_dtype(z.dtype())));
    let max = max_of_rows(z.clone());
    let shifted = z.clone() - finite_or_zero(max.clone());
    let largest = shifted.clone().equal_elem(0.0);
    let max_count = sum_in_blocks(largest.clone().float().cast(FloatDType::from(z.dtype())));
    let exp_rest = shifted.clone().exp().mask_fill(largest, 0.0);
    let sum_exp_rest = sum_in_blocks(exp_rest.clone());
    let target_logit = target_logits(z.clone(), targets, offset);
    let none = sum_exp_rest.zeros_like();
    let [sum_exp_gap, sum_exp_sq, mean_logit, argmax] = if let Some(vocab) = statistics {
        let gap = shifted.neg();
        let infinite = gap.clone().is_inf();
        [
            sum_in_blocks(exp_rest.clone() * gap.mask_fill(infinite, 0.0)),
            sum_in_blocks(exp_rest.clone() * exp_rest),
            sum_in_blocks(z.clone() / vocab as f64), // divided first, so that it does not overflow
            first_of_largest(z, &max, offset),
        ]
    } else {
        [none.clone(), none.clone(), none.clone(), none]
    };
    Tensor::cat(vec![max, max_count, sum_exp_rest, sum_exp_gap, sum_exp_sq, mean_logit, argmax, target_logit], 1)
}

/// The largest entry of each row; 0 for a row in which all are −inf, where any other number would give `inf − inf`.
pub(super) fn finite_or_zero(max: Tensor<2>) -> Tensor<2> {
    let lowest = if max.dtype() == DType::F64 { f64::MIN } else { f32::MIN as f64 };
    let all_infinite = max.clone().lower_elem(lowest);
    max.mask_fill(all_infinite, 0.0)
}

/// The logit of each row's target, NaN if it is not in this block, `[rows, 1]`.
fn target_logits(z: Tensor<2>, targets: &Tensor<1, Int>, offset: usize) -> Tensor<2> {
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

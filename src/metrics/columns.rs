//! What is read back of a batch: reduced to one number per pair on the device, and stacked for one transfer.

use std::fmt;

use burn_tensor::{Bool, DType, FloatDType, Int, IntDType, Tensor};

use crate::{
    Error, PairLogProbs, TokenLogProbs,
    expr::{self, Expr},
    ops::{common_dtype, count, indices, k3, max_of_rows, sum_in_blocks},
    sides::Sides,
};

/// Columns of one number per pair, brought to one dtype: f64 if any float among them is, else f32.
#[derive(Default)]
pub(super) struct Columns {
    floats_are_wide: bool,
    columns: Vec<Column>,
}

/// What holds one column, or several, one after the other.
enum Column {
    Floats(Tensor<1>),
    Counts(Tensor<1, Int>),
}

impl Columns {
    pub fn push(&mut self, numbers: &Tensor<1>) {
        self.floats_are_wide |= numbers.dtype() == DType::F64;
        self.columns.push(Column::Floats(numbers.clone().without_autodiff()));
    }

    pub fn push_counts(&mut self, counts: &Tensor<1, Int>) {
        self.columns.push(Column::Counts(counts.clone().without_autodiff()));
    }

    pub fn stack(self) -> Tensor<1> {
        let dtype = if self.floats_are_wide { FloatDType::F64 } else { FloatDType::F32 };
        let cast = |column| match column {
            Column::Floats(numbers) => numbers.cast(dtype),
            Column::Counts(counts) => counts.cast(dtype),
        };
        let mut columns: Vec<Tensor<1>> = self.columns.into_iter().map(cast).collect();
        if columns.len() == 1 { columns.remove(0) } else { Tensor::cat(columns, 0) }
    }
}

/// What every batch has: losses, log-probs of policy and reference, and the policy's token counts, in seven columns.
pub(super) fn of_batch(losses: &Tensor<1>, policy: &PairLogProbs, reference: &PairLogProbs) -> Tensor<1> {
    let (policy_sums, reference_sums) = (&policy.stack().sum, &reference.stack().sum);
    let dtype = FloatDType::from(common_dtype([losses.dtype(), policy_sums.dtype(), reference_sums.dtype()]));
    let losses = Expr::of(&losses.clone().cast(dtype));
    let [policy_sums, reference_sums] =
        [policy_sums, reference_sums].map(|sums| Sides::from(Expr::parts_of(&sums.clone().cast(dtype))));
    let columns = [policy_sums, reference_sums, policy.token_counts()];
    let columns = columns.into_iter().flat_map(|Sides { chosen, rejected }| [chosen, rejected]);
    expr::columns([losses].into_iter().chain(columns))
}

/// `Σ k₃(log π − log π_ref)` over each sequence's counted tokens, `[sequences]`; NaN where the two count different ones.
pub(super) fn summed_k3(policy: &TokenLogProbs, reference: &TokenLogProbs) -> Tensor<1> {
    let [policy_values, reference_values] = [policy, reference].map(|model| model.values().without_autodiff());
    let dtype = FloatDType::from(common_dtype([policy_values.dtype(), reference_values.dtype()]));
    let [sequences, width] = policy_values.dims();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&policy_values.device(), DType::from(dtype)));
    }
    let [counted, counted_by_reference] = [policy, reference].map(|model| model.counted().without_autodiff());
    let log_ratio = policy_values.cast(dtype) - reference_values.cast(dtype);
    let k3 = k3(log_ratio.mask_fill(counted.clone().bool_not(), 0.0));
    sum_in_blocks(k3.mask_fill(counted.not_equal(counted_by_reference), f64::NAN)).squeeze_dim(1)
}

/// How many are true in each row, `[sequences]`.
pub(super) fn row_counts(flags: Tensor<2, Bool>) -> Tensor<1, Int> {
    let [sequences, width] = flags.dims();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&flags.device(), DType::I32));
    }
    count(flags.without_autodiff())
}

/// The first column of each row that holds NaN or an infinity, `[sequences]`; the number of columns where none does.
pub(super) fn first_non_finite(values: Tensor<2>) -> Tensor<1, Int> {
    let values = values.without_autodiff();
    let [sequences, width] = values.dims();
    let device = values.device();
    if sequences * width == 0 {
        return Tensor::zeros([sequences], (&device, DType::I32));
    }
    // the smallest index, as the largest of their negatives
    let negative = indices(width, &device).float().cast(FloatDType::F32).neg().unsqueeze::<2>();
    let bad = negative.expand([sequences, width]).mask_fill(values.is_finite(), -(width as f64));
    max_of_rows(bad).neg().squeeze_dim::<1>(1).int().cast(IntDType::I32)
}

pub(super) fn unreadable(what: &'static str, cause: impl fmt::Display) -> Error {
    Error::Read { what, cause: cause.to_string() }
}

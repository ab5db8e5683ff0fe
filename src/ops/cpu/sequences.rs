//! From rows of logits to sequences, on slices.

use rayon::prelude::*;

use super::{
    super::logits::{IGNORED, OUT_OF_VOCAB},
    dtype::Compute,
};

/// The targets of a batch.
pub(crate) struct Targets {
    /// `[sequences · time]`.
    pub(crate) ids: Vec<i32>,
    /// `[sequences, time − 1]`.
    pub(crate) counted: Vec<bool>,
    /// `[sequences]`.
    pub(crate) token_count: Vec<i32>,
}

/// The target of each position, from token ids and mask, `[sequences, time]`: position `t` predicts token `t + 1`, the last nothing.
pub(crate) fn targets(tokens: &[i64], mask: &[bool], time: usize, vocab: usize) -> Targets {
    let target = |token: i64| match usize::try_from(token) {
        Ok(id) if id < vocab && token < i64::from(OUT_OF_VOCAB) => token as i32,
        _ => OUT_OF_VOCAB,
    };
    let of_token = |(token, counted): (&i64, &bool)| if *counted { target(*token) } else { IGNORED };
    let of_tokens: Vec<i32> = tokens.iter().zip(mask).map(of_token).collect();
    let rows = || of_tokens.chunks(time).map(|row| &row[1..]);
    Targets {
        ids: rows().flat_map(|row| row.iter().copied().chain([IGNORED])).collect(),
        counted: rows().flatten().map(|target| *target != IGNORED).collect(),
        token_count: rows().map(|row| row.iter().filter(|target| **target != IGNORED).count() as i32).collect(),
    }
}

/// One column of `rows`, `[sequences · time, columns]`, at each prediction, `[sequences, time − 1]`; 0 where not counted.
pub(crate) fn predictions<T: Compute>(
    rows: &[T],
    columns: usize,
    targets: &[i32],
    time: usize,
    column: usize,
) -> Vec<T> {
    let number = |(row, target): (&[T], &i32)| if *target == IGNORED { T::ZERO } else { row[column] };
    let of_rows: Vec<T> = rows.chunks(columns).zip(targets).map(number).collect();
    of_rows.chunks(time).flat_map(|row| &row[..time - 1]).copied().collect()
}

/// The gradient of [`predictions`] in its rows, `[rows, columns]`, from that of each prediction, in order.
pub(crate) fn gradient_of_rows<T: Compute>(
    upstream: &[T],
    predicted: usize,
    targets: &[i32],
    columns: usize,
    column: usize,
) -> Vec<T> {
    let mut gradient = vec![T::ZERO; targets.len() * columns];
    let rows = gradient.chunks_mut(columns).zip(targets).enumerate();
    let predictions = rows.filter(|(row, _)| (row + 1) % (predicted + 1) != 0);
    for ((_, (row, target)), upstream) in predictions.zip(upstream) {
        if *target != IGNORED {
            row[column] = *upstream;
        }
    }
    gradient
}

/// The sum of each row of `width` values, rounded about once: in f64, with what each addition loses carried along (Neumaier 1974).
pub(crate) fn accurate_sums<T: Compute>(values: &[T], width: usize) -> Vec<T> {
    let sum = |row: &[T]| {
        let (mut sum, mut lost) = (0.0f64, 0.0f64);
        for value in row.iter().map(|value| value.to_f64()) {
            let next = sum + value;
            lost += if sum.abs() >= value.abs() { (sum - next) + value } else { (value - next) + sum };
            sum = next;
        }
        T::of(if sum.is_finite() { sum + lost } else { sum })
    };
    values.par_chunks(width).with_min_len((1usize << 14).div_ceil(width)).map(sum).collect()
}

/// The indices that sort numbers: smallest first, equal ones in their order, NaN last.
pub(crate) fn argsort<T: Compute>(numbers: &[T]) -> Vec<i32> {
    let mut order: Vec<i32> = (0..numbers.len() as i32).collect();
    order.par_sort_by(|&a, &b| {
        let (a, b) = (numbers[a as usize].to_f64(), numbers[b as usize].to_f64());
        a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
    });
    order
}

#[cfg(test)]
#[path = "../../../tests/kernels/sequences.rs"]
mod tests;

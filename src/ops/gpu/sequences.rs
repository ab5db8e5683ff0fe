//! From rows of logits to sequences.

use cubecl::prelude::*;

use super::{
    INFINITE_BITS,
    reduce::{Cube, sum_over_cube},
};
use crate::ops::{IGNORED, OUT_OF_VOCAB};

/// The target of each row of logits, which predictions are counted, and how many: a cube per sequence.
#[cube(launch)]
#[expect(clippy::too_many_arguments)]
pub(in crate::ops) fn targets_kernel<I: Int, B: Int>(
    tokens: &Tensor<I>,
    mask: &Tensor<B>,
    ids: &mut Tensor<i32>,
    counted: &mut Tensor<B>,
    token_count: &mut Tensor<i32>,
    vocab: i32,
    #[comptime] cube: Cube,
    #[define(I, B)] _dtypes: [ElemType; 2],
) {
    let time = tokens.shape(1);
    let exists = CUBE_POS < tokens.shape(0);
    let sequence = select(exists, CUBE_POS, 0usize);
    let end = select(exists, time, 0usize); // every unit comes to the sum
    let mut count = 0.0f32;
    let mut position = UNIT_POS as usize;
    while position < end {
        let row = sequence * time + position;
        let mut target = IGNORED.runtime();
        if position + 1 < time {
            let flag = mask[row + 1];
            counted[row - sequence] = flag;
            if flag != B::new(0) {
                let id = tokens[row + 1];
                target = OUT_OF_VOCAB;
                if id >= I::new(0) && id < I::cast_from(vocab) {
                    target = i32::cast_from(id);
                }
                count += 1.0f32;
            }
        }
        ids[row] = target;
        position += cube.units;
    }
    let count = sum_over_cube(count, cube); // exact up to 2²⁴
    if UNIT_POS == 0 && exists {
        token_count[sequence] = i32::cast_from(count);
    }
}

/// A column of rows as predictions, 0 where not counted. One unit per prediction.
#[cube(launch)]
pub(in crate::ops) fn predictions_kernel(
    rows: &Tensor<f32>,
    targets: &Tensor<i32>,
    predictions: &mut Tensor<f32>,
    column: usize,
) {
    if ABSOLUTE_POS < predictions.len() {
        let row = ABSOLUTE_POS + ABSOLUTE_POS / predictions.shape(1); // the last of each sequence predicts nothing
        predictions[ABSOLUTE_POS] =
            select(targets[row] == IGNORED, 0.0f32, rows[row * rows.stride(0) + column * rows.stride(1)]);
    }
}

/// The gradient of [`predictions_kernel`] in its rows, `[rows, columns]`. One unit per number.
#[cube(launch)]
pub(in crate::ops) fn rows_gradient_kernel(
    upstream: &Tensor<f32>,
    targets: &Tensor<i32>,
    gradient: &mut Tensor<f32>,
    column: usize,
) {
    if ABSOLUTE_POS < gradient.len() {
        let columns = gradient.shape(1);
        let time = upstream.shape(1) + 1;
        let row = ABSOLUTE_POS / columns;
        let mut of_row = 0.0f32;
        if ABSOLUTE_POS % columns == column && targets[row] != IGNORED {
            of_row = upstream[row / time * upstream.stride(0) + row % time * upstream.stride(1)];
        }
        gradient[ABSOLUTE_POS] = of_row;
    }
}

/// The sum of each row, a cube each.
///
/// Multiples of 1/8 are split off, whose sum is exact in any order, up to 2²¹ nats. What is left of each number is exact too, and at
/// most 1/16, so that the rounding of its sum hardly shows beside the final one. A number that is not finite is left whole.
#[cube(launch)]
pub(in crate::ops) fn accurate_sums_kernel(values: &Tensor<f32>, sums: &mut Tensor<f32>, #[comptime] cube: Cube) {
    let exists = CUBE_POS < values.shape(0);
    let end = select(exists, values.shape(1), 0usize); // every unit comes to the sums
    let first = select(exists, CUBE_POS, 0usize) * values.shape(1);
    let mut whole = 0.0f32;
    let mut rest = 0.0f32;
    let mut column = UNIT_POS as usize;
    while column < end {
        let value = values[first + column];
        let eighths = (value * 8.0f32).round() * 0.125f32;
        let finite = (u32::reinterpret(eighths) & INFINITE_BITS) < INFINITE_BITS; // the largest numbers have none
        let eighths = select(finite, eighths, 0.0f32);
        whole += eighths;
        rest += value - eighths;
        column += cube.units;
    }
    let whole = sum_over_cube(whole, cube);
    let rest = sum_over_cube(rest, cube);
    if UNIT_POS == 0 && exists {
        sums[CUBE_POS] = rest + whole;
    }
}

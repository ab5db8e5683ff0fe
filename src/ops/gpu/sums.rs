//! What is known of each row of logits after one reading, as [`RowSums`](crate::ops::RowSums) has it.
//!
//! A cube reads a row, or one segment of it where rows are few. Each unit carries the largest logit that it has seen and sums
//! relative to it, which it scales down whenever it meets a larger one. At the end all move to the largest of the cube, and
//! add up.
//!
//! **Rounding.** Each of the unit's lanes gets at most [`RUN`] terms before its sum is added to that of all before, so that of
//! `n` terms none passes through more than `RUN + n/RUN` additions.

use cubecl::prelude::*;

use super::INFINITE_BITS;
use super::{
    exp::{exp_of_minus, exp_of_minus_one, log1p},
    place::{place_of, row_of},
    reduce::{Cube, max_over_cube, sum_over_cube},
};
use crate::ops::{RowSums, UNCOUNTED, sums::column};

/// Numbers per row.
const COLUMNS: usize = RowSums::COLUMNS;
/// Terms that are added up before their sum is added to all others.
const RUN: usize = 32;
/// A column beyond all vocabularies.
const NO_COLUMN: f32 = 3.0e38;

/// What is known of a row, or a part of one: the columns of `RowSums`.
#[derive(CubeType, CubeTypeMut, Clone, Copy)]
pub(super) struct Sums {
    pub max: f32,
    pub ties: f32,
    pub rest: f32,
    pub depth: f32,
    pub squares: f32,
    pub mean: f32,
    pub argmax: f32,
    pub target: f32,
}

/// Whether the row that this is known of has a distribution: no NaN or ∞, and not nothing but −∞.
#[cube]
pub(super) fn has_distribution(sums: &Sums, infinity: f32) -> bool {
    let sum = sums.ties + sums.rest;
    sums.max > -infinity && sums.max < infinity && sum >= 0.5f32 && !sum.is_nan()
}

#[cube]
pub(super) fn read(sums: &Tensor<f32>, row: usize) -> Sums {
    let first = row * COLUMNS;
    Sums {
        max: sums[first + column::MAX],
        ties: sums[first + column::TIES],
        rest: sums[first + column::REST],
        depth: sums[first + column::DEPTH],
        squares: sums[first + column::SQUARES],
        mean: sums[first + column::MEAN],
        argmax: sums[first + column::ARGMAX],
        target: sums[first + column::TARGET],
    }
}

#[cube]
fn write(sums: &mut Tensor<f32>, row: usize, of_row: Sums) {
    let first = row * COLUMNS;
    sums[first + column::MAX] = of_row.max;
    sums[first + column::TIES] = of_row.ties;
    sums[first + column::REST] = of_row.rest;
    sums[first + column::DEPTH] = of_row.depth;
    sums[first + column::SQUARES] = of_row.squares;
    sums[first + column::MEAN] = of_row.mean;
    sums[first + column::ARGMAX] = of_row.argmax;
    sums[first + column::TARGET] = of_row.target;
}

/// The same, relative to a `max` that is not below its own.
#[cube]
fn moved_to(sums: &Sums, max: f32) -> Sums {
    let same = sums.max == max;
    let gap = select(same, 0.0f32, max - sums.max); // ∞ − ∞ where both are
    let factor = exp_of_minus_one(gap);
    let gap = select(factor == 0.0f32, 0.0f32, gap); // may be infinite
    let joining = select(same, 0.0f32, sums.ties);
    Sums {
        max,
        ties: select(same, sums.ties, 0.0f32),
        rest: (sums.rest + joining) * factor,
        depth: (sums.depth + (sums.ties + sums.rest) * gap) * factor,
        squares: (sums.squares + joining) * factor * factor,
        mean: sums.mean,
        argmax: select(same || sums.argmax.is_nan(), sums.argmax, NO_COLUMN),
        target: sums.target,
    }
}

/// Of two parts of a row what is known of both together.
#[cube]
fn merged(one: &Sums, two: &Sums) -> Sums {
    let larger = select(two.max > one.max, two.max, one.max);
    let max = select(two.max.is_nan(), two.max, larger);
    let a = moved_to(one, max);
    let b = moved_to(two, max);
    let first = select(b.argmax < a.argmax, b.argmax, a.argmax);
    Sums {
        max,
        ties: a.ties + b.ties,
        rest: a.rest + b.rest,
        depth: a.depth + b.depth,
        squares: a.squares + b.squares,
        mean: a.mean + b.mean,
        argmax: select(b.argmax.is_nan(), b.argmax, first),
        target: select(a.target.is_nan(), b.target, a.target),
    }
}

/// Which lane is the first to hold a number that one of them holds.
#[cube]
fn first_of<N: Size>(x: Vector<f32, N>, number: f32) -> usize {
    let lanes = N::value();
    let mut first = 0usize;
    #[unroll]
    for lane in 0..lanes {
        let from_end = comptime!(lanes - 1 - lane);
        if x.extract(from_end) == number {
            first = from_end.runtime();
        }
    }
    first
}

/// What rows of logits `z`, `[rows, columns]`, add to what is known of them: `[rows · segments, 8]`, one cube each.
///
/// `segment` is how many vectors of a row a cube reads. A row that is not counted is not read.
#[cube(launch, address_type = "dynamic")]
#[expect(clippy::too_many_arguments)]
pub(in crate::ops) fn row_sums_kernel<F: Float, N: Size>(
    z: &Tensor<Vector<F, N>>,
    targets: &Tensor<i32>,
    sums: &mut Tensor<f32>,
    segment: usize,
    segments: usize,
    offset: i32,
    vocab: f32,
    infinity: f32,
    nan: f32,
    #[comptime] statistics: bool,
    #[comptime] cube: Cube,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let exists = row_of(CUBE_POS, segments) < targets.len();
    let row = select(exists, row_of(CUBE_POS, segments), 0usize);
    let part = CUBE_POS % segments;
    let counted = exists && targets[row] != UNCOUNTED;
    let width = z.shape(1) / lanes;
    let begin = part * segment;
    let end = select(counted, min(begin + segment, width), begin); // every unit comes to the end of the loop

    let lowest = -infinity;
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut largest = lowest;
    let mut argmax = f32::cast_from(offset) + f32::cast_from((begin + UNIT_POS as usize) * lanes);
    let mut bits = Vector::<u32, N>::new(0u32);
    let mut ties = zero;
    let mut rest = zero;
    let mut depth = zero;
    let mut squares = zero;
    let mut mean = zero;
    let mut all_rest = zero;
    let mut all_depth = zero;
    let mut all_squares = zero;
    let mut all_mean = zero;
    let mut run = 0usize;
    let mut index = begin + UNIT_POS as usize;
    while index < end {
        let x = Vector::<f32, N>::cast_from(z[place_of(row, width, index)]);
        bits = max(bits, Vector::<u32, N>::reinterpret(x) & Vector::new(0x7fff_ffffu32));
        let mut highest = x.extract(0usize);
        #[unroll]
        for lane in 1..lanes {
            highest = max(highest, x.extract(lane));
        }
        if highest > largest {
            let gap = highest - largest;
            let factor = Vector::<f32, N>::new(exp_of_minus_one(gap));
            if comptime!(statistics) {
                let step = Vector::<f32, N>::new(select(gap < infinity, gap, 0.0f32));
                depth = factor * (depth + step * (rest + ties));
                all_depth = factor * (all_depth + step * all_rest);
                squares = factor * factor * (squares + ties);
                all_squares = factor * factor * all_squares;
                argmax = f32::cast_from(offset) + f32::cast_from(index * lanes + first_of(x, highest));
            }
            rest = factor * (rest + ties);
            all_rest = factor * all_rest;
            ties = zero;
            largest = highest;
        }
        let mut d = Vector::new(largest) - x;
        let mut e = exp_of_minus::<N>(d);
        if highest == largest {
            let is_largest = x.equal(&Vector::new(largest)); // −∞ may be
            d = select_many(is_largest, zero, d);
            e = select_many(is_largest, zero, e);
            ties += select_many(is_largest, Vector::new(1.0f32), zero);
        }
        rest += e;
        if comptime!(statistics) {
            let nothing = e.equal(&zero); // d may be infinite
            depth += e * select_many(nothing, zero, d);
            squares += e * e;
            mean += x / Vector::new(vocab); // divided first, so that it does not overflow
        }
        run += 1;
        if run == RUN {
            run = 0;
            all_rest += rest;
            rest = zero;
            if comptime!(statistics) {
                all_depth += depth;
                all_squares += squares;
                all_mean += mean;
                depth = zero;
                squares = zero;
                mean = zero;
            }
        }
        index += cube.units;
    }

    // what each unit knows, and then what all do
    let mut own_bits = 0u32;
    let mut own_ties = 0.0f32;
    let mut own_rest = 0.0f32;
    let mut own_depth = 0.0f32;
    let mut own_squares = 0.0f32;
    let mut own_mean = 0.0f32;
    #[unroll]
    for lane in 0..lanes {
        own_bits = max(own_bits, bits.extract(lane));
        own_ties += ties.extract(lane);
        own_rest += all_rest.extract(lane) + rest.extract(lane);
        if comptime!(statistics) {
            own_depth += all_depth.extract(lane) + depth.extract(lane);
            own_squares += all_squares.extract(lane) + squares.extract(lane);
            own_mean += all_mean.extract(lane) + mean.extract(lane);
        }
    }
    let read_none = begin + UNIT_POS as usize >= end;
    let own = Sums {
        max: largest,
        ties: own_ties,
        rest: own_rest,
        depth: own_depth,
        squares: own_squares,
        mean: own_mean,
        argmax: select(read_none, NO_COLUMN, argmax),
        target: nan,
    };
    let max = max_over_cube(largest, cube);
    let own = moved_to(&own, max);
    let has_nan = max_over_cube(select(own_bits > INFINITE_BITS, 1.0f32, 0.0f32), cube) > 0.0f32;
    let ties = sum_over_cube(own.ties, cube);
    let rest = sum_over_cube(own.rest, cube);
    let mut depth = 0.0f32;
    let mut squares = 0.0f32;
    let mut mean = 0.0f32;
    let mut argmax = 0.0f32;
    if comptime!(statistics) {
        depth = sum_over_cube(own.depth, cube);
        squares = sum_over_cube(own.squares, cube);
        mean = sum_over_cube(own.mean, cube);
        argmax = -max_over_cube(-own.argmax, cube);
    }
    if UNIT_POS == 0 && exists {
        let mut target = nan;
        let place = select(targets[row] < offset, 0i32, targets[row] - offset) as usize;
        let vector = place / lanes;
        if targets[row] >= offset && vector >= begin && vector < end {
            target = f32::cast_from(z[place_of(row, width, vector)].extract_dynamic(place % lanes));
        }
        let of_row = Sums {
            max,
            ties,
            rest: select(has_nan, nan, rest),
            depth,
            squares,
            mean,
            argmax: select(has_nan, nan, argmax),
            target,
        };
        write(sums, CUBE_POS, of_row);
    }
}

/// Of the parts of each row, `[rows · parts, 8]`, what is known of the row, `[rows, 8]`. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn merge_parts_kernel(parts: &Tensor<f32>, sums: &mut Tensor<f32>, count: usize) {
    if ABSOLUTE_POS < sums.shape(0) {
        let mut all = read(parts, ABSOLUTE_POS * count);
        for part in 1..count {
            all = merged(&all, &read(parts, ABSOLUTE_POS * count + part));
        }
        write(sums, ABSOLUTE_POS, all);
    }
}

/// Of two parts of rows what is known of both together, `[rows, 8]` each. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn merge_kernel(one: &Tensor<f32>, two: &Tensor<f32>, sums: &mut Tensor<f32>) {
    if ABSOLUTE_POS < sums.shape(0) {
        write(sums, ABSOLUTE_POS, merged(&read(one, ABSOLUTE_POS), &read(two, ABSOLUTE_POS)));
    }
}

/// Log-prob, and entropy with a second column, of what is known of whole rows: `[rows, 1]` or `[rows, 2]`. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn outputs_kernel(
    sums: &Tensor<f32>,
    outputs: &mut Tensor<f32>,
    infinity: f32,
    nan: f32,
    #[comptime] entropy: bool,
) {
    if ABSOLUTE_POS < outputs.shape(0) {
        let row = read(sums, ABSOLUTE_POS);
        let log_sum = select(has_distribution(&row, infinity), log1p(row.rest + (row.ties - 1.0f32)), nan);
        let first = ABSOLUTE_POS * outputs.shape(1);
        let log_prob = (row.target - row.max) - log_sum;
        outputs[first] = select(log_prob == 0.0f32, 0.0f32, log_prob); // −0 is what some compilers make of 0 − 0
        if comptime!(entropy) {
            outputs[first + 1] = log_sum + row.depth / (row.ties + row.rest);
        }
    }
}

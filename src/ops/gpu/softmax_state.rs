//! The state of an online softmax over rows of logits: the columns of [`SoftmaxState`](crate::ops::SoftmaxState).
//!
//! A cube reads a row, or one segment of it where rows are few. Each unit keeps the largest logit that it has seen and sums relative
//! to it, and rescales the sums whenever it meets a larger one. At the end all units rescale to the largest of the cube, and their
//! sums are added.
//!
//! **Rounding.** Each of the unit's lanes gets at most [`RUN`] terms before its sum is added to that of all before. So of `n` terms
//! none passes through more than `RUN + n/RUN` additions.

use cubecl::prelude::*;

use super::INFINITE_BITS;
use super::{
    exp::{exp_of_minus, exp_of_minus_one, log1p},
    index::{linear_index, row_of},
    reduce::{Cube, max_over_cube, sum_over_cube},
};
use crate::ops::{IGNORED, SoftmaxState, softmax_state::column};

/// Numbers per row.
const COLUMNS: usize = SoftmaxState::COLUMNS;
/// Terms that are added up before their sum is added to all others.
const RUN: usize = 32;
/// A column beyond all vocabularies.
const NO_COLUMN: f32 = 3.0e38;

/// The state of a row, or of a part of one.
#[derive(CubeType, CubeTypeMut, Clone, Copy)]
pub(super) struct State {
    pub max: f32,
    pub max_count: f32,
    pub sum_exp_rest: f32,
    pub sum_exp_gap: f32,
    pub sum_exp_sq: f32,
    pub mean_logit: f32,
    pub argmax: f32,
    pub target_logit: f32,
}

/// Whether the row has a distribution: no NaN or ∞, and not −∞ alone.
#[cube]
pub(super) fn has_distribution(state: &State, infinity: f32) -> bool {
    let sum = state.max_count + state.sum_exp_rest;
    state.max > -infinity && state.max < infinity && sum >= 0.5f32 && !sum.is_nan()
}

#[cube]
pub(super) fn read(state: &Tensor<f32>, row: usize) -> State {
    let first = row * COLUMNS;
    State {
        max: state[first + column::MAX],
        max_count: state[first + column::MAX_COUNT],
        sum_exp_rest: state[first + column::SUM_EXP_REST],
        sum_exp_gap: state[first + column::SUM_EXP_GAP],
        sum_exp_sq: state[first + column::SUM_EXP_SQ],
        mean_logit: state[first + column::MEAN_LOGIT],
        argmax: state[first + column::ARGMAX],
        target_logit: state[first + column::TARGET_LOGIT],
    }
}

#[cube]
fn write(state: &mut Tensor<f32>, row: usize, of_row: State) {
    let first = row * COLUMNS;
    state[first + column::MAX] = of_row.max;
    state[first + column::MAX_COUNT] = of_row.max_count;
    state[first + column::SUM_EXP_REST] = of_row.sum_exp_rest;
    state[first + column::SUM_EXP_GAP] = of_row.sum_exp_gap;
    state[first + column::SUM_EXP_SQ] = of_row.sum_exp_sq;
    state[first + column::MEAN_LOGIT] = of_row.mean_logit;
    state[first + column::ARGMAX] = of_row.argmax;
    state[first + column::TARGET_LOGIT] = of_row.target_logit;
}

/// The same, relative to a `max` that is not below its own.
#[cube]
fn rescaled_to(state: &State, max: f32) -> State {
    let same = state.max == max;
    let gap = select(same, 0.0f32, max - state.max); // ∞ − ∞ where both are
    let factor = exp_of_minus_one(gap);
    let gap = select(factor == 0.0f32, 0.0f32, gap); // may be infinite
    let joining = select(same, 0.0f32, state.max_count);
    State {
        max,
        max_count: select(same, state.max_count, 0.0f32),
        sum_exp_rest: (state.sum_exp_rest + joining) * factor,
        sum_exp_gap: (state.sum_exp_gap + (state.max_count + state.sum_exp_rest) * gap) * factor,
        sum_exp_sq: (state.sum_exp_sq + joining) * factor * factor,
        mean_logit: state.mean_logit,
        argmax: select(same || state.argmax.is_nan(), state.argmax, NO_COLUMN),
        target_logit: state.target_logit,
    }
}

/// The state of two parts of a row together.
#[cube]
fn merged(one: &State, two: &State) -> State {
    let larger = select(two.max > one.max, two.max, one.max);
    let max = select(two.max.is_nan(), two.max, larger);
    let a = rescaled_to(one, max);
    let b = rescaled_to(two, max);
    let first = select(b.argmax < a.argmax, b.argmax, a.argmax);
    State {
        max,
        max_count: a.max_count + b.max_count,
        sum_exp_rest: a.sum_exp_rest + b.sum_exp_rest,
        sum_exp_gap: a.sum_exp_gap + b.sum_exp_gap,
        sum_exp_sq: a.sum_exp_sq + b.sum_exp_sq,
        mean_logit: a.mean_logit + b.mean_logit,
        argmax: select(b.argmax.is_nan(), b.argmax, first),
        target_logit: select(a.target_logit.is_nan(), b.target_logit, a.target_logit),
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

/// The states of segments of rows of logits `z`, `[rows, columns]`: `[rows · segments, 8]`, one cube each.
///
/// `segment` is how many vectors of a row a cube reads. A row that is not counted is not read.
#[cube(launch, address_type = "dynamic")]
#[expect(clippy::too_many_arguments)]
pub(in crate::ops) fn softmax_state_kernel<F: Float, N: Size>(
    z: &Tensor<Vector<F, N>>,
    targets: &Tensor<i32>,
    state: &mut Tensor<f32>,
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
    let counted = exists && targets[row] != IGNORED;
    let width = z.shape(1) / lanes;
    let begin = part * segment;
    let end = select(counted, min(begin + segment, width), begin); // every unit comes to the end of the loop

    let lowest = -infinity;
    let zero = Vector::<f32, N>::new(0.0f32);
    let mut largest = lowest;
    let mut argmax = f32::cast_from(offset) + f32::cast_from((begin + UNIT_POS as usize) * lanes);
    let mut bits = Vector::<u32, N>::new(0u32);
    let mut max_count = zero;
    let mut sum_exp_rest = zero;
    let mut sum_exp_gap = zero;
    let mut sum_exp_sq = zero;
    let mut mean_logit = zero;
    let mut all_exp_rest = zero;
    let mut all_exp_gap = zero;
    let mut all_exp_sq = zero;
    let mut all_mean = zero;
    let mut run = 0usize;
    let mut index = begin + UNIT_POS as usize;
    while index < end {
        let x = Vector::<f32, N>::cast_from(z[linear_index(row, width, index)]);
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
                sum_exp_gap = factor * (sum_exp_gap + step * (sum_exp_rest + max_count));
                all_exp_gap = factor * (all_exp_gap + step * all_exp_rest);
                sum_exp_sq = factor * factor * (sum_exp_sq + max_count);
                all_exp_sq = factor * factor * all_exp_sq;
                argmax = f32::cast_from(offset) + f32::cast_from(index * lanes + first_of(x, highest));
            }
            sum_exp_rest = factor * (sum_exp_rest + max_count);
            all_exp_rest = factor * all_exp_rest;
            max_count = zero;
            largest = highest;
        }
        let mut d = Vector::new(largest) - x;
        let mut e = exp_of_minus::<N>(d);
        if highest == largest {
            let is_largest = x.equal(&Vector::new(largest)); // −∞ may be
            d = select_many(is_largest, zero, d);
            e = select_many(is_largest, zero, e);
            max_count += select_many(is_largest, Vector::new(1.0f32), zero);
        }
        sum_exp_rest += e;
        if comptime!(statistics) {
            let nothing = e.equal(&zero); // d may be infinite
            sum_exp_gap += e * select_many(nothing, zero, d);
            sum_exp_sq += e * e;
            mean_logit += x / Vector::new(vocab); // divided first, so that it does not overflow
        }
        run += 1;
        if run == RUN {
            run = 0;
            all_exp_rest += sum_exp_rest;
            sum_exp_rest = zero;
            if comptime!(statistics) {
                all_exp_gap += sum_exp_gap;
                all_exp_sq += sum_exp_sq;
                all_mean += mean_logit;
                sum_exp_gap = zero;
                sum_exp_sq = zero;
                mean_logit = zero;
            }
        }
        index += cube.units;
    }

    // the state of each unit, and then that of the cube
    let mut own_bits = 0u32;
    let mut own_max_count = 0.0f32;
    let mut own_exp_rest = 0.0f32;
    let mut own_exp_gap = 0.0f32;
    let mut own_exp_sq = 0.0f32;
    let mut own_mean = 0.0f32;
    #[unroll]
    for lane in 0..lanes {
        own_bits = max(own_bits, bits.extract(lane));
        own_max_count += max_count.extract(lane);
        own_exp_rest += all_exp_rest.extract(lane) + sum_exp_rest.extract(lane);
        if comptime!(statistics) {
            own_exp_gap += all_exp_gap.extract(lane) + sum_exp_gap.extract(lane);
            own_exp_sq += all_exp_sq.extract(lane) + sum_exp_sq.extract(lane);
            own_mean += all_mean.extract(lane) + mean_logit.extract(lane);
        }
    }
    let read_none = begin + UNIT_POS as usize >= end;
    let own = State {
        max: largest,
        max_count: own_max_count,
        sum_exp_rest: own_exp_rest,
        sum_exp_gap: own_exp_gap,
        sum_exp_sq: own_exp_sq,
        mean_logit: own_mean,
        argmax: select(read_none, NO_COLUMN, argmax),
        target_logit: nan,
    };
    let max = max_over_cube(largest, cube);
    let own = rescaled_to(&own, max);
    let has_nan = max_over_cube(select(own_bits > INFINITE_BITS, 1.0f32, 0.0f32), cube) > 0.0f32;
    let max_count = sum_over_cube(own.max_count, cube);
    let sum_exp_rest = sum_over_cube(own.sum_exp_rest, cube);
    let mut sum_exp_gap = 0.0f32;
    let mut sum_exp_sq = 0.0f32;
    let mut mean_logit = 0.0f32;
    let mut argmax = 0.0f32;
    if comptime!(statistics) {
        sum_exp_gap = sum_over_cube(own.sum_exp_gap, cube);
        sum_exp_sq = sum_over_cube(own.sum_exp_sq, cube);
        mean_logit = sum_over_cube(own.mean_logit, cube);
        argmax = -max_over_cube(-own.argmax, cube);
    }
    if UNIT_POS == 0 && exists {
        let mut target_logit = nan;
        let index = select(targets[row] < offset, 0i32, targets[row] - offset) as usize;
        let vector = index / lanes;
        if targets[row] >= offset && vector >= begin && vector < end {
            target_logit = f32::cast_from(z[linear_index(row, width, vector)].extract_dynamic(index % lanes));
        }
        let of_row = State {
            max,
            max_count,
            sum_exp_rest: select(has_nan, nan, sum_exp_rest),
            sum_exp_gap,
            sum_exp_sq,
            mean_logit,
            argmax: select(has_nan, nan, argmax),
            target_logit,
        };
        write(state, CUBE_POS, of_row);
    }
}

/// The state of each row, `[rows, 8]`, from those of its parts, `[rows · parts, 8]`. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn merge_parts_kernel(parts: &Tensor<f32>, state: &mut Tensor<f32>, count: usize) {
    if ABSOLUTE_POS < state.shape(0) {
        let mut all = read(parts, ABSOLUTE_POS * count);
        for part in 1..count {
            all = merged(&all, &read(parts, ABSOLUTE_POS * count + part));
        }
        write(state, ABSOLUTE_POS, all);
    }
}

/// The states of two parts of rows together, `[rows, 8]` each. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn merge_kernel(one: &Tensor<f32>, two: &Tensor<f32>, state: &mut Tensor<f32>) {
    if ABSOLUTE_POS < state.shape(0) {
        write(state, ABSOLUTE_POS, merged(&read(one, ABSOLUTE_POS), &read(two, ABSOLUTE_POS)));
    }
}

/// Log-prob, `[rows, 1]`, or log-prob and entropy, `[rows, 2]`, from the states of whole rows. One unit per row.
#[cube(launch)]
pub(in crate::ops) fn outputs_kernel(
    state: &Tensor<f32>,
    outputs: &mut Tensor<f32>,
    infinity: f32,
    nan: f32,
    #[comptime] entropy: bool,
) {
    if ABSOLUTE_POS < outputs.shape(0) {
        let row = read(state, ABSOLUTE_POS);
        let log_sum = select(has_distribution(&row, infinity), log1p(row.sum_exp_rest + (row.max_count - 1.0f32)), nan);
        let first = ABSOLUTE_POS * outputs.shape(1);
        let log_prob = (row.target_logit - row.max) - log_sum;
        outputs[first] = select(log_prob == 0.0f32, 0.0f32, log_prob); // −0 is what some compilers make of 0 − 0
        if comptime!(entropy) {
            outputs[first + 1] = log_sum + row.sum_exp_gap / (row.max_count + row.sum_exp_rest);
        }
    }
}

//! Rows of logits, read once for their [`SoftmaxState`].
//!
//! **Reading.** A row is read in blocks that fit the L1 cache. Each block is summed as if the largest entry so far were its largest
//! too, while its true largest is found. For a few blocks of a row that is wrong (the logarithm of how many there are, if their
//! order is random), and these are summed again. So each number is read from memory once, and the additions take most of the time.
//!
//! **Rounding.** Within a block of [`BLOCK`] each of the [`LANES`] sums gets at most 32 terms, which are positive: a relative
//! error of at most 31 · 2⁻²⁴ = 1.9e-6 in f32, and typically 3e-7. Sums of blocks are f64.

use std::ops::Add;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    super::logits::IGNORED,
    dtype::{Compute, Float, LANES, larger},
    exp::exp,
    prefetch::prefetch,
    softmax_state::{SoftmaxState, check_rows},
    tasks::{BLOCK, local_column, segment_width},
};

/// The states of rows `z`, `[rows, width]`, as numbers: 8 for each row. If the size of the vocabulary is given, with statistics, and
/// `logit_sum` is divided by that size.
pub(crate) fn states_of<F: Float>(
    z: &[F],
    width: usize,
    targets: &[i32],
    offset: usize,
    statistics: Option<usize>,
) -> Vec<f64> {
    let mut states = vec![SoftmaxState::EMPTY; targets.len()];
    read_rows(z, width, targets, offset, statistics.is_some(), &mut states);
    if let Some(vocab) = statistics {
        states.iter_mut().for_each(|state| state.logit_sum /= vocab as f64);
    }
    bytemuck::cast_slice(&states).to_vec()
}

/// Adds rows `z`, `[rows, width]`, to their states.
///
/// A target is the column of the row's token in the whole vocabulary, of which `z` holds the columns `offset..offset + width`. A row
/// whose target is [`IGNORED`] is not read. Any other target outside of these columns leaves the state without a target's logit.
pub(crate) fn read_rows<F: Float>(
    z: &[F],
    width: usize,
    targets: &[i32],
    offset: usize,
    statistics: bool,
    states: &mut [SoftmaxState],
) {
    check_rows(z, width, targets, states);
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    let rows = z.par_chunks(width).zip(targets).zip(states);
    rows.filter(|((_, target), _)| **target != IGNORED).for_each(|((row, &target), state)| {
        *state = if segment < width {
            let part = |(index, part)| read(part, offset + index * segment, statistics, SoftmaxState::EMPTY);
            let parts: Vec<SoftmaxState> = row.par_chunks(segment).enumerate().map(part).collect();
            parts.into_iter().fold(*state, SoftmaxState::merge)
        } else {
            read(row, offset, statistics, *state)
        };
        if let Some(column) = local_column(target, offset, width) {
            state.target_logit = row[column].widen().to_f64();
        }
    });
}

/// Adds a row, or the part of it that begins at `column`, to the state of the row.
fn read<F: Float>(part: &[F], column: usize, statistics: bool, state: SoftmaxState) -> SoftmaxState {
    Arch::new().dispatch(Read { part, column, statistics, state })
}

struct Read<'a, F> {
    part: &'a [F],
    column: usize,
    statistics: bool,
    state: SoftmaxState,
}

impl<F: Float> WithSimd for Read<'_, F> {
    type Output = SoftmaxState;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> SoftmaxState {
        if self.statistics { self.blocks::<S, true>() } else { self.blocks::<S, false>() }
    }
}

impl<F: Float> Read<'_, F> {
    #[inline(always)]
    fn blocks<S: Simd, const STATISTICS: bool>(self) -> SoftmaxState {
        let mut state = self.state;
        for (index, block) in self.part.chunks(BLOCK).enumerate() {
            let mut sums = BlockSums::of::<F, S, STATISTICS, false>(block, F::Compute::of(state.max));
            if sums.max >= state.max {
                let rises = sums.max > state.max;
                state = state.rescaled_to(sums.max);
                let column = self.column + index * BLOCK;
                if STATISTICS && (rises || (column as f64) < state.argmax) {
                    let largest = block.iter().position(|z| z.widen().to_f64() == state.max);
                    state.argmax = largest.map_or(state.argmax, |found| (column + found) as f64);
                }
                sums = BlockSums::of::<F, S, STATISTICS, true>(block, F::Compute::of(state.max));
            }
            state.max_count += sums.max_count;
            state.sum_exp_rest += sums.exp_rest;
            state.sum_exp_gap += sums.exp_gap;
            state.sum_exp_sq += sums.exp_sq;
            state.logit_sum += sums.logit;
        }
        if state.sum_exp_rest.is_nan() {
            state.argmax = f64::NAN;
        }
        state
    }
}

/// The sums of one block, relative to a given `max`.
struct BlockSums {
    /// The largest entry that is a number. If it is as large as `max`, all other fields are valid only if `LARGEST`.
    max: f64,
    max_count: f64,
    exp_rest: f64,
    exp_gap: f64,
    exp_sq: f64,
    logit: f64,
}

impl BlockSums {
    /// `LARGEST`: whether the block may hold entries equal to `max`. None may be larger.
    #[inline(always)]
    fn of<F: Float, S: Simd, const STATISTICS: bool, const LARGEST: bool>(block: &[F], max: F::Compute) -> Self {
        let mut lanes = LaneSums::<F::Compute>::new();
        let (chunks, tail) = block.as_chunks::<LANES>();
        for chunk in chunks {
            if !LARGEST {
                prefetch(chunk);
            }
            let z = F::widen_all(chunk);
            for (lane, &z) in z.iter().enumerate() {
                lanes.add::<S, STATISTICS, LARGEST>(lane, z, max);
            }
        }
        if !tail.is_empty() {
            let mut rest = LaneSums::<F::Compute>::new();
            for (lane, z) in tail.iter().enumerate() {
                rest.add::<S, STATISTICS, LARGEST>(lane, z.widen(), max);
            }
            lanes.join(&rest);
        }
        Self {
            max: fold(lanes.max, larger),
            max_count: fold(lanes.max_count, f64::add),
            exp_rest: fold(lanes.exp_rest, f64::add),
            exp_gap: fold(lanes.exp_gap, f64::add),
            exp_sq: fold(lanes.exp_sq, f64::add) / F::Compute::SQUARE_SCALE.to_f64(),
            logit: fold(lanes.logit, f64::add) * LANES as f64,
        }
    }
}

/// The sums of every 32nd entry.
struct LaneSums<T> {
    max: [T; LANES],
    max_count: [T; LANES],
    exp_rest: [T; LANES],
    exp_gap: [T; LANES],
    /// Times [`Compute::SQUARE_SCALE`].
    exp_sq: [T; LANES],
    /// Divided by [`LANES`], which is more than there are terms: so the sum of the largest numbers is finite.
    logit: [T; LANES],
}

impl<T: Compute> LaneSums<T> {
    #[inline(always)]
    fn new() -> Self {
        let zero = [T::ZERO; LANES];
        Self {
            max: [T::NEG_INFINITY; LANES],
            max_count: zero,
            exp_rest: zero,
            exp_gap: zero,
            exp_sq: zero,
            logit: zero,
        }
    }

    #[inline(always)]
    fn join(&mut self, other: &Self) {
        for lane in 0..LANES {
            self.max[lane] = larger(self.max[lane], other.max[lane]);
            self.max_count[lane] += other.max_count[lane];
            self.exp_rest[lane] += other.exp_rest[lane];
            self.exp_gap[lane] += other.exp_gap[lane];
            self.exp_sq[lane] += other.exp_sq[lane];
            self.logit[lane] += other.logit[lane];
        }
    }

    #[inline(always)]
    fn add<S: Simd, const STATISTICS: bool, const LARGEST: bool>(&mut self, lane: usize, z: T, max: T) {
        let is_largest = LARGEST && z == max;
        if LARGEST {
            self.max_count[lane] += if is_largest { T::ONE } else { T::ZERO };
        } else {
            self.max[lane] = larger(z, self.max[lane]);
        }
        let x = z - max;
        let e = exp::<T, S>(x);
        let e = if is_largest { T::ZERO } else { e };
        self.exp_rest[lane] += e;
        if STATISTICS {
            let gap = -larger(x, T::LOWEST); // finite where e is 0, also if that is because −∞ is the largest
            self.exp_gap[lane] = e.mul_add::<S>(gap, self.exp_gap[lane]);
            self.exp_sq[lane] = e.mul_add::<S>(e * T::SQUARE_SCALE, self.exp_sq[lane]);
            self.logit[lane] = z.mul_add::<S>(T::of(1.0 / LANES as f64), self.logit[lane]);
        }
    }
}

/// The sum, or the largest, of all lanes.
#[inline(always)]
fn fold<T: Compute>(lanes: [T; LANES], join: impl Fn(f64, f64) -> f64) -> f64 {
    let (parts, _) = lanes.as_chunks::<8>();
    let mut folded = [0.0; 8];
    for lane in 0..8 {
        folded[lane] = parts[0][lane].to_f64();
    }
    for part in &parts[1..] {
        for lane in 0..8 {
            folded[lane] = join(folded[lane], part[lane].to_f64());
        }
    }
    let [a, b, c, d, e, f, g, h] = folded;
    join(join(join(a, e), join(c, g)), join(join(b, f), join(d, h)))
}

#[cfg(test)]
#[path = "../../../tests/kernels/read_rows.rs"]
mod tests;

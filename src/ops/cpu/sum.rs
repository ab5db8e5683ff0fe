//! What is known of each row of logits after one reading: enough for the log-prob of its token, the entropy, and their
//! gradients.
//!
//! With `m` the largest entry that was read, `d_v = m − z_v ≥ 0` and `e_v = exp(−d_v)`, a [`RowSum`] holds sums of `e`,
//! `e d` and `e²`. Those of two parts of a row are joined by moving both to the larger `m`, so that parts may be read in any
//! order, by any thread, and in any tiles of the vocabulary.
//!
//! **Reading.** A row is read in blocks that fit the L1 cache. Each is summed as if the largest entry so far were the largest
//! of the block too, while its true largest is found. That fails for a few blocks of a row (the logarithm of how many there
//! are, if their order is random), which are then summed again. So each number is read from memory once, and adding is
//! what the time goes into.
//!
//! **The largest are left out** of the sums and counted instead: where the model is nearly certain the others sum to
//! next to nothing, whose relative accuracy is that of `log p` and of the entropy.
//!
//! **Rounding.** Within a block of [`BLOCK`] each of the [`LANES`] sums gets at most 32 terms, which are positive: a relative
//! error of at most 31 · 2⁻²⁴ = 1.9e-6 in f32, and 3e-7 at random. All that is carried further is f64.

use std::ops::Add;

use bytemuck::{Pod, Zeroable};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    exp::exp,
    format::{Format, LANES, Real, larger},
    prefetch::prefetch,
};

/// Numbers that are summed before the sum is carried in f64.
pub(super) const BLOCK: usize = 1024;

/// Fewest columns that are worth a task of their own.
const SHORTEST_SEGMENT: usize = 8 * BLOCK;

/// A row that is not counted.
pub(super) const UNCOUNTED: i32 = -1;

/// What is known of a row, or of the part of it that was read.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
pub(crate) struct RowSum {
    /// `m`, the largest entry that is a number; −∞ if nothing was read.
    pub(crate) max: f64,
    /// How many entries equal `m`.
    pub(crate) ties: f64,
    /// `Σ e_v` over the entries below `m`; NaN if there is NaN in the row.
    pub(crate) rest: f64,
    /// `Σ e_v d_v`. This and what follows up to `argmax` only if statistics were asked for.
    pub(crate) depth: f64,
    /// `Σ e_v²` over the entries below `m`.
    pub(crate) squares: f64,
    /// `Σ z_v`.
    pub(crate) total: f64,
    /// Column of the first entry that equals `m`; +∞ if nothing was read, NaN if there is NaN in the row.
    pub(crate) argmax: f64,
    /// The logit of the row's target; NaN where its column was not among those read.
    pub(crate) target: f64,
}

impl RowSum {
    /// Of nothing.
    pub(crate) const EMPTY: Self = Self {
        max: f64::NEG_INFINITY,
        ties: 0.0,
        rest: 0.0,
        depth: 0.0,
        squares: 0.0,
        total: 0.0,
        argmax: f64::INFINITY,
        target: f64::NAN,
    };

    /// What is known of two parts of a row together.
    ///
    /// Associative and commutative up to rounding, with [`EMPTY`](Self::EMPTY) as its identity.
    pub(crate) fn merge(self, other: Self) -> Self {
        let max = larger(self.max, other.max);
        let (a, b) = (self.moved_to(max), other.moved_to(max));
        Self {
            max,
            ties: a.ties + b.ties,
            rest: a.rest + b.rest,
            depth: a.depth + b.depth,
            squares: a.squares + b.squares,
            total: a.total + b.total,
            argmax: min_or_nan(self.first_equal_to(max), other.first_equal_to(max)),
            target: if self.target.is_nan() { other.target } else { self.target },
        }
    }

    /// Column of the first entry that equals `max`, if `max` is the largest entry here or more; NaN if there is NaN.
    fn first_equal_to(&self, max: f64) -> f64 {
        if self.max < max && !self.argmax.is_nan() { f64::INFINITY } else { self.argmax }
    }

    /// The same sums, relative to a larger `m`.
    ///
    /// With `Δ` the difference and `s = e^−Δ`, every `e` is multiplied by `s` and every `d` grows by `Δ`; what was largest
    /// is so no longer and joins the rest.
    ///
    /// ```text
    /// Σ e   → s Σ e
    /// Σ e d → s (Σ e d + Δ Σ e)
    /// Σ e²  → s² Σ e²
    /// ```
    fn moved_to(self, max: f64) -> Self {
        if self.max == max {
            return self;
        }
        let step = max - self.max;
        let scale = (-step).exp();
        let deeper = if scale == 0.0 { 0.0 } else { step * self.sum() }; // Δ may be infinite
        Self {
            max,
            ties: 0.0,
            rest: scale * self.sum(),
            depth: scale * (self.depth + deeper),
            squares: scale * scale * (self.squares + self.ties),
            ..self
        }
    }

    /// `Σ e_v`.
    pub(crate) fn sum(&self) -> f64 {
        self.ties + self.rest
    }

    /// `log Σ e_v`, as accurate as `rest` where it is nearly 0. NaN where there is no distribution: if there is NaN or +∞ in
    /// the row, or nothing but −∞.
    pub(crate) fn log_sum(&self) -> f64 {
        if self.max.is_finite() { (self.rest + (self.ties - 1.0)).ln_1p() } else { f64::NAN }
    }

    /// `log p = (z_y − m) − log Σ e_v`. NaN where there is no distribution, or no target was found.
    pub(crate) fn log_prob(&self) -> f64 {
        (self.target - self.max) - self.log_sum()
    }

    /// `Σ p_v d_v`.
    pub(super) fn mean_depth(&self) -> f64 {
        self.depth / self.sum()
    }

    /// `−Σ p_v log p_v = log Σ e_v + Σ p_v d_v`.
    pub(crate) fn entropy(&self) -> f64 {
        self.log_sum() + self.mean_depth()
    }

    /// `log Σ p_v² = log Σ e_v² − 2 log Σ e_v`.
    #[cfg(test)]
    pub(crate) fn log_sum_sq_probs(&self) -> f64 {
        (self.squares + (self.ties - 1.0)).ln_1p() - 2.0 * self.log_sum()
    }
}

/// What rows `z`, `[rows, width]`, hold, as numbers: 8 for each. `total` is divided by the size of the vocabulary if that is
/// given, and statistics with it.
pub(crate) fn sums_of<F: Format>(
    z: &[F],
    width: usize,
    targets: &[i32],
    offset: usize,
    statistics: Option<usize>,
) -> Vec<f64> {
    let mut sums = vec![RowSum::EMPTY; targets.len()];
    add_rows(z, width, targets, offset, statistics.is_some(), &mut sums);
    if let Some(vocab) = statistics {
        sums.iter_mut().for_each(|sum| sum.total /= vocab as f64); // of what is elsewhere a mean
    }
    bytemuck::cast_slice(&sums).to_vec()
}

/// Of two parts of the same rows what is known of both together, as numbers: 8 for each.
pub(crate) fn merged(one: &[RowSum], two: &[RowSum]) -> Vec<f64> {
    let sums: Vec<RowSum> = one.iter().zip(two).map(|(one, two)| one.merge(*two)).collect();
    bytemuck::cast_slice(&sums).to_vec()
}

/// The log-prob of each row, with `entropy` beside it if that is asked for.
pub(crate) fn outputs(sums: &[RowSum], entropy: bool) -> Vec<f64> {
    let of_row = |sum: &RowSum| [sum.log_prob(), sum.entropy()].into_iter().take(if entropy { 2 } else { 1 });
    sums.iter().flat_map(of_row).collect()
}

/// Adds what rows `z`, `[rows, width]`, hold to what is known of them.
///
/// A target is the column of the row's token, of all the vocabulary, of which `z` holds `offset` up to `offset + width`; −1
/// for a row that is not counted, which is not read. Any other is counted and has no target here.
pub(crate) fn add_rows<F: Format>(
    z: &[F],
    width: usize,
    targets: &[i32],
    offset: usize,
    statistics: bool,
    sums: &mut [RowSum],
) {
    assert_eq!(targets.len() * width, z.len(), "rows of logits");
    assert_eq!(targets.len(), sums.len(), "rows of sums");
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    let rows = z.par_chunks(width).zip(targets).zip(sums);
    rows.filter(|((_, target), _)| **target != UNCOUNTED).for_each(|((row, &target), sum)| {
        *sum = if segment < width {
            let part = |(index, part)| read(part, offset + index * segment, statistics, RowSum::EMPTY);
            let parts: Vec<RowSum> = row.par_chunks(segment).enumerate().map(part).collect();
            parts.into_iter().fold(*sum, RowSum::merge)
        } else {
            read(row, offset, statistics, *sum)
        };
        if let Some(column) = local_column(target, offset, width) {
            sum.target = row[column].widen().to_f64();
        }
    });
}

/// Where a target is among the columns `offset..offset + width`.
pub(super) fn local_column(target: i32, offset: usize, width: usize) -> Option<usize> {
    usize::try_from(target).ok()?.checked_sub(offset).filter(|column| *column < width)
}

/// How many columns one task takes: all, unless there are too few counted rows to keep every thread busy.
///
/// It depends on the shape and the number of threads alone, and so does the rounding.
pub(super) fn segment_width(width: usize, targets: &[i32]) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = if threads == 1 { 1 } else { 4 * threads };
    let counted = targets.iter().filter(|target| **target != UNCOUNTED).take(tasks).count();
    let segments = tasks.div_ceil(counted.max(1)).min(width.div_ceil(SHORTEST_SEGMENT));
    width.div_ceil(segments).next_multiple_of(BLOCK)
}

/// Adds a row, or the part of it that begins at `column`, to what is known of the row.
fn read<F: Format>(part: &[F], column: usize, statistics: bool, sum: RowSum) -> RowSum {
    Arch::new().dispatch(Read { part, column, statistics, sum })
}

struct Read<'a, F> {
    part: &'a [F],
    column: usize,
    statistics: bool,
    sum: RowSum,
}

impl<F: Format> WithSimd for Read<'_, F> {
    type Output = RowSum;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> RowSum {
        if self.statistics { self.blocks::<S, true>() } else { self.blocks::<S, false>() }
    }
}

impl<F: Format> Read<'_, F> {
    #[inline(always)]
    fn blocks<S: Simd, const STATISTICS: bool>(self) -> RowSum {
        let mut sum = self.sum;
        for (index, block) in self.part.chunks(BLOCK).enumerate() {
            let mut read = BlockSum::of::<F, S, STATISTICS, false>(block, F::Real::of(sum.max));
            if read.max >= sum.max {
                let rises = read.max > sum.max;
                sum = sum.moved_to(read.max);
                let column = self.column + index * BLOCK;
                if STATISTICS && (rises || (column as f64) < sum.argmax) {
                    let largest = block.iter().position(|z| z.widen().to_f64() == sum.max);
                    sum.argmax = largest.map_or(sum.argmax, |found| (column + found) as f64);
                }
                read = BlockSum::of::<F, S, STATISTICS, true>(block, F::Real::of(sum.max));
            }
            sum.ties += read.ties;
            sum.rest += read.rest;
            sum.depth += read.depth;
            sum.squares += read.squares;
            sum.total += read.total;
        }
        if sum.rest.is_nan() {
            sum.argmax = f64::NAN;
        }
        sum
    }
}

/// The sums of one block, relative to an `m` that is given.
struct BlockSum {
    /// The largest entry that is a number. If it is as large as `m`, all other fields count only if `LARGEST`.
    max: f64,
    ties: f64,
    rest: f64,
    depth: f64,
    squares: f64,
    total: f64,
}

impl BlockSum {
    /// `LARGEST`: whether the block may hold entries equal to `m`. None may be larger.
    #[inline(always)]
    fn of<F: Format, S: Simd, const STATISTICS: bool, const LARGEST: bool>(block: &[F], max: F::Real) -> Self {
        let mut lanes = LaneSums::<F::Real>::new();
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
            let mut rest = LaneSums::<F::Real>::new();
            for (lane, z) in tail.iter().enumerate() {
                rest.add::<S, STATISTICS, LARGEST>(lane, z.widen(), max);
            }
            lanes.join(&rest);
        }
        Self {
            max: fold(lanes.max, larger),
            ties: fold(lanes.ties, f64::add),
            rest: fold(lanes.rest, f64::add),
            depth: fold(lanes.depth, f64::add),
            squares: fold(lanes.squares, f64::add) / F::Real::SQUARE_SCALE.to_f64(),
            total: fold(lanes.total, f64::add) * LANES as f64,
        }
    }
}

/// The sums of every 32nd entry.
struct LaneSums<T> {
    max: [T; LANES],
    ties: [T; LANES],
    rest: [T; LANES],
    depth: [T; LANES],
    /// Times [`Real::SQUARE_SCALE`].
    squares: [T; LANES],
    /// Divided by [`LANES`], which is more than there are terms: the sum of the largest numbers is finite.
    total: [T; LANES],
}

impl<T: Real> LaneSums<T> {
    #[inline(always)]
    fn new() -> Self {
        let zero = [T::ZERO; LANES];
        Self { max: [T::NEG_INFINITY; LANES], ties: zero, rest: zero, depth: zero, squares: zero, total: zero }
    }

    #[inline(always)]
    fn join(&mut self, other: &Self) {
        for lane in 0..LANES {
            self.max[lane] = larger(self.max[lane], other.max[lane]);
            self.ties[lane] += other.ties[lane];
            self.rest[lane] += other.rest[lane];
            self.depth[lane] += other.depth[lane];
            self.squares[lane] += other.squares[lane];
            self.total[lane] += other.total[lane];
        }
    }

    #[inline(always)]
    fn add<S: Simd, const STATISTICS: bool, const LARGEST: bool>(&mut self, lane: usize, z: T, max: T) {
        let is_largest = LARGEST && z == max;
        if LARGEST {
            self.ties[lane] += if is_largest { T::ONE } else { T::ZERO };
        } else {
            self.max[lane] = larger(z, self.max[lane]);
        }
        let x = z - max;
        let e = exp::<T, S>(x);
        let e = if is_largest { T::ZERO } else { e };
        self.rest[lane] += e;
        if STATISTICS {
            let d = -larger(x, T::LOWEST); // finite where e is 0, also if that is where −∞ is the largest
            self.depth[lane] = e.mul_add::<S>(d, self.depth[lane]);
            self.squares[lane] = e.mul_add::<S>(e * T::SQUARE_SCALE, self.squares[lane]);
            self.total[lane] = z.mul_add::<S>(T::of(1.0 / LANES as f64), self.total[lane]);
        }
    }
}

/// The sum, or the largest, of all lanes.
#[inline(always)]
fn fold<T: Real>(lanes: [T; LANES], join: impl Fn(f64, f64) -> f64) -> f64 {
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

/// The smaller of two columns; NaN if either is.
fn min_or_nan(a: f64, b: f64) -> f64 {
    if a <= b || a.is_nan() { a } else { b }
}

#[cfg(test)]
pub(super) mod tests {
    use half::{bf16, f16};

    use super::*;

    /// Everything again, in f64 and from its definition.
    pub(crate) struct Naive {
        pub(crate) probs: Vec<f64>,
        pub(crate) log_prob: f64,
        pub(crate) entropy: f64,
        log_sum_sq_probs: f64,
        total: f64,
        mean_depth: f64,
    }

    impl Naive {
        pub(crate) fn of(z: &[f64], target: usize) -> Self {
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
            let log_p = |z: &f64| z - max - log_sum;
            let probs: Vec<f64> = z.iter().map(|z| log_p(z).exp()).collect();
            let entropy = z.iter().zip(&probs).map(|(z, p)| if *p == 0.0 { 0.0 } else { -p * log_p(z) }).sum::<f64>();
            Self {
                log_prob: log_p(&z[target]),
                entropy,
                log_sum_sq_probs: probs.iter().map(|p| p * p).sum::<f64>().ln(),
                total: z.iter().sum(),
                mean_depth: entropy - log_sum,
                probs,
            }
        }
    }

    /// Numbers without order, around `offset`.
    pub(crate) fn logits(count: usize, spread: f64, offset: f64) -> Vec<f64> {
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            f64::from(state) / 2f64.powi(32)
        };
        (0..count).map(|_| offset + spread * (next() + next() + next() - 1.5)).collect()
    }

    pub(crate) fn narrow<F: Format>(z: &[f64]) -> Vec<F> {
        z.iter().map(|&z| F::narrow(Real::of(z))).collect()
    }

    pub(crate) fn widen<F: Format>(z: &[F]) -> Vec<f64> {
        z.iter().map(|z| z.widen().to_f64()).collect()
    }

    /// What one row holds, with statistics.
    pub(crate) fn sum_of<F: Format>(z: &[F], target: i32) -> RowSum {
        let mut sums = [RowSum::EMPTY];
        add_rows(z, z.len(), &[target], 0, true, &mut sums);
        sums[0]
    }

    /// Relative error of a sum of `e`: of 31 additions in a lane, of `exp` itself, and of the `d` in it. In f64 of as many
    /// additions as there are blocks too, and of those of the naive sum.
    pub(crate) fn bound<F: Format>(width: usize, mean_depth: f64) -> f64 {
        let single = (31.0 + 2.0 + mean_depth) * 2f64.powi(-24);
        let double = (31.0 + 4.0 + mean_depth + 2.0 * width as f64) * 2f64.powi(-53);
        if size_of::<F::Real>() == 4 { single } else { double }
    }

    fn assert_near(what: &str, actual: f64, expected: f64, bound: f64) {
        assert!((actual - expected).abs() <= bound, "{what}: {actual} {expected}, {:e}", (actual - expected).abs());
    }

    fn follows_the_definition<F: Format>() {
        for width in [1, 2, 31, 32, 33, 1023, 1024, 1025, 5003, 40_001] {
            for (spread, offset) in [(0.0, 0.0), (1.0, 0.0), (10.0, -3.0), (40.0, 1e4)] {
                let z: Vec<F> = narrow(&logits(width, spread, offset));
                let wide = widen(&z);
                let target = width * 2 / 3;
                let (sum, naive) = (sum_of(&z, target as i32), Naive::of(&wide, target));
                let bound = bound::<F>(width, naive.mean_depth);
                let depths = 2.0 * naive.mean_depth + 1.0;
                assert_near(
                    "log-prob",
                    sum.log_prob(),
                    naive.log_prob,
                    bound + 4.0 * f64::EPSILON * naive.log_prob.abs(),
                );
                assert_near("entropy", sum.entropy(), naive.entropy, 2.0 * bound * depths);
                assert_near("log Σp²", sum.log_sum_sq_probs(), naive.log_sum_sq_probs, 4.0 * bound);
                let absolute: f64 = wide.iter().map(|z| z.abs()).sum();
                assert_near("total", sum.total, naive.total, bound * absolute);
                assert_eq!(Some(sum.argmax as usize), wide.iter().position(|&z| z == sum.max));
                assert_eq!(sum.ties as usize, wide.iter().filter(|&&z| z == sum.max).count());
            }
        }
    }

    #[test]
    fn every_format_follows_the_definition() {
        follows_the_definition::<f32>();
        follows_the_definition::<f64>();
        follows_the_definition::<bf16>();
        follows_the_definition::<f16>();
    }

    #[test]
    fn near_certainty_what_is_left_keeps_its_relative_accuracy() {
        let mut z: Vec<f32> = narrow(&logits(3000, 4.0, -60.0));
        z[1234] = 0.0;
        let rest: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| z.exp()).sum();
        let depth: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| -z * z.exp()).sum();
        let sum = sum_of(&z, 1234);
        assert!(rest < 1e-20);
        assert_near("log-prob", sum.log_prob(), -rest, 2.1e-6 * rest);
        assert_near("entropy", sum.entropy(), rest + depth, 4.2e-6 * (rest + depth));
        assert_near("log Σp²", sum.log_sum_sq_probs(), -2.0 * rest, 4.2e-6 * rest);
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let z = [f32::MAX; 5000];
        let (sum, total) = (sum_of(&z, 0), 5000.0 * f64::from(f32::MAX));
        assert_eq!(sum.log_prob(), -5000f64.ln());
        assert_near("total", sum.total, total, bound::<f32>(5000, 0.0) * total);
    }

    /// Also as the last of a block that is not whole.
    #[test]
    fn infinities_and_nan_are_where_they_should_be() {
        let whole: Vec<f32> = narrow(&logits(2500, 5.0, 0.0));
        for place in [0, 700, 1024, 2499] {
            let with = |number| {
                let mut z = whole.clone();
                z[place] = number;
                sum_of(&z, 3)
            };
            let nan = with(f32::NAN);
            assert!(nan.log_prob().is_nan() && nan.entropy().is_nan() && nan.log_sum_sq_probs().is_nan());
            assert!(nan.argmax.is_nan() && nan.total.is_nan());

            let infinite = with(f32::INFINITY);
            assert!(
                infinite.log_prob().is_nan() && infinite.entropy().is_nan() && infinite.log_sum_sq_probs().is_nan()
            );
            assert_eq!((infinite.argmax, infinite.total, infinite.ties), (place as f64, f64::INFINITY, 1.0));

            let none = with(f32::NEG_INFINITY);
            let mut without = widen(&whole);
            without[place] = -1e9;
            assert_near("log-prob", none.log_prob(), Naive::of(&without, 3).log_prob, 2.1e-6);
            assert_near("entropy", none.entropy(), Naive::of(&without, 3).entropy, 2e-5);
            assert_eq!(none.total, f64::NEG_INFINITY);
        }
    }

    #[test]
    fn blocks_of_nothing_but_minus_infinity_add_nothing() {
        for empty in [0..1024, 0..2100, 1024..3000, 5..3000] {
            let mut z: Vec<f32> = narrow(&logits(3000, 5.0, 0.0));
            z[empty.clone()].fill(f32::NEG_INFINITY);
            let left: Vec<f64> = widen(&z).into_iter().filter(|z| z.is_finite()).collect();
            let target = z.iter().position(|z| z.is_finite()).unwrap();
            let (sum, naive) = (sum_of(&z, target as i32), Naive::of(&left, 0));
            assert_near("log-prob", sum.log_prob(), naive.log_prob, 2.1e-6);
            assert_near("entropy", sum.entropy(), naive.entropy, 2e-5);
        }
    }

    #[test]
    fn nothing_but_minus_infinity_is_no_distribution_and_its_first_is_the_largest() {
        for width in [1, 33, 2500] {
            let sum = sum_of(&vec![f32::NEG_INFINITY; width], 0);
            assert!(sum.log_prob().is_nan() && sum.entropy().is_nan() && sum.log_sum_sq_probs().is_nan());
            assert_eq!((sum.argmax, sum.ties), (0.0, width as f64));
        }
        assert!(sum_of(&[f32::NAN; 40], 0).argmax.is_nan());
        assert!(sum_of(&[f32::NAN, f32::NEG_INFINITY], 1).argmax.is_nan());
    }

    #[test]
    fn statistics_do_not_change_the_log_prob() {
        for width in [1, 100, 1024, 7001] {
            let z: Vec<f32> = narrow(&logits(width, 9.0, 2.0));
            let mut sums = [RowSum::EMPTY];
            add_rows(&z, width, &[0], 0, false, &mut sums);
            assert_eq!(sums[0].log_prob().to_bits(), sum_of(&z, 0).log_prob().to_bits());
        }
    }

    #[test]
    fn rows_that_are_not_counted_are_not_read() {
        let mut z: Vec<f32> = narrow(&logits(300, 9.0, 2.0));
        z[100..200].fill(f32::NAN);
        let untouched = RowSum { total: 7.0, ..RowSum::EMPTY };
        let mut sums = [RowSum::EMPTY, untouched, RowSum::EMPTY];
        add_rows(&z, 100, &[4, UNCOUNTED, i32::MAX], 0, true, &mut sums);
        assert_eq!(bytemuck::bytes_of(&sums[1]), bytemuck::bytes_of(&untouched));
        assert!(sums[0].log_prob().is_finite());
        assert!(sums[2].log_prob().is_nan() && sums[2].entropy().is_finite());
    }

    /// Tiles of the vocabulary in any order; parts merged; and as many tasks as eight threads ask for.
    #[test]
    fn parts_make_the_whole() {
        let width = 30_011;
        for (spread, offset) in [(0.0, 0.0), (6.0, 0.0), (30.0, 1e4)] {
            let z: Vec<f32> = narrow(&logits(width, spread, offset));
            let target = 20_000;
            let whole = sum_of(&z, target);
            let agrees = |what: &str, sum: RowSum| {
                assert_near(what, sum.log_prob(), whole.log_prob(), 4.2e-6);
                assert_near(what, sum.entropy(), whole.entropy(), 5e-5);
                assert_near(what, sum.log_sum_sq_probs(), whole.log_sum_sq_probs(), 8e-6);
                assert_near(what, sum.total, whole.total, 4e-6 * (whole.total.abs() + 1e5));
                assert_eq!(
                    (sum.argmax, sum.ties, sum.max, sum.target),
                    (whole.argmax, whole.ties, whole.max, whole.target)
                );
            };
            let part = |from: usize, to: usize, sum: RowSum| {
                let mut sums = [sum];
                add_rows(&z[from..to], to - from, &[target], from, true, &mut sums);
                sums[0]
            };
            let [a, b, c] = [(0, 999), (999, 22_000), (22_000, width)];
            let each = [a, b, c].map(|(from, to)| part(from, to, RowSum::EMPTY));
            agrees("added in turn", part(c.0, c.1, part(a.0, a.1, part(b.0, b.1, RowSum::EMPTY))));
            agrees("merged", each[0].merge(each[1]).merge(each[2]));
            agrees("merged from the right", each[0].merge(each[1].merge(each[2])));
            agrees("merged backwards", each[2].merge(each[1]).merge(each[0]));
            agrees("with nothing", RowSum::EMPTY.merge(whole).merge(RowSum::EMPTY));

            let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
            pool.install(|| {
                assert!(segment_width(width, &[target]) < width);
                let first = sum_of(&z, target);
                agrees("segments", first);
                assert_eq!(first, sum_of(&z, target));
            });
        }
    }

    #[test]
    fn merging_keeps_what_is_no_number() {
        let finite = sum_of(&[1.0f32, 2.0], 0);
        for odd in [f32::NAN, f32::INFINITY] {
            let odd = sum_of(&[odd, 0.0], -2);
            for merged in [finite.merge(odd), odd.merge(finite), odd.merge(odd), odd.merge(RowSum::EMPTY)] {
                assert!(merged.log_prob().is_nan() && merged.entropy().is_nan());
                assert!(merged.argmax == odd.argmax || merged.argmax.is_nan() && odd.argmax.is_nan());
            }
        }
        let nothing = sum_of(&[f32::NEG_INFINITY; 3], -2);
        for merged in [finite.merge(nothing), nothing.merge(finite)] {
            assert_eq!((merged.log_prob(), merged.entropy()), (finite.log_prob(), finite.entropy()));
        }
        assert!(nothing.merge(nothing).log_sum().is_nan() && RowSum::EMPTY.log_sum().is_nan());
    }
}

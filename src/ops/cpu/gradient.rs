//! The gradient of log-probs and entropies in the logits, written where the logits are or beside them.
//!
//! With `p_v = e_v / Σ e`, `g` and `h` the upstream gradients of log-prob and entropy, and `D = Σ p_v d_v`,
//!
//! ```text
//! ∂/∂z_v = −g p_v + h p_v (d_v − D)               for v ≠ y
//! ∂/∂z_y = −g (p_y − 1) + h p_y (d_y − D)         p_y − 1 = expm1(log p_y)
//! ```
//!
//! The target's is computed in f64 on its own, so that nothing cancels where it is nearly certain. The others are
//! `e_v (a + b d_v)` with `a` and `b` the same along the row. `m` itself is subtracted from the logits, never a rounded
//! `m + log Σ e`: a large offset that they have in common costs nothing.
//!
//! If logits were made by a scale and a soft cap, `z = c tanh(s x / c)`, all is multiplied by `∂z/∂x = s (1 − (z/c)²)`.

use pulp::Simd;
use rayon::prelude::*;

use super::{
    exp::exp,
    format::{Format, Real, larger},
    map::{Map, Place},
    sum::{RowSum, UNCOUNTED, local_column, segment_width},
};

/// What flows into one row: the gradients of its log-prob and of its entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Upstream {
    pub(crate) log_prob: f64,
    pub(crate) entropy: f64,
}

/// How logits were made of what the gradient is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Chain {
    /// `s`: `∂z/∂x` where there is no cap.
    pub(crate) scale: f64,
    /// `c`, if `z = c tanh(s x / c)`.
    pub(crate) cap: Option<f64>,
}

/// Overwrites rows of logits, `[rows, width]`, with their gradient.
///
/// Targets and `offset` are those of [`add_rows`](super::sum::add_rows), `sums` what it has found of whole rows.
///
/// A row that is not counted, or into which nothing flows, gets exactly 0, whatever it holds. A row without a distribution
/// gets NaN; so does one whose target is in no column, if anything flows into its log-prob. An entry of −∞ gets 0, unless
/// it is the target.
pub(crate) fn gradient_rows<F: Format>(
    z: &mut [F],
    width: usize,
    targets: &[i32],
    offset: usize,
    sums: &[RowSum],
    upstream: &[Upstream],
    chain: Chain,
) {
    check(z, width, targets, sums);
    assert_eq!(upstream.len(), targets.len(), "rows of upstream gradients");
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    let rows = z.par_chunks_mut(width).map(Place::Here);
    fill_rows(rows, RowGradients { segment, width, targets, offset, sums, upstream, chain });
}

/// Writes the gradient of rows of logits into `gradient`, which holds zeros.
///
/// As [`gradient_rows`], but a row whose gradient is 0 is not touched: memory that comes zeroed need not even be mapped.
#[expect(clippy::too_many_arguments)]
pub(crate) fn gradient_rows_into<F: Format>(
    z: &[F],
    gradient: &mut [F],
    width: usize,
    targets: &[i32],
    offset: usize,
    sums: &[RowSum],
    upstream: &[Upstream],
    chain: Chain,
) {
    check(z, width, targets, sums);
    assert_eq!(gradient.len(), z.len(), "gradient");
    assert_eq!(upstream.len(), targets.len(), "rows of upstream gradients");
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    let rows = z.par_chunks(width).zip(gradient.par_chunks_mut(width)).map(|(z, gradient)| Place::Beside(z, gradient));
    fill_rows(rows, RowGradients { segment, width, targets, offset, sums, upstream, chain });
}

/// What gradients of rows are made of.
struct RowGradients<'a> {
    segment: usize,
    width: usize,
    targets: &'a [i32],
    offset: usize,
    sums: &'a [RowSum],
    upstream: &'a [Upstream],
    chain: Chain,
}

fn fill_rows<'a, F: Format>(rows: impl IndexedParallelIterator<Item = Place<'a, F>>, of: RowGradients<'_>) {
    let RowGradients { segment, width, targets, offset, sums, upstream, chain } = of;
    rows.zip(targets).zip(sums).zip(upstream).for_each(|(((mut place, &target), sum), &upstream)| {
        match RowGradient::of(target, sum, upstream, chain) {
            RowGradient::Zero => {
                if let Place::Here(row) = place {
                    row.fill(F::default()); // other memory holds zeros
                }
                return;
            }
            RowGradient::Nowhere => return place.results().fill(F::narrow(Real::NAN)),
            RowGradient::Slope(slope) => slope.fill(&mut place, segment),
        }
        if let Some(column) = own_column(target, upstream, offset, width) {
            place.results()[column] = F::narrow(Real::of(of_target(sum, upstream, chain)));
        }
    });
}

/// Where the target is, if it is more than an entry like any other: the entropy does not know it.
fn own_column(target: i32, upstream: Upstream, offset: usize, width: usize) -> Option<usize> {
    if upstream.log_prob == 0.0 { None } else { local_column(target, offset, width) }
}

/// Overwrites rows of logits with `e_v (1 − (z_v/c)²)`: probabilities before they are divided by their sum, times the slope of
/// the cap if there is one.
///
/// A row that is not counted gets 0, and so does one of which nothing but −∞ is known yet; one that will have no distribution
/// gets NaN.
pub(crate) fn exp_rows<T: Real>(z: &mut [T], width: usize, targets: &[i32], sums: &[RowSum], cap: Option<f64>) {
    check(z, width, targets, sums);
    if width == 0 {
        return;
    }
    let segment = segment_width(width, targets);
    z.par_chunks_mut(width).zip(targets).zip(sums).for_each(|((row, &target), sum)| {
        let nothing_yet = sum.max == f64::NEG_INFINITY && !sum.rest.is_nan();
        if target == UNCOUNTED || nothing_yet {
            row.fill(T::ZERO);
        } else if sum.log_sum().is_nan() {
            row.fill(T::NAN);
        } else {
            Slope { max: sum.max, level: 1.0, per_depth: 0.0, cap }.fill(&mut Place::Here(row), segment);
        }
    });
}

fn check<F>(z: &[F], width: usize, targets: &[i32], sums: &[RowSum]) {
    assert_eq!(targets.len() * width, z.len(), "rows of logits");
    assert_eq!(targets.len(), sums.len(), "rows of sums");
}

/// What kind of gradient a row has.
enum RowGradient {
    Zero,
    Nowhere,
    Slope(Slope),
}

impl RowGradient {
    fn of(target: i32, sum: &RowSum, upstream: Upstream, Chain { scale, cap }: Chain) -> Self {
        let Upstream { log_prob: g, entropy: h } = upstream;
        let nowhere = if g == 0.0 { sum.log_sum() } else { sum.log_prob() };
        match () {
            _ if target == UNCOUNTED || g == 0.0 && h == 0.0 => Self::Zero,
            _ if nowhere.is_nan() => Self::Nowhere,
            _ => {
                let shared = scale / sum.sum();
                let mean_depth = if h == 0.0 { 0.0 } else { sum.mean_depth() };
                Self::Slope(Slope { max: sum.max, level: shared * (-g - h * mean_depth), per_depth: shared * h, cap })
            }
        }
    }
}

/// The gradient in the logit of the target.
fn of_target(sum: &RowSum, Upstream { log_prob: g, entropy: h }: Upstream, chain: Chain) -> f64 {
    let d = sum.max - sum.target;
    let p = (-d).exp() / sum.sum();
    let of_log_prob = if g == 0.0 { 0.0 } else { -g * sum.log_prob().exp_m1() };
    let of_entropy = if h == 0.0 || p == 0.0 { 0.0 } else { h * p * (d - sum.mean_depth()) };
    let slope = chain.cap.map_or(1.0, |cap| 1.0 - (sum.target / cap).max(-1.0).powi(2));
    (of_log_prob + of_entropy) * chain.scale * slope
}

/// `e_v (level + per_depth · d_v) (1 − (z_v/c)²)`
#[derive(Debug, Clone, Copy)]
struct Slope {
    max: f64,
    level: f64,
    per_depth: f64,
    cap: Option<f64>,
}

impl Slope {
    fn fill<F: Format>(self, place: &mut Place<F>, segment: usize) {
        match (self.per_depth != 0.0, self.cap.is_some()) {
            (false, false) => place.fill_by(segment, self.of::<F, false, false>()),
            (false, true) => place.fill_by(segment, self.of::<F, false, true>()),
            (true, false) => place.fill_by(segment, self.of::<F, true, false>()),
            (true, true) => place.fill_by(segment, self.of::<F, true, true>()),
        }
    }

    fn of<F: Format, const DEPTH: bool, const CAP: bool>(self) -> SlopeMap<F::Real, DEPTH, CAP> {
        SlopeMap {
            max: Real::of(self.max),
            level: Real::of(self.level),
            per_depth: Real::of(self.per_depth),
            per_cap: Real::of(self.cap.map_or(0.0, f64::recip)),
        }
    }
}

/// [`Slope`], in a row's format, with what it has not left out.
#[derive(Clone, Copy)]
struct SlopeMap<T, const DEPTH: bool, const CAP: bool> {
    max: T,
    level: T,
    per_depth: T,
    per_cap: T,
}

impl<T: Real, const DEPTH: bool, const CAP: bool> Map<T> for SlopeMap<T, DEPTH, CAP> {
    #[inline(always)]
    fn of<S: Simd>(&self, z: T) -> T {
        let x = z - self.max;
        let d = -larger(T::LOWEST, x); // finite where e is 0
        let factor = if DEPTH { d.mul_add::<S>(self.per_depth, self.level) } else { self.level };
        let slope = exp::<T, S>(x) * factor;
        if !CAP {
            return slope;
        }
        let capped = larger(-T::ONE, z * self.per_cap); // −∞ is no further than the cap
        slope * capped.mul_add::<S>(-capped, T::ONE)
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::{
        super::sum::{
            add_rows,
            tests::{Naive, bound, logits, narrow, sum_of, widen},
        },
        *,
    };

    const NO_CHAIN: Chain = Chain { scale: 1.0, cap: None };

    /// The gradient of one row, by both roads.
    fn gradient_of<F: Format>(z: &[F], target: i32, upstream: (f64, f64), chain: Chain) -> Vec<f64> {
        let (sums, upstream) = ([sum_of(z, target)], [Upstream { log_prob: upstream.0, entropy: upstream.1 }]);
        let mut in_place = z.to_vec();
        gradient_rows(&mut in_place, z.len(), &[target], 0, &sums, &upstream, chain);
        let mut beside = vec![F::default(); z.len()];
        gradient_rows_into(z, &mut beside, z.len(), &[target], 0, &sums, &upstream, chain);
        let (in_place, beside) = (widen(&in_place), widen(&beside));
        assert!(in_place.iter().zip(&beside).all(|(a, b)| a == b || a.is_nan() && b.is_nan()));
        in_place
    }

    /// `rounding` is half a unit in the last place of the format, `smallest` half the distance of its smallest numbers.
    fn follows_the_definition<F: Format>(rounding: f64, smallest: f64) {
        let caps = [NO_CHAIN, Chain { scale: 0.25, cap: Some(30.0) }];
        for width in [1, 33, 1024, 5003] {
            for ((g, h), chain) in
                [(0.7, 0.0), (-2.0, 0.0), (0.0, 0.3), (0.7, -0.3)].into_iter().zip(caps.iter().cycle())
            {
                let z: Vec<F> = narrow(&logits(width, 15.0, 1.0));
                let wide = widen(&z);
                let target = width / 2;
                let naive = Naive::of(&wide, target);
                let bound = bound::<F>(width, 0.0);
                for (v, actual) in gradient_of(&z, target as i32, (g, h), *chain).into_iter().enumerate() {
                    let (p, log_p) = (naive.probs[v], naive.log_prob + (wide[v] - wide[target]));
                    let is_target = if v == target { 1.0 } else { 0.0 };
                    let slope = chain.cap.map_or(1.0, |cap| 1.0 - (wide[v] / cap).powi(2)) * chain.scale;
                    let expected = (g * (is_target - p) - h * p * (log_p + naive.entropy)) * slope;
                    // relative errors of p, and of the depths, of which the largest is less than 50, in their difference
                    let terms =
                        (g.abs() * (is_target + p) + h.abs() * p * (log_p.abs() + naive.entropy + 50.0)) * chain.scale;
                    let allowed = 2.0 * bound * terms + rounding * expected.abs() + smallest;
                    assert!(
                        (actual - expected).abs() <= allowed,
                        "{v} of {width}: {actual:e} {expected:e}, {allowed:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_format_follows_the_definition() {
        follows_the_definition::<f32>(2f64.powi(-24), 1e-38);
        follows_the_definition::<f64>(2f64.powi(-53), 1e-300);
        follows_the_definition::<bf16>(2f64.powi(-8), 1e-38);
        follows_the_definition::<f16>(2f64.powi(-11), 2f64.powi(-25));
    }

    /// `1 − p` is 1e-20 or so: in f32 `p − 1` would be 0.
    #[test]
    fn the_target_does_not_cancel_near_certainty() {
        let mut z: Vec<f32> = narrow(&logits(3000, 4.0, -60.0));
        z[1234] = 0.0;
        let rest: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| z.exp()).sum();
        let gradient = gradient_of(&z, 1234, (1.0, 0.0), NO_CHAIN);
        assert!((gradient[1234] - rest).abs() < 2.1e-6 * rest, "{:e} {rest:e}", gradient[1234]);
        let all: f64 = gradient.iter().sum();
        assert!(all.abs() < 4.2e-6 * rest, "the gradient of a function that does not see offsets sums to 0: {all:e}");
    }

    #[test]
    fn an_offset_in_common_changes_nothing() {
        let z: Vec<f32> = (0..2000).map(|i| (i * 7919 % 2000) as f32 / 256.0).collect();
        let far: Vec<f32> = z.iter().map(|z| z + 16_384.0).collect(); // exact
        for upstream in [(1.0, 0.0), (0.5, 0.5)] {
            assert_eq!(gradient_of(&z, 3, upstream, NO_CHAIN), gradient_of(&far, 3, upstream, NO_CHAIN));
        }
    }

    #[test]
    fn rows_without_a_gradient_are_0_whatever_they_hold() {
        let width = 70;
        let sums = [sum_of(&vec![f32::NAN; width], 0); 3];
        let (targets, flows) = ([UNCOUNTED, 5, i32::MAX], Upstream { log_prob: 1.0, entropy: 1.0 });
        let nothing = Upstream { log_prob: 0.0, entropy: -0.0 };
        let upstream = [flows, nothing, nothing];
        let mut z = vec![f32::NAN; 3 * width];
        gradient_rows(&mut z, width, &targets, 0, &sums, &upstream, NO_CHAIN);
        assert!(z.iter().all(|z| z.to_bits() == 0));

        let mut gradient = vec![7.0; 3 * width]; // not zeros, to see that they are not touched
        gradient_rows_into(&vec![f32::NAN; 3 * width], &mut gradient, width, &targets, 0, &sums, &upstream, NO_CHAIN);
        assert!(gradient.iter().all(|gradient| *gradient == 7.0));
    }

    #[test]
    fn rows_without_a_distribution_or_a_target_are_nan() {
        let z: Vec<f32> = narrow(&logits(70, 3.0, 0.0));
        let all_nan = |gradient: Vec<f64>| gradient.iter().all(|gradient| gradient.is_nan());
        for odd in [f32::NAN, f32::INFINITY] {
            let mut z = z.clone();
            z[40] = odd;
            assert!(all_nan(gradient_of(&z, 3, (1.0, 0.0), NO_CHAIN)));
            assert!(all_nan(gradient_of(&z, 3, (0.0, 1.0), NO_CHAIN)));
        }
        assert!(all_nan(gradient_of(&[f32::NEG_INFINITY; 70], 3, (1.0, 1.0), NO_CHAIN)));
        assert!(all_nan(gradient_of(&z, i32::MAX, (1.0, 0.0), NO_CHAIN)));
        let entropy_alone = gradient_of(&z, i32::MAX, (0.0, 1.0), NO_CHAIN);
        assert_eq!(entropy_alone[4..], gradient_of(&z, 3, (0.0, 1.0), NO_CHAIN)[4..]);
    }

    #[test]
    fn an_entry_of_minus_infinity_gets_0() {
        for chain in [NO_CHAIN, Chain { scale: 1.0, cap: Some(30.0) }] {
            let mut z: Vec<f32> = narrow(&logits(70, 3.0, 0.0));
            z[40] = f32::NEG_INFINITY;
            z[69] = f32::NEG_INFINITY;
            let gradient = gradient_of(&z, 3, (1.0, 1.0), chain);
            assert_eq!((gradient[40], gradient[69]), (0.0, 0.0));
            assert!(gradient.iter().all(|gradient| gradient.is_finite()));
        }
        let mut z = vec![0.0f32; 70];
        z[3] = f32::NEG_INFINITY;
        assert_eq!(gradient_of(&z, 3, (1.0, 1.0), NO_CHAIN)[3], 1.0);
    }

    /// Each of two parts of the vocabulary, and as many tasks as eight threads ask for: the same bits.
    #[test]
    fn parts_make_the_whole() {
        let width = 30_011;
        let z: Vec<f32> = narrow(&logits(2 * width, 6.0, 0.0));
        let targets = [17, 29_999];
        let mut sums = [RowSum::EMPTY; 2];
        add_rows(&z, width, &targets, 0, true, &mut sums);
        let upstream = [Upstream { log_prob: 1.0, entropy: 0.5 }; 2];
        let mut whole = z.clone();
        gradient_rows(&mut whole, width, &targets, 0, &sums, &upstream, NO_CHAIN);

        for (from, to) in [(0, 9000), (9000, width)] {
            let part = |row: &[f32]| row[from..to].to_vec();
            let mut z: Vec<f32> = z.chunks(width).flat_map(part).collect();
            gradient_rows(&mut z, to - from, &targets, from, &sums, &upstream, NO_CHAIN);
            assert_eq!(z, whole.chunks(width).flat_map(part).collect::<Vec<f32>>());
        }
        rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap().install(|| {
            assert!(segment_width(width, &targets) < width);
            let mut segments = z.clone();
            gradient_rows(&mut segments, width, &targets, 0, &sums, &upstream, NO_CHAIN);
            assert_eq!(segments, whole);
        });
    }

    #[test]
    fn exponentials_are_probabilities_times_their_sum() {
        let width = 1500;
        let z = logits(3 * width, 6.0, 0.0);
        let targets = [0, UNCOUNTED, i32::MAX];
        let mut sums = [RowSum::EMPTY; 3];
        add_rows(&z, width, &targets, 0, false, &mut sums);
        for cap in [None, Some(20.0)] {
            let mut e = z.clone();
            exp_rows(&mut e, width, &targets, &sums, cap);
            for row in [0, 2] {
                let probs = Naive::of(&z[row * width..][..width], 0).probs;
                for (v, p) in probs.iter().enumerate() {
                    let index = row * width + v;
                    let expected = p * sums[row].sum() * cap.map_or(1.0, |cap| 1.0 - (z[index] / cap).powi(2));
                    assert!((e[index] - expected).abs() <= 1e-12 * expected, "{} {expected}", e[index]);
                }
            }
            assert!(e[width..2 * width].iter().all(|e| *e == 0.0));
        }
        let mut nan = vec![f32::NAN; 9];
        exp_rows(&mut nan, 9, &[0], &[sum_of(&[f32::NAN; 9], 0)], None);
        assert!(nan.iter().all(|e| e.is_nan()));
    }
}

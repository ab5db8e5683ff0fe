//! `eˣ` and `eˣ − 1` for `x ≤ 0`, as straight-line arithmetic.
//!
//! With `n` the whole number nearest to `x / ln 2`, and `r = x − n ln 2`, so that `|r| ≤ ln 2 / 2`,
//!
//! ```text
//! eʳ     = 1 + q,    q = r + r² P(r)
//! eˣ     = 2ⁿ (1 + q)
//! eˣ − 1 = 2ⁿ q + (2ⁿ − 1)
//! ```
//!
//! - `n` is rounded by adding a number so large that its last bit counts ones. The number is chosen such that its lowest
//!   bits are then the exponent field of `2ⁿ⁻¹`, which needs only to be shifted into place.
//! - `ln 2` is taken off in two parts, the larger so short that its product with `n` is exact.
//! - `P` is minimax for the relative error of `eʳ`: 3.1e-9 in f32 (degree 6 in all), 3.7e-18 in f64 (degree 11).
//!
//! **Below −125.5 ln 2 (−86.99) in f32, −1021.5 ln 2 (−708.05) in f64, `eˣ` is exactly 0**, as the exponent field of `2ⁿ⁻¹` is 0
//! there. On purpose: no result is ever subnormal, which would be a hundred times slower, and −∞ is no special case.
//!
//! Bounds, in units in the last place: 1.1 for `eˣ` in f32, 1.5 without fused multiplication; 2 for `eˣ − 1` and for f64.
//! Where `eʳ < 1` its unit is 2⁻²⁴, of which the last addition costs ½, the rounding of `q` ¼, that of `r` 0.18, those of `r²`
//! and `P` 0.11, and the polynomial itself 0.04.
//!
//! `e⁰` is exactly 1 and NaN stays NaN. Results hold for `x > 0` as well, while `eˣ` is finite.

use pulp::Simd;

use super::format::{Real, larger};

/// `eˣ`.
#[inline(always)]
pub(super) fn exp<T: Real, S: Simd>(x: T) -> T {
    let (half_power, q) = reduce::<T, S>(x);
    q.mul_add::<S>(T::TWO, T::TWO) * half_power
}

/// `eˣ − 1`, with its full relative accuracy near 0.
#[inline(always)]
pub(super) fn exp_m1<T: Real, S: Simd>(x: T) -> T {
    let (half_power, q) = reduce::<T, S>(x);
    q.mul_add::<S>(half_power * T::TWO, half_power.mul_add::<S>(T::TWO, -T::ONE))
}

/// `2ⁿ⁻¹` and `q`.
#[inline(always)]
fn reduce<T: Real, S: Simd>(x: T) -> (T, T) {
    let x = larger(T::LOWEST, x); // in this order NaN stays
    let rounded = x.mul_add::<S>(T::LOG2_E, T::ROUNDER);
    let n = rounded - T::ROUNDER;
    let r = n.mul_add::<S>(-T::LN_2_HIGH, x);
    let r = n.mul_add::<S>(-T::LN_2_LOW, r);
    let mut polynomial = T::POLYNOMIAL[0];
    for &coefficient in &T::POLYNOMIAL[1..] {
        polynomial = polynomial.mul_add::<S>(r, coefficient);
    }
    (rounded.last_bits_as_exponent(), (r * r).mul_add::<S>(polynomial, r))
}

/// What the exponential of a format is made of.
pub(crate) trait Exponential: Sized + 'static {
    const TWO: Self;
    const LOG2_E: Self;
    /// `ln 2`, without the bits that make its product with `n` inexact.
    const LN_2_HIGH: Self;
    /// The rest of it.
    const LN_2_LOW: Self;
    /// `eˣ` is 0 here and below. Any `x` that gives the lowest `n` would do.
    const LOWEST: Self;
    /// 1.5 · 2^m, where m is the length of the mantissa, and the exponent field of 2⁻¹.
    const ROUNDER: Self;
    /// The coefficients of `P`, from the highest degree down.
    const POLYNOMIAL: &'static [Self];

    /// The last bits of this number in the place of its exponent.
    fn last_bits_as_exponent(self) -> Self;
}

impl Exponential for f32 {
    const TWO: f32 = 2.0;
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693_115_23;
    const LN_2_LOW: f32 = 3.194_618_3e-5;
    const LOWEST: f32 = -87.3;
    const ROUNDER: f32 = 12_582_912.0 + 126.0;
    const POLYNOMIAL: &'static [f32] = &[0.001_381_446_5, 0.008_368_781, 0.041_668_393, 0.166_665_2, 0.499_999_94];

    #[inline(always)]
    fn last_bits_as_exponent(self) -> f32 {
        f32::from_bits(self.to_bits() << 23)
    }
}

impl Exponential for f64 {
    const TWO: f64 = 2.0;
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN_2_HIGH: f64 = 0.693_147_180_559_663;
    const LN_2_LOW: f64 = 2.823_529_056_303_157_7e-13;
    const LOWEST: f64 = -708.3;
    const ROUNDER: f64 = 6_755_399_441_055_744.0 + 1022.0;
    const POLYNOMIAL: &'static [f64] = &[
        2.499_992_043_351_016_5e-8,
        2.763_037_773_377_678_3e-7,
        2.755_758_748_338_514e-6,
        2.480_149_276_512_832e-5,
        1.984_126_950_460_945_1e-4,
        1.388_888_894_392_059e-3,
        8.333_333_333_495_693e-3,
        4.166_666_666_652_92e-2,
        0.166_666_666_666_664_1,
        0.500_000_000_000_001_1,
    ];

    #[inline(always)]
    fn last_bits_as_exponent(self) -> f64 {
        f64::from_bits(self.to_bits() << 52)
    }
}

#[cfg(test)]
mod tests {
    use pulp::Scalar;

    use super::super::map::{Map, overwrite};
    use super::*;

    /// Either side of −125.5 ln 2 = −86.98997.
    const ZERO_BELOW_F32: f32 = -86.9901;
    const NOT_ZERO_ABOVE_F32: f32 = -86.9898;
    /// f32 in [−88, −0].
    const BITS: std::ops::RangeInclusive<u32> = 0x8000_0000..=0xc2b0_0000;

    /// How far apart the numbers are that are tested; 1 for all 10⁹ of them.
    const STRIDE: &str = "BURN_DPO_EXP_STRIDE";

    #[derive(Clone, Copy)]
    struct Exp;

    impl<T: Real> Map<T> for Exp {
        fn of<S: Simd>(&self, x: T) -> T {
            exp::<T, S>(x)
        }
    }

    #[derive(Clone, Copy)]
    struct ExpM1;

    impl<T: Real> Map<T> for ExpM1 {
        fn of<S: Simd>(&self, x: T) -> T {
            exp_m1::<T, S>(x)
        }
    }

    /// `map` by this machine's instructions.
    fn of_all<T: Real>(x: &[T], map: impl Map<T>) -> Vec<T> {
        let mut result = x.to_vec();
        overwrite(&mut result, 1 << 16, map);
        result
    }

    /// The error in units in the last place of what is right.
    fn ulps(actual: f32, expected: f64) -> f64 {
        let unit = 2f64.powi(expected.abs().log2().floor() as i32 - 23);
        (f64::from(actual) - expected).abs() / unit
    }

    /// The largest errors of `eˣ` and `eˣ − 1` over every `stride`th number of [−88, −0], by this machine's instructions, and
    /// of `eˣ` without any.
    fn largest_errors_f32(stride: usize) -> [f64; 3] {
        const PIECE: usize = 1 << 16;
        let mut largest = [0.0f64; 3];
        for first in BITS.step_by(stride * PIECE) {
            let x: Vec<f32> = (first..=*BITS.end()).step_by(stride).take(PIECE).map(f32::from_bits).collect();
            for ((&x, exp), exp_m1) in x.iter().zip(of_all(&x, Exp)).zip(of_all(&x, ExpM1)) {
                let wide = f64::from(x);
                if x < ZERO_BELOW_F32 {
                    assert_eq!(exp, 0.0, "{x}");
                } else if x > NOT_ZERO_ABOVE_F32 {
                    largest[0] = largest[0].max(ulps(exp, wide.exp()));
                    largest[2] = largest[2].max(ulps(super::exp::<f32, Scalar>(x), wide.exp()));
                }
                if x < -f32::MIN_POSITIVE {
                    largest[1] = largest[1].max(ulps(exp_m1, wide.exp_m1()));
                }
            }
        }
        largest
    }

    #[test]
    fn f32_is_within_its_bounds() {
        let every: usize = std::env::var(STRIDE).map_or(997, |stride| stride.parse().unwrap());
        let [exp, exp_m1, scalar] = largest_errors_f32(every);
        println!(
            "exp {exp:.3}, exp_m1 {exp_m1:.3}, exp without fused multiplication {scalar:.3} units in the last place"
        );
        assert!(exp < 1.1, "{exp}");
        assert!(exp_m1 < 2.0, "{exp_m1}");
        assert!(scalar < 1.5, "{scalar}");
    }

    /// The standard library's is within 1 unit itself.
    #[test]
    fn f64_is_within_two_units_in_the_last_place() {
        let x: Vec<f64> = (0..1_000_000).map(|i| -7.08e-4 * f64::from(i) - 1e-9).collect();
        for ((&x, exp), exp_m1) in x.iter().zip(of_all(&x, Exp)).zip(of_all(&x, ExpM1)) {
            let expected = x.exp();
            assert!((exp - expected).abs() <= 2.0 * f64::EPSILON * expected, "{x}: {exp:e}, {expected:e}");
            let expected = x.exp_m1();
            assert!((exp_m1 - expected).abs() <= 2.0 * f64::EPSILON * expected.abs(), "{x}: {exp_m1:e}, {expected:e}");
        }
    }

    fn ends<T: Real + std::fmt::Debug>() {
        let x: Vec<T> = [0.0, -0.0, f64::NAN, f64::NEG_INFINITY, -709.0, -1e30].map(T::of).to_vec();
        let (exp, exp_m1) = (of_all(&x, Exp), of_all(&x, ExpM1));
        assert_eq!([exp[0].to_f64(), exp[1].to_f64()], [1.0, 1.0]);
        assert_eq!([exp_m1[0].to_f64(), exp_m1[1].to_f64()], [0.0, 0.0]);
        assert!(exp[2].to_f64().is_nan() && exp_m1[2].to_f64().is_nan());
        for (exp, exp_m1) in exp[3..].iter().zip(&exp_m1[3..]) {
            assert_eq!((exp.to_f64(), exp_m1.to_f64()), (0.0, -1.0));
        }
    }

    #[test]
    fn the_ends_are_exact() {
        ends::<f32>();
        ends::<f64>();
    }
}

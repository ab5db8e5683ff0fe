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

impl<T: Compute> Map<T> for Exp {
    fn of<S: Simd>(&self, x: T) -> T {
        exp::<T, S>(x)
    }
}

#[derive(Clone, Copy)]
struct ExpM1;

impl<T: Compute> Map<T> for ExpM1 {
    fn of<S: Simd>(&self, x: T) -> T {
        exp_m1::<T, S>(x)
    }
}

/// `map` by this machine's instructions.
fn of_all<T: Compute>(x: &[T], map: impl Map<T>) -> Vec<T> {
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
    println!("exp {exp:.3}, exp_m1 {exp_m1:.3}, exp without fused multiplication {scalar:.3} units in the last place");
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

fn ends<T: Compute + std::fmt::Debug>() {
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

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

use super::dtype::{Compute, larger};

/// `eˣ`.
#[inline(always)]
pub(super) fn exp<T: Compute, S: Simd>(x: T) -> T {
    let (rounded, q) = reduce::<T, S>(larger(T::LOWEST, x)); // in this order NaN stays
    q.mul_add::<S>(T::TWO, T::TWO) * rounded.last_bits_as_exponent()
}

/// `eˣ − 1`, with its full relative accuracy near 0.
#[inline(always)]
pub(super) fn exp_m1<T: Compute, S: Simd>(x: T) -> T {
    let (rounded, q) = reduce::<T, S>(larger(T::LOWEST, x));
    let half_power = rounded.last_bits_as_exponent();
    q.mul_add::<S>(half_power * T::TWO, half_power.mul_add::<S>(T::TWO, -T::ONE))
}

/// `n + ROUNDER`, whose last bits are the exponent field of `2ⁿ⁻¹`, and `q`.
#[inline(always)]
pub(super) fn reduce<T: Compute, S: Simd>(x: T) -> (T, T) {
    let rounded = x.mul_add::<S>(T::LOG2_E, T::ROUNDER);
    let n = rounded - T::ROUNDER;
    let r = n.mul_add::<S>(-T::LN_2_HIGH, x);
    let r = n.mul_add::<S>(-T::LN_2_LOW, r);
    let mut polynomial = T::POLYNOMIAL[0];
    for &coefficient in &T::POLYNOMIAL[1..] {
        polynomial = polynomial.mul_add::<S>(r, coefficient);
    }
    (rounded, (r * r).mul_add::<S>(polynomial, r))
}

#[cfg(test)]
#[path = "../../../tests/kernels/exp.rs"]
mod tests;

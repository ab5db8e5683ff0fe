//! Functions over their whole range, as straight-line arithmetic. They read and write subnormal numbers and infinities.

use pulp::Simd;

use super::{
    dtype::{Compute, larger},
    exp::{exp_m1, reduce},
};

/// `eˣ` within 1.1 units in the last place, or one rounding more where it is subnormal; 1.5 without fused multiplication.
///
/// `2ⁿ` is applied as two factors, so that neither leaves the range of exponents.
#[inline(always)]
pub(super) fn exp<T: Compute, S: Simd>(x: T) -> T {
    let x = larger(T::EXP_UNDERFLOWS, x); // in this order NaN stays
    let x = if x > T::EXP_OVERFLOWS { T::EXP_OVERFLOWS } else { x };
    let (rounded, q) = reduce::<T, S>(x);
    let n = rounded - T::ROUNDER;
    let first = n.mul_add::<S>(T::HALF, T::ROUNDER);
    let second = (n - (first - T::ROUNDER)) + T::ROUNDER;
    let (half_first, half_second) = (first.last_bits_as_exponent(), second.last_bits_as_exponent());
    q.mul_add::<S>(T::TWO, T::TWO) * half_first * (half_second + half_second)
}

/// `eˣ − 1`, with its full relative accuracy near 0. Beyond `ln 2` the subtraction keeps at least half of the number.
#[inline(always)]
pub(super) fn expm1<T: Compute, S: Simd>(x: T) -> T {
    let near = x.abs() <= T::LN_2;
    let of_near = exp_m1::<T, S>(if near { x } else { T::ZERO });
    let of_far = exp::<T, S>(x) - T::ONE;
    if near { of_near } else { of_far }
}

/// `log(1 + x)` for `−½ ≤ x ≤ 1`, as `2 artanh s = 2 (s + s³/3 + s⁵/5 + …)` with `s = x/(2 + x)`, `|s| ≤ 1/3`.
///
/// The series is cut where its next term is below the dtype's rounding: after 8 terms for f32 (9⁻⁸/17 = 1.4e-9), after 17 for
/// f64 (9⁻¹⁷/35 = 1.7e-18).
#[inline(always)]
pub(super) fn log1p<T: Compute, S: Simd>(x: T) -> T {
    let s = x / (T::TWO + x);
    let square = s * s;
    let mut sum = T::ODD_RECIPROCALS[0];
    for &coefficient in &T::ODD_RECIPROCALS[1..] {
        sum = sum.mul_add::<S>(square, coefficient);
    }
    (s + s) * sum
}

/// `log(1 + eˣ) = max(x, 0) + log(1 + e^−|x|)`.
#[inline(always)]
pub(super) fn softplus<T: Compute, S: Simd>(x: T) -> T {
    let positive = if x > T::ZERO { x } else { T::ZERO };
    positive + log1p::<T, S>(exp::<T, S>(-x.abs()))
}

/// `1 / (1 + e⁻ˣ)`. Its small tail is `eˣ / (1 + eˣ)`.
#[inline(always)]
pub(super) fn sigmoid<T: Compute, S: Simd>(x: T) -> T {
    let small = exp::<T, S>(-x.abs());
    let numerator = if x >= T::ZERO { T::ONE } else { small };
    numerator / (T::ONE + small)
}

/// `x`, clamped to the finite numbers. NaN stays.
#[inline(always)]
pub(super) fn finite<T: Compute>(x: T) -> T {
    let x = if x > T::MAX { T::MAX } else { x };
    if x < -T::MAX { -T::MAX } else { x }
}

/// `e^(x/2)` with `x/2` clamped, so that its square is beyond the dtype's range only if `eˣ` is.
#[inline(always)]
pub(super) fn exp_half<T: Compute, S: Simd>(x: T) -> T {
    let half = x * T::HALF;
    exp::<T, S>(if half > T::MOST_EXP_HALF { T::MOST_EXP_HALF } else { half })
}

#[cfg(test)]
#[path = "../../../tests/kernels/functions.rs"]
mod tests;

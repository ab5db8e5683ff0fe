//! `exp` and `log1p` in f32, the same on every GPU.
//!
//! A GPU's own `exp(x)` is `2^(x log₂ e)`, and the rounding of that product costs |x| units in the last place; its `log1p` is
//! `ln(1 + x)`.

use cubecl::prelude::*;

/// Below `e^−87` numbers are no longer normal, and GPUs make them 0.
const DEEPEST: f32 = 87.0;

/// `ln 2` in two parts, the first of so few digits that its products with whole numbers up to 127 are exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// `e^−d` for `d ≥ 0`; 0 beyond 87 and at ∞. Of NaN it makes any number.
///
/// With `n` the whole number nearest to `−d/ln 2` it is `2ⁿ e^r`, `|r| ≤ ½ ln 2`, and `e^r` is cut after `r⁷/7!` (the next term
/// is below 5e-9).
#[cube]
pub(super) fn exp_of_minus<N: Size>(d: Vector<f32, N>) -> Vector<f32, N> {
    let far = d.greater_than(&Vector::new(DEEPEST));
    let x = select_many(far, Vector::new(0.0f32), -d);
    let n = (x * Vector::new(std::f32::consts::LOG2_E) + Vector::new(0.5f32)).floor();
    let r = (x - n * Vector::new(LN_2_HIGH)) - n * Vector::new(LN_2_LOW);
    let mut sum = r * Vector::new(1.0f32 / 5040.0) + Vector::new(1.0f32 / 720.0);
    sum = r * sum + Vector::new(1.0f32 / 120.0);
    sum = r * sum + Vector::new(1.0f32 / 24.0);
    sum = r * sum + Vector::new(1.0f32 / 6.0);
    sum = r * sum + Vector::new(0.5f32);
    sum = r * sum + Vector::new(1.0f32);
    sum = r * sum + Vector::new(1.0f32);
    let exponent = Vector::<i32, N>::cast_from(n) + Vector::new(127i32);
    let power = Vector::<f32, N>::reinterpret(exponent << Vector::new(23i32));
    select_many(far, Vector::new(0.0f32), sum * power)
}

/// [`exp_of_minus`] of one number.
#[cube]
pub(super) fn exp_of_minus_one(d: f32) -> f32 {
    exp_of_minus::<Const<1>>(Vector::new(d)).extract(0usize)
}

/// `log(1 + x)` for `x ≥ −½`.
///
/// Up to 1 by `2 artanh s`, `s = x/(2 + x)`, `|s| ≤ 1/3`, cut after 8 terms (9⁻⁸/17 = 1.4e-9); above, the plain logarithm loses
/// nothing.
#[cube]
pub(super) fn log1p(x: f32) -> f32 {
    let near = x <= 1.0f32;
    let x_near = select(near, x, 0.0f32);
    let s = x_near / (x_near + 2.0f32);
    let square = s * s;
    let mut sum = square * (1.0f32 / 15.0) + (1.0f32 / 13.0);
    sum = square * sum + (1.0f32 / 11.0);
    sum = square * sum + (1.0f32 / 9.0);
    sum = square * sum + (1.0f32 / 7.0);
    sum = square * sum + (1.0f32 / 5.0);
    sum = square * sum + (1.0f32 / 3.0);
    sum = square * sum + 1.0f32;
    let x_far = select(near, 1.0f32, x);
    select(near, 2.0f32 * s * sum, (x_far + 1.0f32).ln())
}

//! `exp` and `log1p` in f32, the same on every GPU.
//!
//! A GPU's own `exp(x)` is `2^(x log₂ e)`, and the rounding of that product costs |x| units in the last place; its `log1p` is
//! `ln(1 + x)`.

use cubecl::prelude::*;

/// `e^−d` is as good as 0 from here on: not a normal number any more, which GPUs make 0.
const DEEPEST: f32 = 88.0;

/// `ln 2` in two parts, the first of 17 bits, so that its products with whole numbers up to 127 are exact.
const LN_2_HIGH: f32 = 90_852.0 / 131_072.0;
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// `(e^r − 1 − r)/r²` for `|r| ≤ ½ ln 2`, from the constant term on: by least squares, reweighted until the largest error of
/// `e^r` is as small as it gets, 3.1e-9 of it (0.05 units of rounding).
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_745, 0.001_381_454];

/// `e^−d` for `d ≥ 0`; 0 beyond 87.7 and at ∞. Of NaN it makes any number.
///
/// With `n` the whole number nearest to `−d/ln 2` it is `2ⁿ e^r e^s`, where `r` is what is left of `−d` if `n` times the high part
/// of `ln 2` is taken away, `|r| ≤ ½ ln 2`, and `s` is `−n` times the low part: at most 1.8e-4, so that `1 + s` is `e^s` to 1.6e-8.
/// Not by `e^(r + s)`: compilers of shaders may add the two parts of `ln 2` before they multiply. The power is put together from
/// its bits, which for the lowest `n` are those of 0.
#[cube]
pub(super) fn exp_of_minus<N: Size>(d: Vector<f32, N>) -> Vector<f32, N> {
    let d = min(d, Vector::new(DEEPEST));
    let n = (Vector::new(0.5f32) - d * Vector::new(std::f32::consts::LOG2_E)).floor();
    let r = -d - n * Vector::new(LN_2_HIGH);
    let rest = Vector::new(1.0f32) - n * Vector::new(LN_2_LOW);
    let mut sum = r * Vector::new(EXP[4]) + Vector::new(EXP[3]);
    sum = r * sum + Vector::new(EXP[2]);
    sum = r * sum + Vector::new(EXP[1]);
    sum = r * sum + Vector::new(EXP[0]);
    sum = r * sum + Vector::new(1.0f32);
    sum = r * sum + Vector::new(1.0f32);
    let power = (Vector::<i32, N>::cast_from(n) + Vector::new(127i32)) << Vector::new(23i32);
    (sum * rest) * Vector::<f32, N>::reinterpret(power)
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

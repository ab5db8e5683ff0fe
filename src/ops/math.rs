//! Functions that burn's backends round too early, by burn's operations.
//!
//! `log_sigmoid(20)` is 0 on two of burn's backends, and `log1p(x)` is `ln(1 + x)` on every GPU. The functions below keep their full
//! relative accuracy. They need only `exp`, `log` of numbers that are not near 1, division and multiplication. Where a function has
//! two branches, the branch that is not taken gets a harmless number, not a NaN to be multiplied away.

use burn_tensor::{DType, Tensor};

/// `log(1 + eˣ) = −log σ(−x) = max(x, 0) + log(1 + e^−|x|)`.
pub(super) fn softplus(x: Tensor<1>) -> Tensor<1> {
    x.clone().clamp_min(0.0) + log1p_of_at_most_one(x.abs().neg().exp())
}

/// `σ(x) = 1 / (1 + e⁻ˣ)`. Its small tail is `eˣ / (1 + eˣ)`.
pub(super) fn sigmoid(x: Tensor<1>) -> Tensor<1> {
    let small = x.clone().abs().neg().exp();
    let numerator = small.clone().mask_fill(x.greater_equal_elem(0.0), 1.0);
    numerator / (small + 1.0)
}

/// `log(1 + e)` for `−½ ≤ e ≤ 1`, as `log((1 + s)/(1 − s)) = 2 artanh s` with `s = e / (2 + e)`, `|s| ≤ 1/3`.
///
/// The series `s + s³/3 + s⁵/5 + …` is cut where its next term is below the dtype's rounding: after 8 terms for f32
/// (9⁻⁸/17 = 1.4e-9), after 17 for f64 (9⁻¹⁷/35 = 1.7e-18).
pub(super) fn log1p_of_at_most_one<const D: usize>(e: Tensor<D>) -> Tensor<D> {
    let terms = if e.dtype() == DType::F64 { 17 } else { 8 };
    let s = e.clone() / (e + 2.0);
    let square = s.clone() * s.clone();
    let odd = |k: i32| 1.0 / f64::from(2 * k + 1);
    s * polynomial(square, terms, odd) * 2.0
}

/// `log(1 + x)` for `x ≥ 0`, or a rounding below. Above 1 the plain logarithm loses nothing.
pub(crate) fn log1p_of_non_negative<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let large = x.clone().greater_elem(1.0);
    let plain = (x.clone() + 1.0).log();
    log1p_of_at_most_one(x.mask_fill(large.clone(), 0.0)).mask_where(large, plain)
}

/// `eˣ − 1`, with its full relative accuracy near 0.
///
/// Within `ln 2` of 0 it is `x·(1 + x/2·(1 + …))`, cut where the next term is below the dtype's rounding: after 10 terms for
/// f32 (0.7¹⁰/11! = 7e-10), after 18 for f64 (0.7¹⁸/19! = 1.3e-20). Farther out the subtraction keeps at least half.
pub(super) fn expm1(x: Tensor<1>) -> Tensor<1> {
    let far = x.clone().abs().greater_elem(std::f64::consts::LN_2);
    let plain = x.clone().exp() - 1.0;
    let near = x.mask_fill(far.clone(), 0.0);
    let terms = if near.dtype() == DType::F64 { 18 } else { 10 };
    let inverse_factorial = |k: i32| (1..=k + 1).map(f64::from).product::<f64>().recip();
    (near.clone() * polynomial(near, terms, inverse_factorial)).mask_where(far, plain)
}

/// `x`, clamped to the finite range of its dtype. NaN stays.
pub(crate) fn finite<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let largest = if x.dtype() == DType::F64 { f64::MAX } else { f64::from(f32::MAX) };
    let (above, below) = (x.clone().greater_elem(largest), x.clone().lower_elem(-largest));
    x.mask_fill(above, largest).mask_fill(below, -largest)
}

/// `e^(x/2)` with `x/2` clamped to 87, or 700 in f64, so that its square is beyond the dtype's range only if `eˣ` is.
pub(super) fn exp_half(x: Tensor<1>) -> Tensor<1> {
    let most = if x.dtype() == DType::F64 { 700.0 } else { 87.0 };
    let half = x / 2.0;
    let beyond = half.clone().greater_elem(most);
    half.mask_fill(beyond, most).exp()
}

/// `k₃(x) = e⁻ˣ − 1 + x`, at least 0, without cancellation near 0; +∞ where `e⁻ˣ` is.
///
/// With `y = −x` it is `e^y − 1 − y = y²(1/2! + y/3! + y²/4! + …)`. Beyond `|y| = 1` the left side loses almost nothing; below,
/// the right side is cut where its next term is under the dtype's rounding of the result, which is at least
/// `0.36 y²`: after `y¹¹/11!` for f32 (1/12! = 2.1e-9), after `y¹⁸/18!` for f64 (1/19! = 8.2e-18). Values only: it is not
/// differentiated.
pub(crate) fn k3<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let highest = if x.dtype() == DType::F64 { 18 } else { 11 };
    let y = x.neg();
    let near = y.clone().abs().lower_equal_elem(1.0);
    let exp = y.clone().exp();
    let overflow = exp.clone().is_inf(); // where y may be infinite too, and ∞ − ∞ is NaN
    let far = (exp - 1.0 - y.clone()).mask_fill(overflow, f64::INFINITY);

    let y = y.mask_fill(near.clone().bool_not(), 0.0);
    let inverse_factorial = |k: i32| 1.0 / (1..=k + 2).map(f64::from).product::<f64>();
    let series = polynomial(y.clone(), highest - 1, inverse_factorial);
    far.mask_where(near, y.clone() * y * series)
}

/// `c₀ + c₁x + …` with that many terms, by Horner's rule.
fn polynomial<const D: usize>(x: Tensor<D>, terms: i32, coefficient: impl Fn(i32) -> f64) -> Tensor<D> {
    let last_two = x.clone() * coefficient(terms - 1) + coefficient(terms - 2);
    (0..terms - 2).rev().fold(last_two, |sum, k| sum * x.clone() + coefficient(k))
}

use super::{
    super::map::{Map, overwrite},
    *,
};

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Expm1,
    Log1p,
    Softplus,
    Sigmoid,
}

impl<T: Compute> Map<T> for Function {
    fn of<S: Simd>(&self, x: T) -> T {
        match self {
            Self::Exp => exp::<T, S>(x),
            Self::Expm1 => expm1::<T, S>(x),
            Self::Log1p => log1p::<T, S>(x),
            Self::Softplus => softplus::<T, S>(x),
            Self::Sigmoid => sigmoid::<T, S>(x),
        }
    }
}

/// `function` by this machine's instructions.
fn of_all<T: Compute>(x: &[T], function: Function) -> Vec<T> {
    let mut result = x.to_vec();
    overwrite(&mut result, 1 << 12, function);
    result
}

/// The largest error relative to the exact result, in units of `epsilon`. Where the result is subnormal, its last place counts.
fn largest_error<T: Compute>(x: &[T], function: Function, exact: fn(f64) -> f64, epsilon: f64, tiny: f64) -> f64 {
    let error = |(&x, y): (&T, T)| {
        let exact = exact(x.to_f64());
        (y.to_f64() - exact).abs() / (epsilon * exact.abs()).max(tiny)
    };
    x.iter().zip(of_all(x, function)).map(error).fold(0.0, f64::max)
}

fn grid(from: f64, to: f64, points: usize) -> impl Iterator<Item = f64> {
    (0..=points).map(move |i| from + (to - from) * i as f64 / points as f64)
}

/// In units of `EPSILON`: 1.1 of `exp`, which counts half as much below a power of two; 1 of the subtraction in `expm1` at
/// `ln 2`, where it doubles the error of `exp`; 8 roundings of half a unit in the series; one more for `softplus`, two more
/// for `sigmoid`, which has the error of `exp` twice.
#[test]
fn f32_is_within_its_bounds() {
    let (epsilon, tiny) = (f64::from(f32::EPSILON), 2f64.powi(-149));
    let wide: Vec<f32> = grid(-110.0, 88.7, 400_000).map(|x| x as f32).collect();
    let near: Vec<f32> = grid(-0.5, 1.0, 100_000).map(|x| x as f32).collect();
    let small: Vec<f32> = (0..2000).map(|i| 0.98f32.powi(i)).flat_map(|x| [x, -x * 0.5]).collect();
    for (function, exact, x, bound) in [
        (Function::Exp, f64::exp as fn(f64) -> f64, &wide, 1.2),
        (Function::Expm1, f64::exp_m1, &wide, 3.5),
        (Function::Expm1, f64::exp_m1, &small, 3.5),
        (Function::Log1p, f64::ln_1p, &near, 4.0),
        (Function::Log1p, f64::ln_1p, &small, 4.0),
        (Function::Softplus, |x| x.max(0.0) + (-x.abs()).exp().ln_1p(), &wide, 5.2),
        (Function::Sigmoid, |x| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }, &wide, 3.4),
    ] {
        let error = largest_error(x, function, exact, epsilon, tiny);
        assert!(error <= bound, "{error} of at most {bound}");
    }
}

/// The standard library's functions are within 1 unit themselves.
#[test]
fn f64_is_within_its_bounds() {
    let (epsilon, tiny) = (f64::EPSILON, f64::from_bits(1));
    let wide: Vec<f64> = grid(-750.0, 709.7, 400_000).collect();
    let near: Vec<f64> = grid(-0.5, 1.0, 100_000).collect();
    for (function, exact, x, bound) in [
        (Function::Exp, f64::exp as fn(f64) -> f64, &wide, 3.0),
        (Function::Expm1, f64::exp_m1, &wide, 5.5),
        (Function::Log1p, f64::ln_1p, &near, 5.0),
    ] {
        let error = largest_error(x, function, exact, epsilon, tiny);
        assert!(error <= bound, "{error} of at most {bound}");
    }
}

fn ends<T: Compute + std::fmt::Debug>() {
    let x: Vec<T> = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e4, -1e4].map(T::of).to_vec();
    let of = |function| of_all(&x, function).into_iter().map(T::to_f64).collect::<Vec<f64>>();
    let infinity = f64::INFINITY;
    for (function, expected) in [
        (Function::Exp, [infinity, 0.0, 1.0, 1.0, infinity, 0.0]),
        (Function::Expm1, [infinity, -1.0, 0.0, 0.0, infinity, -1.0]),
        (Function::Sigmoid, [1.0, 0.0, 0.5, 0.5, 1.0, 0.0]),
    ] {
        let actual = of(function);
        assert!(actual[0].is_nan());
        assert_eq!(actual[1..], expected);
    }
    let softplus = of(Function::Softplus);
    assert!(softplus[0].is_nan());
    assert_eq!([softplus[1], softplus[2], softplus[5], softplus[6]], [infinity, 0.0, 1e4, 0.0]);
}

#[test]
fn the_ends_are_exact() {
    ends::<f32>();
    ends::<f64>();
    assert_eq!(of_all(&[100.0f32, -104.5, 89.0], Function::Exp), [f32::INFINITY, 0.0, f32::INFINITY]);
    assert_eq!([finite(f32::INFINITY), finite(f32::NEG_INFINITY), finite(3.0)], [f32::MAX, f32::MIN, 3.0]);
    assert!(finite(f32::NAN).is_nan());
}

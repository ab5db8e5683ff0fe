use super::*;

/// 4 units in the last place, of 2⁻²³ and 2⁻⁵² relative to the result.
fn follows_tanh<T: Compute>(epsilon: f64) {
    for cap in [1.0, 30.0, 50.0] {
        let x: Vec<f64> = (-4000..4000).map(|i| 1.003f64.powi(i) * 1e-3).flat_map(|x| [x, -x]).collect();
        let mut z: Vec<T> = x.iter().map(|&x| T::of(x)).collect();
        let exact: Vec<f64> = z.iter().map(|z| cap * (z.to_f64() / cap).tanh()).collect();
        softcap(&mut z, cap);
        for (z, exact) in z.iter().zip(exact) {
            assert!((z.to_f64() - exact).abs() <= 4.0 * epsilon * exact.abs(), "{} {exact} {cap}", z.to_f64());
        }
    }
}

#[test]
fn it_is_accurate_near_0_and_at_the_cap() {
    follows_tanh::<f32>(f64::from(f32::EPSILON));
    follows_tanh::<f64>(f64::EPSILON);
}

#[test]
fn its_ends_are_the_cap_and_nan_stays() {
    let mut z = [f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.0, f32::NAN];
    softcap(&mut z, 30.0);
    assert_eq!(z[..4], [30.0, -30.0, 30.0, 0.0]);
    assert!(z[3].is_sign_negative() && z[4].is_nan());
}

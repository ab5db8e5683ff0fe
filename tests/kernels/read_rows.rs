use half::{bf16, f16};

use super::{
    super::naive::{Naive, assert_near, bound, logits, narrow, state_of, widen},
    *,
};

fn follows_the_definition<F: Float>() {
    for width in [1, 2, 31, 32, 33, 1023, 1024, 1025, 5003, 40_001] {
        for (spread, offset) in [(0.0, 0.0), (1.0, 0.0), (10.0, -3.0), (40.0, 1e4)] {
            let z: Vec<F> = narrow(&logits(width, spread, offset));
            let wide = widen(&z);
            let target = width * 2 / 3;
            let (sum, naive) = (state_of(&z, target as i32), Naive::of(&wide, target));
            let bound = bound::<F>(width, naive.mean_gap);
            let depths = 2.0 * naive.mean_gap + 1.0;
            assert_near("log-prob", sum.log_prob(), naive.log_prob, bound + 4.0 * f64::EPSILON * naive.log_prob.abs());
            assert_near("entropy", sum.entropy(), naive.entropy, 2.0 * bound * depths);
            assert_near("log Σp²", sum.log_sum_sq_probs(), naive.log_sum_sq_probs, 4.0 * bound);
            let absolute: f64 = wide.iter().map(|z| z.abs()).sum();
            assert_near("logit_sum", sum.logit_sum, naive.logit_sum, bound * absolute);
            assert_eq!(Some(sum.argmax as usize), wide.iter().position(|&z| z == sum.max));
            assert_eq!(sum.max_count as usize, wide.iter().filter(|&&z| z == sum.max).count());
        }
    }
}

#[test]
fn every_dtype_follows_the_definition() {
    follows_the_definition::<f32>();
    follows_the_definition::<f64>();
    follows_the_definition::<bf16>();
    follows_the_definition::<f16>();
}

#[test]
fn near_certainty_what_is_left_keeps_its_relative_accuracy() {
    let mut z: Vec<f32> = narrow(&logits(3000, 4.0, -60.0));
    z[1234] = 0.0;
    let sum_exp_rest: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| z.exp()).sum();
    let sum_exp_gap: f64 = widen(&z).iter().filter(|&&z| z < 0.0).map(|z| -z * z.exp()).sum();
    let sum = state_of(&z, 1234);
    assert!(sum_exp_rest < 1e-20);
    assert_near("log-prob", sum.log_prob(), -sum_exp_rest, 2.1e-6 * sum_exp_rest);
    assert_near("entropy", sum.entropy(), sum_exp_rest + sum_exp_gap, 4.2e-6 * (sum_exp_rest + sum_exp_gap));
    assert_near("log Σp²", sum.log_sum_sq_probs(), -2.0 * sum_exp_rest, 4.2e-6 * sum_exp_rest);
}

#[test]
fn the_largest_numbers_do_not_overflow() {
    let z = [f32::MAX; 5000];
    let (sum, logit_sum) = (state_of(&z, 0), 5000.0 * f64::from(f32::MAX));
    assert_eq!(sum.log_prob(), -5000f64.ln());
    assert_near("logit_sum", sum.logit_sum, logit_sum, bound::<f32>(5000, 0.0) * logit_sum);
}

/// Also as the last of a block that is not whole.
#[test]
fn infinities_and_nan_are_where_they_should_be() {
    let whole: Vec<f32> = narrow(&logits(2500, 5.0, 0.0));
    for place in [0, 700, 1024, 2499] {
        let with = |number| {
            let mut z = whole.clone();
            z[place] = number;
            state_of(&z, 3)
        };
        let nan = with(f32::NAN);
        assert!(nan.log_prob().is_nan() && nan.entropy().is_nan() && nan.log_sum_sq_probs().is_nan());
        assert!(nan.argmax.is_nan() && nan.logit_sum.is_nan());

        let infinite = with(f32::INFINITY);
        assert!(infinite.log_prob().is_nan() && infinite.entropy().is_nan() && infinite.log_sum_sq_probs().is_nan());
        assert_eq!((infinite.argmax, infinite.logit_sum, infinite.max_count), (place as f64, f64::INFINITY, 1.0));

        let none = with(f32::NEG_INFINITY);
        let mut without = widen(&whole);
        without[place] = -1e9;
        assert_near("log-prob", none.log_prob(), Naive::of(&without, 3).log_prob, 2.1e-6);
        assert_near("entropy", none.entropy(), Naive::of(&without, 3).entropy, 2e-5);
        assert_eq!(none.logit_sum, f64::NEG_INFINITY);
    }
}

#[test]
fn blocks_of_nothing_but_minus_infinity_add_nothing() {
    for empty in [0..1024, 0..2100, 1024..3000, 5..3000] {
        let mut z: Vec<f32> = narrow(&logits(3000, 5.0, 0.0));
        z[empty.clone()].fill(f32::NEG_INFINITY);
        let left: Vec<f64> = widen(&z).into_iter().filter(|z| z.is_finite()).collect();
        let target = z.iter().position(|z| z.is_finite()).unwrap();
        let (sum, naive) = (state_of(&z, target as i32), Naive::of(&left, 0));
        assert_near("log-prob", sum.log_prob(), naive.log_prob, 2.1e-6);
        assert_near("entropy", sum.entropy(), naive.entropy, 2e-5);
    }
}

#[test]
fn nothing_but_minus_infinity_is_no_distribution_and_its_first_is_the_largest() {
    for width in [1, 33, 2500] {
        let sum = state_of(&vec![f32::NEG_INFINITY; width], 0);
        assert!(sum.log_prob().is_nan() && sum.entropy().is_nan() && sum.log_sum_sq_probs().is_nan());
        assert_eq!((sum.argmax, sum.max_count), (0.0, width as f64));
    }
    assert!(state_of(&[f32::NAN; 40], 0).argmax.is_nan());
    assert!(state_of(&[f32::NAN, f32::NEG_INFINITY], 1).argmax.is_nan());
}

#[test]
fn statistics_do_not_change_the_log_prob() {
    for width in [1, 100, 1024, 7001] {
        let z: Vec<f32> = narrow(&logits(width, 9.0, 2.0));
        let mut sums = [SoftmaxState::EMPTY];
        read_rows(&z, width, &[0], 0, false, &mut sums);
        assert_eq!(sums[0].log_prob().to_bits(), state_of(&z, 0).log_prob().to_bits());
    }
}

#[test]
fn rows_that_are_not_counted_are_not_read() {
    let mut z: Vec<f32> = narrow(&logits(300, 9.0, 2.0));
    z[100..200].fill(f32::NAN);
    let untouched = SoftmaxState { logit_sum: 7.0, ..SoftmaxState::EMPTY };
    let mut sums = [SoftmaxState::EMPTY, untouched, SoftmaxState::EMPTY];
    read_rows(&z, 100, &[4, IGNORED, i32::MAX], 0, true, &mut sums);
    assert_eq!(bytemuck::bytes_of(&sums[1]), bytemuck::bytes_of(&untouched));
    assert!(sums[0].log_prob().is_finite());
    assert!(sums[2].log_prob().is_nan() && sums[2].entropy().is_finite());
}

use super::*;

#[test]
fn a_position_predicts_the_next_token_and_the_last_predicts_none() {
    let tokens = [9, 4, 7, -3, 1, 5, 2, 1 << 40];
    let mask = [true, true, false, true, true, false, true, true];
    let Targets { ids, counted, token_count } = targets(&tokens, &mask, 4, 5);
    assert_eq!(ids, [4, IGNORED, OUT_OF_VOCAB, IGNORED, IGNORED, 2, OUT_OF_VOCAB, IGNORED]);
    assert_eq!(counted, [true, false, true, false, true, true]);
    assert_eq!(token_count, [2, 2]);
}

#[test]
fn predictions_are_read_from_counted_rows_and_their_gradient_goes_back_there() {
    let targets = [3, IGNORED, IGNORED, 1, 2, IGNORED];
    let rows: Vec<f32> = (0..12).map(|i| if i / 2 == 1 { f32::NAN } else { i as f32 }).collect();
    assert_eq!(predictions(&rows, 2, &targets, 3, 1), [1.0, 0.0, 7.0, 9.0]);
    let gradient = gradient_of_rows(&[1.0f32, f32::NAN, 3.0, 4.0], 2, &targets, 2, 1);
    assert_eq!(gradient, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 4.0, 0.0, 0.0]);
}

#[test]
fn sums_are_rounded_once_and_keep_what_is_not_finite() {
    let tenth = f64::from(0.1f32);
    assert_eq!(accurate_sums(&vec![0.1f32; 100_000], 100_000), [(100_000.0 * tenth) as f32]);
    let cancelling = [1e16, 1.0, -1e16, 1e-3];
    assert_eq!(accurate_sums(&cancelling, 4), [1.0 + 1e-3]);
    assert_eq!(
        accurate_sums(&[f64::MAX, f64::INFINITY, -1.0, f64::NEG_INFINITY], 2),
        [f64::INFINITY, f64::NEG_INFINITY]
    );
    assert!(accurate_sums(&[1.0f32, f32::NAN], 2)[0].is_nan());
}

#[test]
fn equal_numbers_keep_their_order_and_nan_comes_last() {
    let numbers = [0.0, f32::NAN, -1.0, -0.0, f32::INFINITY, -1.0, f32::NAN];
    assert_eq!(argsort(&numbers), [2, 5, 0, 3, 4, 1, 6]);
}

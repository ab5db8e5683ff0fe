//! Near certainty, over large vocabularies, for the largest logits.

use super::*;

/// From doubt to certainty, over a vocabulary of any size: relative to the entropy itself, not to 1.
#[test]
fn statistics_of_a_nearly_certain_model_are_accurate_relative_to_themselves() {
    on_every_device(|on| {
        let mut worst = [0.0f64; 3];
        for vocab in [2, 5, 64, 1000, 32_000] {
            for gap in [0.0f32, 0.1, 1.0, 5.0, 10.0, 17.0, 25.0, 40.0, 60.0] {
                let below = |v: usize| gap * (1.0 + (v as f32 * 0.618_034).fract() / 4.0);
                expect_relative(on, vocab, below, &mut worst)?;
            }
        }
        println!("{}: entropy, log Σ p², gradient: at most {worst:?} off, relative", on.name);
        Ok(())
    });
}

/// A winner and 256 k equal losers, whose sum loses the same way at every addition.
#[test]
fn statistics_over_a_vocabulary_of_256_k_are_accurate() {
    on_every_device(|on| {
        let mut worst = [0.0f64; 3];
        for gap in [0.1f32, 8.7, 12.5, 20.3] {
            expect_relative(on, 1 << 18, |_| gap, &mut worst)?;
        }
        println!("{}: entropy, log Σ p², gradient over 256 k ids: at most {worst:?} off, relative", on.name);
        Ok(())
    });
}

/// Entropy, log Σ p² and the norm of the gradient, where one logit is 0 and the others that far below.
fn expect_relative(on: &Tested, vocab: usize, below: impl Fn(usize) -> f32, worst: &mut [f64; 3]) -> TestCaseResult {
    let row: Vec<f32> = (0..vocab).map(|v| if v == vocab / 2 { 0.0 } else { -below(v) }).collect();
    let batch = Batch {
        sequences: 1,
        time: 2,
        vocab,
        logits: [row, vec![0.0; vocab]].concat(),
        tokens: vec![0, 0],
        mask: vec![false, true],
        upstream: vec![1.0],
    };
    let (actual, exact) = (measured(&batch, on, DType::F32), expected(&batch));
    let norm = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
    let difference: Vec<f64> = actual.gradient.iter().zip(&exact.gradient).map(|(a, b)| a - b).collect();
    let errors = [
        (actual.entropy[0] / exact.entropy[0] - 1.0).abs(),
        (actual.log_sum_sq_probs[0] / exact.log_sum_sq_probs[0] - 1.0).abs(),
        // In doubt d − Σ p d is a small difference of numbers that are rounded each.
        if below(0) < 17.0 { 0.0 } else { norm(&difference) / norm(&exact.gradient) },
    ];
    for (worst, error) in worst.iter_mut().zip(errors) {
        *worst = worst.max(error);
        prop_assert!(error <= tolerance::NEAR_CERTAINTY, "{vocab} ids, {} below: {errors:?}", below(0));
    }
    Ok(())
}

/// The largest finite logits: their mean is a number although their sum is not.
#[test]
fn no_finite_logit_overflows_a_statistic() {
    on_every_device(|on| {
        let rows = [[f32::MAX; 2], [f32::MIN; 2], [f32::MAX, f32::MIN], [0.0, f32::MIN], [0.0; 2]];
        let batch = Batch::of_rows(&rows);
        let actual = measured(&batch, on, DType::F32);
        let (max, ln_2) = (f64::from(f32::MAX), std::f64::consts::LN_2);
        prop_assert_eq!(&actual.mean_logit, &[max, -max, 0.0, -max / 2.0]);
        expect_close("entropy", DType::F32, &actual.entropy, &[ln_2, ln_2, 0.0, 0.0], |_| 1e-6)?;
        expect_close("log Σ p²", DType::F32, &actual.log_sum_sq_probs, &[-ln_2, -ln_2, 0.0, 0.0], |_| 1e-6)?;
        prop_assert_eq!(actual.gradient, [0.0; 10]);
        prop_assert_eq!(actual.is_argmax, [true; 4]);
        Ok(())
    });
}

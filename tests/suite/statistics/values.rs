//! Values: entropy, `log Σ p²`, mean logit.

use super::*;

/// For every logit that f32 can hold: −∞ has probability 0, NaN and +∞ give NaN.
#[test]
fn statistics_are_those_of_the_reference_for_any_logits() {
    for_all(wild_batches(), |on, batch| {
        let expected = expected(batch);
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let actual = measured(batch, on, dtype);
            expect_close("entropy", dtype, &actual.entropy, &expected.entropy, |i| {
                tolerance::entropy(rounding, &distribution(batch, i))
            })?;
            expect_close("log Σ p²", dtype, &actual.log_sum_sq_probs, &expected.log_sum_sq_probs, |i| {
                tolerance::log_sum_sq_probs(rounding, &distribution(batch, i))
            })?;
            expect_close("mean logit", dtype, &actual.mean_logit, &expected.mean_logit, |i| {
                tolerance::mean_logit(rounding, &logits_of(batch, i))
            })?;
            for (i, (actual, expected)) in actual.is_argmax.iter().zip(&expected.is_argmax).enumerate() {
                prop_assert!(actual == expected || subnormal(on, &logits_of(batch, i)), "is argmax [{i}]: {actual}");
            }
            prop_assert_eq!(booleans(&statistics(batch, &on.device, dtype).counted()), batch.counted());
        }
        Ok(())
    });
}

/// A GPU may take a subnormal number for 0.
fn subnormal(on: &Tested, logits: &[f64]) -> bool {
    !["flex", "ndarray"].contains(&on.name)
        && logits.iter().any(|&z| z != 0.0 && z.abs() < f64::from(f32::MIN_POSITIVE))
}

/// 0 ≤ H ≤ ln V.
#[test]
fn the_entropy_lies_between_that_of_certainty_and_that_of_ignorance() {
    for_all(batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            for (i, entropy) in numbers(&statistics(batch, &on.device, dtype).entropy()).into_iter().enumerate() {
                let most = (batch.vocab as f64).ln() + tolerance::entropy(rounding, &distribution(batch, i));
                prop_assert!((0.0..=most).contains(&entropy), "{entropy:e}, at most {most:e}");
            }
        }
        Ok(())
    });
}

/// −H ≤ log Σ p² (by Jensen), and −ln V ≤ log Σ p² ≤ 0.
#[test]
fn log_sum_sq_probs_lies_between_minus_the_entropy_and_0() {
    for_all(batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let actual = measured(batch, on, dtype);
            for (i, &log_sum) in actual.log_sum_sq_probs.iter().enumerate() {
                let of = distribution(batch, i);
                let own = tolerance::log_sum_sq_probs(rounding, &of);
                prop_assert!(log_sum <= 0.0 && log_sum >= -(batch.vocab as f64).ln() - own, "{log_sum:e}");
                let least = -actual.entropy[i] - tolerance::entropy(rounding, &of) - own;
                prop_assert!(log_sum >= least, "{log_sum:e}, at least {least:e}");
            }
        }
        Ok(())
    });
}

/// Whatever the common logit: H = ln V, log Σ p² = −ln V, the mean logit is that logit, and id 0 is the argmax.
#[test]
fn a_flat_row_has_the_entropy_of_ignorance() {
    on_every_device(|on| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            for (vocab, logit) in
                [(1, 3.5), (2, -1e4), (3, 0.0), (64, -7.25), (127, 1e30), (1000, 2.0), (20_000, 0.125)]
            {
                let logits = floats(&vec![logit; 2 * 3 * vocab], [2, 3, vocab], &on.device, dtype);
                let tokens = integers(&[0, 0, vocab as i64 - 1].repeat(2), [2, 3], &on.device);
                let completions = Completions::new(tokens, flags(&[true; 6], [2, 3], &on.device)).unwrap();
                let statistics = token_statistics(logits, &completions).unwrap();
                let most = (vocab as f64).ln();
                let of = Distribution::of(&vec![0.0; vocab]);
                expect_close("entropy", dtype, &numbers(&statistics.entropy()), &[most; 4], |_| {
                    tolerance::entropy(rounding, &of)
                })?;
                expect_close("log Σ p²", dtype, &numbers(&statistics.log_sum_sq_probs()), &[-most; 4], |_| {
                    tolerance::log_sum_sq_probs(rounding, &of)
                })?;
                let logit = f64::from(logit as f32);
                expect_close("mean logit", dtype, &numbers(&statistics.mean_logit()), &[logit; 4], |_| {
                    tolerance::mean_logit(rounding, &vec![logit; vocab]) + logit.abs() * f64::from(f32::EPSILON)
                })?;
                prop_assert_eq!(booleans(&statistics.is_argmax()), [true, vocab == 1].repeat(2));
            }
        }
        Ok(())
    });
}

/// A distribution does not know the logits' common offset, and the mean logit knows nothing else of it.
#[test]
fn shifting_all_logits_of_a_position_shifts_their_mean_alone() {
    let grid = proptest::collection::vec(-64..=64i32, 9 * 6 * 4);
    for_all((batches_that_predict(), grid, -1000..=1000i32), |on, (batch, grid, shift)| {
        let eighths = |shift: i32| Batch {
            logits: grid[..batch.logits.len()].iter().map(|z| (z + shift) as f32 / 8.0).collect(),
            ..batch.clone()
        };
        let (still, shifted) = (eighths(0), eighths(*shift));
        let [before, after] = [&still, &shifted].map(|batch| measured(batch, on, DType::F32));
        prop_assert_eq!(bits(&before.entropy), bits(&after.entropy));
        prop_assert_eq!(bits(&before.gradient), bits(&after.gradient));
        prop_assert_eq!(bits(&before.log_sum_sq_probs), bits(&after.log_sum_sq_probs));
        prop_assert_eq!(&before.is_argmax, &after.is_argmax);
        let counted = batch.counted();
        let expected = before.mean_logit.iter().zip(counted).map(|(mean, counted)| match counted {
            true => mean + f64::from(*shift) / 8.0,
            false => 0.0,
        });
        let rounding = Rounding::of(on, DType::F32);
        expect_close("mean logit", DType::F32, &after.mean_logit, &expected.collect::<Vec<_>>(), |i| {
            [&still, &shifted].map(|batch| tolerance::mean_logit(rounding, &logits_of(batch, i))).iter().sum()
        })
    });
}

#[test]
fn permuting_sequences_permutes_their_statistics() {
    for_all(wild_batches(), |on, batch| {
        let turned = |numbers: &[f64]| {
            let mut numbers = numbers.to_vec();
            let width = numbers.len() / batch.sequences.max(1);
            numbers.rotate_left(width);
            numbers
        };
        let before = measured(batch, on, DType::F32);
        let after = measured(&batch.with_first_sequence_last(), on, DType::F32);
        prop_assert_eq!(bits(&after.entropy), bits(&turned(&before.entropy)));
        prop_assert_eq!(bits(&after.log_sum_sq_probs), bits(&turned(&before.log_sum_sq_probs)));
        prop_assert_eq!(bits(&after.mean_logit), bits(&turned(&before.mean_logit)));
        prop_assert_eq!(bits(&after.gradient), bits(&turned(&before.gradient)));
        Ok(())
    });
}

/// Values and gradient: there is one pass, whichever function it is asked through.
#[test]
fn log_probs_are_those_of_token_log_probs_bit_for_bit() {
    for_all(wild_batches(), |on, batch| {
        for dtype in on.float_dtypes() {
            let alone = batch.score_with_gradient(&on.device, dtype);
            let logits = batch.logits(&on.autodiff(), dtype).require_grad();
            let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).unwrap();
            let log_probs = statistics.log_probs();
            prop_assert_eq!(bits(&alone.log_probs), bits(&numbers(&log_probs.values())));
            prop_assert_eq!(bits(&alone.sums), bits(&numbers(&log_probs.sequences().sum)));
            prop_assert_eq!(booleans(&log_probs.counted()), batch.counted());
            let gradient = gradient_of_sum(log_probs.values() * upstream(batch, on, &statistics), &logits);
            prop_assert_eq!(bits(&alone.gradient), bits(&gradient));
        }
        Ok(())
    });
}

#[test]
fn statistics_of_a_sequence_are_sums_over_its_counted_tokens() {
    for_all(wild_batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let statistics = statistics(batch, &on.device, dtype);
            let sequences = statistics.sequences();
            let width = batch.time - 1;
            let rows = |i: usize| i * width..(i + 1) * width;
            let counts = batch.expected().token_counts;
            prop_assert_eq!(whole_numbers(&sequences.token_count), counts.clone());
            for (name, values, actual) in [
                ("entropy", statistics.entropy(), sequences.entropy),
                ("mean logit", statistics.mean_logit(), sequences.mean_logit),
            ] {
                let values = numbers(&values);
                let sums: Vec<f64> = (0..batch.sequences).map(|i| exact_sum(&values[rows(i)])).collect();
                expect_close(name, dtype, &numbers(&actual), &sums, |i| {
                    // Beyond 2²¹ eighths are no longer exact: then each addition errs by `u` of what there is.
                    let size: f64 = values[rows(i)].iter().map(|x| x.abs()).sum();
                    let coarse = if size > 2e6 { width as f64 * 2.0 * rounding.unit * size } else { 0.0 };
                    tolerance::sequence_sum(rounding, sums[i], counts[i] as usize, coarse)
                })?;
            }
            let hits = booleans(&statistics.is_argmax());
            let hits: Vec<i64> =
                (0..batch.sequences).map(|i| hits[rows(i)].iter().filter(|&&hit| hit).count() as i64).collect();
            prop_assert_eq!(whole_numbers(&sequences.hits), hits);
        }
        Ok(())
    });
}

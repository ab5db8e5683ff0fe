//! Token statistics, and the sequence-level forms that need tokens: LD-DPO's sums and WPO's weights.

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{
    Completions, Error, LdAlpha, TokenStatistics,
    reference::{self, TokenStatistic},
    token_log_probs, token_statistics,
};
use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    batch::Batch,
    devices::{Tested, for_all, for_all_numbers, on_every_device},
    generators::{batches, batches_that_predict, id_out_of_range, junk, moderate_pairs, paired_batches, wild_batches},
    host::{bits, booleans, exact_sum, expect_close, flags, floats, gradient_of_sum, integers, numbers, whole_numbers},
    tolerance::{self, Distribution, Rounding},
};

/// What the library makes of a batch, and the gradient in the logits of `Σ upstream · entropy`.
#[derive(Debug, Clone)]
struct Measured {
    entropy: Vec<f64>,
    log_sum_sq_probs: Vec<f64>,
    mean_logit: Vec<f64>,
    is_argmax: Vec<bool>,
    gradient: Vec<f64>,
}

impl Measured {
    /// Everything, as bits.
    fn bits(&self) -> [Vec<u64>; 4] {
        [&self.entropy, &self.log_sum_sq_probs, &self.mean_logit, &self.gradient].map(|numbers| bits(numbers))
    }
}

fn statistics(batch: &Batch, device: &Device, dtype: DType) -> TokenStatistics {
    token_statistics(batch.logits(device, dtype), &batch.completions(device)).expect("shapes fit")
}

fn measured(batch: &Batch, on: &Tested, dtype: DType) -> Measured {
    let logits = batch.logits(&on.autodiff(), dtype).require_grad();
    let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).expect("shapes fit");
    Measured {
        entropy: numbers(&statistics.entropy()),
        log_sum_sq_probs: numbers(&statistics.log_sum_sq_probs()),
        mean_logit: numbers(&statistics.mean_logit()),
        is_argmax: booleans(&statistics.is_argmax()),
        gradient: gradient_of_sum(statistics.entropy() * upstream(batch, on, &statistics), &logits),
    }
}

/// The batch's upstream gradient, shaped like its statistics.
fn upstream(batch: &Batch, on: &Tested, statistics: &TokenStatistics) -> Tensor<2> {
    let upstream: Vec<f64> = batch.upstream.iter().copied().map(f64::from).collect();
    let values = statistics.entropy();
    floats(&upstream, values.dims(), &on.device, values.dtype())
}

/// The same by the f64 reference.
fn expected(batch: &Batch) -> Measured {
    let logits = wide(&batch.logits);
    let statistics = reference::token_statistics(batch.rows(&logits)).unwrap();
    let of = |f: fn(&TokenStatistic) -> f64| statistics.iter().map(f).collect();
    Measured {
        entropy: of(|statistic| statistic.entropy),
        log_sum_sq_probs: of(|statistic| statistic.log_sum_sq_probs),
        mean_logit: of(|statistic| statistic.mean_logit),
        is_argmax: statistics.iter().map(|statistic| statistic.is_argmax).collect(),
        gradient: reference::token_entropies_gradient(batch.rows(&logits), &wide(&batch.upstream)).unwrap(),
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// The logits that make a prediction.
fn logits_of(batch: &Batch, prediction: usize) -> Vec<f64> {
    wide(&batch.logits[batch.row(batch.position(prediction))])
}

fn distribution(batch: &Batch, prediction: usize) -> Distribution {
    Distribution::of(&logits_of(batch, prediction))
}

// ---- values ----

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

// ---- the argmax ----

#[test]
fn the_first_of_equal_logits_is_the_argmax() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let rows: [([f32; 4], Option<usize>); 10] = [
        ([1.0, 2.0, 2.0, 2.0], Some(1)),
        ([2.0, 2.0, 1.0, 2.0], Some(0)),
        ([-3.0, -2.0, -1.0, -1.0], Some(2)),
        ([0.0, -0.0, 0.0, -1.0], Some(0)),
        ([-inf, -inf, -1e38, -inf], Some(2)),
        ([-inf, -inf, -inf, -inf], Some(0)),
        ([0.0, inf, 7.0, inf], Some(1)),
        ([f32::MIN, 0.0, f32::MAX, f32::MAX], Some(2)),
        ([5.0, nan, 1.0, 1.0], None),
        ([inf, 1.0, 1.0, nan], None),
    ];
    on_every_device(|on| {
        for dtype in on.arithmetic_dtypes() {
            for token in [-1, 0, 1, 2, 3, 4] {
                let batch = Batch {
                    sequences: rows.len(),
                    time: 2,
                    vocab: 4,
                    logits: rows.iter().flat_map(|(row, _)| [*row, [0.0; 4]].concat()).collect(),
                    tokens: [0, token].repeat(rows.len()),
                    mask: [false, true].repeat(rows.len()),
                    upstream: vec![1.0; rows.len()],
                };
                let actual = booleans(&statistics(&batch, &on.device, dtype).is_argmax());
                let expected = rows.map(|(_, first)| first.is_some_and(|first| first as i64 == token));
                prop_assert_eq!(actual, expected, "token {}", token);
            }
        }
        Ok(())
    });
}

/// Far beyond what 8 and 16 bits count to, where a row is more than one block, and where SIMD is used.
#[test]
fn the_argmax_of_a_large_vocabulary_is_found_wherever_it_is() {
    on_every_device(|on| {
        let vocab = 70_001;
        for largest in [0, 255, 256, 65_536, 70_000] {
            let mut row = vec![0.25f32; vocab];
            row[largest] = 0.5;
            row[vocab - 1] = 0.5;
            let batch = Batch {
                sequences: 3,
                time: 2,
                vocab,
                logits: [row, vec![0.0; vocab]].concat().repeat(3),
                tokens: vec![0, largest as i64, 0, 1, 0, vocab as i64 - 1],
                mask: [false, true].repeat(3),
                upstream: vec![1.0; 3],
            };
            let actual = booleans(&statistics(&batch, &on.device, DType::F32).is_argmax());
            prop_assert_eq!(actual, [true, false, largest == vocab - 1], "largest at {}", largest);
        }
        Ok(())
    });
}

// ---- gradients of the entropy ----

#[test]
fn the_gradient_of_the_entropy_is_that_of_the_reference_for_any_logits() {
    for_all(wild_batches(), |on, batch| {
        let mut expected = expected(batch).gradient;
        for prediction in (0..batch.upstream.len()).filter(|&i| batch.upstream[i] == 0.0) {
            expected[batch.row(batch.position(prediction))].fill(0.0); // of NaN as well
        }
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            expect_close("gradient", dtype, &measured(batch, on, dtype).gradient, &expected, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
            })?;
        }
        Ok(())
    });
}

/// `(H(z + h) − H(z − h)) / 2h` in f64, logit by logit.
#[test]
fn the_gradient_of_the_entropy_is_its_finite_difference() {
    const STEP: f64 = 1e-5;
    for_all(moderate_pairs(), |on, batch| {
        let mut logits = wide(&batch.logits);
        let sum = |logits: &[f64]| -> f64 {
            let statistics = reference::token_statistics(batch.rows(logits)).unwrap();
            statistics.iter().zip(&batch.upstream).map(|(of, &upstream)| of.entropy * f64::from(upstream)).sum()
        };
        let differences: Vec<f64> = (0..logits.len())
            .map(|i| {
                let here = logits[i];
                logits[i] = here + STEP;
                let above = sum(&logits);
                logits[i] = here - STEP;
                let below = sum(&logits);
                logits[i] = here;
                (above - below) / (2.0 * STEP)
            })
            .collect();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let actual = measured(batch, on, dtype).gradient;
            // With a = ln p + H and |pa| ≤ 2.2 here, H‴ is a polynomial in p and a below 20: off by h²/6 of it, twice for
            // the upstream gradient, and by the rounding of at most 20 entropies of at most 2 over h.
            let truncated = 2.0 * 20.0 * STEP * STEP / 6.0 + 40.0 * f64::EPSILON / STEP;
            expect_close("gradient", dtype, &actual, &differences, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                truncated + tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
            })?;
        }
        Ok(())
    });
}

/// Σ_v ∂H/∂z_v = 0: the other side of the entropy's not knowing the common offset.
#[test]
fn the_gradient_of_the_entropy_sums_to_zero_over_the_vocabulary() {
    for_all(batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let gradient = measured(batch, on, dtype).gradient;
            let sums: Vec<f64> = gradient.chunks(batch.vocab).map(|row| row.iter().sum()).collect();
            expect_close("Σ gradient", dtype, &sums, &vec![0.0; sums.len()], |position| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(position)]));
                (0..batch.vocab).map(|v| tolerance::entropy_gradient(rounding, &of, v, 2.0)).sum()
            })?;
        }
        Ok(())
    });
}

/// Where the caller gives a gradient of exactly 0, the row gets 0, even if it holds NaN: it is out of the caller's loss.
#[test]
fn a_position_that_the_caller_leaves_out_pulls_on_nothing() {
    for_all(wild_batches(), |on, batch| {
        let expected = expected(batch);
        let upstream = |i: usize| if expected.entropy[i].is_nan() { 0.0 } else { batch.upstream[i] };
        let other = Batch { upstream: (0..batch.upstream.len()).map(upstream).collect(), ..batch.clone() };
        let gradient = measured(&other, on, DType::F32).gradient;
        for (i, entropy) in expected.entropy.iter().enumerate() {
            let row = &gradient[batch.row(batch.position(i))];
            let zero = entropy.is_nan() || other.upstream[i] == 0.0;
            prop_assert!(row.iter().all(|x| if zero { *x == 0.0 } else { x.is_finite() }), "{i}: {row:?}");
        }
        Ok(())
    });
}

/// A loss may use both: the gradients are added up.
#[test]
fn log_probs_and_entropy_may_be_in_one_loss() {
    for_all(batches(), |on, batch| {
        let (log_probs, entropy) = (batch.expected().gradient, expected(batch).gradient);
        let together: Vec<f64> = log_probs.iter().zip(&entropy).map(|(a, b)| a + b).collect();
        let rounding = Rounding::of(on, DType::F32);
        for device in [on.autodiff(), on.autodiff().gradient_checkpointing()] {
            let logits = batch.logits(&device, DType::F32).require_grad();
            let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).unwrap();
            let sum = statistics.log_probs().values() + statistics.entropy();
            let actual = gradient_of_sum(sum * upstream(batch, on, &statistics), &logits);
            expect_close("gradient", DType::F32, &actual, &together, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
                    + tolerance::token_gradient(rounding, 2.0, batch.vocab)
                    + 2.0 * rounding.unit * together[logit].abs()
            })?;
        }
        Ok(())
    });
}

#[test]
fn only_log_probs_and_entropy_have_a_gradient() {
    on_every_device(|on| {
        let batch = small();
        for (device, tracked) in [(on.device.clone(), false), (on.autodiff(), true)] {
            let logits = batch.logits(&device, DType::F32);
            let logits = if tracked { logits.require_grad() } else { logits };
            let statistics = token_statistics(logits, &batch.completions(&device)).unwrap();
            prop_assert_eq!(statistics.entropy().is_tracked(), tracked);
            prop_assert_eq!(statistics.log_probs().values().is_tracked(), tracked);
            let sequences = statistics.sequences();
            for none in [statistics.log_sum_sq_probs(), statistics.mean_logit(), statistics.clone().detach().entropy()]
            {
                prop_assert!(!none.is_tracked());
            }
            for none in [sequences.entropy, sequences.mean_logit, statistics.wpo_weights().unwrap()] {
                prop_assert!(!none.is_tracked());
            }
            prop_assert!(!statistics.detach().log_probs().values().is_tracked());
        }
        Ok(())
    });
}

/// Two sequences of three tokens over three ids.
fn small() -> Batch {
    Batch {
        sequences: 2,
        time: 3,
        vocab: 3,
        logits: (0..18).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.0).collect(),
        tokens: vec![0, 2, 1, 1, 0, 2],
        mask: vec![false, true, true, false, true, false],
        upstream: vec![1.0; 4],
    }
}

// ---- contracts ----

/// NaN, ±∞ and any id at an uncounted position, and NaN and ±∞ in the gradient that arrives there: bit for bit.
#[test]
fn what_the_mask_leaves_out_cannot_be_seen_in_any_statistic() {
    for_all((wild_batches(), junk()), |on, (batch, junk)| {
        let other = batch.overwritten_where_unseen(junk);
        for dtype in on.float_dtypes() {
            let (clean, dirty) = (measured(batch, on, dtype), measured(&other, on, dtype));
            prop_assert_eq!(clean.bits(), dirty.bits());
            prop_assert_eq!(&clean.is_argmax, &dirty.is_argmax);
            let [clean, dirty] = [batch, &other].map(|batch| statistics(batch, &on.device, dtype).sequences());
            prop_assert_eq!(bits(&numbers(&clean.entropy)), bits(&numbers(&dirty.entropy)));
            prop_assert_eq!(bits(&numbers(&clean.mean_logit)), bits(&numbers(&dirty.mean_logit)));
            prop_assert_eq!(whole_numbers(&clean.hits), whole_numbers(&dirty.hits));
        }
        Ok(())
    });
}

/// Exactly 0, and false.
#[test]
fn an_uncounted_position_has_no_statistics() {
    for_all((wild_batches(), junk()), |on, (batch, junk)| {
        let batch = batch.overwritten_where_unseen(junk);
        let actual = measured(&batch, on, DType::F32);
        for (i, counted) in batch.counted().into_iter().enumerate() {
            let numbers = [actual.entropy[i], actual.log_sum_sq_probs[i], actual.mean_logit[i]];
            prop_assert!(counted || numbers == [0.0; 3] && !actual.is_argmax[i], "{i}: {numbers:?}");
        }
        for (position, seen) in batch.seen().into_iter().enumerate() {
            let gradient = &actual.gradient[batch.row(position)];
            prop_assert!(seen || gradient.iter().all(|&partial| partial == 0.0), "position {position}: {gradient:?}");
        }
        Ok(())
    });
}

/// The id only decides the log-prob and whether it is the argmax.
#[test]
fn statistics_of_a_distribution_do_not_depend_on_the_id() {
    let cases = batches().prop_flat_map(|batch| {
        let id = prop_oneof![id_out_of_range(batch.vocab), 0..batch.vocab as i64];
        let ids = proptest::collection::vec(id, batch.tokens.len());
        (Just(batch), ids)
    });
    for_all(cases, |on, (batch, ids)| {
        let other = Batch { tokens: ids.clone(), ..batch.clone() };
        let (before, after) = (measured(batch, on, DType::F32), measured(&other, on, DType::F32));
        prop_assert_eq!(before.bits(), after.bits());
        for (i, hit) in after.is_argmax.iter().enumerate() {
            let id = ids[i / (batch.time - 1) * batch.time + i % (batch.time - 1) + 1];
            prop_assert!(!hit || (0..batch.vocab as i64).contains(&id), "id {id} is the argmax");
        }
        Ok(())
    });
}

/// f16 and bf16 are computed in f32: as if the logits had come in f32 with the same values.
#[test]
fn half_precision_logits_have_the_statistics_of_the_same_numbers_in_f32() {
    for_all(batches(), |on, batch| {
        for dtype in on.float_dtypes().filter(|dtype| matches!(dtype, DType::F16 | DType::BF16)) {
            let half = statistics(batch, &on.device, dtype);
            let logits = numbers(&batch.logits(&on.device, dtype)).into_iter().map(|z| z as f32).collect();
            let single = statistics(&Batch { logits, ..batch.clone() }, &on.device, DType::F32);
            prop_assert_eq!(half.entropy().dtype(), DType::F32);
            for of in [TokenStatistics::entropy, TokenStatistics::log_sum_sq_probs, TokenStatistics::mean_logit] {
                prop_assert_eq!(bits(&numbers(&of(&half))), bits(&numbers(&of(&single))));
            }
            prop_assert_eq!(booleans(&half.is_argmax()), booleans(&single.is_argmax()));
        }
        Ok(())
    });
}

#[test]
fn statistics_come_in_the_format_that_is_computed_in_and_gradients_in_the_logits_own() {
    on_every_device(|on| {
        for dtype in on.float_dtypes() {
            let batch = small();
            let logits = batch.logits(&on.autodiff(), dtype).require_grad();
            let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).unwrap();
            let result = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            for of in [TokenStatistics::entropy, TokenStatistics::log_sum_sq_probs, TokenStatistics::mean_logit] {
                prop_assert_eq!(of(&statistics).dtype(), result);
            }
            prop_assert_eq!(statistics.sequences().entropy.dtype(), result);
            prop_assert_eq!(statistics.wpo_weights().unwrap().dtype(), result);
            let gradient = logits.grad(&statistics.entropy().sum().backward()).unwrap();
            prop_assert_eq!(gradient.dtype(), dtype);
        }
        Ok(())
    });
}

/// Nothing to predict, or no sequences at all: everything is empty, in the graph, and nothing panics.
#[test]
fn batches_with_nothing_in_them_have_empty_statistics() {
    on_every_device(|on| {
        for (sequences, time) in [(0, 0), (0, 1), (0, 5), (2, 0), (2, 1), (4, 1)] {
            let device = on.autodiff();
            let logits = Tensor::<3>::full([sequences, time, 4], f32::NAN, &device).require_grad();
            let mask = flags(&vec![true; sequences * time], [sequences, time], &device);
            let completions = Completions::new(Tensor::zeros([sequences, time], &device), mask).unwrap();
            let statistics = token_statistics(logits.clone(), &completions).unwrap();
            let shape = [sequences, time.max(1) - 1];
            prop_assert_eq!(statistics.entropy().dims(), shape);
            prop_assert_eq!(statistics.log_sum_sq_probs().dims(), shape);
            prop_assert_eq!(statistics.mean_logit().dims(), shape);
            prop_assert_eq!(statistics.is_argmax().dims(), shape);
            prop_assert_eq!(statistics.counted().dims(), shape);

            let summed = statistics.sequences();
            prop_assert_eq!(numbers(&summed.entropy), vec![0.0; sequences]);
            prop_assert_eq!(numbers(&summed.mean_logit), vec![0.0; sequences]);
            prop_assert_eq!(whole_numbers(&summed.hits), vec![0; sequences]);
            prop_assert_eq!(whole_numbers(&summed.token_count), vec![0; sequences]);
            prop_assert_eq!(numbers(&statistics.wpo_weights().unwrap()), vec![1.0; sequences / 2]);
            let all_zero = vec![0.0; sequences * time * 4];
            prop_assert_eq!(gradient_of_sum(statistics.entropy(), &logits), all_zero.clone());

            let scored = token_log_probs(logits.clone(), &completions).unwrap();
            let pairs = scored.length_desensitized_pairs(alpha(0.5)).unwrap();
            prop_assert_eq!(numbers(&pairs.chosen().sum), vec![0.0; sequences / 2]);
            prop_assert_eq!(gradient_of_sum(pairs.rejected().sum.clone(), &logits), all_zero);
        }
        Ok(())
    });
}

#[test]
fn what_token_log_probs_refuses_is_refused() {
    on_every_device(|on| {
        let completions = small().completions(&on.device);
        for shape in [[2, 4, 3], [1, 3, 3], [2, 3, 0]] {
            let refused = |result: burn_dpo::Result<()>| result.unwrap_err();
            let alone = refused(token_log_probs(Tensor::zeros(shape, &on.device), &completions).map(|_| ()));
            let here = refused(token_statistics(Tensor::zeros(shape, &on.device), &completions).map(|_| ()));
            prop_assert_eq!(here, alone);
        }
        Ok(())
    });
}

// ---- accuracy ----

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
        let batch = Batch {
            sequences: 1,
            time: 5,
            vocab: 2,
            logits: rows.concat(),
            tokens: vec![0; 5],
            mask: vec![true; 5],
            upstream: vec![1.0; 4],
        };
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

// ---- per sequence ----

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

// ---- LD-DPO ----

fn alpha(alpha: f64) -> LdAlpha {
    LdAlpha::new(alpha).unwrap()
}

fn alphas() -> impl Strategy<Value = f64> {
    prop_oneof![1 => 0.0..1.0f64, 1 => select(vec![0.0, 0.5, 1.0, 0.3])]
}

/// Chosen and rejected sums, chosen first.
fn desensitized(batch: &Batch, device: &Device, dtype: DType, ld_alpha: f64) -> Vec<f64> {
    let pairs = batch.score(device, dtype).length_desensitized_pairs(alpha(ld_alpha)).unwrap();
    [numbers(&pairs.chosen().sum), numbers(&pairs.rejected().sum)].concat()
}

/// The values of a sequence's counted tokens, in order.
fn counted_values(batch: &Batch, values: &[f64], sequence: usize) -> Vec<f64> {
    let width = batch.time - 1;
    let counted = batch.counted();
    (sequence * width..(sequence + 1) * width).filter(|&i| counted[i]).map(|i| values[i]).collect()
}

/// Which predictions are beyond the length of their pair's shorter completion.
fn beyond(batch: &Batch) -> Vec<bool> {
    let (width, counted, half) = (batch.time - 1, batch.counted(), batch.sequences / 2);
    let length = |sequence: usize| counted[sequence * width..][..width].iter().filter(|&&counted| counted).count();
    let mut beyond = vec![false; counted.len()];
    for sequence in 0..batch.sequences {
        let shared = length(sequence % half).min(length(sequence % half + half));
        let places = (sequence * width..(sequence + 1) * width).filter(|&i| counted[i]);
        for place in places.skip(shared) {
            beyond[place] = true;
        }
    }
    beyond
}

#[test]
fn length_desensitized_sums_are_those_of_the_reference() {
    for_all((paired_batches(), alphas()), |on, (batch, ld_alpha)| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let scored = batch.score(&on.device, dtype);
            let pairs = scored.length_desensitized_pairs(alpha(*ld_alpha)).unwrap();
            let counts = batch.expected().token_counts;
            let half = batch.sequences / 2;
            prop_assert_eq!(whole_numbers(&pairs.chosen().token_count), &counts[..half]);
            prop_assert_eq!(whole_numbers(&pairs.rejected().token_count), &counts[half..]);

            let values = numbers(&scored.values());
            let tokens: Vec<_> = (0..batch.sequences).map(|i| counted_values(batch, &values, i)).collect();
            let expected: Vec<_> = (0..half)
                .map(|i| reference::length_desensitized_sums(&tokens[i], &tokens[half + i], *ld_alpha))
                .collect();
            let bound = |sequence: usize| {
                // Two sums, alpha's own rounding, a product and an addition.
                let size: f64 = tokens[sequence].iter().map(|x| x.abs()).sum();
                2.0 * tolerance::sequence_sum(rounding, size, tokens[sequence].len(), 0.0) + 4.0 * rounding.unit * size
            };
            let chosen: Vec<f64> = expected.iter().map(|pair| pair.chosen).collect();
            expect_close("chosen", dtype, &numbers(&pairs.chosen().sum), &chosen, bound)?;
            let rejected: Vec<f64> = expected.iter().map(|pair| pair.rejected).collect();
            expect_close("rejected", dtype, &numbers(&pairs.rejected().sum), &rejected, |i| bound(half + i))?;
        }
        Ok(())
    });
}

/// Values, counts and gradient, bit for bit.
#[test]
fn an_ld_alpha_of_1_changes_nothing() {
    for_all(paired_batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let outcome = |desensitized: bool| {
                let logits = batch.logits(&on.autodiff(), dtype).require_grad();
                let scored = token_log_probs(logits.clone(), &batch.completions(&on.device)).unwrap();
                let pairs = match desensitized {
                    true => scored.length_desensitized_pairs(alpha(1.0)).unwrap(),
                    false => scored.sequences().into_pairs().unwrap(),
                };
                let counts = [pairs.chosen(), pairs.rejected()].map(|side| whole_numbers(&side.token_count));
                let sums = [pairs.chosen(), pairs.rejected()].map(|side| bits(&numbers(&side.sum)));
                let difference = pairs.chosen().sum.clone() - pairs.rejected().sum.clone();
                (counts, sums, bits(&gradient_of_sum(difference, &logits)))
            };
            prop_assert_eq!(outcome(true), outcome(false));
        }
        Ok(())
    });
}

/// sum(α) = (1 − α)·sum(0) + α·sum(1).
#[test]
fn length_desensitized_sums_are_linear_in_alpha() {
    for_all((paired_batches(), 0.0..1.0f64), |on, (batch, ld_alpha)| {
        let rounding = Rounding::of(on, DType::F32);
        let [none, some, all] =
            [0.0, *ld_alpha, 1.0].map(|ld_alpha| desensitized(batch, &on.device, DType::F32, ld_alpha));
        let mixed: Vec<f64> =
            none.iter().zip(&all).map(|(none, all)| (1.0 - ld_alpha) * none + ld_alpha * all).collect();
        expect_close("sum", DType::F32, &some, &mixed, |i| {
            4.0 * tolerance::sequence_sum(rounding, all[i], batch.time, 0.0) + 4.0 * rounding.unit * all[i].abs()
        })
    });
}

#[test]
fn completions_of_one_length_have_their_plain_sums_whatever_alpha() {
    for_all((paired_batches(), alphas()), |on, (batch, ld_alpha)| {
        let half = batch.mask.len() / 2;
        let mask = batch.mask[..half].repeat(2);
        let same = Batch { mask, ..batch.clone() };
        let plain = numbers(&same.score(&on.device, DType::F32).sequences().sum);
        prop_assert_eq!(desensitized(&same, &on.device, DType::F32, *ld_alpha), plain);
        Ok(())
    });
}

/// Positions are counted along the completion: a longer prompt on one side, or padding, moves nothing beyond.
#[test]
fn padding_moves_nothing_beyond_the_shorter_length() {
    for_all(
        (paired_batches(), alphas(), 0..=2usize, 1..=3usize, junk()),
        |on, (batch, ld_alpha, left, right, junk)| {
            let padded = batch.padded(*left, *right, junk);
            let [before, after] = [batch, &padded].map(|batch| desensitized(batch, &on.device, DType::F32, *ld_alpha));
            let rounding = Rounding::of(on, DType::F32);
            let plain = numbers(&batch.score(&on.device, DType::F32).sequences().sum);
            expect_close("sum", DType::F32, &after, &before, |i| {
                4.0 * tolerance::sequence_sum(rounding, plain[i], batch.time, 0.0)
                    + 4.0 * rounding.unit * plain[i].abs()
            })
        },
    );
}

/// 1 up to the shorter length, α beyond.
#[test]
fn the_gradient_beyond_the_shorter_length_is_alpha() {
    for_all((paired_batches(), alphas()), |on, (batch, ld_alpha)| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let logits = batch.logits(&on.autodiff(), dtype).require_grad();
            let scored = token_log_probs(logits.clone(), &batch.completions(&on.device)).unwrap();
            let pairs = scored.length_desensitized_pairs(alpha(*ld_alpha)).unwrap();
            let actual = gradient_of_sum(pairs.chosen().sum.clone() + pairs.rejected().sum.clone(), &logits);
            let upstream: Vec<f64> = beyond(batch).iter().map(|&beyond| if beyond { *ld_alpha } else { 1.0 }).collect();
            let wide_logits = wide(&batch.logits);
            let expected = reference::token_log_probs_gradient(batch.rows(&wide_logits), &upstream).unwrap();
            expect_close("gradient", dtype, &actual, &expected, |_| {
                tolerance::token_gradient(rounding, 1.0, batch.vocab) + rounding.unit
            })?;
        }
        Ok(())
    });
}

/// `α = 0` is no factor: what is left out may be NaN.
#[test]
fn an_ld_alpha_of_0_does_not_see_nan_beyond_the_shorter_length() {
    for_all(paired_batches(), |on, batch| {
        let mut poisoned = batch.clone();
        for (i, beyond) in beyond(batch).into_iter().enumerate() {
            if beyond {
                poisoned.logits[batch.row(batch.position(i))].fill(f32::NAN);
            }
        }
        let [clean, poisoned] = [batch, &poisoned].map(|batch| desensitized(batch, &on.device, DType::F32, 0.0));
        prop_assert_eq!(bits(&clean), bits(&poisoned));
        Ok(())
    });
}

/// 4096 tokens, each rounded the same way if their sum is.
#[test]
fn length_desensitized_sums_of_long_completions_are_rounded_about_once() {
    on_every_device(|on| {
        let time = 4097;
        for gap in [0.01f32, 0.1, 1.7, 3.3, 6.6, -6.0] {
            let near = |t: usize| gap * (1.0 + (t as f32 * 0.618_034).fract() / 50.0);
            let batch = Batch {
                sequences: 2,
                time,
                vocab: 2,
                logits: (0..2 * time).flat_map(|t| [near(t), 0.0]).collect(),
                tokens: vec![1; 2 * time],
                mask: (0..2 * time).map(|t| t < time + 11).collect(),
                upstream: vec![1.0; 2 * (time - 1)],
            };
            let values = numbers(&batch.score(&on.device, DType::F32).values());
            let (within, beyond) = values[..time - 1].split_at(10);
            let exact = exact_sum(within) + exact_sum(beyond) / 2.0;
            let actual = desensitized(&batch, &on.device, DType::F32, 0.5);
            let ulp = f64::from((exact.abs() as f32).next_up() - exact.abs() as f32);
            // The tail's sum as long sums are, half of it exact; half an ulp each of the head's sum and of adding them.
            expect_close("sum", DType::F32, &actual[..1], &[exact], |_| (tolerance::LONG_SUM_ULPS + 1.0) * ulp)?;
        }
        Ok(())
    });
}

#[test]
fn a_stack_that_cannot_be_halved_has_no_pairs() {
    on_every_device(|on| {
        for time in [1, 3] {
            let completions = Completions::new(
                Tensor::zeros([3, time], &on.device),
                flags(&vec![true; 3 * time], [3, time], &on.device),
            );
            let statistics = token_statistics(Tensor::zeros([3, time, 2], &on.device), &completions.unwrap()).unwrap();
            for ld_alpha in [0.0, 0.5, 1.0] {
                let refused = statistics.log_probs().length_desensitized_pairs(alpha(ld_alpha)).unwrap_err();
                prop_assert_eq!(refused, Error::OddSequences { sequences: 3 });
            }
            prop_assert_eq!(statistics.wpo_weights().unwrap_err(), Error::OddSequences { sequences: 3 });
        }
        Ok(())
    });
}

// ---- WPO ----

#[test]
fn wpo_weights_are_those_of_the_reference() {
    for_all(paired_batches(), |on, batch| {
        let wide_logits = wide(&batch.logits);
        let rows = batch.rows(&wide_logits);
        let log_probs = reference::token_log_probs(rows).unwrap();
        let squares = expected(batch).log_sum_sq_probs;
        let relative: Vec<f64> = log_probs.iter().zip(&squares).map(|(log_prob, square)| log_prob - square).collect();
        let half = batch.sequences / 2;
        let tokens: Vec<_> = (0..batch.sequences).map(|i| counted_values(batch, &relative, i)).collect();
        let weights: Vec<f64> = (0..half).map(|i| reference::wpo_weight(&tokens[i], &tokens[half + i])).collect();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            // Per token: the log-prob's, that of log Σ p², and their difference's.
            let inexact: Vec<f64> = (0..log_probs.len())
                .map(|i| match batch.counted()[i] {
                    false => 0.0,
                    true => {
                        tolerance::token_log_prob(rounding, log_probs[i], batch.vocab)
                            + tolerance::log_sum_sq_probs(rounding, &distribution(batch, i))
                            + 2.0 * rounding.unit * relative[i].abs()
                    }
                })
                .collect();
            let mean = |sequence: usize| {
                let (terms, n) = (&tokens[sequence], tokens[sequence].len().max(1) as f64);
                let errors = counted_values(batch, &inexact, sequence).iter().sum();
                let size: f64 = terms.iter().map(|x| x.abs()).sum();
                let sum = tolerance::sequence_sum(rounding, size, terms.len(), errors);
                sum / n + tolerance::sequence_mean(rounding, size / n)
            };
            let actual = numbers(&statistics(batch, &on.device, dtype).wpo_weights().unwrap());
            expect_close("weight", dtype, &actual, &weights, |i| {
                let exponent = weights[i].ln().abs().min(1e4);
                let inexact = mean(i) + mean(half + i) + 2.0 * rounding.unit * exponent;
                tolerance::wpo_weight(rounding, weights[i], inexact)
            })?;
        }
        Ok(())
    });
}

/// log p = log Σ p² where the model is certain of what it sees, and where it is wholly ignorant. An empty completion says
/// nothing.
#[test]
fn completions_that_the_policy_would_write_weigh_1() {
    on_every_device(|on| {
        let certain = Batch {
            sequences: 4,
            time: 3,
            vocab: 3,
            logits: [900.0, 0.0, -900.0].repeat(12),
            tokens: vec![0; 12],
            mask: [[false, true, true], [true; 3], [false; 3], [false, false, true]].concat(),
            upstream: vec![1.0; 8],
        };
        prop_assert_eq!(numbers(&statistics(&certain, &on.device, DType::F32).wpo_weights().unwrap()), [1.0, 1.0]);

        let ignorant = Batch { logits: vec![0.5; 36], tokens: vec![2; 12], ..certain };
        let weights = numbers(&statistics(&ignorant, &on.device, DType::F32).wpo_weights().unwrap());
        expect_close("weight", DType::F32, &weights, &[1.0, 1.0], |_| 1e-6)
    });
}

/// Likelier than what the policy would draw: above 1. Impossible: 0.
#[test]
fn wpo_weights_are_not_clamped() {
    on_every_device(|on| {
        let inf = f32::INFINITY;
        let batch = Batch {
            sequences: 4,
            time: 2,
            vocab: 2,
            logits: [[0.0, 1.0, 0.0, 0.0], [0.0, -inf, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]].concat(),
            tokens: [0, 1].repeat(4),
            mask: [false, true].repeat(4),
            upstream: vec![1.0; 4],
        };
        let weights = numbers(&statistics(&batch, &on.device, DType::F32).wpo_weights().unwrap());
        let p = 1.0 / (1.0 + (-1f64).exp());
        let above = (p / (p * p + (1.0 - p) * (1.0 - p))).powi(2);
        expect_close("weight", DType::F32, &weights, &[above, 0.0], |_| 1e-5)?;
        prop_assert!(weights[0] > 1.4);
        Ok(())
    });
}

#[test]
fn nan_in_one_sequence_stays_in_its_pairs_weight() {
    for_all((paired_batches(), 0..64usize), |on, (batch, place)| {
        let counted: Vec<usize> = (0..batch.seen().len()).filter(|&position| batch.seen()[position]).collect();
        let Some(&position) = counted.get(place % counted.len().max(1)) else { return Ok(()) };
        let mut poisoned = batch.clone();
        poisoned.logits[batch.row(position).start] = f32::NAN;
        let hit = position / batch.time % (batch.sequences / 2);
        let [clean, actual] =
            [batch, &poisoned].map(|batch| numbers(&statistics(batch, &on.device, DType::F32).wpo_weights().unwrap()));
        for pair in 0..clean.len() {
            let expected = if pair == hit { f64::NAN } else { clean[pair] };
            prop_assert_eq!(bits(&[actual[pair]]), bits(&[expected]), "pair {}", pair);
        }
        Ok(())
    });
}

// ---- the reference against itself ----

#[test]
fn the_references_entropy_and_its_gradient_are_the_printed_formulas() {
    for_all_numbers(proptest::collection::vec(-30.0..30.0f64, 1..9), |logits| {
        let probs: Vec<f64> = (0..logits.len()).map(|v| reference::token_log_prob(logits, v).exp()).collect();
        let entropy: f64 = probs.iter().map(|p| -p * p.ln()).sum();
        prop_assert!((reference::token_entropy(logits) - entropy).abs() <= 1e-14, "{entropy}");
        let squares = probs.iter().map(|p| p * p).sum::<f64>().ln();
        prop_assert!((reference::log_sum_sq_probs(logits) - squares).abs() <= 1e-13, "{squares}");
        let gradient = reference::token_entropy_gradient(logits);
        for (v, partial) in gradient.into_iter().enumerate() {
            let moved = |step: f64| {
                let mut logits = logits.clone();
                logits[v] += step;
                reference::token_entropy(&logits)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            prop_assert!((partial - difference).abs() <= 1e-8, "{partial} {difference}");
            let printed = -probs[v] * (probs[v].ln() + entropy);
            prop_assert!((partial - printed).abs() <= 1e-14, "{partial} {printed}");
        }
        Ok(())
    });
}

#[test]
fn the_references_statistics_of_extreme_logits_are_their_limits() {
    let inf = f64::INFINITY;
    assert_eq!(reference::token_entropy(&[3.0, -inf]), 0.0);
    assert_eq!(reference::token_entropy_gradient(&[3.0, -inf]), [0.0, 0.0]);
    assert_eq!(reference::log_sum_sq_probs(&[3.0, -inf]), 0.0);
    // R = e⁻⁵⁰: H = R·(50 + 1), log Σ p² = −2R, both as R falls.
    let rest = (-50f64).exp();
    assert!((reference::token_entropy(&[50.0, 0.0]) / (51.0 * rest) - 1.0).abs() < 1e-14);
    assert!((reference::log_sum_sq_probs(&[50.0, 0.0]) / (-2.0 * rest) - 1.0).abs() < 1e-14);
    for logits in [[0.0, f64::NAN], [0.0, inf], [-inf, -inf]] {
        assert!(reference::token_entropy(&logits).is_nan(), "{logits:?}");
        assert!(reference::log_sum_sq_probs(&logits).is_nan(), "{logits:?}");
        assert!(reference::token_entropy_gradient(&logits).iter().all(|partial| partial.is_nan()), "{logits:?}");
    }
    assert_eq!(reference::mean_logit(&[1.0, 2.0, 6.0]), 3.0);
    assert!(reference::is_argmax(&[1.0, 2.0, 2.0], 1) && !reference::is_argmax(&[1.0, 2.0, 2.0], 2));
    assert!(!reference::is_argmax(&[1.0, f64::NAN], 0) && !reference::is_argmax(&[1.0, f64::NAN], 1));
}

#[test]
fn the_references_forms_for_pairs_are_what_their_names_say() {
    let (short, long) = ([-1.0, -2.0], [-4.0, -8.0, -16.0, -32.0]);
    for (ld_alpha, rejected) in [(1.0, -60.0), (0.5, -36.0), (0.0, -12.0)] {
        let sums = reference::length_desensitized_sums(&short, &long, ld_alpha);
        assert_eq!((sums.chosen, sums.rejected), (-3.0, rejected));
        let swapped = reference::length_desensitized_sums(&long, &short, ld_alpha);
        assert_eq!((swapped.chosen, swapped.rejected), (rejected, -3.0));
    }
    assert_eq!(reference::length_desensitized_sums(&[], &[f64::NAN], 0.0).rejected, 0.0);
    assert_eq!(reference::wpo_weight(&[0.5, -0.5], &[]), 1.0);
    assert!((reference::wpo_weight(&[1.0, 2.0], &[-1.0]) - 0.5f64.exp()).abs() < 1e-15);
}

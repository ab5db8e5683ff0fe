//! LD-DPO's sums.

use super::*;

fn alphas() -> impl Strategy<Value = f64> {
    prop_oneof![1 => 0.0..1.0f64, 1 => select(vec![0.0, 0.5, 1.0, 0.3])]
}

/// Chosen and rejected sums, chosen first.
fn desensitized(batch: &Batch, device: &Device, dtype: DType, ld_alpha: f64) -> Vec<f64> {
    let pairs = batch.score(device, dtype).length_desensitized_pairs(alpha(ld_alpha)).unwrap();
    [numbers(&pairs.chosen().sum), numbers(&pairs.rejected().sum)].concat()
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

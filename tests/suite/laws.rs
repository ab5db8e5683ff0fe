//! Laws of log-probabilities, of the DPO loss and of implicit rewards: values and gradients, on every device.

use std::f64::consts::LN_2;

use burn::tensor::DType;
use burn_dpo::{Completions, dpo_loss, implicit_rewards, reference, token_log_probs};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    batch::Batch,
    devices::{for_all, on_every_device},
    generators::{
        batches, batches_that_predict, betas, exact_sums, extreme_sums, junk, paired_batches, sums, wild_batches,
    },
    host::{bits, booleans, exact_sum, expect_close, floats, integers, numbers, whole_numbers},
    pairs::{Model, Outcome, Sums, beta},
    tolerance::{self, Rounding},
};

// ---- log-probabilities ----

/// For every logit that f32 can hold: −∞ has probability 0, NaN and +∞ give NaN.
#[test]
fn log_probs_are_those_of_the_reference_for_any_logits() {
    for_all(wild_batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let (actual, expected) = (batch.score(&on.device, dtype), batch.expected());
            expect_close("log-prob", dtype, &numbers(&actual.values()), &expected.log_probs, |i| {
                tolerance::token_log_prob(rounding, expected.log_probs[i], batch.vocab)
            })?;
            prop_assert_eq!(booleans(&actual.counted()), batch.counted());
        }
        Ok(())
    });
}

#[test]
fn a_log_prob_is_never_above_zero() {
    for_all(wild_batches(), |on, batch| {
        let log_probs = numbers(&batch.score(&on.device, DType::F32).values());
        prop_assert!(!log_probs.iter().any(|&log_prob| log_prob > 0.0), "{log_probs:?}");
        Ok(())
    });
}

/// Σ_v exp log p(v) = 1.
#[test]
fn probabilities_over_the_vocabulary_sum_to_one() {
    for_all(batches_that_predict(), |on, batch| {
        // One sequence per id, all with the logits of the batch's first position.
        let (row, vocab) = (&batch.logits[batch.row(0)], batch.vocab);
        let every_id = Batch {
            sequences: vocab,
            time: 2,
            vocab,
            logits: [row, row].concat().repeat(vocab),
            tokens: (0..vocab as i64).flat_map(|id| [0, id]).collect(),
            mask: [false, true].repeat(vocab),
            upstream: vec![1.0; vocab],
        };
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let log_probs = numbers(&every_id.score(&on.device, dtype).values());
            let bound: f64 = log_probs.iter().map(|&x| x.exp() * tolerance::token_log_prob(rounding, x, vocab)).sum();
            let sum: f64 = log_probs.iter().map(|x| x.exp()).sum();
            expect_close("Σ p", dtype, &[sum], &[1.0], |_| bound + rounding.unit)?;
        }
        Ok(())
    });
}

/// A softmax sees differences of logits only: z and z + c are the same distribution, exactly where z + c is exact.
#[test]
fn shifting_all_logits_of_a_position_changes_nothing() {
    let grid = vec(-64..=64i32, 9 * 6 * 4);
    for_all((batches_that_predict(), grid, -1000..=1000i32), |on, (batch, grid, shift)| {
        let eighths = |shift: i32| Batch {
            logits: grid[..batch.logits.len()].iter().map(|z| (z + shift) as f32 / 8.0).collect(),
            ..batch.clone()
        };
        let still = eighths(0).score_with_gradient(&on.device, DType::F32);
        let shifted = eighths(*shift).score_with_gradient(&on.device, DType::F32);
        prop_assert_eq!(bits(&still.log_probs), bits(&shifted.log_probs));
        prop_assert_eq!(bits(&still.gradient), bits(&shifted.gradient));
        Ok(())
    });
}

/// Σ_v ∂ log p/∂z_v = 0: the other side of the same law.
#[test]
fn the_gradient_of_a_log_prob_sums_to_zero_over_the_vocabulary() {
    for_all(batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let gradient = batch.score_with_gradient(&on.device, dtype).gradient;
            let sums: Vec<f64> = gradient.chunks(batch.vocab).map(|row| row.iter().sum()).collect();
            let bound = batch.vocab as f64 * tolerance::token_gradient(rounding, 2.0, batch.vocab);
            expect_close("Σ gradient", dtype, &sums, &vec![0.0; sums.len()], |_| bound)?;
        }
        Ok(())
    });
}

#[test]
fn renaming_the_ids_changes_nothing() {
    for_all((batches(), 1..9usize), |on, (batch, turn)| {
        let renamed = |id: i64| (id + *turn as i64) % batch.vocab as i64;
        let mut other = Batch { tokens: batch.tokens.iter().map(|&id| renamed(id)).collect(), ..batch.clone() };
        for (index, &logit) in batch.logits.iter().enumerate() {
            let (position, id) = (index / batch.vocab, index % batch.vocab);
            other.logits[position * batch.vocab + renamed(id as i64) as usize] = logit;
        }
        let rounding = Rounding::of(on, DType::F32);
        let [before, after] = [batch, &other].map(|batch| numbers(&batch.score(&on.device, DType::F32).values()));
        expect_close("log-prob", DType::F32, &after, &before, |i| {
            2.0 * tolerance::token_log_prob(rounding, before[i], batch.vocab)
        })
    });
}

#[test]
fn permuting_sequences_permutes_their_log_probs_and_gradients() {
    for_all(wild_batches(), |on, batch| {
        let turned = |numbers: &[f64]| {
            let width = numbers.len() / batch.sequences.max(1);
            [&numbers[width.min(numbers.len())..], &numbers[..width.min(numbers.len())]].concat()
        };
        let other = batch.with_first_sequence_last();
        let before = batch.score_with_gradient(&on.device, DType::F32);
        let after = other.score_with_gradient(&on.device, DType::F32);
        prop_assert_eq!(bits(&after.log_probs), bits(&turned(&before.log_probs)));
        prop_assert_eq!(bits(&after.sums), bits(&turned(&before.sums)));
        prop_assert_eq!(bits(&after.gradient), bits(&turned(&before.gradient)));
        Ok(())
    });
}

/// Tokens and logits of any kind to the left (a longer prompt) and to the right (padding) are only zeros in the result.
#[test]
fn padding_changes_nothing() {
    for_all((batches(), 0..=2usize, 1..=3usize, junk()), |on, (batch, left, right, junk)| {
        let padded = batch.padded(*left, *right, junk);
        let before = batch.score_with_gradient(&on.device, DType::F32);
        let after = padded.score_with_gradient(&on.device, DType::F32);
        let within = |numbers: &[f64], width: usize, padded_width: usize, per: usize| -> Vec<f64> {
            let rows = numbers.chunks(padded_width * per);
            rows.flat_map(|row| row[left * per..(left + width) * per].iter().copied()).collect()
        };
        let width = batch.time - 1;
        prop_assert_eq!(bits(&before.log_probs), bits(&within(&after.log_probs, width, padded.time - 1, 1)));
        prop_assert_eq!(bits(&before.gradient), bits(&within(&after.gradient, batch.time, padded.time, batch.vocab)));
        prop_assert_eq!(&before.token_counts, &after.token_counts);
        let nonzero = |numbers: &[f64]| numbers.iter().filter(|&&x| x != 0.0).count();
        prop_assert_eq!(nonzero(&before.log_probs), nonzero(&after.log_probs));
        prop_assert_eq!(nonzero(&before.gradient), nonzero(&after.gradient));
        // The same numbers in another grouping: only the sum's own rounding may differ.
        let rounding = Rounding::of(on, DType::F32);
        expect_close("sum", DType::F32, &after.sums, &before.sums, |i| {
            2.0 * tolerance::sequence_sum(rounding, before.sums[i], batch.time, 0.0)
        })
    });
}

#[test]
fn the_sum_of_a_sequence_is_the_sum_of_its_log_probs_and_the_count_of_its_tokens() {
    for_all(wild_batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let scored = batch.score(&on.device, dtype);
            let (values, sequences) = (numbers(&scored.values()), scored.sequences());
            let width = batch.time - 1;
            let rows = |i: usize| i * width..(i + 1) * width;
            let sums: Vec<f64> = (0..batch.sequences).map(|i| exact_sum(&values[rows(i)])).collect();
            let counts = batch.expected().token_counts;
            let bound = |i: usize| tolerance::sequence_sum(rounding, sums[i], counts[i] as usize, 0.0);

            prop_assert_eq!(whole_numbers(&sequences.token_count), counts.clone());
            let actual = numbers(&sequences.sum);
            expect_close("sum", dtype, &actual, &sums, bound)?;
            let means: Vec<f64> = actual.iter().zip(&counts).map(|(sum, &count)| sum / count.max(1) as f64).collect();
            expect_close("mean", dtype, &numbers(&sequences.mean()), &means, |i| {
                tolerance::sequence_mean(rounding, means[i])
            })?;
        }
        Ok(())
    });
}

/// −100 labels, a mask, and lengths on the host are three ways to say the same.
#[test]
fn labels_masks_and_lengths_say_the_same() {
    let rows = vec((vec(0..7u32, 0..6), 0..6usize), 0..5);
    for_all(rows, |on, rows| {
        let sequences: Vec<&[u32]> = rows.iter().map(|(row, _)| row.as_slice()).collect();
        let prompts: Vec<usize> = rows.iter().map(|(row, prompt)| *prompt.min(&row.len())).collect();
        let totals: Vec<usize> = sequences.iter().map(|row| row.len()).collect();
        let time = totals.iter().copied().max().unwrap_or(0);
        let padded: Vec<u32> =
            sequences.iter().flat_map(|row| (0..time).map(|t| row.get(t).copied().unwrap_or(99))).collect();
        let mask: Vec<bool> = prompts
            .iter()
            .zip(&totals)
            .flat_map(|(&prompt, &total)| (0..time).map(move |t| (prompt..total).contains(&t)))
            .collect();
        let labels: Vec<i64> =
            padded.iter().zip(&mask).map(|(&id, &counted)| if counted { i64::from(id) } else { -100 }).collect();

        let shape = [rows.len(), time];
        let ragged = Completions::from_sequences(&sequences, &prompts, 7, &on.device).unwrap();
        let lengths = Completions::from_lengths(&padded, time, &prompts, &totals, 7, &on.device).unwrap();
        let labelled = Completions::from_labels(integers(&labels, shape, &on.device), -100).unwrap();

        let counted_ids = |completions: &Completions| -> Vec<Option<i64>> {
            let counted = booleans(&completions.mask());
            whole_numbers(&completions.tokens())
                .iter()
                .zip(counted)
                .map(|(&id, counted)| counted.then_some(id))
                .collect()
        };
        let expected: Vec<Option<i64>> = labels.iter().map(|&label| (label >= 0).then_some(label)).collect();
        for completions in [&ragged, &lengths, &labelled] {
            prop_assert_eq!(completions.dims(), shape);
            prop_assert_eq!(counted_ids(completions), expected.clone());
        }
        let zero_where_ignored: Vec<i64> = labels.iter().map(|&label| label.max(0)).collect();
        prop_assert_eq!(whole_numbers(&labelled.tokens()), zero_where_ignored);
        Ok(())
    });
}

#[test]
fn the_first_half_is_chosen_and_the_second_rejected() {
    for_all(paired_batches(), |on, batch| {
        let sequences = batch.score(&on.device, DType::F32).sequences();
        let (sums, counts) = (numbers(&sequences.sum), whole_numbers(&sequences.token_count));
        let pairs = sequences.into_pairs().unwrap();
        let half = batch.sequences / 2;
        prop_assert_eq!(pairs.pairs(), half);
        prop_assert_eq!(bits(&numbers(&pairs.chosen().sum)), bits(&sums[..half]));
        prop_assert_eq!(bits(&numbers(&pairs.rejected().sum)), bits(&sums[half..]));
        prop_assert_eq!(whole_numbers(&pairs.chosen().token_count), &counts[..half]);
        prop_assert_eq!(whole_numbers(&pairs.rejected().token_count), &counts[half..]);
        Ok(())
    });
}

// ---- the loss ----

/// For log-prob sums of any size.
#[test]
fn losses_and_gradients_are_those_of_the_reference() {
    for_all((sums(), betas()), |on, (sums, beta)| {
        for dtype in on.arithmetic_dtypes() {
            Outcome::of(sums, *beta, &on.device, dtype).expect(on, dtype, sums, *beta)?;
        }
        Ok(())
    });
}

/// policy = reference ⇒ ℓ = ln 2, ∂ℓ/∂chosen = −β/2, rewards 0. Training starts here.
#[test]
fn where_policy_and_reference_agree_the_loss_is_ln_2_and_the_gradient_half_of_beta() {
    for_all((extreme_sums(), betas()), |on, (sums, beta)| {
        let same: Vec<Sums> = sums.iter().map(|pair| Sums { reference: pair.policy, ..*pair }).collect();
        for dtype in on.arithmetic_dtypes() {
            let outcome = Outcome::of(&same, *beta, &on.device, dtype);
            let (beta, ulp_of_ln_2) = match dtype {
                DType::F64 => (*beta, f64::EPSILON / 2.0),
                _ => (f64::from(*beta as f32), f64::from(f32::EPSILON) / 2.0),
            };
            expect_close("loss", dtype, &outcome.losses, &vec![LN_2; same.len()], |_| ulp_of_ln_2)?;
            prop_assert_eq!(bits(&outcome.chosen), bits(&vec![-beta / 2.0; same.len()]));
            prop_assert_eq!(bits(&outcome.rejected), bits(&vec![beta / 2.0; same.len()]));

            let model = Model::reference(&same, &on.device, dtype);
            let rewards = implicit_rewards(&model.pairs, &model.pairs, self::beta(beta)).unwrap();
            for rewards in [rewards.chosen.clone(), rewards.rejected.clone(), rewards.margins()] {
                prop_assert_eq!(numbers(&rewards), vec![0.0; same.len()]);
            }
        }
        Ok(())
    });
}

/// ℓ(Δ) − ℓ(−Δ) = −βΔ, and −Δ is chosen and rejected swapped.
#[test]
fn swapping_chosen_and_rejected_changes_the_loss_by_the_margin() {
    for_all((exact_sums(), 0.01..1.0f64), |on, (sums, beta)| {
        for dtype in on.arithmetic_dtypes() {
            let swapped: Vec<Sums> = sums.iter().map(|pair| pair.swapped()).collect();
            let rounding = Rounding::of(on, dtype);
            let there = Outcome::of(sums, *beta, &on.device, dtype).losses;
            let back = Outcome::of(&swapped, *beta, &on.device, dtype).losses;
            let difference: Vec<f64> = there.iter().zip(&back).map(|(there, back)| there - back).collect();
            let expected: Vec<f64> = sums.iter().map(|pair| -pair.margin(*beta).z()).collect();
            expect_close("ℓ(Δ) − ℓ(−Δ)", DType::F64, &difference, &expected, |i| {
                let margin = sums[i].margin(*beta);
                [there[i], back[i]].into_iter().map(|loss| tolerance::dpo_value(rounding, margin, loss)).sum()
            })?;
        }
        Ok(())
    });
}

/// ℓ(β, Δ) = ℓ(1, βΔ), and its derivative β times as steep: exactly, for powers of two.
#[test]
fn beta_is_the_unit_of_the_margin() {
    for_all((exact_sums(), select(vec![0.125, 0.5, 2.0, 4.0])), |on, (sums, beta)| {
        let scaled = |nats: f64| nats * beta;
        let in_units: Vec<Sums> = sums.iter().map(|pair| pair.map(scaled)).collect();
        let of_beta = Outcome::of(sums, *beta, &on.device, DType::F32);
        let of_one = Outcome::of(&in_units, 1.0, &on.device, DType::F32);
        let steeper = |derivatives: &[f64]| -> Vec<f64> { derivatives.iter().copied().map(scaled).collect() };
        prop_assert_eq!(bits(&of_beta.losses), bits(&of_one.losses));
        prop_assert_eq!(bits(&of_beta.chosen), bits(&steeper(&of_one.chosen)));
        prop_assert_eq!(bits(&of_beta.rejected), bits(&steeper(&of_one.rejected)));
        Ok(())
    });
}

/// max(0, −βΔ) ≤ ℓ ≤ ln 2 + max(0, −βΔ).
#[test]
fn the_loss_lies_within_ln_2_of_the_hinge() {
    for_all((sums(), 0.01..1.0f64), |on, (sums, beta)| {
        let rounding = Rounding::of(on, DType::F32);
        for (pair, loss) in sums.iter().zip(Outcome::of(sums, *beta, &on.device, DType::F32).losses) {
            let margin = pair.margin(*beta);
            let hinge = (-margin.z()).max(0.0);
            let slack = tolerance::dpo_value(rounding, margin, hinge + LN_2);
            prop_assert!(hinge - slack <= loss && loss <= hinge + LN_2 + slack, "ℓ({margin:?}) = {loss}");
        }
        Ok(())
    });
}

/// ℓ falls as Δ grows, and its derivative −βσ(−βΔ) rises: without a step in the wrong direction but for rounding.
#[test]
fn the_loss_is_decreasing_and_convex_in_the_margin() {
    for_all((vec(-150.0f32..150.0, 2..40), 0.01..1.0f64), |on, (deltas, beta)| {
        let mut deltas: Vec<f64> = deltas.iter().copied().map(f64::from).collect();
        deltas.sort_by(f64::total_cmp);
        let sums: Vec<Sums> = deltas.iter().copied().map(Sums::with_delta).collect();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let outcome = Outcome::of(&sums, *beta, &on.device, dtype);
            for right in 1..sums.len() {
                let (left, margin) = (right - 1, sums[right].margin(*beta));
                let slack = 2.0 * tolerance::dpo_value(rounding, margin, outcome.losses[left]);
                prop_assert!(outcome.losses[right] <= outcome.losses[left] + slack, "at Δ = {}", deltas[right]);
                let slack = 2.0 * tolerance::dpo_slope(rounding, margin, outcome.chosen[left]);
                prop_assert!(outcome.chosen[right] >= outcome.chosen[left] - slack, "at Δ = {}", deltas[right]);
            }
        }
        Ok(())
    });
}

/// ∂ℓ/∂chosen = −βσ(−βΔ) = −∂ℓ/∂rejected, exactly opposite, between −β and 0.
#[test]
fn chosen_and_rejected_are_pushed_apart_with_equal_force() {
    for_all((extreme_sums(), betas()), |on, (sums, beta)| {
        let outcome = Outcome::of(sums, *beta, &on.device, DType::F32);
        let opposite: Vec<f64> = outcome.rejected.iter().map(|derivative| -derivative).collect();
        prop_assert_eq!(bits(&outcome.chosen), bits(&opposite));
        let within = -f64::from(*beta as f32)..=0.0;
        prop_assert!(outcome.chosen.iter().all(|derivative| within.contains(derivative)), "{:?}", outcome.chosen);
        Ok(())
    });
}

/// Log-probs are finite and not above 0; then no loss and no gradient is NaN, however large they are.
#[test]
fn finite_log_probs_never_give_nan() {
    for_all((extreme_sums(), betas()), |on, (sums, beta)| {
        let outcome = Outcome::of(sums, *beta, &on.device, DType::F32);
        prop_assert!(outcome.losses.iter().all(|loss| *loss >= 0.0), "{:?}", outcome.losses);
        prop_assert!(outcome.chosen.iter().all(|derivative| derivative.is_finite()), "{:?}", outcome.chosen);
        Ok(())
    });
}

/// Only how far the policy is from the reference matters, and only the difference between the two completions.
#[test]
fn adding_the_same_to_both_models_or_to_both_completions_changes_nothing() {
    for_all((exact_sums(), -800..=0i32), |on, (sums, eighths)| {
        let shift = f64::from(*eighths) / 8.0;
        let move_chosen_of_both_models = |mut pair: Sums| {
            pair.policy.chosen += shift;
            pair.reference.chosen += shift;
            pair
        };
        let move_both_completions = |mut pair: Sums| {
            pair.policy.chosen += shift;
            pair.policy.rejected += shift;
            pair
        };
        let still = Outcome::of(sums, 0.1, &on.device, DType::F32);
        for moved in [
            sums.iter().copied().map(move_chosen_of_both_models).collect::<Vec<_>>(),
            sums.iter().copied().map(move_both_completions).collect(),
        ] {
            let moved = Outcome::of(&moved, 0.1, &on.device, DType::F32);
            prop_assert_eq!(bits(&still.losses), bits(&moved.losses));
            prop_assert_eq!(bits(&still.chosen), bits(&moved.chosen));
        }
        Ok(())
    });
}

#[test]
fn permuting_pairs_permutes_losses_and_gradients() {
    for_all((sums(), 0..6usize), |on, (sums, turn)| {
        let turned = |numbers: &[f64]| {
            let mut numbers = numbers.to_vec();
            numbers.rotate_left(turn % sums.len().max(1));
            numbers
        };
        let mut other = sums.clone();
        other.rotate_left(turn % sums.len().max(1));
        let before = Outcome::of(sums, 0.1, &on.device, DType::F32);
        let after = Outcome::of(&other, 0.1, &on.device, DType::F32);
        prop_assert_eq!(bits(&after.losses), bits(&turned(&before.losses)));
        prop_assert_eq!(bits(&after.chosen), bits(&turned(&before.chosen)));
        prop_assert_eq!(bits(&after.rejected), bits(&turned(&before.rejected)));
        Ok(())
    });
}

/// `losses` is not reduced: the gradient of the mean is the gradient of the sum over the number of pairs, and a weight
/// on a pair is a weight on its gradient.
#[test]
fn the_gradient_is_linear_in_what_arrives_from_above() {
    for_all((exact_sums(), vec(select(vec![0.0, 1.0, -2.0, 0.25]), 6)), |on, (sums, weights)| {
        let weights = &weights[..sums.len()];
        let plain = Outcome::of(sums, 0.5, &on.device, DType::F32);
        let policy = Model::policy(sums, &on.device, DType::F32);
        let reference = Model::reference(sums, &on.device, DType::F32);
        let losses = dpo_loss(&policy.pairs, &reference.pairs, beta(0.5)).unwrap();
        let on_device = floats(weights, [weights.len()], &on.device, DType::F32);
        let [chosen, rejected] = policy.gradients(losses * on_device);
        for (weighted, plain) in [(chosen, plain.chosen), (rejected, plain.rejected)] {
            let expected: Vec<f64> =
                plain.iter().zip(weights).map(|(derivative, weight)| derivative * weight).collect();
            prop_assert_eq!(weighted, expected);
        }
        Ok(())
    });
}

// ---- implicit rewards ----

/// r = β (log π − log π_ref), their difference the margin.
#[test]
fn rewards_are_beta_times_the_log_ratios() {
    for_all((sums(), betas()), |on, (sums, beta)| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let policy = Model::policy(sums, &on.device, dtype);
            let reference = Model::reference(sums, &on.device, dtype);
            let rewards = implicit_rewards(&policy.pairs, &reference.pairs, self::beta(*beta)).unwrap();
            let expected: Vec<_> =
                sums.iter().map(|pair| reference::implicit_rewards(pair.policy, pair.reference, *beta)).collect();
            let (chosen, rejected): (Vec<f64>, Vec<f64>) =
                expected.iter().map(|pair| (pair.chosen, pair.rejected)).unzip();
            let actual = [&rewards.chosen, &rewards.rejected].map(numbers);
            expect_close("chosen", dtype, &actual[0], &chosen, |i| tolerance::reward(rounding, chosen[i]))?;
            expect_close("rejected", dtype, &actual[1], &rejected, |i| tolerance::reward(rounding, rejected[i]))?;
            // A β of 10²⁰ takes rewards to infinity: their margin is that of what they became.
            let margins: Vec<f64> =
                actual[0].iter().zip(&actual[1]).map(|(chosen, rejected)| chosen - rejected).collect();
            expect_close("margin", dtype, &numbers(&rewards.margins()), &margins, |i| {
                tolerance::reward(rounding, margins[i])
            })?;
        }
        Ok(())
    });
}

#[test]
fn rewards_are_measurements_and_carry_no_gradient() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(1.0)];
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let rewards = implicit_rewards(&policy.pairs, &policy.pairs.clone(), beta(0.1)).unwrap();
        prop_assert!(!rewards.chosen.is_tracked() && !rewards.rejected.is_tracked() && !rewards.margins().is_tracked());
        Ok(())
    });
}

// ---- what is cut off ----

#[test]
fn detaching_keeps_the_numbers_and_drops_the_graph() {
    for_all(paired_batches(), |on, batch| {
        let logits = batch.logits(&on.autodiff(), DType::F32).require_grad();
        let scored = token_log_probs(logits, &batch.completions(&on.device)).unwrap();
        prop_assert!(scored.values().is_tracked());
        let cut = scored.clone().detach();
        prop_assert!(!cut.values().is_tracked());
        prop_assert_eq!(bits(&numbers(&cut.values())), bits(&numbers(&scored.values())));
        prop_assert_eq!(booleans(&cut.counted()), booleans(&scored.counted()));

        let sequences = scored.sequences();
        prop_assert!(sequences.sum.is_tracked());
        let cut = sequences.clone().detach();
        prop_assert!(!cut.sum.is_tracked());
        prop_assert_eq!(bits(&numbers(&cut.sum)), bits(&numbers(&sequences.sum)));
        prop_assert_eq!(whole_numbers(&cut.token_count), whole_numbers(&sequences.token_count));

        let pairs = sequences.into_pairs().unwrap();
        prop_assert!(pairs.chosen().sum.is_tracked() && pairs.rejected().sum.is_tracked());
        let cut = pairs.clone().detach();
        prop_assert!(!cut.chosen().sum.is_tracked() && !cut.rejected().sum.is_tracked());
        prop_assert_eq!(bits(&numbers(&cut.chosen().sum)), bits(&numbers(&pairs.chosen().sum)));
        prop_assert_eq!(bits(&numbers(&cut.rejected().sum)), bits(&numbers(&pairs.rejected().sum)));
        Ok(())
    });
}

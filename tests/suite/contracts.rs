//! The contracts: masks, junk, ids, dtypes, NaN, and which tensors get a gradient.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_dpo::{
    Completions, Error, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss, implicit_rewards, token_log_probs,
};
use proptest::{collection::vec, prelude::*, test_runner::TestCaseResult};

use crate::{
    batch::Batch,
    devices::{Tested, for_all, on_every_device},
    generators::{
        batches, batches_that_predict, betas, id_out_of_range, junk, paired_batches, wild_batches, wild_sums,
    },
    host::{bits, booleans, expect_close, flags, floats, gradient_of_sum, integers, numbers, whole_numbers},
    pairs::{Model, Outcome, Sums, beta},
    tolerance::{self, Rounding},
};

// ---- 1. mask true = counted ----

#[test]
fn token_0_is_never_counted_whatever_the_mask_says() {
    on_every_device(|on| {
        let completions = Completions::new(
            integers(&[1, 2, 1, 0, 1, 2], [2, 3], &on.device),
            flags(&[true, true, false, true, false, false], [2, 3], &on.device),
        )
        .unwrap();
        let scored = token_log_probs(Tensor::zeros([2, 3, 4], &on.device), &completions).unwrap();
        prop_assert_eq!(booleans(&scored.counted()), [true, false, false, false]);
        prop_assert_eq!(whole_numbers(&scored.sequences().token_count), [1, 0]);
        expect_close("log-prob", DType::F32, &numbers(&scored.values()), &[-(4f64.ln()), 0.0, 0.0, 0.0], |_| {
            tolerance::token_log_prob(Rounding::of(on, DType::F32), 4f64.ln(), 4)
        })
    });
}

#[test]
fn the_logits_at_a_position_predict_the_next_token() {
    on_every_device(|on| {
        // Each position is certain of an id of its own, and the next token has that id.
        let certain_of = [3, 0, 2, 1];
        let logits: Vec<f64> =
            certain_of.iter().flat_map(|&id| (0..4).map(move |v| if v == id { 0.0 } else { -1e9 })).collect();
        let tokens = integers(&[1, 3, 0, 2], [1, 4], &on.device);
        let completions = Completions::new(tokens, flags(&[true; 4], [1, 4], &on.device)).unwrap();
        let scored = token_log_probs(floats(&logits, [1, 4, 4], &on.device, DType::F32), &completions).unwrap();
        prop_assert_eq!(numbers(&scored.values()), [0.0; 3]);
        Ok(())
    });
}

// ---- 2. what the mask leaves out cannot be seen ----

/// NaN, ±∞ and any id at an uncounted position, and NaN and ±∞ in the gradient that arrives there, change no value and
/// no gradient: bit for bit.
#[test]
fn what_the_mask_leaves_out_cannot_be_seen() {
    for_all((wild_batches(), junk()), |on, (batch, junk)| {
        let other = batch.overwritten_where_unseen(junk);
        for dtype in on.float_dtypes() {
            let clean = batch.score_with_gradient(&on.device, dtype);
            let dirty = other.score_with_gradient(&on.device, dtype);
            prop_assert_eq!(bits(&clean.log_probs), bits(&dirty.log_probs));
            prop_assert_eq!(bits(&clean.sums), bits(&dirty.sums));
            prop_assert_eq!(&clean.token_counts, &dirty.token_counts);
            prop_assert_eq!(bits(&clean.gradient), bits(&dirty.gradient));
        }
        Ok(())
    });
}

/// Exactly 0, not a small number.
#[test]
fn an_uncounted_position_has_log_prob_0_and_gradient_0() {
    for_all((wild_batches(), junk()), |on, (batch, junk)| {
        let batch = batch.overwritten_where_unseen(junk);
        let scored = batch.score_with_gradient(&on.device, DType::F32);
        for (prediction, counted) in batch.counted().into_iter().enumerate() {
            prop_assert!(counted || scored.log_probs[prediction] == 0.0, "log-prob {prediction}");
        }
        for (position, seen) in batch.seen().into_iter().enumerate() {
            let gradient = &scored.gradient[batch.row(position)];
            prop_assert!(seen || gradient.iter().all(|&partial| partial == 0.0), "position {position}: {gradient:?}");
        }
        Ok(())
    });
}

/// The same, through the loss and its own gradient, as a training step has it.
#[test]
fn what_the_mask_leaves_out_does_not_reach_the_loss() {
    for_all((paired_batches(), junk()), |on, (batch, junk)| {
        let [clean, dirty] = [batch, &batch.overwritten_where_unseen(junk)].map(|batch| loss_of_logits(batch, on));
        prop_assert_eq!(bits(&clean.0), bits(&dirty.0));
        prop_assert_eq!(bits(&clean.1), bits(&dirty.1));
        Ok(())
    });
}

/// Losses and their gradient in the policy's logits. The reference's logits are the policy's, halved.
fn loss_of_logits(batch: &Batch, on: &Tested) -> (Vec<f64>, Vec<f64>) {
    let logits = batch.logits(&on.autodiff(), DType::F32).require_grad();
    let completions = batch.completions(&on.device);
    let pairs = |logits| token_log_probs(logits, &completions).unwrap().sequences().into_pairs().unwrap();
    let policy = pairs(logits.clone());
    // on the host: burn's own product of no numbers panics on GPUs without fusion
    let halved = Batch { logits: batch.logits.iter().map(|z| z * 0.5).collect(), ..batch.clone() };
    let reference = pairs(halved.logits(&on.device, DType::F32));
    let losses = dpo_loss(&policy, &reference, beta(0.1)).unwrap();
    let values = numbers(&losses);
    (values, gradient_of_sum(losses, &logits))
}

// ---- 3. a row with no counted token ----

#[test]
fn a_row_with_no_counted_token_has_sum_0_mean_0_and_gradient_0() {
    for_all((wild_batches(), junk()), |on, (batch, junk)| {
        let empty = Batch { mask: vec![false; batch.mask.len()], ..batch.clone() }.overwritten_where_unseen(junk);
        let scored = empty.score_with_gradient(&on.device, DType::F32);
        let sequences = empty.score(&on.device, DType::F32).sequences();
        prop_assert_eq!(scored.token_counts, vec![0; batch.sequences]);
        prop_assert_eq!(scored.sums, vec![0.0; batch.sequences]);
        prop_assert_eq!(numbers(&sequences.mean()), vec![0.0; batch.sequences]);
        prop_assert_eq!(scored.gradient, vec![0.0; batch.logits.len()]);
        Ok(())
    });
}

#[test]
fn the_mean_of_a_row_with_no_counted_token_is_0_whatever_its_sum() {
    on_every_device(|on| {
        for dtype in on.float_dtypes() {
            let sum = floats(&[-3.0, f64::NAN, f64::NEG_INFINITY, -6.0], [4], &on.autodiff(), dtype).require_grad();
            let token_count = integers(&[0, 0, 0, 3], [4], &on.device);
            let mean = SequenceLogProbs::new(sum.clone(), token_count).unwrap().mean();
            prop_assert_eq!(numbers(&mean), [0.0, 0.0, 0.0, -2.0]);
            let third = if mean.dtype() == DType::F64 { 1.0 / 3.0 } else { f64::from(1f32 / 3.0) };
            let gradient = gradient_of_sum(mean, &sum);
            prop_assert_eq!(&gradient[..3], [0.0; 3]);
            prop_assert!((gradient[3] - third).abs() < 1e-2, "{gradient:?}");
        }
        Ok(())
    });
}

/// An empty completion enters the loss as log-prob 0, is counted by the metrics, and its logits get no gradient.
#[test]
fn an_empty_completion_is_reported_and_harmless() {
    on_every_device(|on| {
        let batch = Batch {
            sequences: 2,
            time: 3,
            vocab: 2,
            logits: vec![0.5, -0.5, 1.0, 0.0, f32::NAN, 0.0, f32::NAN, f32::INFINITY, 0.0, 0.0, 0.0, 0.0],
            tokens: vec![0, 1, 0, 0, 1, 1],
            mask: vec![false, true, true, false, false, false],
            upstream: vec![1.0; 4],
        };
        let (losses, gradient) = loss_of_logits(&batch, on);
        prop_assert!(losses[0].is_finite());
        prop_assert!(gradient[..4].iter().all(|partial| *partial != 0.0), "{gradient:?}");
        prop_assert_eq!(&gradient[4..], [0.0; 8]);

        let pairs = batch.score(&on.device, DType::F32).sequences().into_pairs().unwrap();
        let losses = dpo_loss(&pairs, &pairs, beta(0.1)).unwrap();
        let metrics = PreferenceMetrics::from_batch(&losses, &pairs, &pairs, beta(0.1)).unwrap();
        prop_assert_eq!((metrics.empty_completions(), metrics.non_finite_pairs()), (1, 0));
        Ok(())
    });
}

/// Nothing to predict, nothing to score, or no sequences at all: the gradient is 0 and nothing panics.
#[test]
fn batches_with_nothing_in_them_train_without_effect() {
    on_every_device(|on| {
        for (sequences, time) in [(0, 0), (0, 1), (0, 5), (2, 0), (2, 1), (4, 1)] {
            let device = on.autodiff();
            let logits = Tensor::<3>::full([sequences, time, 4], f32::NAN, &device).require_grad();
            let completions = Completions::new(
                Tensor::zeros([sequences, time], &device),
                flags(&vec![true; sequences * time], [sequences, time], &device),
            )
            .unwrap();
            let policy = token_log_probs(logits.clone(), &completions).unwrap();
            prop_assert_eq!(policy.values().dims(), [sequences, time.max(1) - 1]);
            prop_assert_eq!(policy.counted().dims(), [sequences, time.max(1) - 1]);

            let policy = policy.sequences().into_pairs().unwrap();
            let losses = dpo_loss(&policy, &policy.clone().detach(), beta(0.1)).unwrap();
            let metrics = PreferenceMetrics::from_batch(&losses, &policy, &policy, beta(0.1)).unwrap();
            let pairs = sequences / 2;
            prop_assert_eq!(losses.dims(), [pairs]);
            prop_assert_eq!((metrics.pairs(), metrics.empty_completions()), (pairs as u64, sequences as u64));
            prop_assert_eq!(metrics.loss().is_nan(), pairs == 0);
            prop_assert_eq!(gradient_of_sum(losses, &logits), vec![0.0; sequences * time * 4]);
        }
        Ok(())
    });
}

// ---- 4. ids outside the vocabulary ----

/// NaN at that prediction and in the gradient of its logits, and every other as if the id had been a good one.
#[test]
fn an_id_outside_the_vocabulary_gives_nan_there_and_nowhere_else() {
    let batches_and_ids = batches().prop_flat_map(|batch| {
        let bad = vec(prop::option::weighted(0.3, id_out_of_range(batch.vocab)), batch.tokens.len());
        (Just(batch), bad)
    });
    for_all(batches_and_ids, |on, (batch, bad)| {
        let mut other = batch.clone();
        for (token, bad) in other.tokens.iter_mut().zip(bad) {
            *token = bad.unwrap_or(*token);
        }
        for dtype in on.arithmetic_dtypes() {
            let good = batch.score_with_gradient(&on.device, dtype);
            let actual = other.score_with_gradient(&on.device, dtype);
            for (prediction, counted) in batch.counted().into_iter().enumerate() {
                let position = batch.position(prediction);
                let there = counted && bad[position + 1].is_some();
                let expected = if there { f64::NAN } else { good.log_probs[prediction] };
                prop_assert_eq!(bits(&[actual.log_probs[prediction]]), bits(&[expected]), "log-prob {}", prediction);
                let row = batch.row(position);
                if there && batch.upstream[prediction] == 0.0 {
                    prop_assert!(actual.gradient[row].iter().all(|&x| x == 0.0), "gradient at {}", position);
                } else if there {
                    prop_assert!(actual.gradient[row].iter().all(|x| x.is_nan()), "gradient at {}", position);
                } else {
                    prop_assert_eq!(bits(&actual.gradient[row.clone()]), bits(&good.gradient[row]), "at {}", position);
                }
            }
        }
        Ok(())
    });
}

/// Every integer type, the ends of the widest, and vocabularies that the narrow ones cannot count to.
#[test]
fn ids_of_every_integer_type_are_the_same_ids() {
    let signed = [DType::I8, DType::I16, DType::I32, DType::I64];
    let unsigned = [DType::U8, DType::U16, DType::U32, DType::U64];
    on_every_device(|on| {
        let score = |vocab: usize, last: i64, dtype: DType| {
            let ids = TensorData::new(vec![0, 2, 1, last], [1, 4]);
            let ids = Tensor::<2, Int>::from_data(ids, (&on.device, dtype));
            let completions = Completions::new(ids, flags(&[true; 4], [1, 4], &on.device)).unwrap();
            let logits: Vec<f64> = (0..4 * vocab).map(|i| (i % 5) as f64).collect();
            let logits = floats(&logits, [1, 4, vocab], &on.device, DType::F32);
            bits(&numbers(&token_log_probs(logits, &completions).unwrap().values()))
        };
        let is_nan = |bits: &u64| f64::from_bits(*bits).is_nan();
        let supported = |dtype: &DType| on.device.supports_dtype(*dtype);
        for vocab in [3, 300, 70_000] {
            let expected = score(vocab, 99, DType::I32);
            prop_assert_eq!(expected.iter().map(is_nan).collect::<Vec<_>>(), [false, false, vocab < 99]);
            for dtype in signed.into_iter().chain(unsigned).filter(supported) {
                prop_assert_eq!(&score(vocab, 99, dtype), &expected, "{:?}, vocabulary of {}", dtype, vocab);
            }
            for dtype in signed.into_iter().filter(supported) {
                prop_assert!(is_nan(&score(vocab, -1, dtype)[2]), "−1 as {dtype:?}, vocabulary of {vocab}");
            }
            for far in [i64::MIN, i64::MAX, 1 << 32].into_iter().filter(|_| supported(&DType::I64)) {
                prop_assert!(is_nan(&score(vocab, far, DType::I64)[2]), "{far}, vocabulary of {vocab}");
            }
        }
        Ok(())
    });
}

// ---- 5. NaN stays in its pair ----

/// Through the loss: values and gradients of every other pair are untouched, bit for bit.
#[test]
fn nan_in_one_pair_stays_in_that_pair() {
    for_all((wild_sums(), betas(), 0..6usize, 0..4usize), |on, (sums, beta, which, place)| {
        let mut poisoned = sums.clone();
        let which = which % sums.len().max(1);
        if let Some(pair) = poisoned.get_mut(which) {
            *[
                &mut pair.policy.chosen,
                &mut pair.policy.rejected,
                &mut pair.reference.chosen,
                &mut pair.reference.rejected,
            ][*place] = f64::NAN;
        }
        let clean = Outcome::of(sums, *beta, &on.device, DType::F32);
        let outcome = Outcome::of(&poisoned, *beta, &on.device, DType::F32);
        for (clean, poisoned) in
            [(clean.losses, outcome.losses), (clean.chosen, outcome.chosen), (clean.rejected, outcome.rejected)]
        {
            for (pair, (clean, poisoned)) in clean.into_iter().zip(poisoned).enumerate() {
                let expected = if pair == which { f64::NAN } else { clean };
                prop_assert_eq!(bits(&[poisoned]), bits(&[expected]), "pair {}", pair);
            }
        }
        Ok(())
    });
}

/// From logits to loss: NaN in one sequence makes its own pair NaN, and the logits of other pairs do not notice.
#[test]
fn nan_in_one_sequence_stays_in_its_pair() {
    for_all((paired_batches(), 0..64usize), |on, (batch, place)| {
        let counted: Vec<usize> = (0..batch.seen().len()).filter(|&position| batch.seen()[position]).collect();
        let Some(&position) = counted.get(place % counted.len().max(1)) else { return Ok(()) };
        let mut poisoned = batch.clone();
        poisoned.logits[batch.row(position).start] = f32::NAN;

        let half = batch.sequences / 2;
        let pair_of = |sequence: usize| sequence % half;
        let hit = pair_of(position / batch.time);
        let (clean, outcome) = (loss_of_logits(batch, on), loss_of_logits(&poisoned, on));
        for pair in 0..half {
            let expected = if pair == hit { f64::NAN } else { clean.0[pair] };
            prop_assert_eq!(bits(&[outcome.0[pair]]), bits(&[expected]), "pair {}", pair);
        }
        for cell in 0..batch.tokens.len() {
            if pair_of(cell / batch.time) != hit {
                let row = batch.row(cell);
                prop_assert_eq!(bits(&outcome.1[row.clone()]), bits(&clean.1[row]), "position {}", cell);
            }
        }
        Ok(())
    });
}

/// A pair whose loss the caller leaves out brings no NaN into the gradient, even if it has one.
#[test]
fn a_pair_that_the_caller_leaves_out_pulls_on_nothing() {
    for_all((wild_sums(), betas()), |on, (sums, beta)| {
        let policy = Model::policy(sums, &on.device, DType::F32);
        let reference = Model::reference(sums, &on.device, DType::F32);
        let losses = dpo_loss(&policy.pairs, &reference.pairs, self::beta(*beta)).unwrap();
        let leave_out: Vec<bool> = numbers(&losses).iter().map(|loss| !loss.is_finite()).collect();
        let kept = losses.mask_fill(flags(&leave_out, [leave_out.len()], &on.device), 0.0);
        for gradient in policy.gradients(kept) {
            for (partial, &left_out) in gradient.iter().zip(&leave_out) {
                prop_assert!(if left_out { *partial == 0.0 } else { partial.is_finite() }, "{gradient:?}");
            }
        }
        Ok(())
    });
}

/// Infinities have the limits' values: βΔ = +∞ costs nothing, −∞ costs everything and pulls with full force.
#[test]
fn an_infinite_margin_has_the_loss_and_gradient_of_the_limit() {
    on_every_device(|on| {
        for dtype in on.arithmetic_dtypes() {
            let sums = [f64::INFINITY, f64::NEG_INFINITY].map(Sums::with_delta);
            let outcome = Outcome::of(&sums, 0.5, &on.device, dtype);
            prop_assert_eq!(outcome.losses, [0.0, f64::INFINITY]);
            prop_assert_eq!(outcome.chosen, [0.0, -0.5]);
            prop_assert_eq!(outcome.rejected, [0.0, 0.5]);
        }
        Ok(())
    });
}

// ---- 6. the reference has no gradient ----

/// How a tensor may arrive: without autodiff, recorded, waiting for a gradient, recorded with gradient checkpointing.
const STATES: [&str; 5] = ["plain", "autodiff", "autodiff, tracked", "checkpointing", "checkpointing, tracked"];

fn device_in_state(on: &Tested, state: &str) -> Device {
    let plain = on.device.clone();
    match state.split(',').next() {
        Some("autodiff") => plain.autodiff(),
        Some("checkpointing") => plain.autodiff().gradient_checkpointing(),
        _ => plain,
    }
}

fn logits_in_state(on: &Tested, state: &str, scale: f64) -> Tensor<3> {
    let logits: Vec<f64> = (0..24).map(|i| scale * f64::from(i * 7 % 11 - 5)).collect();
    let logits = floats(&logits, [2, 3, 4], &device_in_state(on, state), DType::F32);
    if state.ends_with("tracked") { logits.require_grad() } else { logits }
}

fn completions_in_state(on: &Tested, state: &str) -> Completions {
    let device = device_in_state(on, state);
    let tokens = integers(&[0, 3, 1, 2, 2, 0], [2, 3], &device);
    Completions::new(tokens, flags(&[false, true, true, false, true, true], [2, 3], &device)).unwrap()
}

/// Whatever state reference, ids and masks come in, they get no gradient, the policy gets the same one, and burn's
/// checkpointing strategies do not meet (it would panic).
#[test]
fn the_reference_has_no_gradient_in_whatever_state_it_comes() {
    on_every_device(|on| {
        let mut expected = None;
        for policy_state in STATES.into_iter().filter(|state| state.ends_with("tracked")) {
            for reference_state in STATES {
                for completions_state in ["plain", "autodiff", "checkpointing"] {
                    let case = format!("policy {policy_state}, reference {reference_state}, ids {completions_state}");
                    let completions = completions_in_state(on, completions_state);
                    let pairs = |logits: &Tensor<3>| -> PairLogProbs {
                        token_log_probs(logits.clone(), &completions).unwrap().sequences().into_pairs().unwrap()
                    };
                    let policy_logits = logits_in_state(on, policy_state, 0.3);
                    let reference_logits = logits_in_state(on, reference_state, 0.2);
                    let (policy, reference) = (pairs(&policy_logits), pairs(&reference_logits));
                    let losses = dpo_loss(&policy, &reference, beta(0.1)).unwrap();
                    let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta(0.1)).unwrap();
                    let rewards = implicit_rewards(&policy, &reference, beta(0.1)).unwrap();
                    prop_assert!(!rewards.margins().is_tracked(), "{case}");

                    let gradients = losses.clone().sum().backward();
                    prop_assert!(reference_logits.grad(&gradients).is_none(), "{case}");
                    let gradient = policy_logits.grad(&gradients);
                    prop_assert!(gradient.is_some(), "{case}");
                    let mut outcome = gradient.map(|gradient| numbers(&gradient)).unwrap_or_default();
                    outcome.extend(numbers(&losses));
                    outcome.extend(metrics.entries().into_iter().map(|(_, value)| value));
                    let expected: &Vec<f64> = expected.get_or_insert(outcome.clone());
                    prop_assert!(alike(on, &outcome, expected), "{case}: {outcome:?} {expected:?}");
                }
            }
        }
        Ok(())
    });
}

/// Bit for bit on a CPU. On a GPU burn fuses what is computed at the same time: with a gradient to be prepared beside it, a
/// product and a sum may be rounded once instead of twice, in a log-prob and what is made of it.
fn alike(on: &Tested, actual: &[f64], expected: &[f64]) -> bool {
    let rounding = Rounding::of(on, DType::F32);
    let slack = if ["flex", "ndarray"].contains(&on.name) { 0.0 } else { 16.0 * rounding.unit };
    let close = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a - b).abs() <= slack * b.abs().max(1.0);
    actual.len() == expected.len() && actual.iter().zip(expected).all(|(&a, &b)| close(a, b))
}

/// Nor is it tracked where nothing waits for a gradient: evaluation makes no graph.
#[test]
fn a_policy_without_a_graph_gives_losses_without_one() {
    on_every_device(|on| {
        for policy_state in ["plain", "autodiff", "checkpointing"] {
            for reference_state in STATES {
                let completions = completions_in_state(on, "plain");
                let [policy, reference] = [(policy_state, 0.3), (reference_state, 0.2)].map(|(state, scale)| {
                    let scored = token_log_probs(logits_in_state(on, state, scale), &completions).unwrap();
                    scored.sequences().into_pairs().unwrap()
                });
                let losses = dpo_loss(&policy, &reference, beta(0.1)).unwrap();
                prop_assert!(!losses.is_tracked(), "policy {policy_state}, reference {reference_state}");
            }
        }
        Ok(())
    });
}

/// One of the two log-probs may be a constant (a rejected completion scored beforehand, say).
#[test]
fn a_constant_side_of_the_policy_leaves_the_other_sides_gradient_as_it_is() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(-2.0), Sums::with_delta(3.0)];
        let whole = Outcome::of(&sums, 0.5, &on.device, DType::F32);
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let reference = Model::reference(&sums, &on.device, DType::F32).pairs;
        let side =
            |sum: &Tensor<1>| SequenceLogProbs::new(sum.clone(), Tensor::ones([2], (&on.device, DType::I32))).unwrap();
        let (chosen, rejected) = (side(&policy.chosen), side(&policy.rejected));
        let pairs = [
            PairLogProbs::new(chosen.clone(), rejected.clone().detach()).unwrap(),
            PairLogProbs::new(chosen.detach(), rejected).unwrap(),
        ];
        for (pairs, (leaf, expected)) in
            pairs.iter().zip([(&policy.chosen, &whole.chosen), (&policy.rejected, &whole.rejected)])
        {
            let losses = dpo_loss(pairs, &reference, beta(0.5)).unwrap();
            prop_assert_eq!(&gradient_of_sum(losses, leaf), expected);
        }
        Ok(())
    });
}

// ---- 7. dtypes ----

#[test]
fn half_and_single_precision_give_f32_double_gives_f64_and_gradients_come_in_the_logits_own_format() {
    for_all(batches(), |on, batch| {
        for dtype in on.float_dtypes() {
            let logits = batch.logits(&on.autodiff(), dtype).require_grad();
            let scored = token_log_probs(logits.clone(), &batch.completions(&on.device)).unwrap();
            let sequences = scored.sequences();
            let result = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
            prop_assert_eq!(scored.values().dtype(), result);
            prop_assert_eq!(sequences.sum.dtype(), result);
            prop_assert_eq!(sequences.mean().dtype(), result);
            let gradient = logits.grad(&sequences.sum.sum().backward()).unwrap();
            prop_assert_eq!(gradient.dtype(), dtype);
        }
        Ok(())
    });
}

/// The same for log-prob sums that the caller has in any format: the arithmetic is f32's, and f64's if either is f64.
#[test]
fn log_prob_sums_of_any_formats_go_together() {
    let sums = [(-9.0, -8.0, -10.0, -7.0), (-240.0, -2.5, -238.0, -2.0)].map(|(a, b, c, d)| Sums {
        policy: burn_dpo::reference::Pair { chosen: a, rejected: b },
        reference: burn_dpo::reference::Pair { chosen: c, rejected: d },
    });
    on_every_device(|on| {
        for policy_dtype in on.float_dtypes() {
            for reference_dtype in on.float_dtypes() {
                let policy = Model::policy(&sums, &on.device, policy_dtype);
                let reference = Model::reference(&sums, &on.device, reference_dtype);
                let losses = dpo_loss(&policy.pairs, &reference.pairs, beta(0.5)).unwrap();
                let wide = [policy_dtype, reference_dtype].contains(&DType::F64);
                prop_assert_eq!(losses.dtype(), if wide { DType::F64 } else { DType::F32 });
                let rewards = implicit_rewards(&policy.pairs, &reference.pairs, beta(0.5)).unwrap();
                prop_assert_eq!(rewards.chosen.dtype(), losses.dtype());
                let metrics =
                    PreferenceMetrics::from_batch(&losses, &policy.pairs, &reference.pairs, beta(0.5)).unwrap();
                prop_assert_eq!(metrics.log_prob_chosen(), -124.5);

                let (values, dtype) = (numbers(&losses), losses.dtype());
                let gradients = losses.sum().backward();
                let [chosen, rejected] = [&policy.chosen, &policy.rejected].map(|leaf| leaf.grad(&gradients).unwrap());
                prop_assert_eq!((chosen.dtype(), rejected.dtype()), (policy_dtype, policy_dtype));
                let derivatives = if policy_dtype == dtype {
                    numbers(&chosen)
                } else {
                    Outcome::of(&sums, 0.5, &on.device, dtype).chosen
                };
                Outcome {
                    losses: values,
                    rejected: derivatives.iter().map(|derivative| -derivative).collect(),
                    chosen: derivatives,
                }
                .expect(on, dtype, &sums, 0.5)?;
            }
        }
        Ok(())
    });
}

/// burn computes garbage in such a format, or panics: we refuse.
#[test]
fn a_format_that_the_device_cannot_compute_in_is_an_error() {
    on_every_device(|on| {
        for dtype in on.refused_float_dtypes() {
            // Some backends do not even store it. Then there is nothing to refuse.
            let stored = |shape: [usize; 3]| {
                catch_unwind(AssertUnwindSafe(|| Tensor::<3>::zeros(shape, (&on.device, dtype)))).ok()
            };
            let Some(logits) = stored([2, 3, 4]) else { continue };
            let refusal = token_log_probs(logits, &completions_in_state(on, "plain")).map(|_| ());
            expect_refusal(on, "logits", dtype, refusal)?;

            let Some(sum) = stored([1, 1, 2]).map(|sum| sum.reshape([2])) else { continue };
            let good =
                SequenceLogProbs::new(Tensor::zeros([2], &on.device), integers(&[1, 1], [2], &on.device)).unwrap();
            let token_count = good.token_count.clone();
            expect_refusal(on, "sum", dtype, SequenceLogProbs::new(sum.clone(), token_count).map(|_| ()))?;
            let mut bad = good.clone();
            bad.sum = sum;
            expect_refusal(on, "chosen sum", dtype, PairLogProbs::new(bad.clone(), good.clone()).map(|_| ()))?;
            expect_refusal(on, "rejected sum", dtype, PairLogProbs::new(good, bad).map(|_| ()))?;
        }
        Ok(())
    });
}

fn expect_refusal(on: &Tested, what: &'static str, dtype: DType, result: burn_dpo::Result<()>) -> TestCaseResult {
    let expected = Error::DType { what, dtype: format!("{dtype:?}"), device: format!("{:?}", on.device) };
    prop_assert_eq!(result, Err(expected));
    Ok(())
}

// ---- shapes are what they say ----

#[test]
fn results_have_the_documented_shapes() {
    for_all(wild_batches(), |on, batch| {
        let scored = batch.score(&on.device, DType::F32);
        prop_assert_eq!(scored.values().dims(), [batch.sequences, batch.time - 1]);
        prop_assert_eq!(scored.counted().dims(), [batch.sequences, batch.time - 1]);
        let sequences = scored.sequences();
        prop_assert_eq!(sequences.sum.dims(), [batch.sequences]);
        prop_assert_eq!(sequences.token_count.dims(), [batch.sequences]);
        prop_assert_eq!(sequences.mean().dims(), [batch.sequences]);
        let completions = batch.completions(&on.device);
        prop_assert_eq!(completions.dims(), [batch.sequences, batch.time]);
        prop_assert_eq!(completions.device(), on.device.clone());
        prop_assert_eq!(whole_numbers(&completions.tokens()), batch.tokens.clone());
        prop_assert_eq!(booleans(&completions.mask()), batch.mask.clone());
        Ok(())
    });
}

/// A gradient of 0 that arrives leaves as 0, through logits that are NaN too: a token that is weighed by nothing pulls on
/// nothing.
#[test]
fn a_counted_token_without_weight_pulls_on_nothing_even_where_its_logits_are_nan() {
    for_all((batches_that_predict(), vec(any::<bool>(), 4 * 6), junk()), |on, (batch, unused, junk)| {
        let (mut clean, mut poisoned) = (batch.clone(), batch.clone());
        let width = batch.time - 1;
        for (prediction, _) in unused.iter().enumerate().take(batch.sequences * width).filter(|(_, unused)| **unused) {
            let position = prediction / width * batch.time + prediction % width;
            clean.upstream[prediction] = 0.0;
            poisoned.upstream[prediction] = 0.0;
            poisoned.logits[batch.row(position)].fill(junk.numbers[0]);
        }
        let [clean, poisoned] =
            [clean, poisoned].map(|batch| batch.score_with_gradient(&on.device, DType::F32).gradient);
        let used = |gradient: &[f64]| -> Vec<f64> {
            gradient.iter().copied().map(|x| if x == 0.0 { 0.0 } else { x }).collect() // −0 is 0
        };
        prop_assert_eq!(bits(&used(&poisoned)), bits(&used(&clean)));
        Ok(())
    });
}

/// A policy that no gradient reaches is found out before the first step, whichever side it is.
#[test]
fn a_policy_without_a_graph_is_refused_where_one_is_expected() {
    on_every_device(|on| {
        let policy = Model::policy(&[Sums::with_delta(1.0)], &on.device, DType::F32).pairs;
        prop_assert_eq!(policy.expect_tracked(), Ok(()));
        let cut = Model::reference(&[Sums::with_delta(1.0)], &on.device, DType::F32).pairs;
        prop_assert_eq!(cut.expect_tracked(), Err(Error::NotTracked { what: "chosen" }));
        let half = PairLogProbs::new(policy.chosen().clone(), cut.rejected().clone()).unwrap();
        prop_assert_eq!(half.expect_tracked(), Err(Error::NotTracked { what: "rejected" }));
        Ok(())
    });
}

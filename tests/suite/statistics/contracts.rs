//! What the mask leaves out, dtypes, empty batches, refusals.

use super::*;

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

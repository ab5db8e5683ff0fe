//! Whether policy and reference agree: measured by row, and as an error.

use burn::tensor::{DType, Tensor};
use burn_dpo::{Error, PairLogProbs, ReferenceDrift, SequenceLogProbs};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    batch::Batch,
    devices::{Tested, for_all, on_every_device},
    generators::paired_batches,
    host::{bits, floats, integers},
    metrics::wait_for,
};

/// Log-probs under both models, and both token counts, row by row.
type Rows = Vec<([f64; 2], [i64; 2])>;

fn rows() -> impl Strategy<Value = Rows> {
    let special = select(vec![f64::NAN, f64::NEG_INFINITY, 0.0]);
    let nats = || prop_oneof![8 => (-400.0f32..0.0).prop_map(f64::from), 1 => special.clone()];
    let count = prop_oneof![4 => Just(3i64), 1 => 0..5i64, 1 => Just(1i64 << 24)];
    let same = (nats(), count.clone()).prop_map(|(nats, count)| ([nats; 2], [count; 2]));
    let apart = ([nats(), nats()], count.clone()).prop_map(|(nats, count)| (nats, [count; 2]));
    let other = ([nats(), nats()], [count.clone(), count]);
    (0..4usize).prop_flat_map(move |half| {
        vec(prop_oneof![4 => same.clone(), 4 => apart.clone(), 1 => other.clone()], 2 * half)
    })
}

/// Under the policy, then under the reference.
fn sequences(rows: &Rows, on: &Tested) -> [SequenceLogProbs; 2] {
    [0, 1].map(|model| {
        let sums: Vec<f64> = rows.iter().map(|row| row.0[model]).collect();
        let counts: Vec<i64> = rows.iter().map(|row| row.1[model]).collect();
        let sum = floats(&sums, [sums.len()], &on.device, DType::F32);
        SequenceLogProbs::new(sum, integers(&counts, [counts.len()], &on.device)).unwrap()
    })
}

fn pairs(rows: &Rows, on: &Tested) -> [PairLogProbs; 2] {
    sequences(rows, on).map(|model| model.into_pairs().unwrap())
}

#[test]
fn the_drift_is_the_difference_of_each_row() {
    for_all(rows(), |on, rows| {
        let exact: Vec<f64> = rows.iter().map(|([policy, reference], _)| (policy - reference).abs()).collect();
        let [policy, reference] = sequences(rows, on);
        let drift = ReferenceDrift::measure_sequences(&policy, &reference).unwrap();
        prop_assert_eq!(bits(drift.by_row()), bits(&exact));

        let any_nan = exact.iter().any(|x| x.is_nan());
        let largest = if any_nan { f64::NAN } else { exact.iter().copied().fold(0.0, f64::max) };
        prop_assert_eq!(bits(&[drift.largest()]), bits(&[largest]));
        let is_largest = |x: &f64| if any_nan { x.is_nan() } else { *x == largest };
        prop_assert_eq!(drift.largest_row(), exact.iter().position(is_largest));
        let mean = exact.iter().sum::<f64>() / exact.len() as f64;
        prop_assert_eq!(bits(&[drift.mean()]), bits(&[mean]));

        let mismatch = rows.iter().position(|(_, [policy, reference])| policy != reference);
        prop_assert_eq!(drift.token_count_mismatch().map(|found| found.row), mismatch);
        if let Some(found) = drift.token_count_mismatch() {
            prop_assert_eq!([found.policy, found.reference], rows[found.row].1.map(|count| count as u64));
        }
        Ok(())
    });
}

/// Four paths, one answer.
#[test]
fn pairs_are_rows_with_the_chosen_ones_first() {
    for_all(rows(), |on, rows| {
        let ([p, r], [policy, reference]) = (sequences(rows, on), pairs(rows, on));
        let drifts = [
            ReferenceDrift::measure_sequences(&p, &r),
            ReferenceDrift::measure(&policy, &reference),
            wait_for(ReferenceDrift::measure_async(&policy, &reference)),
            wait_for(ReferenceDrift::measure_sequences_async(&p, &r)),
        ];
        let [first, others @ ..] = drifts.map(Result::unwrap);
        for other in others {
            prop_assert_eq!(bits(other.by_row()), bits(first.by_row()));
            prop_assert_eq!(other.token_count_mismatch(), first.token_count_mismatch());
        }
        Ok(())
    });
}

/// At the largest difference and above, never below, and never with NaN or other counts.
#[test]
fn what_is_within_is_decided_by_the_largest_row() {
    for_all((rows(), 0.0..500.0f64), |on, (rows, tolerance)| {
        let [policy, reference] = pairs(rows, on);
        let drift = ReferenceDrift::measure(&policy, &reference).unwrap();
        for tolerance in [*tolerance, drift.largest(), drift.largest().next_down().max(0.0), f64::INFINITY] {
            let outcome = drift.expect_within(tolerance);
            match (drift.token_count_mismatch(), drift.largest_row()) {
                _ if tolerance.is_nan() => {
                    let refused = matches!(outcome, Err(Error::Parameter { .. }));
                    prop_assert!(refused, "{outcome:?}");
                }
                (Some(found), _) => prop_assert_eq!(
                    outcome,
                    Err(Error::TokenCount { row: found.row, policy: found.policy, reference: found.reference })
                ),
                (None, Some(at)) if drift.largest().is_nan() || drift.largest() > tolerance => {
                    let Err(Error::ReferenceDrift { row, difference, tolerance: allowed }) = outcome else {
                        return Err(TestCaseError::fail(format!("{outcome:?}")));
                    };
                    prop_assert_eq!((row, bits(&[difference, allowed])), (at, bits(&[drift.largest(), tolerance])));
                }
                _ => prop_assert_eq!(outcome, Ok(())),
            }
        }
        Ok(())
    });
}

#[test]
fn of_equal_differences_the_first_row_is_named() {
    on_every_device(|on| {
        let largest_row = |references: [f64; 4]| {
            let rows: Rows = references.iter().map(|reference| ([-4.0, *reference], [3, 3])).collect();
            let [policy, reference] = sequences(&rows, on);
            ReferenceDrift::measure_sequences(&policy, &reference).unwrap().largest_row()
        };
        prop_assert_eq!(largest_row([-4.0; 4]), Some(0));
        prop_assert_eq!(largest_row([-4.0, -6.0, -2.0, -6.0]), Some(1));
        prop_assert_eq!(largest_row([-9.0, f64::NAN, -2.0, f64::NAN]), Some(1));
        Ok(())
    });
}

#[test]
fn the_errors_say_what_and_where() {
    on_every_device(|on| {
        let message = |rows: Rows, tolerance: f64| {
            let [policy, reference] = sequences(&rows, on);
            let drift = ReferenceDrift::measure_sequences(&policy, &reference).unwrap();
            drift.expect_within(tolerance).unwrap_err().to_string()
        };
        let row = |policy: f64, reference: f64| ([policy, reference], [3, 3]);
        prop_assert_eq!(
            message(vec![row(-1.0, -1.0), row(-2.0, -2.5)], 0.25),
            "row 1: policy and reference differ by 0.5 nats, expected at most 0.25"
        );
        prop_assert_eq!(
            message(vec![row(-9.0, -1.0), row(-2.0, f64::NAN)], f64::INFINITY),
            "row 1: policy and reference differ by NaN nats, expected at most inf"
        );
        prop_assert_eq!(
            message(vec![([-1.0, -9.0], [3, 4])], 0.25),
            "row 0: the policy counted 3 tokens, but the reference 4"
        );
        prop_assert_eq!(message(vec![], -0.5), "tolerance is -0.5, expected a number of at least 0");
        prop_assert_eq!(message(vec![], f64::NAN), "tolerance is NaN, expected a number of at least 0");
        Ok(())
    });
}

#[test]
fn what_cannot_be_compared_is_refused() {
    on_every_device(|on| {
        let rows: Rows = vec![([-1.0, -1.0], [3, 3]); 4];
        let (long, short) = (sequences(&rows, on), sequences(&rows[..2].to_vec(), on));
        let message = |policy: &SequenceLogProbs, reference: &SequenceLogProbs| {
            ReferenceDrift::measure_sequences(policy, reference).unwrap_err().to_string()
        };
        prop_assert_eq!(message(&long[0], &short[1]), "reference sum has shape [2], expected [4]");
        let mut torn = long[1].clone();
        torn.token_count = short[1].token_count.clone();
        prop_assert_eq!(message(&long[0], &torn), "reference token_count has shape [2], expected [4]");
        prop_assert_eq!(message(&torn, &long[0]), "policy token_count has shape [2], expected [4]");
        let (long, short) = (pairs(&rows, on), pairs(&rows[..2].to_vec(), on));
        let refused = ReferenceDrift::measure(&long[0], &short[1]).unwrap_err().to_string();
        prop_assert_eq!(refused, "policy holds 2 pairs, but reference holds 1");
        Ok(())
    });
}

#[cfg(feature = "ndarray")]
#[test]
fn models_on_different_devices_cannot_be_compared() {
    let [here, there] = &crate::devices::devices()[..2] else { unreachable!("there are always two") };
    let rows: Rows = vec![([-1.0, -1.0], [3, 3]); 2];
    let refused = ReferenceDrift::measure(&pairs(&rows, here)[0], &pairs(&rows, there)[1]).unwrap_err().to_string();
    assert_eq!(refused, format!("policy is on {:?}, but reference is on {:?}", here.device, there.device));
}

/// From the same logits there is none, whatever graph the policy is in; from half-precision ones there is.
#[test]
fn one_model_twice_has_no_drift() {
    for_all(paired_batches(), |on, batch| {
        let again = |batch: &Batch, dtype: DType| batch.score(&on.device, dtype).sequences();
        let policy = burn_dpo::token_log_probs(
            batch.logits(&on.autodiff(), DType::F32).require_grad(),
            &batch.completions(&on.device),
        );
        let policy = policy.unwrap().sequences();
        let drift = ReferenceDrift::measure_sequences(&policy, &again(batch, DType::F32)).unwrap();
        prop_assert_eq!(drift.largest(), 0.0);
        prop_assert!(drift.expect_within(0.0).is_ok());
        for dtype in on.arithmetic_dtypes() {
            let drift = ReferenceDrift::measure_sequences(&again(batch, dtype), &policy.clone().detach()).unwrap();
            prop_assert!(drift.token_count_mismatch().is_none() && drift.largest() >= 0.0);
        }
        Ok(())
    });
}

/// Sums of f64 are compared as such.
#[test]
fn f64_sums_are_compared_in_f64() {
    on_every_device(|on| {
        if !on.computes_in(DType::F64) {
            return Ok(());
        }
        let one = |nats: f64, dtype: DType| {
            SequenceLogProbs::new(floats(&[nats], [1], &on.device, dtype), Tensor::ones([1], &on.device)).unwrap()
        };
        let policy = one(-1.0 - 1e-12, DType::F64);
        let drift = ReferenceDrift::measure_sequences(&policy, &one(-1.0, DType::F32)).unwrap();
        prop_assert_eq!(drift.largest(), 1.0 + 1e-12 - 1.0);
        Ok(())
    });
}

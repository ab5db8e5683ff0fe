//! Members that are special cases of others, and members at their edges.

use super::*;

/// The same loss under two names, bit for bit.
#[test]
fn special_cases_are_their_relatives() {
    let parse = |text: &str| serde_json::from_str::<PreferenceLoss>(text).unwrap();
    let relatives = [
        (r#"{"loss":"cdpo","beta":0.1,"label_smoothing":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"robust","beta":0.1,"label_smoothing":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"dpop","beta":0.1,"lambda":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"odpo","beta":0.1,"offset":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"r_dpo","beta":0.1,"length_weight":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"alphapo","beta":2,"alpha":0,"gamma":1}"#, r#"{"loss":"simpo","beta":2,"gamma":1}"#),
        (
            r#"{"loss":"hinge","beta":0.1,"divergence":{"alpha_divergence":{"alpha":1}}}"#,
            r#"{"loss":"hinge","beta":0.1,"divergence":"reverse_kl"}"#,
        ),
        (
            r#"{"loss":"ipo","beta":0.1,"divergence":{"alpha_divergence":{"alpha":0}}}"#,
            r#"{"loss":"ipo","beta":0.1,"divergence":"forward_kl"}"#,
        ),
    ];
    for_several(counted(moderate_sums()), |on, pairs| {
        for (special, relative) in relatives {
            let (special, relative) = (parse(special), parse(relative));
            let (a, b) = (pairs.outcome(&special, on, DType::F32), pairs.outcome(&relative, on, DType::F32));
            prop_assert_eq!(bits(&a.losses), bits(&b.losses), "{} is not {}", special, relative);
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a == b || (a - b).abs() <= 4e-7 * b.abs());
            prop_assert!(close(&a.chosen, &b.chosen) && close(&a.rejected, &b.rejected), "{special}: {a:?} {b:?}");
        }
        Ok(())
    });
}

/// An empty completion pulls on nothing in losses per token.
#[test]
fn an_empty_completion_has_no_gradient_in_losses_per_token() {
    on_every_device(|on| {
        let pairs =
            Counted { sums: vec![Sums::with_delta(0.0), Sums::with_delta(-2.0)], token_counts: vec![[0, 3], [3, 0]] };
        for loss in members().into_iter().filter(per_token) {
            let outcome = pairs.outcome(&loss, on, DType::F32);
            prop_assert!(outcome.losses.iter().all(|loss| loss.is_finite()), "{loss}: {outcome:?}");
            prop_assert_eq!((outcome.chosen[0], outcome.rejected[1]), (0.0, 0.0), "{}", loss);
        }
        Ok(())
    });
}

/// Nor does it matter what its sum holds: nobody looks at it.
#[test]
fn the_sum_of_an_empty_completion_cannot_be_seen_in_losses_per_token() {
    on_every_device(|on| {
        let with = |junk: f64| {
            let mut sums = vec![Sums::with_delta(0.0), Sums::with_delta(-2.0)];
            (sums[0].policy.chosen, sums[1].policy.rejected) = (junk, junk);
            Counted { sums, token_counts: vec![[0, 3], [3, 0]] }
        };
        for loss in members().into_iter().filter(per_token) {
            let clean = with(0.0).outcome(&loss, on, DType::F32);
            for junk in [f64::NAN, f64::NEG_INFINITY, -7.0] {
                let seen = with(junk).outcome(&loss, on, DType::F32);
                prop_assert_eq!(bits(&clean.losses), bits(&seen.losses), "{}: {}", loss, junk);
                prop_assert_eq!(
                    (clean.chosen.clone(), clean.rejected.clone()),
                    (seen.chosen, seen.rejected),
                    "{}",
                    loss
                );
            }
        }
        Ok(())
    });
}

/// Token counts come in whatever integers their owner keeps them in, and need not come in the same.
#[test]
fn token_counts_of_any_integer_type_count() {
    on_every_device(|on| {
        let side = |sum: f64, count: i64, dtype: DType| {
            let count = Tensor::<1, Int>::from_data(TensorData::new(vec![count; 2], [2]), (&on.device, dtype));
            SequenceLogProbs::new(floats(&[sum; 2], [2], &on.device, DType::F32), count).unwrap()
        };
        let pairs = |chosen: DType, rejected: DType| {
            PairLogProbs::new(side(-9.0, 100, chosen), side(-8.0, 120, rejected)).unwrap()
        };
        let plain = pairs(DType::I32, DType::I32);
        let types = [DType::U32, DType::U8, DType::I8, DType::I64].into_iter();
        for dtype in types.filter(|&dtype| on.device.supports_dtype(dtype)) {
            for loss in PreferenceLoss::all() {
                let of = |policy: &PairLogProbs| bits(&numbers(&loss.losses(policy, &plain).unwrap()));
                prop_assert_eq!(of(&pairs(dtype, dtype)), of(&plain), "{} {:?}", loss, dtype);
                prop_assert_eq!(of(&pairs(dtype, DType::I32)), of(&plain), "{} {:?}", loss, dtype);
            }
        }
        Ok(())
    });
}

/// That sequences and pairs can be made on the host.
#[test]
fn pairs_from_the_host_are_what_was_given() {
    on_every_device(|on| {
        let pairs = PairLogProbs::from_host(&[(-1.5, 3), (-2.0, 0)], &[(-4.0, 7), (-0.5, 1)], &on.autodiff()).unwrap();
        let SequenceLogProbs { sum, token_count, .. } = pairs.chosen().clone();
        prop_assert_eq!((numbers(&sum), crate::host::whole_numbers(&token_count)), (vec![-1.5, -2.0], vec![3, 0]));
        prop_assert_eq!(numbers(&pairs.rejected().sum), [-4.0, -0.5]);
        prop_assert!(!sum.is_autodiff());
        prop_assert!(PairLogProbs::from_host(&[(-1.0, 1)], &[], &on.device).is_err());
        Ok(())
    });
}

/// Where a loss has a kink its derivative is the one that asks for nothing: 0 on reaching a target, DPO's own where nothing fell.
#[test]
fn at_a_kink_nothing_is_asked_for() {
    let parse = |text: &str| serde_json::from_str::<PreferenceLoss>(text).unwrap();
    on_every_device(|on| {
        let two_apart =
            Sums { policy: Pair { chosen: -3.0, rejected: -5.0 }, reference: Pair { chosen: -4.0, rejected: -4.0 } };
        for reached in [r#"{"loss":"hinge","beta":0.5}"#, r#"{"loss":"slic","delta":2}"#] {
            let outcome = Counted::evenly(vec![two_apart]).outcome(&parse(reached), on, DType::F32);
            prop_assert_eq!(
                (outcome.losses[0], outcome.chosen[0], outcome.rejected[0]),
                (0.0, 0.0, 0.0),
                "{}",
                reached
            );
        }
        let agree = Sums { reference: two_apart.policy, ..two_apart };
        let outcome =
            Counted::evenly(vec![agree]).outcome(&parse(r#"{"loss":"dpop","beta":0.5,"lambda":50}"#), on, DType::F32);
        prop_assert_eq!((outcome.chosen[0], outcome.rejected[0]), (-0.25, 0.25));
        Ok(())
    });
}

/// Where the scores of both completions are beyond the format, their difference still has a sign.
#[test]
fn scores_beyond_the_format_are_compared_all_the_same() {
    on_every_device(|on| {
        let pair = |chosen: f64, rejected: f64| Sums {
            policy: Pair { chosen, rejected },
            reference: Pair { chosen: 0.0, rejected: 0.0 },
        };
        // forward KL: scores −e^100 and −e^150, over 3 and 5 tokens
        let pairs = Counted { sums: vec![pair(-100.0, -150.0), pair(-150.0, -100.0)], token_counts: vec![[3, 5]; 2] };
        let beta = Beta::new(0.1).unwrap();
        for loss in [
            PreferenceLoss::SigmoidNorm { beta, divergence: FDivergence::ForwardKl },
            PreferenceLoss::Dpo { beta, divergence: FDivergence::ForwardKl },
        ] {
            let outcome = pairs.outcome(&loss, on, DType::F32);
            prop_assert_eq!((outcome.losses[0], outcome.chosen[0], outcome.rejected[0]), (0.0, 0.0, 0.0), "{}", loss);
            prop_assert!(outcome.losses[1] > 1e38 && outcome.chosen[1] < -1e38, "{loss}: {outcome:?}");
        }
        let ipo = PreferenceLoss::Ipo { beta, divergence: FDivergence::ForwardKl };
        let outcome = pairs.outcome(&ipo, on, DType::F32);
        prop_assert!(outcome.losses.iter().all(|&loss| loss > 1e38), "{outcome:?}");
        Ok(())
    });
}

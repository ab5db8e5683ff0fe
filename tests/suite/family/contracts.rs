//! What holds for every member: NaN, order, dtypes, gradients.

use super::*;

/// Wild numbers in one pair change no other pair's loss or gradient, bit for bit.
#[test]
fn nan_in_one_pair_stays_in_that_pair() {
    for_several(
        (counted(moderate_sums()), select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY])),
        |on, (pairs, poison)| {
            let Some(last) = pairs.sums.len().checked_sub(1) else { return Ok(()) };
            let mut poisoned = pairs.clone();
            poisoned.sums[last] = poisoned.sums[last].map(|_| *poison);
            for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
                let (clean, other) = (pairs.outcome(&loss, on, DType::F32), poisoned.outcome(&loss, on, DType::F32));
                prop_assert_eq!(bits(&clean.losses[..last]), bits(&other.losses[..last]), "{}", loss);
                prop_assert_eq!(bits(&clean.chosen[..last]), bits(&other.chosen[..last]), "{}", loss);
                prop_assert_eq!(bits(&clean.rejected[..last]), bits(&other.rejected[..last]), "{}", loss);
                let seen = pairs.token_counts[last] != [0, 0] || !per_token(&loss);
                if poison.is_nan() && seen && !matches!(loss, PreferenceLoss::Nll {}) {
                    prop_assert!(other.losses[last].is_nan(), "{loss} hides NaN");
                }
            }
            Ok(())
        },
    );
}

#[test]
fn permuting_pairs_permutes_every_members_losses_and_gradients() {
    for_several((counted(moderate_sums()), 0..6usize), |on, (pairs, turn)| {
        let turn = turn % pairs.sums.len().max(1);
        let mut other = pairs.clone();
        other.sums.rotate_left(turn);
        other.token_counts.rotate_left(turn);
        let turned = |numbers: &[f64]| {
            let mut numbers = numbers.to_vec();
            numbers.rotate_left(turn);
            numbers
        };
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let (before, after) = (pairs.outcome(&loss, on, DType::F32), other.outcome(&loss, on, DType::F32));
            prop_assert_eq!(bits(&after.losses), bits(&turned(&before.losses)), "{}", loss);
            prop_assert_eq!(bits(&after.chosen), bits(&turned(&before.chosen)), "{}", loss);
            prop_assert_eq!(bits(&after.rejected), bits(&turned(&before.rejected)), "{}", loss);
        }
        Ok(())
    });
}

/// Ranks do not care about the order of the batch; the gradient follows its pair.
#[test]
fn aot_ranks_the_batch_whatever_its_order() {
    // distinct, so that no tie decides
    let distinct = moderate_sums().prop_map(|sums| {
        let spread = |(i, mut pair): (usize, Sums)| {
            pair.policy.chosen = -((pair.policy.chosen as i32 * 16).abs() as f64) - i as f64 / 8.0;
            pair.policy.rejected = -1.0;
            pair.reference.rejected = -2.0 - (i * i) as f64 / 64.0;
            pair
        };
        sums.into_iter().enumerate().map(spread).collect::<Vec<_>>()
    });
    for_several((distinct, 0..6usize), |on, (sums, turn)| {
        let turn = turn % sums.len().max(1);
        let mut other = sums.clone();
        other.rotate_left(turn);
        for loss in members().into_iter().filter(is_aot) {
            let before = Counted::evenly(sums.clone()).outcome(&loss, on, DType::F32);
            let after = Counted::evenly(other.clone()).outcome(&loss, on, DType::F32);
            let mut turned = before.chosen.clone();
            turned.rotate_left(turn);
            prop_assert_eq!(bits(&after.losses), bits(&before.losses), "{}", loss);
            prop_assert_eq!(bits(&after.chosen), bits(&turned), "{}", loss);
        }
        Ok(())
    });
}

fn is_aot(loss: &PreferenceLoss) -> bool {
    matches!(loss, PreferenceLoss::Aot { .. } | PreferenceLoss::AotUnpaired { .. })
}

/// Equal gaps are ranked by their place in the batch: the reference's smallest gap meets the first of them.
#[test]
fn ties_in_aot_are_ranked_in_the_order_of_the_batch() {
    on_every_device(|on| {
        let pair = |reference: f64| Sums {
            policy: Pair { chosen: -2.0, rejected: -3.0 },
            reference: Pair { chosen: reference, rejected: 0.0 },
        };
        let pairs = Counted::evenly(vec![pair(-1.0), pair(-5.0), pair(-3.0)]);
        let loss = "aot".parse().unwrap();
        let (actual, exact) = (pairs.outcome(&loss, on, DType::F32), pairs.expected(&loss));
        for (actual, exact) in [(&actual.losses, exact.losses), (&actual.chosen, exact.chosen)] {
            prop_assert!(actual.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-6), "{actual:?} {exact:?}");
        }
        // gaps of the reference, ascending: −5, −3, −1; so the first pair is furthest ahead and is pulled least
        prop_assert!(actual.chosen[0] > actual.chosen[1] && actual.chosen[1] > actual.chosen[2], "{actual:?}");
        Ok(())
    });
}

#[test]
fn the_reference_has_no_gradient_in_any_member() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(-1.0), Sums::with_delta(2.0)];
        for loss in members() {
            let policy = Model::policy(&sums, &on.device, DType::F32);
            let reference = Model::new(sums.iter().map(|pair| pair.reference), |numbers| {
                floats(numbers, [numbers.len()], &on.autodiff().gradient_checkpointing(), DType::F32).require_grad()
            });
            let gradients = loss.losses(&policy.pairs, &reference.pairs).unwrap().sum().backward();
            prop_assert!(policy.chosen.grad(&gradients).is_some(), "{}", loss);
            prop_assert!(reference.chosen.grad(&gradients).is_none(), "{}", loss);
            prop_assert!(reference.rejected.grad(&gradients).is_none(), "{}", loss);
        }
        Ok(())
    });
}

#[test]
fn no_pairs_are_no_losses_and_can_be_differentiated() {
    on_every_device(|on| {
        for loss in members() {
            let outcome = Counted::evenly(vec![]).outcome(&loss, on, DType::F32);
            prop_assert_eq!(outcome, Outcome { losses: vec![], chosen: vec![], rejected: vec![] }, "{}", loss);
        }
        Ok(())
    });
}

#[test]
fn losses_come_in_f32_or_f64_whatever_sums_come_in() {
    on_every_device(|on| {
        let pairs = Counted::evenly(vec![Sums::with_delta(-1.0)]);
        for dtype in on.float_dtypes() {
            for loss in members() {
                let losses = loss.losses(&pairs.policy(&on.device, dtype).pairs, &pairs.reference(&on.device, dtype));
                let expected = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                prop_assert_eq!(losses.unwrap().dtype(), expected, "{} of {:?}", loss, dtype);
            }
        }
        Ok(())
    });
}

/// `losses` is not reduced: a weight on a pair is a weight on its gradient.
#[test]
fn every_members_gradient_is_linear_in_what_arrives_from_above() {
    for_several((counted(moderate_sums()), vec(select(vec![0.0, 1.0, -2.0, 0.25]), 8 * 6)), |on, (pairs, weights)| {
        let weights = &weights[..pairs.sums.len()];
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let plain = pairs.outcome(&loss, on, DType::F32);
            let policy = pairs.policy(&on.device, DType::F32);
            let losses = loss.losses(&policy.pairs, &pairs.reference(&on.device, DType::F32)).unwrap();
            let upstream = floats(weights, [weights.len()], &on.device, DType::F32);
            let weighted = Outcome::new(&policy, losses * upstream);
            for (weighted, plain) in [(weighted.chosen, plain.chosen), (weighted.rejected, plain.rejected)] {
                let scaled = |(x, w): (&f64, &f64)| if *w == 0.0 { 0.0 } else { f64::from((x * w) as f32) };
                let expected = plain.iter().zip(weights).map(scaled).collect::<Vec<_>>();
                prop_assert_eq!(weighted, expected, "{}", loss);
            }
        }
        Ok(())
    });
}

//! Laws of the definitions.

use super::*;

/// Log-probs of all sizes.
fn any_pair() -> impl Strategy<Value = Pair> {
    let number = || prop_oneof![4 => -30.0..0.0f64, 1 => select(vec![0.0, -89.0, -1e4, -1e30])];
    (number(), number()).prop_map(|(chosen, rejected)| pair(chosen, rejected))
}

fn close(x: LossAndGradient, y: LossAndGradient, bound: f64) -> bool {
    let near = |x: f64, y: f64| x == y || (x - y).abs() <= bound * (1.0 + x.abs());
    near(x.value, y.value)
        && near(x.gradient.chosen, y.gradient.chosen)
        && near(x.gradient.rejected, y.gradient.rejected)
}

#[test]
fn dpo_is_the_member_that_all_others_extend() {
    for_all_numbers((any_pair(), any_pair(), 0.01..2.0f64), |&(policy, reference, beta)| {
        let dpo = reference::dpo_loss(policy, reference, beta);
        let alpha_1 = FDivergence::AlphaDivergence { alpha: 1.0 };
        for divergence in [FDivergence::ReverseKl, alpha_1] {
            prop_assert_eq!(reference::f_dpo_loss(policy, reference, beta, divergence), dpo);
            prop_assert_eq!(reference::cdpo_loss(policy, reference, beta, 0.0, divergence), dpo);
            prop_assert_eq!(reference::robust_loss(policy, reference, beta, 0.0, divergence), dpo);
        }
        prop_assert_eq!(reference::soft_dpo_loss(policy, reference, beta, 0.0, 1.0), dpo);
        prop_assert_eq!(reference::odpo_loss(policy, reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::dpop_loss(policy, reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::r_dpo_loss(counted(policy, 3, 9), reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::r_dpo_loss(counted(policy, 4, 4), reference, beta, 7.0), dpo);
        let one_token = counted(policy, 1, 1);
        prop_assert_eq!(reference::sigmoid_norm_loss(one_token, reference, beta, FDivergence::ReverseKl), dpo);
        prop_assert_eq!(reference::cpo_loss(policy, beta, 0.0), reference::dpo_loss(policy, ZERO, beta));
        prop_assert_eq!(reference::simpo_loss(one_token, beta, 0.0), reference::dpo_loss(policy, ZERO, beta));

        for ranked in [1, 2] {
            let ranking = reference::plackett_luce_loss(&flat(policy), &flat(reference), beta, ranked);
            prop_assert_eq!(ranking, RankingLossAndGradient { value: dpo.value, gradient: flat(dpo.gradient).into() });
        }
        Ok(())
    });
}

#[test]
fn optimal_transport_of_one_pair_is_label_smoothing() {
    for_all_numbers(moderate(), |case| {
        let (policy, reference, beta, epsilon) = (case.sums(), case.references[0], case.beta, case.epsilon);
        let cdpo = reference::cdpo_loss(policy, reference, beta, epsilon, FDivergence::ReverseKl);
        for aot in [reference::aot_loss, reference::aot_unpaired_loss] {
            let batch = aot(&[policy], &[reference], beta, epsilon);
            let aot = loss(batch.values[0], batch.gradients[0].chosen, batch.gradients[0].rejected);
            prop_assert!(close(aot, cdpo, 1e-14), "{aot:?} {cdpo:?}");
        }
        Ok(())
    });
}

#[test]
fn alpha_divergences_join_the_others_without_a_step() {
    for_all_numbers((moderate(), any_pair(), any_pair()), |(case, policy, reference)| {
        let beta = case.beta;
        let of = |alpha| reference::f_dpo_loss(*policy, *reference, beta, FDivergence::AlphaDivergence { alpha });
        let forward = reference::f_dpo_loss(*policy, *reference, beta, FDivergence::ForwardKl);
        prop_assert_eq!(of(0.0), forward);

        let (policy, reference) = (case.sums(), case.references[0]);
        let of = |alpha| reference::f_dpo_loss(policy, reference, beta, FDivergence::AlphaDivergence { alpha });
        for near in [1.0 - 1e-9, 1.0 + 1e-9, 1.0 + f64::EPSILON] {
            // log-ratios u are below 3 and s(u) moves by (α − 1)u²/2, which moves z by at most twice that
            prop_assert!(close(of(near), of(1.0), 1e-8), "{:?} {:?}", of(near), of(1.0));
        }
        let (policy, gamma) = (case.policies[0], case.offset);
        let simpo = reference::simpo_loss(policy, beta, gamma);
        prop_assert_eq!(reference::alphapo_loss(policy, beta, 0.0, gamma), simpo);
        for near in [1e-9, -1e-9, 1e-300] {
            prop_assert!(close(reference::alphapo_loss(policy, beta, near, gamma), simpo, 1e-8));
        }
        Ok(())
    });
}

/// `ℓ_ε(z) = (1 − ε)·ℓ(z) + ε·ℓ(−z)`, and with the rate of flips known the mixture is undone.
#[test]
fn label_smoothing_mixes_both_labels_and_robust_dpo_takes_them_apart() {
    let swapped = |of: Pair| pair(of.rejected, of.chosen);
    for_all_numbers((any_pair(), any_pair(), 0.01..2.0f64, 0.0..0.49f64), |&(policy, reference, beta, epsilon)| {
        let mixed = |right: LossAndGradient, wrong: LossAndGradient| {
            let mix = |right: f64, wrong: f64| (1.0 - epsilon) * right + epsilon * wrong;
            let (right_gradient, wrong_gradient) = (right.gradient, swapped(wrong.gradient));
            loss(
                mix(right.value, wrong.value),
                mix(right_gradient.chosen, wrong_gradient.chosen),
                mix(right_gradient.rejected, wrong_gradient.rejected),
            )
        };
        for divergence in [FDivergence::ReverseKl, FDivergence::JsDivergence] {
            let dpo = |policy, reference| reference::f_dpo_loss(policy, reference, beta, divergence);
            let cdpo = |epsilon| reference::cdpo_loss(policy, reference, beta, epsilon, divergence);
            let right = dpo(policy, reference);
            let wrong = dpo(swapped(policy), swapped(reference));
            prop_assert!(close(cdpo(epsilon), mixed(right, wrong), 1e-13));

            let half = reference::cdpo_loss(swapped(policy), swapped(reference), beta, 0.5, divergence);
            prop_assert_eq!(cdpo(0.5), LossAndGradient { gradient: swapped(half.gradient), ..half });

            // 1/(1 − 2ε) ≤ 50 enlarges rounding, twice
            let robust = |policy, reference| reference::robust_loss(policy, reference, beta, epsilon, divergence);
            let undone = mixed(robust(policy, reference), robust(swapped(policy), swapped(reference)));
            let scale = robust(policy, reference).value.abs();
            prop_assert!((undone.value - right.value).abs() <= 1e-13 * (1.0 + scale), "{undone:?} {right:?}");
            prop_assert!((undone.gradient.chosen - right.gradient.chosen).abs() <= 1e-12);
            prop_assert!((undone.gradient.rejected - right.gradient.rejected).abs() <= 1e-12);
        }
        // 1 − (1 − ε) is ε only to within u
        let soft = reference::soft_dpo_loss(policy, reference, beta, 0.0, 1.0 - epsilon);
        let cdpo = reference::cdpo_loss(policy, reference, beta, epsilon, FDivergence::ReverseKl);
        let z = beta * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected));
        prop_assert!(close(soft, cdpo, 1e-15 * (1.0 + z.abs())), "{soft:?} {cdpo:?}");
        Ok(())
    });
}

#[test]
fn exo_is_zero_and_flat_where_the_policy_prefers_as_the_labels_say() {
    for_all_numbers(0.001..0.5f64, |&epsilon| {
        let at = |z| reference::exo_pair_loss(pair(z, 0.0), ZERO, 1.0, epsilon, FDivergence::ReverseKl);
        let best = at(((1.0 - epsilon) / epsilon).ln());
        prop_assert!(best.value.abs() < 1e-15 && best.gradient.chosen.abs() < 1e-15, "{best:?}");
        prop_assert!(at(-3.0).value > 0.0 && at(9.0).value > 0.0);
        Ok(())
    });
}

/// `ℓ(a, b) − ℓ(b, a) = −β(a − b)` for BCO, which also treats leaving and joining alike: `ℓ(a, b) = ℓ(−b, −a)`; NCA is BCO and
/// half of what both sides differ by.
#[test]
fn swapping_the_labels_changes_bco_and_nca_as_their_terms_say() {
    for_all_numbers((any_pair(), 0.01..2.0f64), |&(of, beta)| {
        let Pair { chosen: a, rejected: b } = of;
        let bco = |a, b| reference::bco_pair_loss(pair(a, b), ZERO, beta);
        let nca = |a, b| reference::nca_pair_loss(pair(a, b), ZERO, beta);
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let scale = 1e-13 * (1.0 + beta * (a.abs() + b.abs()));
        let near = |x: f64, y: f64| (x - y).abs() <= scale;
        prop_assert!(near(bco(a, b).value - bco(b, a).value, -beta * (a - b)));
        prop_assert_eq!(bco(a, b).value, bco(-b, -a).value);
        prop_assert!(near(nca(a, b).value, bco(a, b).value + 0.5 * (softplus(beta * a) - softplus(beta * b))));
        prop_assert!(near(nca(a, b).value - nca(b, a).value, softplus(-beta * a) - softplus(-beta * b)));
        Ok(())
    });
}

#[test]
fn where_policy_and_reference_agree_losses_have_their_starting_values() {
    let at = pair(-7.0, -5.0);
    assert_eq!(reference::apo_zero_loss(at, at, 0.5), loss(1.0, -0.125, 0.125));
    assert_eq!(reference::apo_down_loss(at, at, 0.5), loss(1.0, 0.0, 0.125));
    assert_eq!(reference::nca_pair_loss(at, at, 0.5), loss(2.0 * LN_2, -0.125, 0.125));
    assert_eq!(reference::bco_pair_loss(at, at, 0.5), loss(2.0 * LN_2, -0.25, 0.25));
    assert_eq!(reference::sppo_hard_loss(at, at, 0.5), loss(2.0, -2.0, 2.0));
    assert_eq!(reference::dpop_loss(at, at, 0.5, 50.0), loss(LN_2, -0.25, 0.25)); // the penalty's kink
    for divergence in DIVERGENCES {
        assert_eq!(reference::f_dpo_loss(at, at, 0.5, divergence).value, LN_2);
        assert_eq!(reference::hinge_loss(at, at, 0.5, divergence).value, 1.0);
        assert_eq!(reference::ipo_loss(counted(at, 3, 5), at, 0.5, divergence).value, 1.0);
        assert_eq!(reference::sigmoid_norm_loss(counted(at, 3, 5), at, 0.5, divergence).value, LN_2);
        let discopop = reference::discopop_loss(at, at, 0.5, 0.05, divergence).value;
        assert!((discopop - (0.5 * LN_2 + 0.5)).abs() < 1e-15);
    }
}

#[test]
fn hinges_are_flat_at_the_kink() {
    let reverse = FDivergence::ReverseKl;
    let hinge = |z: f64| reference::hinge_loss(pair(z, 0.0), ZERO, 1.0, reverse);
    assert_eq!(hinge(1.0), loss(0.0, 0.0, 0.0));
    assert_eq!(hinge(1.0 - f64::EPSILON), loss(f64::EPSILON, -1.0, 1.0));
    assert_eq!(reference::slic_loss(pair(-1.0, -3.0), 2.0), loss(0.0, 0.0, 0.0));
    assert_eq!(reference::slic_loss(pair(-1.0, -3.0), 2.5), loss(0.5, -1.0, 1.0));
}

#[test]
fn optimal_transport_looks_at_ranks_alone() {
    for_all_numbers((moderate(), any::<prop::sample::Index>()), |(case, shift)| {
        let shift = shift.index(case.policies.len());
        let mut moved = case.clone();
        moved.policies.rotate_left(shift);
        for aot in [reference::aot_loss, reference::aot_unpaired_loss] {
            let of = aot(&case.all_sums(), &case.references, case.beta, case.epsilon);
            let mut rotated = of.gradients.clone();
            rotated.rotate_left(shift);

            let mut references = case.references.clone();
            references.rotate_left(shift);
            let together = aot(&moved.all_sums(), &references, case.beta, case.epsilon);
            prop_assert_eq!(&together.values, &of.values);
            prop_assert_eq!(&together.gradients, &rotated);
        }
        // policy margins are compared with reference margins, whichever pair they are of
        let alone = reference::aot_loss(&moved.all_sums(), &case.references, case.beta, case.epsilon);
        let of = reference::aot_loss(&case.all_sums(), &case.references, case.beta, case.epsilon);
        prop_assert_eq!(alone.values, of.values);
        Ok(())
    });
}

#[test]
fn of_tied_pairs_the_earlier_one_has_the_lower_rank() {
    // policy margins 0 and −0 tie; reference margins are −1 and 1
    let policies = [pair(0.0, 0.0), pair(-0.0, 0.0)];
    let references = [pair(-1.0, -2.0), pair(-2.0, -1.0)];
    let of = reference::aot_loss(&policies, &references, 1.0, 0.0);
    let at = |z| reference::dpo_loss(pair(z, 0.0), ZERO, 1.0);
    assert_eq!(of.values, [at(1.0).value, at(-1.0).value]);
    assert_eq!(of.gradients, [at(1.0).gradient, at(-1.0).gradient]);

    let unpaired = reference::aot_unpaired_loss(&[pair(0.0, 1.0), pair(-0.0, -1.0)], &[ZERO, ZERO], 1.0, 0.0);
    assert_eq!(unpaired.values, [at(1.0).value, at(-1.0).value]);
    let (better, worse) = (at(1.0).gradient, at(-1.0).gradient);
    assert_eq!(unpaired.gradients, [pair(better.chosen, worse.rejected), pair(worse.chosen, better.rejected)]);
}

#[test]
fn nan_has_the_highest_rank_and_stays_alone() {
    let policies = [pair(f64::NAN, 0.0), pair(-1.0, 0.0), pair(-2.0, 0.0)];
    let of = reference::aot_loss(&policies, &[ZERO; 3], 1.0, 0.0);
    assert!(of.values[0] > of.values[1] && of.values[2].is_nan());
    assert!(of.gradients[0].chosen.is_nan() && !of.gradients[1].chosen.is_nan() && !of.gradients[2].chosen.is_nan());
}

/// A whole ranking is a choice of the best, then a ranking of the rest.
#[test]
fn rankings_are_choices_one_after_another() {
    for_all_numbers((vec((-9.0..0.0f64, -9.0..0.0f64), 1..7), 0.01..2.0f64), |(log_probs, beta)| {
        let (policy, reference): (Vec<f64>, Vec<f64>) = log_probs.iter().copied().unzip();
        let of =
            |skip: usize, ranked| reference::plackett_luce_loss(&policy[skip..], &reference[skip..], *beta, ranked);
        let all = policy.len();
        prop_assert!((of(0, all).value - (of(0, 1).value + of(1, all).value)).abs() <= 1e-13);
        prop_assert_eq!(of(0, all), of(0, all - 1));
        prop_assert_eq!(of(0, all), of(0, all + 5));
        prop_assert_eq!(of(0, 0).value, 0.0);
        // probabilities of all rankings of three sum to 1
        if let [x, y, z, ..] = log_probs[..] {
            let orders = [[x, y, z], [x, z, y], [y, x, z], [y, z, x], [z, x, y], [z, y, x]];
            let probability = |order: [(f64, f64); 3]| {
                let (policy, reference): (Vec<f64>, Vec<f64>) = order.into_iter().unzip();
                (-reference::plackett_luce_loss(&policy, &reference, *beta, 3).value).exp()
            };
            prop_assert!((orders.map(probability).iter().sum::<f64>() - 1.0).abs() <= 1e-14);
        }
        // adding the same to all strengths changes nothing
        prop_assert!(of(0, all).gradient.iter().sum::<f64>().abs() <= 1e-14);
        Ok(())
    });
}

#[test]
fn the_likelihood_term_is_the_mean_over_all_tokens() {
    let side = |sum, token_count| SequenceLogProb { sum, token_count };
    let of = reference::sft_loss(&[side(-3.0, 1), side(-5.0, 3), side(f64::NAN, 0)]);
    assert_eq!(of.values, [2.0; 3]);
    assert_eq!(of.gradients, [pair(-0.75, 0.0), pair(-0.75, 0.0), ZERO]);
    let alone = reference::nll_loss(side(-5.0, 4));
    assert_eq!(alone, UnpairedLossAndGradient { value: 1.25, gradient: -0.25 });
    assert_eq!(reference::sft_loss(&[side(-5.0, 4)]).values, [alone.value]);
}

#[test]
fn means_and_sums_of_a_pair_are_those_of_its_completions() {
    let of = counted(pair(-6.0, -8.0), 3, 0);
    assert_eq!(of.sums(), pair(-6.0, -8.0));
    assert_eq!(of.means(), pair(-2.0, 0.0));
}

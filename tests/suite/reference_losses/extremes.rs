//! Near the ends of the range of f64.

use super::*;

/// One pair and all parameters, of which those that are not mentioned are moderate.
fn extreme(numbers: impl Strategy<Value = f64> + Clone) -> impl Strategy<Value = Case> {
    let count = || select(vec![0usize, 1, 2, 7]);
    let side = |numbers| (numbers, count()).prop_map(|(sum, token_count)| SequenceLogProb { sum, token_count });
    let pair = (side(numbers.clone()), side(numbers.clone()), numbers.clone(), numbers);
    (vec(pair, 2), select(&DIVERGENCES[..]), moderate()).prop_map(|(pairs, divergence, case)| {
        let (policies, references) = pairs
            .into_iter()
            .map(|(chosen, rejected, of_chosen, of_rejected)| {
                (SequencePair { chosen, rejected }, Pair { chosen: of_chosen, rejected: of_rejected })
            })
            .unzip();
        Case { policies, references, divergence, ranked: case.ranked.min(4), ..case }
    })
}

/// Whatever overflows is ±∞, not NaN.
#[test]
fn no_loss_is_nan_for_finite_log_probs() {
    let numbers = select(vec![0.0, -1e-300, -1.0, -17.0, -89.0, -709.0, -745.0, -1e4, -1e30, 1e30, 1e4, 800.0]);
    for_all_numbers(vec(extreme(numbers), 40), |cases| {
        for case in cases {
            for temperature in [1e-30, 0.05, 1.0, 3.0] {
                let case = Case { temperature, ..case.clone() };
                for member in &MEMBERS {
                    let of = (member.stable)(&case);
                    prop_assert!(!of.numbers().any(f64::is_nan), "{}: {of:?} at {case:?}", member.name);
                }
            }
        }
        Ok(())
    });
}

/// Scores that are exponentials overflow, and so does DiscoPOP above τ = 1; all else is finite.
#[test]
fn every_loss_of_log_probs_from_0_to_minus_1e30_is_finite() {
    let numbers = select(vec![0.0, -1e30]);
    for_all_numbers(vec(extreme(numbers), 40), |cases| {
        for case in cases {
            for divergence in [FDivergence::ReverseKl, FDivergence::JsDivergence] {
                let (alpha, temperature) = (case.alpha.min(0.0), case.temperature.min(1.0));
                let case = Case { divergence, alpha, temperature, ..case.clone() };
                for member in &MEMBERS {
                    let of = (member.stable)(&case);
                    prop_assert!(of.numbers().all(f64::is_finite), "{}: {of:?} at {case:?}", member.name);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn nan_in_a_log_prob_is_nan_in_every_loss() {
    for_all_numbers(moderate(), |case| {
        for divergence in DIVERGENCES {
            let case = Case { divergence, ..case.clone() }.with_log_prob(0, f64::NAN);
            for member in &MEMBERS {
                prop_assert!((member.stable)(&case).value().is_nan(), "{}, {divergence:?}", member.name);
            }
        }
        Ok(())
    });
}

/// Worked out by hand; `a` and `b` are the log-ratios.
#[test]
fn scores_that_overflow_saturate_where_their_difference_does() {
    let f_dpo = |a, b, divergence| reference::f_dpo_loss(pair(a, b), ZERO, 0.5, divergence);
    for divergence in [FDivergence::ForwardKl, FDivergence::AlphaDivergence { alpha: 0.5 }] {
        // equal scores, infinite derivatives
        assert_eq!(f_dpo(-HUGE, -HUGE, divergence), loss(LN_2, -INF, INF));
        // z = −∞: the derivative of the rejected score is 1 at 0
        assert_eq!(f_dpo(-HUGE, 0.0, divergence), loss(INF, -INF, 0.5));
        assert_eq!(f_dpo(0.0, -HUGE, divergence), loss(0.0, 0.0, 0.0));
        // scores level off
        assert_eq!(f_dpo(HUGE, HUGE, divergence), loss(LN_2, 0.0, 0.0));
    }
    assert_eq!(f_dpo(HUGE, HUGE, FDivergence::AlphaDivergence { alpha: 2.0 }), loss(LN_2, -INF, INF));
    assert_eq!(f_dpo(-HUGE, -HUGE, FDivergence::JsDivergence), loss(LN_2, -0.25, 0.25));
    assert_eq!(f_dpo(-HUGE, 0.0, FDivergence::JsDivergence), loss(0.5 * HUGE, -0.5, 0.25));
    assert_eq!(f_dpo(HUGE, HUGE, FDivergence::JsDivergence), loss(LN_2, 0.0, 0.0));

    // a term of weight 0 stays 0
    for (a, b) in [(-HUGE, 0.0), (0.0, -HUGE)] {
        for divergence in DIVERGENCES {
            let expected = f_dpo(a, b, divergence);
            assert_eq!(reference::cdpo_loss(pair(a, b), ZERO, 0.5, 0.0, divergence), expected);
            assert_eq!(reference::robust_loss(pair(a, b), ZERO, 0.5, 0.0, divergence), expected);
        }
    }

    // scores near each other: log σ(h) + log 2 = h/2 − h²/8
    let h = 2f64.powi(-30);
    let of = reference::hinge_loss(pair(h, 0.0), ZERO, 1.0 / h, FDivergence::JsDivergence);
    assert!((of.value - (0.5 + h / 8.0)).abs() < 1e-15, "{of:?}");

    // a tiny β times an exponential out of range is in range: 1e-300·(e^1000 − e^999)
    let z = (1000.0 + 1e-300f64.ln()).exp() * (1.0 - (-1f64).exp());
    let of = reference::hinge_loss(pair(-1000.0, -999.0), ZERO, 1e-300, FDivergence::ForwardKl);
    assert!((of.value / z - 1.0).abs() < 1e-12, "{of:?}");
    assert!((of.gradient.chosen / (-z / (1.0 - (-1f64).exp())) - 1.0).abs() < 1e-12, "{of:?}");
}

#[test]
fn length_normalized_scores_that_overflow_saturate_where_their_difference_does() {
    let forward = FDivergence::ForwardKl;
    let ipo = |a, b, chosen, rejected| reference::ipo_loss(counted(pair(a, b), chosen, rejected), ZERO, 0.5, forward);
    // the difference is 0, the target 1
    assert_eq!(ipo(-HUGE, -HUGE, 2, 2), loss(1.0, -INF, INF));
    // −e^1e30/2 + e^1e30/4 is −∞
    assert_eq!(ipo(-HUGE, -HUGE, 2, 4), loss(INF, -INF, INF));
    // 2(e^1e30/4)·e^−1e30/2 is a number, though neither factor is
    let apart = ipo(HUGE, -HUGE, 2, 4);
    assert_eq!((apart.value, apart.gradient.rejected), (INF, -INF));
    assert!((apart.gradient.chosen - 0.25).abs() < 1e-15, "{apart:?}");

    let norm = |a, b| reference::sigmoid_norm_loss(counted(pair(a, b), 2, 4), ZERO, 0.5, forward);
    assert_eq!(norm(-HUGE, -HUGE), loss(INF, -INF, INF));
    assert_eq!(norm(HUGE, -HUGE), loss(0.0, 0.0, 0.0));

    let alphapo = |c, r, alpha| reference::alphapo_loss(counted(pair(c, r), 2, 2), 0.5, alpha, 0.0);
    assert_eq!(alphapo(-HUGE, -HUGE, 0.25), loss(LN_2, -INF, INF));
    assert_eq!(alphapo(-HUGE, 0.0, 0.25), loss(INF, -INF, 0.25));
    assert_eq!(alphapo(-HUGE, -HUGE, -0.25), loss(LN_2, 0.0, 0.0));
}

#[test]
fn losses_of_huge_margins_are_their_limits() {
    let reverse = FDivergence::ReverseKl;
    let (right, wrong) = (pair(HUGE, 0.0), pair(-HUGE, 0.0));

    assert_eq!(reference::cdpo_loss(right, ZERO, 1.0, 0.25, reverse), loss(0.25 * HUGE, 0.25, -0.25));
    assert_eq!(reference::cdpo_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(0.75 * HUGE, -0.75, 0.75));
    assert_eq!(reference::robust_loss(right, ZERO, 1.0, 0.25, reverse), loss(-0.5 * HUGE, -0.5, 0.5));
    assert_eq!(reference::robust_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(1.5 * HUGE, -1.5, 1.5));
    let (from_right, from_wrong) = (-(-0.25f64).ln_1p(), -(0.25f64.ln()));
    assert_eq!(reference::exo_pair_loss(right, ZERO, 1.0, 0.25, reverse), loss(from_right, 0.0, 0.0));
    assert_eq!(reference::exo_pair_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(from_wrong, 0.0, 0.0));
    assert_eq!(reference::hinge_loss(right, ZERO, 1.0, reverse), loss(0.0, 0.0, 0.0));
    assert_eq!(reference::hinge_loss(wrong, ZERO, 1.0, reverse), loss(HUGE, -1.0, 1.0));

    for temperature in [0.05, 0.5] {
        let discopop = |policy| reference::discopop_loss(policy, ZERO, 1.0, temperature, reverse);
        assert_eq!(discopop(wrong), loss(HUGE, -1.0, 1.0));
        assert_eq!(discopop(right), loss(0.0, 0.0, 0.0));
    }
    // at τ = 1 the second term tends to 1, beyond it grows without bound
    assert_eq!(reference::discopop_loss(pair(-50.0, 0.0), ZERO, 1.0, 1.0, reverse), loss(51.0, -1.0, 1.0));
    assert_eq!(reference::discopop_loss(wrong, ZERO, 1.0, 2.0, reverse), loss(INF, -INF, INF));

    assert_eq!(reference::nca_pair_loss(right, ZERO, 1.0), loss(0.5 * HUGE, 0.5, 0.25));
    assert_eq!(reference::nca_pair_loss(wrong, ZERO, 1.0), loss(HUGE, -1.0, 0.25));
    assert_eq!(reference::bco_pair_loss(wrong, ZERO, 1.0), loss(HUGE, -1.0, 0.5));
    assert_eq!(reference::apo_zero_loss(right, ZERO, 1.0), loss(0.5, 0.0, 0.25));
    assert_eq!(reference::apo_zero_loss(wrong, ZERO, 1.0), loss(1.5, 0.0, 0.25));
    assert_eq!(reference::apo_down_loss(right, ZERO, 1.0), loss(1.0, 0.0, 0.0));
    assert_eq!(reference::apo_down_loss(wrong, ZERO, 1.0), loss(1.0, 0.0, 0.0));
    assert_eq!(reference::sppo_hard_loss(wrong, ZERO, 0.5), loss(HUGE * HUGE, -2.0 * HUGE, 2.0));
    assert_eq!(reference::dpop_loss(wrong, ZERO, 1.0, 2.0), loss(3.0 * HUGE, -3.0, 1.0));
    assert_eq!(reference::odpo_loss(wrong, ZERO, 1.0, 5.0), loss(HUGE, -1.0, 1.0));
    assert_eq!(reference::slic_loss(wrong, 1.0), loss(HUGE, -1.0, 1.0));
    assert_eq!(reference::simpo_loss(counted(wrong, 2, 4), 1.0, 1.0), loss(0.5 * HUGE, -0.5, 0.25));

    // small, but not 0: 1 − σ(40) would be
    let apo = reference::apo_zero_loss(pair(40.0, -40.0), ZERO, 1.0);
    assert!((apo.value / (2.0 * (-40f64).exp()) - 1.0).abs() < 1e-14, "{apo:?}");

    let unpaired = |value, gradient| UnpairedLossAndGradient { value, gradient };
    assert_eq!(reference::kto_loss(-HUGE, 0.0, true, 1.0, 1.0, 3.0, 1.0), unpaired(3.0, 0.0));
    assert_eq!(reference::kto_loss(-HUGE, 0.0, false, 1.0, 1.0, 3.0, 1.0), unpaired(0.0, 0.0));
    assert_eq!(reference::bco_loss(-HUGE, 0.0, true, 1.0, 1.0), unpaired(HUGE, -1.0));
    assert_eq!(reference::bco_loss(-HUGE, 0.0, false, 1.0, 1.0), unpaired(0.0, 0.0));

    let worst_first = reference::plackett_luce_loss(&[-HUGE, 0.0, 0.0], &[0.0; 3], 1.0, 3);
    assert_eq!(worst_first, RankingLossAndGradient { value: HUGE + 2.0 * LN_2, gradient: vec![-1.0, 0.0, 1.0] });
}

#[test]
fn certainty_has_the_largest_odds_of_f32() {
    let certain = f64::from(f32::MIN_POSITIVE);
    let odds = |c, r| reference::orpo_loss(counted(pair(c, r), 2, 4));
    assert_eq!(odds(0.0, 0.0), loss(LN_2, -0.25 / certain, 0.125 / certain));
    assert_eq!(odds(0.0, -HUGE), loss(0.0, 0.0, 0.0));
    let wrong = odds(-HUGE, 0.0);
    assert_eq!((wrong.value, wrong.gradient.chosen), (0.5 * HUGE, -0.5));
    assert!((wrong.gradient.rejected * certain / 0.25 - 1.0).abs() < 1e-13, "{wrong:?}");
    // y ≈ 787, where σ(−y) is 0: e^−787/1.2e-38 is not
    let small = odds(0.0, -2800.0);
    assert!((small.gradient.chosen / (-0.5 * (-700f64).exp()) - 1.0).abs() < 1e-12, "{small:?}");
}

/// An empty completion is left out, whatever its log-prob.
#[test]
fn empty_completions_count_for_nothing_where_tokens_are_counted() {
    for_all_numbers(moderate(), |case| {
        let mut with_nan = case.clone();
        with_nan.policies[0].chosen = SequenceLogProb { sum: f64::NAN, token_count: 0 };
        let mut without = case.clone();
        without.policies[0].chosen = SequenceLogProb { sum: 0.0, token_count: 0 };
        let normalized =
            ["ipo_loss", "sigmoid_norm_loss", "sft_loss", "nll_loss", "simpo_loss", "alphapo_loss", "orpo_loss"];
        for member in MEMBERS.iter().filter(|member| normalized.contains(&member.name)) {
            let of = (member.stable)(&with_nan);
            prop_assert_eq!(&of, &(member.stable)(&without), "{}", member.name);
            prop_assert_eq!(of.gradient[0], 0.0, "{}", member.name);
            prop_assert!(!of.value().is_nan(), "{}", member.name);
        }
        Ok(())
    });
    assert_eq!(reference::sft_loss(&[]), BatchLossAndGradient { values: vec![], gradients: vec![] });
}

//! The f64 reference against itself and against numbers worked out elsewhere: what all else is tested against must be
//! right by its own lights.

use burn_dpo::{
    Error,
    reference::{
        Pair, SequenceLogProb, TokenRows, as_printed, dpo_loss, sequence_log_probs, token_log_prob,
        token_log_prob_gradient, token_log_probs, token_log_probs_gradient,
    },
};
use proptest::{collection::vec, prelude::*};

use crate::{devices::for_all_numbers, pairs::Sums};

/// `−log σ(z)` and `σ(−z)` to 17 digits, computed with 60 (mpmath).
const TABLE: [(f64, f64, f64); 8] = [
    (0.0, std::f64::consts::LN_2, 0.5),
    (1.0, 0.313_261_687_518_222_8, 0.268_941_421_369_995_1),
    (-1.0, 1.3132616875182228, 0.731_058_578_630_004_9),
    (17.0, 4.139_937_633_089_748e-8, 4.1399375473943306e-8),
    (40.0, 4.248_354_255_291_589e-18, 4.248_354_255_291_589e-18),
    (-40.0, 40.000000000000000004, 1.0),
    (700.0, 9.859_676_543_759_77e-305, 9.859_676_543_759_77e-305),
    (-1e30, 1e30, 1.0),
];

#[test]
fn the_loss_has_the_values_of_the_table() {
    for (z, value, derivative) in TABLE {
        let pair = Sums::with_delta(z);
        let loss = dpo_loss(pair.policy, pair.reference, 1.0);
        assert!((loss.value - value).abs() <= 4.0 * f64::EPSILON * value, "ℓ({z}) = {:e}", loss.value);
        assert!(
            (loss.gradient.chosen + derivative).abs() <= 4.0 * f64::EPSILON * derivative,
            "ℓ′({z}) = {:e}",
            loss.gradient.chosen
        );
        assert_eq!(loss.gradient.rejected, -loss.gradient.chosen);
    }
}

/// Where `1 − σ` does not cancel and nothing overflows.
#[test]
fn the_printed_equation_and_the_stable_one_agree() {
    for_all_numbers((pairs(), pairs(), 0.01..2.0f64), |&(policy, reference, beta)| {
        let (stable, printed) = (dpo_loss(policy, reference, beta), as_printed::dpo_loss(policy, reference, beta));
        // σ is off by 2ε, and as its logarithm −ln σ is off by 2ε/σ.
        let z = -stable.value.exp_m1().ln();
        let bound = 8.0 * f64::EPSILON * (1.0 + (-z).exp() + z.abs());
        prop_assert!((stable.value - printed.value).abs() <= bound, "{stable:?} {printed:?}");
        prop_assert!(
            (stable.gradient.chosen - printed.gradient.chosen).abs() <= beta * bound,
            "{stable:?} {printed:?}"
        );
        Ok(())
    });
}

#[test]
fn the_gradient_of_the_loss_is_its_finite_difference() {
    for_all_numbers((pairs(), pairs(), 0.01..2.0f64), |&(policy, reference, beta)| {
        let step = 1e-5;
        let value = |chosen: f64, rejected: f64| {
            let moved = Pair { chosen: policy.chosen + chosen, rejected: policy.rejected + rejected };
            dpo_loss(moved, reference, beta).value
        };
        let gradient = dpo_loss(policy, reference, beta).gradient;
        let bound = beta.powi(3) * step * step + 100.0 * f64::EPSILON / step;
        for (derivative, difference) in [
            (gradient.chosen, value(step, 0.0) - value(-step, 0.0)),
            (gradient.rejected, value(0.0, step) - value(0.0, -step)),
        ] {
            prop_assert!((derivative - difference / (2.0 * step)).abs() <= bound, "{derivative} {difference}");
        }
        Ok(())
    });
}

/// Moderate log-probs.
fn pairs() -> impl Strategy<Value = Pair> {
    (-12.0..0.0f64, -12.0..0.0f64).prop_map(|(chosen, rejected)| Pair { chosen, rejected })
}

#[test]
fn probabilities_sum_to_one_and_gradients_to_zero() {
    for_all_numbers(vec(-700.0..700.0f64, 1..20), |logits| {
        let probabilities: f64 = (0..logits.len()).map(|id| token_log_prob(logits, id).exp()).sum();
        prop_assert!((probabilities - 1.0).abs() <= 1e-12, "{probabilities}");
        for id in 0..logits.len() {
            let sum: f64 = token_log_prob_gradient(logits, id).iter().sum();
            prop_assert!(sum.abs() <= 1e-14, "{sum}");
        }
        Ok(())
    });
}

#[test]
fn the_gradient_of_a_log_prob_is_its_finite_difference() {
    for_all_numbers((vec(-8.0..8.0f64, 1..8), 0..8usize), |(logits, id)| {
        let (id, step) = (id % logits.len(), 1e-5);
        for (v, partial) in token_log_prob_gradient(logits, id).into_iter().enumerate() {
            let moved = |step: f64| {
                let mut logits = logits.clone();
                logits[v] += step;
                token_log_prob(&logits, id)
            };
            let difference = (moved(step) - moved(-step)) / (2.0 * step);
            prop_assert!((partial - difference).abs() <= 1e-9, "{partial} {difference}");
        }
        Ok(())
    });
}

#[test]
fn log_probs_of_extreme_logits_are_their_limits() {
    let inf = f64::INFINITY;
    assert_eq!(token_log_prob(&[0.0, -inf], 0), 0.0);
    assert_eq!(token_log_prob(&[0.0, -inf], 1), -inf);
    assert_eq!(token_log_prob(&[1e300, -1e300], 1), -2e300);
    assert_eq!(token_log_prob_gradient(&[0.0, -inf], 1), [-1.0, 1.0]);
    for (logits, id) in [([0.0, f64::NAN], 0), ([0.0, inf], 0), ([-inf, -inf], 0), ([0.0, 0.0], 2)] {
        assert!(token_log_prob(&logits, id).is_nan(), "{logits:?}");
        assert!(token_log_prob_gradient(&logits, id).iter().all(|partial| partial.is_nan()), "{logits:?}");
    }
}

/// Two sequences of three tokens over two ids: one prompt token, and padding in the second.
fn rows<'a>(logits: &'a [f64], tokens: &'a [i64], mask: &'a [bool]) -> TokenRows<'a> {
    TokenRows { logits, tokens, mask, time: 3, vocab: 2 }
}

#[test]
fn a_position_predicts_the_next_token_where_the_mask_counts_it() {
    let third = 0.5f64.ln(); // logits ln 1 and ln 2: probabilities ⅓ and ⅔
    let logits = [0.0, -third, 0.0, 0.0, f64::NAN, 0.0, 0.0, 0.0, f64::NAN, 0.0, 0.0, 0.0];
    let rows = rows(&logits, &[9, 1, 0, 9, 1, 9], &[true, true, true, true, true, false]);
    let two_thirds = (2.0 / 3.0f64).ln();
    let expected = [two_thirds, 0.5f64.ln(), 0.5f64.ln(), 0.0];
    for (actual, expected) in token_log_probs(rows).unwrap().into_iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-15);
    }
    let [first, second] = sequence_log_probs(rows).unwrap().try_into().unwrap();
    assert!((first.sum - (two_thirds + 0.5f64.ln())).abs() < 1e-15);
    assert_eq!((first.token_count, second.token_count), (2, 1));
    assert_eq!(first.mean(), first.sum / 2.0);
    assert_eq!(SequenceLogProb { sum: f64::NAN, token_count: 0 }.mean(), 0.0);

    let gradient = token_log_probs_gradient(rows, &[3.0, 1.0, 1.0, f64::NAN]).unwrap();
    let expected = [-1.0, 1.0, 0.5, -0.5, 0.0, 0.0, -0.5, 0.5, 0.0, 0.0, 0.0, 0.0];
    for (actual, expected) in gradient.into_iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-15);
    }
}

#[test]
fn an_id_outside_the_vocabulary_is_nan_where_it_is_counted() {
    let logits = [0.0; 12];
    let rows = rows(&logits, &[9, -1, 2, 9, i64::MIN, 1], &[false, true, true, false, false, true]);
    let [a, b, c, d] = token_log_probs(rows).unwrap().try_into().unwrap();
    assert!(a.is_nan() && b.is_nan());
    assert_eq!((c, d), (0.0, 0.5f64.ln()));
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let shape = |what, expected, actual| Err(Error::Shape { what, expected: vec![expected], actual: vec![actual] });
    let (logits, tokens, mask) = ([0.0; 12], [0; 6], [true; 6]);
    let good = rows(&logits, &tokens, &mask);
    assert_eq!(token_log_probs(TokenRows { tokens: &tokens[..5], ..good }), shape("tokens", 6, 5));
    assert_eq!(token_log_probs(TokenRows { mask: &mask[..5], ..good }), shape("mask", 6, 5));
    assert_eq!(token_log_probs(TokenRows { logits: &logits[..11], ..good }), shape("logits", 12, 11));
    assert_eq!(token_log_probs_gradient(good, &[1.0; 5]), shape("upstream", 4, 5));
    assert!(sequence_log_probs(TokenRows { mask: &mask[..5], ..good }).is_err());
    assert_eq!(token_log_probs(TokenRows { time: 0, ..good }), shape("tokens", 0, 6));
    assert_eq!(token_log_probs(TokenRows { time: 4, ..good }), shape("tokens", 8, 6));
    assert_eq!(token_log_probs(TokenRows { vocab: usize::MAX, ..good }), shape("logits", usize::MAX, 12));
}

#[test]
fn no_tokens_are_no_log_probs() {
    for time in [0, 1, 3] {
        let nothing = TokenRows { logits: &[], tokens: &[], mask: &[], time, vocab: 2 };
        assert_eq!(token_log_probs(nothing), Ok(vec![]));
        assert_eq!(sequence_log_probs(nothing), Ok(vec![]));
        assert_eq!(token_log_probs_gradient(nothing, &[]), Ok(vec![]));
    }
}

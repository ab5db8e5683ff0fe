//! The f64 reference against itself.

use super::*;

#[test]
fn the_references_entropy_and_its_gradient_are_the_printed_formulas() {
    for_all_numbers(proptest::collection::vec(-30.0..30.0f64, 1..9), |logits| {
        let probs: Vec<f64> = (0..logits.len()).map(|v| reference::token_log_prob(logits, v).exp()).collect();
        let entropy: f64 = probs.iter().map(|p| -p * p.ln()).sum();
        prop_assert!((reference::token_entropy(logits) - entropy).abs() <= 1e-14, "{entropy}");
        let squares = probs.iter().map(|p| p * p).sum::<f64>().ln();
        prop_assert!((reference::log_sum_sq_probs(logits) - squares).abs() <= 1e-13, "{squares}");
        let gradient = reference::token_entropy_gradient(logits);
        for (v, partial) in gradient.into_iter().enumerate() {
            let moved = |step: f64| {
                let mut logits = logits.clone();
                logits[v] += step;
                reference::token_entropy(&logits)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            prop_assert!((partial - difference).abs() <= 1e-8, "{partial} {difference}");
            let printed = -probs[v] * (probs[v].ln() + entropy);
            prop_assert!((partial - printed).abs() <= 1e-14, "{partial} {printed}");
        }
        Ok(())
    });
}

#[test]
fn the_references_statistics_of_extreme_logits_are_their_limits() {
    let inf = f64::INFINITY;
    assert_eq!(reference::token_entropy(&[3.0, -inf]), 0.0);
    assert_eq!(reference::token_entropy_gradient(&[3.0, -inf]), [0.0, 0.0]);
    assert_eq!(reference::log_sum_sq_probs(&[3.0, -inf]), 0.0);
    // R = e⁻⁵⁰: H = R·(50 + 1), log Σ p² = −2R, both as R falls.
    let rest = (-50f64).exp();
    assert!((reference::token_entropy(&[50.0, 0.0]) / (51.0 * rest) - 1.0).abs() < 1e-14);
    assert!((reference::log_sum_sq_probs(&[50.0, 0.0]) / (-2.0 * rest) - 1.0).abs() < 1e-14);
    for logits in [[0.0, f64::NAN], [0.0, inf], [-inf, -inf]] {
        assert!(reference::token_entropy(&logits).is_nan(), "{logits:?}");
        assert!(reference::log_sum_sq_probs(&logits).is_nan(), "{logits:?}");
        assert!(reference::token_entropy_gradient(&logits).iter().all(|partial| partial.is_nan()), "{logits:?}");
    }
    assert_eq!(reference::mean_logit(&[1.0, 2.0, 6.0]), 3.0);
    assert!(reference::is_argmax(&[1.0, 2.0, 2.0], 1) && !reference::is_argmax(&[1.0, 2.0, 2.0], 2));
    assert!(!reference::is_argmax(&[1.0, f64::NAN], 0) && !reference::is_argmax(&[1.0, f64::NAN], 1));
}

#[test]
fn the_references_forms_for_pairs_are_what_their_names_say() {
    let (short, long) = ([-1.0, -2.0], [-4.0, -8.0, -16.0, -32.0]);
    for (ld_alpha, rejected) in [(1.0, -60.0), (0.5, -36.0), (0.0, -12.0)] {
        let sums = reference::length_desensitized_sums(&short, &long, ld_alpha);
        assert_eq!((sums.chosen, sums.rejected), (-3.0, rejected));
        let swapped = reference::length_desensitized_sums(&long, &short, ld_alpha);
        assert_eq!((swapped.chosen, swapped.rejected), (rejected, -3.0));
    }
    assert_eq!(reference::length_desensitized_sums(&[], &[f64::NAN], 0.0).rejected, 0.0);
    assert_eq!(reference::wpo_weight(&[0.5, -0.5], &[]), 1.0);
    assert!((reference::wpo_weight(&[1.0, 2.0], &[-1.0]) - 0.5f64.exp()).abs() < 1e-15);
}

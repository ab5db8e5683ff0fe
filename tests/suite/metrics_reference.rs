//! The f64 definitions of metrics against numbers worked out by hand and elsewhere.

use burn_dpo::reference::{
    MeasuredCompletion, MeasuredPair, Pair, SequenceLogProb, SequenceStatistic, implicit_rewards, k3, margin_quantile,
    preference_metrics,
};

/// `x` and `e^−x − 1 + x`, computed with 200 digits (mpmath).
const K3_TABLE: [(f64, f64); 14] = [
    (0.0, 0.0),
    (1e-30, 5.0000000000000005e-61),
    (-1e-12, 5.000000000001666e-25),
    (1e-5, 4.999983333375001e-11),
    (-0.01, 5.016708416805754e-5),
    (0.25, 0.028800783071404868),
    (-0.75, 0.3670000166126747),
    (0.999, 0.3672475046136629),
    (-1.0, 0.7182818284590452),
    (1.0, 0.36787944117144233),
    (3.0, 2.049787068367864),
    (-20.0, 485165174.4097903),
    (700.0, 699.0),
    (-700.0, 1.0142320547350045e304),
];

#[test]
fn metrics_are_what_their_names_say() {
    let side = |sum, token_count| MeasuredCompletion {
        policy: SequenceLogProb { sum, token_count },
        reference: -5.0,
        token_log_ratios: None,
        statistics: None,
    };
    let won = MeasuredPair { loss: 0.25, beta: 0.5, chosen: side(-4.0, 3), rejected: side(-6.0, 2) };
    let tied = MeasuredPair { loss: 0.75, beta: 0.5, chosen: side(-5.0, 1), rejected: side(-5.0, 0) };
    let lost = MeasuredPair { loss: 0.5, beta: 4.0, chosen: side(-6.0, 1), rejected: side(-4.5, 1) };

    let pair = |chosen, rejected| Pair { chosen, rejected };
    assert_eq!(implicit_rewards(pair(-4.0, -6.0), pair(-5.0, -5.0), 0.5), pair(0.5, -0.5));

    let metrics = preference_metrics(&[won.clone(), tied]);
    assert_eq!((metrics.loss, metrics.reward_margin, metrics.reward_accuracy), (0.5, 0.5, 0.5));
    assert_eq!((metrics.wins, metrics.ties, metrics.misranked), (1, 1, 0));
    assert_eq!((metrics.rewards, metrics.log_probs, metrics.drift), ([0.25, -0.25], [-4.5, -5.5], [0.5, -0.5]));
    assert_eq!((metrics.tokens, metrics.drift_per_token), ([4, 2], [0.25, -0.5]));
    assert_eq!((metrics.empty_completions, metrics.non_finite_pairs), (1, 0));
    assert_eq!((metrics.k3_per_token, metrics.entropy, metrics.logits), (None, None, None));
    assert_eq!(metrics.k3, [k3(1.0) / 2.0, k3(-1.0) / 2.0]);
    assert_eq!(metrics.gradient_weight, (0.5 + 1.0 / (1.0 + 1f64.exp())) / 2.0);

    let metrics = preference_metrics(&[won.clone(), lost.clone()]);
    assert_eq!((metrics.wins, metrics.misranked, metrics.likelihood_displacement), (1, 1, 0.5));
    assert_eq!(metrics.rewards, [(0.5 - 4.0) / 2.0, (-0.5 + 2.0) / 2.0]);
    assert_eq!(metrics.saturated_pairs, 0);
    let swapped = MeasuredPair { chosen: lost.rejected, rejected: lost.chosen, ..lost };
    assert_eq!(preference_metrics(&[swapped]).saturated_pairs, 1); // σ(−6) = 0.0025

    let nan = MeasuredPair { loss: f64::NAN, ..won.clone() };
    assert_eq!(preference_metrics(&[won, nan]).non_finite_pairs, 1);
    assert!(preference_metrics(&[]).loss.is_nan());
}

#[test]
fn statistics_are_over_the_tokens_that_have_them() {
    let side = |ratios: &[f64], entropy, hits| MeasuredCompletion {
        policy: SequenceLogProb { sum: -1.0, token_count: 9 },
        reference: -1.0,
        token_log_ratios: Some(ratios.to_vec()),
        statistics: Some(SequenceStatistic { entropy, mean_logit: -entropy, hits, token_count: ratios.len() }),
    };
    let with =
        MeasuredPair { loss: 0.0, beta: 1.0, chosen: side(&[0.0, 1.0], 3.0, 1), rejected: side(&[-1.0], 6.0, 1) };
    let nothing =
        |one: &MeasuredCompletion| MeasuredCompletion { token_log_ratios: None, statistics: None, ..one.clone() };
    let without = MeasuredPair { chosen: nothing(&with.chosen), rejected: nothing(&with.rejected), ..with.clone() };
    let metrics = preference_metrics(&[without, with]);
    assert_eq!(metrics.k3_per_token, Some([k3(1.0) / 2.0, k3(-1.0)]));
    assert_eq!((metrics.entropy, metrics.logits), (Some(3.0), Some([-1.5, -6.0])));
    assert_eq!(metrics.mean_token_accuracy, Some(0.5));
}

#[test]
fn k3_has_the_values_of_the_table() {
    for (x, value) in K3_TABLE {
        assert!((k3(x) - value).abs() <= 8.0 * f64::EPSILON * value, "k3({x}) = {:e}", k3(x));
    }
    assert_eq!((k3(f64::INFINITY), k3(f64::NEG_INFINITY)), (f64::INFINITY, f64::INFINITY));
    assert!(k3(f64::NAN).is_nan());
}

/// The quantile is a margin, by rank.
#[test]
fn quantiles_are_by_rank() {
    let side = |sum| MeasuredCompletion {
        policy: SequenceLogProb { sum, token_count: 1 },
        reference: 0.0,
        token_log_ratios: None,
        statistics: None,
    };
    let pairs: Vec<_> = [-3.0, f64::NAN, -1.0, -4.0, -2.0]
        .map(|sum| MeasuredPair { loss: 0.0, beta: 2.0, chosen: side(sum), rejected: side(0.0) })
        .into();
    let quantiles = [0.0, 0.25, 0.26, 0.5, 0.9, 1.0].map(|q| margin_quantile(&pairs, q));
    assert_eq!(quantiles, [-8.0, -8.0, -6.0, -6.0, -2.0, -2.0]);
    assert!(margin_quantile(&[], 0.5).is_nan());
}

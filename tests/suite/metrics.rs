//! Metrics: their definitions, and that any split merges to the whole.

use burn::tensor::DType;
use burn_dpo::{
    PreferenceBatch, PreferenceMetrics, dpo_loss,
    reference::{self, MeasuredPair},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{Tested, for_all, on_every_device},
    host::{bits, expect_close, flags, floats},
    measured::{Given, Measured, OnePair, given, tame, wild},
    pairs::{Model, Sums, beta},
    tolerance::{self, Rounding},
};

/// Under TRL's names, in a fixed order; what is of tokens or statistics only where they were given.
const NAMES: [&str; 32] = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/margins_p10",
    "rewards/margins_p50",
    "rewards/margins_p90",
    "rewards/accuracies",
    "rewards/ties",
    "rewards/misranked",
    "logps/chosen",
    "logps/rejected",
    "likelihood_displacement",
    "drift/chosen",
    "drift/rejected",
    "drift_per_token/chosen",
    "drift_per_token/rejected",
    "k3/chosen",
    "k3/rejected",
    "k3_per_token/chosen",
    "k3_per_token/rejected",
    "gradient_weight",
    "entropy",
    "logits/chosen",
    "logits/rejected",
    "mean_token_accuracy",
    "tokens/chosen",
    "tokens/rejected",
    "pairs",
    "saturated_pairs",
    "empty_completions",
    "non_finite_pairs",
];

/// By definition, in the order of [`NAMES`].
fn by_definition(pairs: &[MeasuredPair]) -> Vec<(&'static str, f64)> {
    let metrics = reference::preference_metrics(pairs);
    let [[chosen, rejected], [log_prob_chosen, log_prob_rejected]] = [metrics.rewards, metrics.log_probs];
    let [quantile_10, quantile_50, quantile_90] = [0.1, 0.5, 0.9].map(|q| reference::margin_quantile(pairs, q));
    let share = |count: usize| count as f64 / pairs.len() as f64;
    let values = [
        Some(metrics.loss),
        Some(chosen),
        Some(rejected),
        Some(metrics.reward_margin),
        Some(quantile_10),
        Some(quantile_50),
        Some(quantile_90),
        Some(metrics.reward_accuracy),
        Some(share(metrics.ties)),
        Some(share(metrics.misranked)),
        Some(log_prob_chosen),
        Some(log_prob_rejected),
        Some(metrics.likelihood_displacement),
        Some(metrics.drift[0]),
        Some(metrics.drift[1]),
        Some(metrics.drift_per_token[0]),
        Some(metrics.drift_per_token[1]),
        Some(metrics.k3[0]),
        Some(metrics.k3[1]),
        metrics.k3_per_token.map(|[chosen, _]| chosen),
        metrics.k3_per_token.map(|[_, rejected]| rejected),
        Some(metrics.gradient_weight),
        metrics.entropy,
        metrics.logits.map(|[chosen, _]| chosen),
        metrics.logits.map(|[_, rejected]| rejected),
        metrics.mean_token_accuracy,
        Some(metrics.tokens[0] as f64),
        Some(metrics.tokens[1] as f64),
        Some(pairs.len() as f64),
        Some(metrics.saturated_pairs as f64),
        Some(metrics.empty_completions as f64),
        Some(metrics.non_finite_pairs as f64),
    ];
    NAMES.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// By accessor, in the order of [`NAMES`].
fn by_accessor(metrics: &PreferenceMetrics) -> Vec<f64> {
    let values = [
        Some(metrics.loss()),
        Some(metrics.reward_chosen()),
        Some(metrics.reward_rejected()),
        Some(metrics.reward_margin()),
        Some(metrics.margin_p10()),
        Some(metrics.margin_p50()),
        Some(metrics.margin_p90()),
        Some(metrics.reward_accuracy()),
        Some(metrics.tie_share()),
        Some(metrics.misranked_share()),
        Some(metrics.log_prob_chosen()),
        Some(metrics.log_prob_rejected()),
        Some(metrics.likelihood_displacement()),
        Some(metrics.drift_chosen()),
        Some(metrics.drift_rejected()),
        Some(metrics.drift_per_token_chosen()),
        Some(metrics.drift_per_token_rejected()),
        Some(metrics.k3_chosen()),
        Some(metrics.k3_rejected()),
        metrics.k3_per_token_chosen(),
        metrics.k3_per_token_rejected(),
        Some(metrics.gradient_weight()),
        metrics.entropy(),
        metrics.logits_chosen(),
        metrics.logits_rejected(),
        metrics.mean_token_accuracy(),
        Some(metrics.tokens_chosen() as f64),
        Some(metrics.tokens_rejected() as f64),
        Some(metrics.pairs() as f64),
        Some(metrics.saturated_pairs() as f64),
        Some(metrics.empty_completions() as f64),
        Some(metrics.non_finite_pairs() as f64),
    ];
    values.into_iter().flatten().collect()
}

pub fn values(metrics: &PreferenceMetrics) -> Vec<f64> {
    metrics.entries().into_iter().map(|(_, value)| value).collect()
}

/// f64 sums of the same terms, alike but for the order of additions; quantiles are within 1/16; what is summed over tokens
/// on the device is rounded there.
fn expect_alike(
    actual: &[(&'static str, f64)],
    expected: &[(&'static str, f64)],
    per_token: impl Fn(&str) -> f64,
) -> TestCaseResult {
    let names = |entries: &[(&'static str, f64)]| entries.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    prop_assert_eq!(names(actual), names(expected));
    // of counts and of the sums that means are of
    let largest = expected.iter().map(|(_, x)| x.abs()).filter(|x| x.is_finite()).fold(1.0, f64::max);
    for (&(name, actual), &(_, expected)) in actual.iter().zip(expected) {
        let bound = match name {
            _ if name.starts_with("rewards/margins_p") => expected.abs() / 16.0,
            _ if name.starts_with("k3_per_token") => per_token(name),
            _ if name.starts_with("k3/") => 64.0 * f64::EPSILON * expected.abs(),
            _ => 64.0 * f64::EPSILON * largest,
        };
        expect_close(name, DType::F64, &[actual], &[expected], |_| bound)?;
    }
    Ok(())
}

/// How far `k3_per_token` may be off: see [`tolerance::k3_sum`].
fn k3_bound(on: &Tested, pairs: &[MeasuredPair], name: &str) -> f64 {
    let chosen = name.ends_with("chosen");
    let ratios = pairs.iter().filter_map(|pair| {
        let side = if chosen { &pair.chosen } else { &pair.rejected };
        side.token_log_ratios.as_deref()
    });
    let ratios: Vec<&[f64]> = ratios.collect();
    let tokens = ratios.iter().map(|row| row.len()).sum::<usize>().max(1);
    let rounding = Rounding::of(on, DType::F32);
    ratios.iter().map(|row| tolerance::k3_sum(rounding, row, reference::k3)).sum::<f64>() / tokens as f64
}

fn expect_definition(on: &Tested, measured: &Measured) -> TestCaseResult {
    let metrics = measured.metrics(on);
    let pairs = measured.pairs_by_definition(on);
    expect_alike(&metrics.entries(), &by_definition(&pairs), |name| k3_bound(on, &pairs, name))?;
    prop_assert_eq!(bits(&values(&metrics)), bits(&by_accessor(&metrics)));
    let definition = reference::preference_metrics(&pairs);
    prop_assert_eq!(
        [metrics.wins(), metrics.ties(), metrics.misranked()],
        [definition.wins, definition.ties, definition.misranked].map(|count| count as u64)
    );
    prop_assert_eq!(metrics.margins().count() + metrics.margins().nan_count(), metrics.pairs());
    Ok(())
}

#[test]
fn metrics_are_those_of_the_reference() {
    for_all(tame(), expect_definition);
}

/// A pair with NaN or an infinity is counted, and is in the means.
#[test]
fn nothing_skips_nan() {
    for_all(wild(), expect_definition);
}

/// Everything but the order of f64 additions: counts and buckets are exact.
#[test]
fn any_split_merges_to_the_whole() {
    for_all((wild(), 0..=6usize, 0..=6usize), |on, (measured, a, b)| {
        let pairs = measured.pairs.len();
        let (a, b) = (*a.min(b).min(&pairs), *a.max(b).min(&pairs));
        let [first, second, third] = [0..a, a..b, b..pairs].map(|range| measured.part(range).metrics(on));
        let whole = measured.metrics(on);

        let merged = |parts: [&PreferenceMetrics; 3]| {
            let mut sum = PreferenceMetrics::default();
            parts.into_iter().for_each(|part| sum.merge(part));
            sum
        };
        let mut nested = second.clone();
        nested.merge(&third);
        let mut grouped = first.clone();
        grouped.merge(&nested);
        let (in_order, turned) = (merged([&first, &second, &third]), merged([&third, &first, &second]));
        let definition = measured.pairs_by_definition(on);
        for merged in [&in_order, &turned, &grouped] {
            expect_alike(&merged.entries(), &whole.entries(), |name| 2.0 * k3_bound(on, &definition, name))?;
            prop_assert_eq!(merged.margins(), whole.margins());
            let counts = |metrics: &PreferenceMetrics| {
                [metrics.pairs(), metrics.wins(), metrics.ties(), metrics.misranked(), metrics.non_finite_pairs()]
            };
            prop_assert_eq!(counts(merged), counts(&whole));
        }
        prop_assert_eq!(in_order.first_non_finite(), whole.first_non_finite());
        prop_assert_eq!(grouped.first_non_finite(), whole.first_non_finite());
        prop_assert_eq!(turned.first_non_finite().is_some(), whole.first_non_finite().is_some());
        Ok(())
    });
}

/// What only some batches were given is over their tokens.
#[test]
fn batches_that_were_given_different_things_merge() {
    for_all((tame(), tame(), given(), given()), |on, (one, other, first, second)| {
        let (one, other) = (one.given(*first), other.given(*second));
        let mut merged = one.metrics(on);
        merged.merge(&other.metrics(on));
        let mut pairs = one.pairs_by_definition(on);
        pairs.extend(other.pairs_by_definition(on));
        expect_alike(&merged.entries(), &by_definition(&pairs), |name| k3_bound(on, &pairs, name))
    });
}

#[test]
fn no_pairs_are_nothing_to_merge_and_have_no_means() {
    for_all((tame(), given()), |on, (measured, given)| {
        let metrics = measured.metrics(on);
        let mut merged = metrics.clone();
        merged.merge(&PreferenceMetrics::default());
        prop_assert_eq!(&merged, &metrics);
        let nothing = measured.part(0..0).given(*given).metrics(on);
        prop_assert_eq!(&nothing, &PreferenceMetrics::default());
        for (name, value) in nothing.entries() {
            let count = name.starts_with("tokens/") || name.contains("pairs") || name == "empty_completions";
            prop_assert!(if count { value == 0.0 } else { value.is_nan() }, "{} is {}", name, value);
        }
        Ok(())
    });
}

/// A padded duplicate changes nothing: no mean, no count, no number of a pair.
#[test]
fn pairs_that_do_not_count_cannot_be_seen() {
    for_all((wild(), vec(any::<bool>(), 6)), |on, (measured, valid)| {
        let valid = &valid[..measured.pairs.len()];
        let inputs = measured.inputs(on);
        let mask = flags(valid, [valid.len()], &on.device);
        let metrics = inputs.batch().with_valid(&mask).measure().unwrap();
        let only = measured.only(valid);
        let (expected, pairs) = (only.metrics(on), only.pairs_by_definition(on));
        expect_alike(&metrics.entries(), &expected.entries(), |name| 2.0 * k3_bound(on, &pairs, name))?;
        prop_assert_eq!(metrics.margins(), expected.margins());
        prop_assert_eq!(metrics.first_non_finite(), expected.first_non_finite());
        Ok(())
    });
}

/// Which of two completions is preferred is a matter of the sign of Δ. A tie is no win, as in TRL, and is reported.
#[test]
fn accuracy_is_the_same_for_every_beta_and_a_tie_is_no_win() {
    for_all((tame(), select(vec![1e-30, 1e-3, 7.0, 1e30])), |on, (measured, other)| {
        let metrics = measured.metrics(on);
        let rescaled = Measured { beta: *other, ..measured.given(Given::NOTHING) }.metrics(on);
        prop_assert_eq!(metrics.reward_accuracy().to_bits(), rescaled.reward_accuracy().to_bits());
        let counts = |metrics: &PreferenceMetrics| [metrics.wins(), metrics.ties(), metrics.misranked()];
        prop_assert_eq!(counts(&metrics), counts(&rescaled));
        prop_assert_eq!(counts(&metrics).iter().sum::<u64>(), metrics.pairs());
        let delta =
            |one: &OnePair| (one.chosen.policy - one.chosen.reference) - (one.rejected.policy - one.rejected.reference);
        let count = |f: fn(f64) -> bool| measured.pairs.iter().filter(|pair| f(delta(pair))).count() as u64;
        prop_assert_eq!(counts(&metrics), [count(|d| d > 0.0), count(|d| d == 0.0), count(|d| d < 0.0)]);
        Ok(())
    });
}

/// Where training starts: every pair is a tie, no drift, and all of the gradient is left.
#[test]
fn where_policy_and_reference_agree_every_pair_is_a_tie() {
    for_all(tame(), |on, measured| {
        let mut measured = measured.given(Given::EVERYTHING);
        for pair in &mut measured.pairs {
            for one in [&mut pair.chosen, &mut pair.rejected] {
                one.reference = one.policy;
                one.logits[1] = one.logits[0].clone();
            }
        }
        let metrics = measured.metrics(on);
        let pairs = measured.pairs.len() as u64;
        prop_assert_eq!([metrics.ties(), metrics.wins(), metrics.misranked()], [pairs, 0, 0]);
        if pairs > 0 {
            prop_assert_eq!([metrics.reward_margin(), metrics.margin_p50(), metrics.k3_chosen()], [0.0; 3]);
            prop_assert_eq!([metrics.gradient_weight(), metrics.likelihood_displacement()], [0.5, 0.0]);
            prop_assert!(metrics.k3_per_token_rejected().is_some_and(|k3| k3 == 0.0 || k3.is_nan()));
        }
        Ok(())
    });
}

/// A pair is saturated where `σ(−z)` is below the constant, and not before.
#[test]
fn saturated_pairs_have_little_gradient_left() {
    let z = (1.0 / PreferenceMetrics::SATURATED_BELOW - 1.0).ln(); // σ(−z) is the constant
    on_every_device(|on| {
        let deltas = [z * 0.99, z * 1.01, -z * 1.01, 1e30, 0.0, f64::NAN];
        let sums: Vec<Sums> = deltas.into_iter().map(Sums::with_delta).collect();
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F32), Model::reference(&sums, &on.device, DType::F32));
        let losses = floats(&[0.0; 6], [6], &on.device, DType::F32);
        let metrics = PreferenceMetrics::from_batch(&losses, &policy.pairs, &reference.pairs, beta(1.0)).unwrap();
        prop_assert_eq!(metrics.saturated_pairs(), 2);
        Ok(())
    });
}

/// A token that only one of the models counts has no log-ratio.
#[test]
fn masks_that_differ_show_in_the_k3_of_tokens() {
    for_all(tame(), |on, measured| {
        let measured = measured.given(Given { tokens: true, ..Given::NOTHING });
        let Some(first) = measured.pairs.first() else { return Ok(()) };
        let mut shifted = measured.clone();
        shifted.pairs[0].chosen.mask = first.chosen.mask.iter().enumerate().map(|(t, m)| *m != (t == 2)).collect();
        let mut inputs = measured.inputs(on);
        if let (Some([_, reference]), Some([_, other])) = (&mut inputs.tokens, shifted.inputs(on).tokens) {
            *reference = other;
        }
        let metrics = inputs.batch().measure().unwrap();
        prop_assert!(metrics.k3_per_token_chosen().is_some_and(f64::is_nan));
        prop_assert_eq!(
            metrics.k3_per_token_rejected().map(f64::to_bits),
            measured.metrics(on).k3_per_token_rejected().map(f64::to_bits)
        );
        Ok(())
    });
}

/// Measuring must not disturb training, nor need its graph.
#[test]
fn measuring_leaves_the_gradient_alone() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(1.0), Sums::with_delta(-2.0)];
        let reference = Model::reference(&sums, &on.device, DType::F32).pairs;
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let unmeasured = policy.gradients(dpo_loss(&policy.pairs, &reference, beta(0.1)).unwrap());
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let losses = dpo_loss(&policy.pairs, &reference, beta(0.1)).unwrap();
        PreferenceMetrics::from_batch(&losses, &policy.pairs, &reference, beta(0.1)).unwrap();
        PreferenceMetrics::from_batch(&losses, &policy.pairs.clone().detach(), &policy.pairs, beta(0.1)).unwrap();
        prop_assert_eq!(policy.gradients(losses), unmeasured);
        Ok(())
    });
}

/// The losses and betas may come from anywhere, in any format.
#[test]
fn losses_and_betas_of_every_format_are_measured() {
    on_every_device(|on| {
        let sums = vec![Sums::with_delta(1.0); 2];
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F32).pairs, Model::reference(&sums, &on.device, DType::F32).pairs);
        for dtype in on.float_dtypes() {
            let losses = floats(&[0.25, 0.75], [2], &on.device, dtype);
            let betas = floats(&[0.5, 1.5], [2], &on.device, dtype);
            let metrics = PreferenceBatch::new(&losses, &policy, &reference, beta(0.1));
            let metrics = metrics.with_betas(&betas).measure().unwrap();
            prop_assert_eq!((metrics.loss(), metrics.reward_chosen()), (0.5, 1.0));
        }
        Ok(())
    });
}

/// In f64 nothing is rounded on the way.
#[test]
fn f64_log_probs_stay_f64() {
    on_every_device(|on| {
        if !on.computes_in(DType::F64) {
            return Ok(());
        }
        let delta = 1.0 + 1e-12;
        let sums = vec![Sums::with_delta(delta)];
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F64).pairs, Model::reference(&sums, &on.device, DType::F32).pairs);
        let losses = floats(&[0.0], [1], &on.device, DType::F32);
        let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta(1.0)).unwrap();
        prop_assert_eq!(metrics.drift_chosen(), delta);
        Ok(())
    });
}

#[test]
fn reading_asynchronously_gives_the_same() {
    for_all(wild(), |on, measured| {
        let inputs = measured.inputs(on);
        let (batch, metrics) = (inputs.batch(), measured.metrics(on));
        prop_assert_eq!(bits(&values(&wait_for(batch.measure_async()).unwrap())), bits(&values(&metrics)));
        let beta = beta(measured.beta);
        let reading = PreferenceMetrics::from_batch_async(&inputs.losses, &inputs.policy, &inputs.reference, beta);
        let least = measured.given(Given::NOTHING).metrics(on);
        prop_assert_eq!(bits(&values(&wait_for(reading).unwrap())), bits(&values(&least)));
        Ok(())
    });
}

/// The smallest executor.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(result) => return result,
            std::task::Poll::Pending => std::thread::yield_now(),
        }
    }
}

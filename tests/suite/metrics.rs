//! Metrics: their definitions, that any split merges to the whole, and that text loses nothing.

use burn::tensor::DType;
use burn_dpo::{
    PairLogProbs, PreferenceMetrics, dpo_loss,
    reference::{self, MeasuredPair, Metrics, SequenceLogProb},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{Tested, for_all, on_every_device},
    generators::exact_sums,
    host::{bits, expect_close, floats, numbers},
    pairs::{Model, Sums, beta, pair_log_probs},
};

/// Pairs with token counts.
#[derive(Debug, Clone)]
struct Measured {
    sums: Vec<Sums>,
    token_counts: Vec<[i64; 2]>,
    beta: f64,
}

fn measured(sums: impl Strategy<Value = Vec<Sums>>) -> impl Strategy<Value = Measured> {
    let count = prop_oneof![2 => 0..5i64, 2 => 1..100i64, 1 => Just(1 << 24)];
    let counts = vec([count.clone(), count], 6);
    (sums, counts, select(vec![0.1, 0.5, 1.0, 3.7])).prop_map(|(sums, token_counts, beta)| Measured {
        token_counts: token_counts[..sums.len()].to_vec(),
        sums,
        beta,
    })
}

/// Sums that f32 differences hold exactly, so that the host knows every tie.
fn exact() -> impl Strategy<Value = Measured> {
    measured(exact_sums())
}

/// The same, with NaN and infinities among them.
fn wild() -> impl Strategy<Value = Measured> {
    let special = select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    let poison = vec(prop::option::weighted(0.1, special), 4 * 6);
    measured((exact_sums(), poison).prop_map(|(mut sums, poison)| {
        let numbers = sums.iter_mut().flat_map(|Sums { policy, reference }| {
            [&mut policy.chosen, &mut policy.rejected, &mut reference.chosen, &mut reference.rejected]
        });
        for (number, poison) in numbers.zip(poison) {
            *number = poison.unwrap_or(*number);
        }
        sums
    }))
}

impl Measured {
    fn part(&self, range: std::ops::Range<usize>) -> Self {
        Self {
            sums: self.sums[range.clone()].to_vec(),
            token_counts: self.token_counts[range].to_vec(),
            beta: self.beta,
        }
    }

    fn pairs(&self, on: &Tested) -> (PairLogProbs, PairLogProbs) {
        let policy = Model::policy(&self.sums, &on.device, DType::F32);
        let policy = pair_log_probs(policy.chosen, policy.rejected, &self.token_counts);
        (policy, Model::reference(&self.sums, &on.device, DType::F32).pairs)
    }

    /// By the library, and the losses that it was given.
    fn metrics(&self, on: &Tested) -> (PreferenceMetrics, Vec<f64>) {
        let (policy, reference) = self.pairs(on);
        let beta = beta(self.beta);
        let losses = dpo_loss(&policy, &reference, beta).unwrap();
        (PreferenceMetrics::from_batch(&losses, &policy, &reference, beta).unwrap(), numbers(&losses))
    }

    /// By definition.
    fn expected(&self, losses: &[f64]) -> Metrics {
        let sequence = |sum: f64, count: i64| SequenceLogProb { sum, token_count: count as usize };
        let pairs: Vec<MeasuredPair> = (0..self.sums.len())
            .map(|i| {
                let (sums, counts) = (self.sums[i], self.token_counts[i]);
                MeasuredPair {
                    loss: losses[i],
                    policy_chosen: sequence(sums.policy.chosen, counts[0]),
                    policy_rejected: sequence(sums.policy.rejected, counts[1]),
                    reference: sums.reference,
                }
            })
            .collect();
        reference::preference_metrics(&pairs, self.beta)
    }
}

/// Under TRL's names, in a fixed order.
const NAMES: [&str; 15] = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "rewards/ties",
    "logps/chosen",
    "logps/rejected",
    "drift/chosen",
    "drift/rejected",
    "tokens/chosen",
    "tokens/rejected",
    "pairs",
    "empty_completions",
    "non_finite_pairs",
];

fn values(metrics: &PreferenceMetrics) -> Vec<f64> {
    metrics.entries().into_iter().map(|(_, value)| value).collect()
}

/// f64 sums of the same terms: alike but for the order of additions.
fn expect_alike(actual: &[f64], expected: &[f64]) -> TestCaseResult {
    let largest = expected.iter().filter(|x| x.is_finite()).fold(1.0f64, |max, x| max.max(x.abs()));
    expect_close("entry", DType::F64, actual, expected, |_| 64.0 * f64::EPSILON * largest)
}

fn expect_definition(on: &Tested, measured: &Measured) -> TestCaseResult {
    let (metrics, losses) = measured.metrics(on);
    let expected = measured.expected(&losses);
    let pairs = measured.sums.len() as f64;
    prop_assert_eq!(metrics.entries().into_iter().map(|(name, _)| name).collect::<Vec<_>>(), NAMES);
    expect_alike(
        &values(&metrics),
        &[
            expected.loss,
            expected.reward_chosen,
            expected.reward_rejected,
            expected.reward_margin,
            expected.reward_accuracy,
            expected.ties as f64 / pairs,
            expected.log_prob_chosen,
            expected.log_prob_rejected,
            expected.drift_chosen,
            expected.drift_rejected,
            expected.tokens_chosen as f64,
            expected.tokens_rejected as f64,
            pairs,
            expected.empty_completions as f64,
            expected.non_finite_pairs as f64,
        ],
    )?;
    let of_accessors = [
        metrics.loss(),
        metrics.reward_chosen(),
        metrics.reward_rejected(),
        metrics.reward_margin(),
        metrics.reward_accuracy(),
        metrics.ties() as f64 / metrics.pairs() as f64,
        metrics.log_prob_chosen(),
        metrics.log_prob_rejected(),
        metrics.drift_chosen(),
        metrics.drift_rejected(),
        metrics.tokens_chosen() as f64,
        metrics.tokens_rejected() as f64,
        metrics.pairs() as f64,
        metrics.empty_completions() as f64,
        metrics.non_finite_pairs() as f64,
    ];
    prop_assert_eq!(bits(&values(&metrics)), bits(&of_accessors));
    prop_assert_eq!(metrics.wins() as f64 / pairs.max(1.0), if pairs == 0.0 { 0.0 } else { metrics.reward_accuracy() });
    Ok(())
}

#[test]
fn metrics_are_those_of_the_reference() {
    for_all(exact(), expect_definition);
}

/// A pair with NaN or an infinity is counted, and is in the means.
#[test]
fn nothing_skips_nan() {
    for_all(wild(), expect_definition);
}

#[test]
fn any_split_merges_to_the_whole() {
    for_all((wild(), 0..=6usize, 0..=6usize), |on, (measured, a, b)| {
        let pairs = measured.sums.len();
        let (a, b) = (*a.min(b).min(&pairs), *a.max(b).min(&pairs));
        let [first, second, third] = [0..a, a..b, b..pairs].map(|range| measured.part(range).metrics(on).0);
        let (whole, _) = measured.metrics(on);

        let merged = |parts: [&PreferenceMetrics; 3]| {
            let mut sum = PreferenceMetrics::default();
            parts.into_iter().for_each(|part| sum.merge(part));
            sum
        };
        let mut nested = second.clone();
        nested.merge(&third);
        let mut grouped = first.clone();
        grouped.merge(&nested);
        for merged in [merged([&first, &second, &third]), merged([&third, &first, &second]), grouped] {
            expect_alike(&values(&merged), &values(&whole))?;
            prop_assert_eq!(
                (merged.pairs(), merged.wins(), merged.ties()),
                (whole.pairs(), whole.wins(), whole.ties())
            );
        }
        Ok(())
    });
}

#[test]
fn no_pairs_are_nothing_to_merge_and_have_no_means() {
    for_all(exact(), |on, measured| {
        let (metrics, _) = measured.metrics(on);
        let mut merged = metrics.clone();
        merged.merge(&PreferenceMetrics::default());
        prop_assert_eq!(&merged, &metrics);
        let (nothing, _) = measured.part(0..0).metrics(on);
        prop_assert_eq!(&nothing, &PreferenceMetrics::default());
        let values = values(&nothing);
        let (means, counts) = values.split_at(10);
        prop_assert!(means.iter().all(|mean| mean.is_nan()) && counts.iter().all(|&count| count == 0.0));
        Ok(())
    });
}

/// Which of two completions is preferred is a matter of the sign of Δ. A tie is no win, as in TRL, and is reported.
#[test]
fn accuracy_is_the_same_for_every_beta_and_a_tie_is_no_win() {
    for_all((exact(), select(vec![1e-30, 1e-3, 7.0, 1e30])), |on, (measured, other)| {
        let (metrics, _) = measured.metrics(on);
        let (rescaled, _) = Measured { beta: *other, ..measured.clone() }.metrics(on);
        prop_assert_eq!(metrics.reward_accuracy().to_bits(), rescaled.reward_accuracy().to_bits());
        prop_assert_eq!((metrics.wins(), metrics.ties()), (rescaled.wins(), rescaled.ties()));
        let count = |f: fn(f64) -> bool| measured.sums.iter().filter(|pair| f(pair.margin(1.0).z())).count() as u64;
        prop_assert_eq!((metrics.wins(), metrics.ties()), (count(|delta| delta > 0.0), count(|delta| delta == 0.0)));
        Ok(())
    });
}

#[test]
fn where_policy_and_reference_agree_every_pair_is_a_tie() {
    on_every_device(|on| {
        let (policy, _) =
            Measured { sums: vec![Sums::with_delta(-3.0); 2], token_counts: vec![[1, 2]; 2], beta: 0.1 }.pairs(on);
        let losses = dpo_loss(&policy, &policy, beta(0.1)).unwrap();
        let metrics = PreferenceMetrics::from_batch(&losses, &policy, &policy, beta(0.1)).unwrap();
        prop_assert_eq!((metrics.ties(), metrics.wins(), metrics.reward_margin()), (2, 0, 0.0));
        Ok(())
    });
}

/// Measuring must not disturb training, nor need its graph.
#[test]
fn measuring_leaves_the_gradient_alone() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(1.0), Sums::with_delta(-2.0)];
        let policy = Model::policy(&sums, &on.device, DType::F32);
        let reference = Model::reference(&sums, &on.device, DType::F32).pairs;
        let loss = || dpo_loss(&policy.pairs, &reference, beta(0.1)).unwrap();
        let unmeasured = policy.gradients(loss());
        let losses = loss();
        PreferenceMetrics::from_batch(&losses, &policy.pairs, &reference, beta(0.1)).unwrap();
        PreferenceMetrics::from_batch(&losses, &policy.pairs.clone().detach(), &policy.pairs, beta(0.1)).unwrap();
        prop_assert_eq!(policy.gradients(losses), unmeasured);
        Ok(())
    });
}

/// The losses may come from anywhere, in any format.
#[test]
fn losses_of_every_format_are_measured() {
    on_every_device(|on| {
        let measured = Measured { sums: vec![Sums::with_delta(1.0); 2], token_counts: vec![[1, 1]; 2], beta: 0.1 };
        let (policy, reference) = measured.pairs(on);
        for dtype in on.float_dtypes() {
            let losses = floats(&[0.25, 0.75], [2], &on.device, dtype);
            let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta(0.1)).unwrap();
            prop_assert_eq!(metrics.loss(), 0.5);
        }
        Ok(())
    });
}

#[test]
fn reading_asynchronously_gives_the_same() {
    for_all(wild(), |on, measured| {
        let (policy, reference) = measured.pairs(on);
        let losses = dpo_loss(&policy, &reference, beta(measured.beta)).unwrap();
        let reading = PreferenceMetrics::from_batch_async(&losses, &policy, &reference, beta(measured.beta));
        prop_assert_eq!(bits(&values(&wait_for(reading).unwrap())), bits(&values(&measured.metrics(on).0)));
        Ok(())
    });
}

/// The smallest executor.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(result) => return result,
            std::task::Poll::Pending => std::thread::yield_now(),
        }
    }
}

// ---- text ----

/// NaN and infinities included, which JSON does not have.
#[test]
fn json_loses_nothing() {
    for_all(wild(), |on, measured| {
        let (metrics, _) = measured.metrics(on);
        let json = serde_json::to_string(&metrics).unwrap();
        let back: PreferenceMetrics = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(bits(&values(&back)), bits(&values(&metrics)));
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), json);

        // And what was read goes on as what was written.
        let (mut one, mut other) = (metrics.clone(), back);
        one.merge(&metrics);
        other.merge(&metrics);
        prop_assert_eq!(bits(&values(&one)), bits(&values(&other)));
        Ok(())
    });
}

#[test]
fn infinities_are_written_by_name() {
    on_every_device(|on| {
        let sums = vec![Sums::with_delta(f64::NEG_INFINITY), Sums::with_delta(1.0)];
        let (metrics, _) = Measured { sums, token_counts: vec![[1, 1]; 2], beta: 0.5 }.metrics(on);
        let json = serde_json::to_value(&metrics).unwrap();
        prop_assert_eq!(&json["loss"], "inf");
        prop_assert_eq!(&json["drift_chosen"], "-inf");
        prop_assert_eq!(&json["drift_rejected"], 0.0);
        prop_assert_eq!(&json["non_finite_pairs"], 1);
        Ok(())
    });
}

#[test]
fn text_that_is_not_ours_is_refused() {
    let good = serde_json::to_value(PreferenceMetrics::default()).unwrap();
    assert_eq!(serde_json::from_value::<PreferenceMetrics>(good.clone()).unwrap(), PreferenceMetrics::default());
    let read_with = |field: &str, value: serde_json::Value| {
        let mut json = good.clone();
        json[field] = value;
        serde_json::from_value::<PreferenceMetrics>(json).map_err(|error| error.to_string())
    };
    let unknown = read_with("rewards", 1.0.into()).unwrap_err();
    assert!(unknown.starts_with("unknown field `rewards`"), "{unknown}");
    let wordy = read_with("loss", "much".into()).unwrap_err();
    assert!(wordy.contains("invalid value: string \"much\""), "{wordy}");
    assert!(read_with("pairs", (-1).into()).is_err());
    assert_eq!(read_with("loss", 3.into()).map(|_| ()), Ok(()), "a whole number is a number");

    let mut short = good;
    short.as_object_mut().unwrap().remove("wins");
    let missing = serde_json::from_value::<PreferenceMetrics>(short).unwrap_err().to_string();
    assert!(missing.starts_with("missing field `wins`"), "{missing}");
}

#[test]
fn printed_there_is_one_line_per_entry() {
    on_every_device(|on| {
        let (metrics, _) =
            Measured { sums: vec![Sums::with_delta(2.0)], token_counts: vec![[3, 4]], beta: 0.5 }.metrics(on);
        let lines: Vec<String> = metrics.entries().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        prop_assert_eq!(metrics.to_string(), lines.join("\n"));
        prop_assert!(lines.contains(&"rewards/margins: 1".to_string()), "{metrics}");
        Ok(())
    });
}

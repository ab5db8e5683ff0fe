//! The histogram of margins, the first value that is not finite, and the running mean.

use burn::tensor::{DType, Tensor};
use burn_dpo::{
    Completions, Error, MarginHistogram, MeasuredTensor, NonFinite, NonFiniteValue, PreferenceBatch, RunningMean,
    SequenceStatistics, reference, token_log_probs,
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{for_all, for_all_numbers, on_every_device},
    host::{bits, booleans, expect_close, flags, floats, integers, numbers},
    measured::{Completion, Given, Measured, OnePair, TIME, tame, wild},
    metrics::wait_for,
    tolerance::{self, Rounding},
};

// ---- the histogram ----

/// From the smallest normal number to the largest, both signs, 0, infinities, NaN.
fn margins() -> impl Strategy<Value = Vec<f64>> {
    let special = select(vec![0.0, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE]);
    let scaled = (-8.0..8.0f64, -300..300i32).prop_map(|(x, exponent)| x * 2f64.powi(exponent));
    let powers =
        (-1000..1000i32, any::<bool>()).prop_map(|(e, minus)| if minus { -2f64.powi(e) } else { 2f64.powi(e) });
    vec(prop_oneof![4 => -10.0..10.0f64, 2 => scaled, 1 => powers, 1 => special], 0..20)
}

#[test]
fn histograms_add_up_exactly_in_any_order() {
    for_all_numbers((margins(), 0..20usize), |(margins, at)| {
        let whole: MarginHistogram = margins.iter().copied().collect();
        let backwards: MarginHistogram = margins.iter().rev().copied().collect();
        prop_assert_eq!(&whole, &backwards);
        prop_assert_eq!(whole.nan_count(), margins.iter().filter(|x| x.is_nan()).count() as u64);
        prop_assert_eq!(whole.count() + whole.nan_count(), margins.len() as u64);

        let (left, right) = margins.split_at(*at.min(&margins.len()));
        let of = |part: &[f64]| part.iter().copied().collect::<MarginHistogram>();
        for (mut sum, other) in [(of(left), of(right)), (of(right), of(left))] {
            sum += &other;
            prop_assert_eq!(&sum, &whole);
        }
        let json = serde_json::to_string(&whole).unwrap();
        prop_assert_eq!(serde_json::from_str::<MarginHistogram>(&json).unwrap(), whole);
        Ok(())
    });
}

/// Within 1/16 of the margin of that rank; 0 and infinities exactly.
#[test]
fn quantiles_are_within_a_sixteenth() {
    let q = prop_oneof![0.0..=1.0f64, select(vec![0.0, 0.1, 0.5, 0.9, 1.0])];
    for_all_numbers((margins(), q), |(margins, q)| {
        let histogram: MarginHistogram = margins.iter().copied().collect();
        let mut ordered: Vec<f64> = margins.iter().copied().filter(|x| !x.is_nan()).collect();
        ordered.sort_by(f64::total_cmp);
        let rank = ((q * ordered.len() as f64).ceil() as usize).max(1);
        let answer = histogram.quantile(*q);
        let Some(&exact) = ordered.get(rank - 1) else {
            prop_assert!(answer.is_nan());
            return Ok(());
        };
        prop_assert!(answer == exact || (answer - exact).abs() <= exact.abs() / 16.0, "{} for {}", answer, exact);
        Ok(())
    });
    let some: MarginHistogram = [1.0].into_iter().collect();
    for q in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(some.quantile(q).is_nan(), "{q}");
    }
}

/// The bound is reached at the lower end of an octave, and no closer.
#[test]
fn the_bound_of_a_sixteenth_is_tight() {
    let of_one = |x: f64| [x].into_iter().collect::<MarginHistogram>().quantile(0.5);
    assert_eq!([of_one(1.0), of_one(-1.0), of_one(1.99)], [1.0625, -1.0625, 1.9375]);
}

/// In order, without overlap, each with what it says that it holds.
#[test]
fn buckets_are_where_they_say() {
    for_all_numbers(margins(), |margins| {
        let histogram: MarginHistogram = margins.iter().copied().collect();
        let buckets: Vec<_> = histogram.buckets().collect();
        prop_assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), histogram.count());
        prop_assert!(buckets.windows(2).all(|two| two[0].upper <= two[1].lower), "{:?}", buckets);
        for bucket in buckets {
            let (lower, upper) = (bucket.lower, bucket.upper);
            let holds = |x: f64| match x {
                _ if lower == upper => x == lower,
                _ if lower >= 0.0 => lower <= x && x < upper,
                _ => lower < x && x <= upper,
            };
            prop_assert_eq!(margins.iter().filter(|x| holds(**x)).count() as u64, bucket.count, "{:?}", bucket);
        }
        Ok(())
    });
}

// ---- the first value that is not finite ----

fn completions(pair: &OnePair) -> [&Completion; 2] {
    [&pair.chosen, &pair.rejected]
}

fn value_of(number: f64) -> Option<NonFiniteValue> {
    match number {
        _ if number.is_nan() => Some(NonFiniteValue::Nan),
        f64::INFINITY => Some(NonFiniteValue::Infinity),
        f64::NEG_INFINITY => Some(NonFiniteValue::NegativeInfinity),
        _ => None,
    }
}

/// By pair, causes before what they cause; the token is the first counted one that is not finite, in the row of tokens.
#[test]
fn the_first_bad_value_is_found() {
    for_all(wild(), |on, measured| {
        let tokens = measured.inputs(on).tokens.map(|models| {
            let counted = booleans(&models[0].counted());
            models.map(|model| {
                let values = numbers(&model.values());
                let rows = values.chunks(TIME - 1).zip(counted.chunks(TIME - 1));
                let first = |(values, counted): (&[f64], &[bool])| {
                    let bad = |t: &usize| counted[*t] && !values[*t].is_finite();
                    (0..TIME - 1).find(bad).map(|t| t as u64 + 1)
                };
                rows.map(first).collect::<Vec<Option<u64>>>()
            })
        });
        let pairs = measured.pairs.len();
        let token = |model: usize, side: usize, pair: usize| tokens.as_ref()?[model][side * pairs + pair];
        let expected = measured.pairs.iter().enumerate().find_map(|(i, pair)| {
            let [chosen, rejected] = completions(pair);
            let beta = if measured.given.betas { pair.beta } else { measured.beta };
            let numbers = [
                (MeasuredTensor::PolicyChosen, chosen.policy, token(0, 0, i)),
                (MeasuredTensor::PolicyRejected, rejected.policy, token(0, 1, i)),
                (MeasuredTensor::ReferenceChosen, chosen.reference, token(1, 0, i)),
                (MeasuredTensor::ReferenceRejected, rejected.reference, token(1, 1, i)),
                (MeasuredTensor::Betas, beta, None),
                (MeasuredTensor::Losses, pair.loss, None),
            ];
            numbers.into_iter().find_map(|(tensor, number, token)| Some((tensor, i as u64, token, value_of(number)?)))
        });
        let metrics = measured.metrics(on);
        let parts = |found: &NonFinite| (found.tensor, found.pair, found.token, found.value);
        prop_assert_eq!(metrics.first_non_finite().map(parts), expected);
        prop_assert_eq!(metrics.first_non_finite().is_some(), metrics.non_finite_pairs() > 0);
        Ok(())
    });
}

/// One NaN logit in a long row, end to end.
#[test]
fn a_bad_value_is_named_by_pair_and_token() {
    for_all((tame(), 1..TIME), |on, (measured, token)| {
        let mut measured = measured.given(Given { tokens: true, ..Given::NOTHING });
        let Some(last) = measured.pairs.len().checked_sub(1) else { return Ok(()) };
        let one = &mut measured.pairs[last].rejected;
        one.mask = vec![true; TIME];
        one.logits[1][2 * (token - 1)] = f64::NAN;
        one.reference = f64::NAN;
        let found = measured.metrics(on).first_non_finite().map(ToString::to_string);
        let words = format!("reference rejected log-prob of pair {last} is NaN, first at token {token}");
        prop_assert_eq!(found, Some(words));
        Ok(())
    });
}

#[test]
fn every_bad_value_reads_well() {
    let parse = |json: serde_json::Value| serde_json::from_value::<NonFinite>(json).unwrap().to_string();
    let json = |tensor: &str, token: Option<u64>, value: &str| serde_json::json!({ "tensor": tensor, "pair": 3, "token": token, "value": value });
    assert_eq!(
        parse(json("policy_chosen", Some(17), "NaN")),
        "policy chosen log-prob of pair 3 is NaN, first at token 17"
    );
    assert_eq!(parse(json("policy_rejected", None, "-inf")), "policy rejected log-prob of pair 3 is -inf");
    assert_eq!(parse(json("reference_chosen", None, "inf")), "reference chosen log-prob of pair 3 is inf");
    assert_eq!(parse(json("betas", None, "NaN")), "beta of pair 3 is NaN");
    assert_eq!(parse(json("losses", None, "inf")), "loss of pair 3 is inf");
}

// ---- what does not fit ----

fn expect_error<T>(result: burn_dpo::Result<T>, message: &str) -> TestCaseResult {
    let actual = result.err().map(|error| error.to_string());
    prop_assert_eq!(actual.as_deref(), Some(message));
    Ok(())
}

/// Two pairs, with all that can be given.
fn two_pairs() -> Measured {
    let one = Completion {
        policy: -1.0,
        reference: -1.0,
        token_count: 2,
        logits: [vec![0.0; 2 * TIME], vec![0.0; 2 * TIME]],
        ids: vec![0; TIME],
        mask: vec![true; TIME],
        entropy: 1.0,
        mean_logit: 0.0,
        hits: 1,
        statistic_count: 2,
    };
    let pair = OnePair { loss: 0.5, beta: 0.1, chosen: one.clone(), rejected: one };
    Measured { pairs: vec![pair; 2], beta: 0.1, given: Given::EVERYTHING }
}

#[test]
fn what_does_not_fit_the_pairs_is_refused() {
    on_every_device(|on| {
        let two = two_pairs();
        let (inputs, other) = (two.inputs(on), two.part(0..1).inputs(on));
        let batch = inputs.batch();
        let (losses, one_flag) = (Tensor::zeros([3], &on.device), flags(&[true], [1], &on.device));
        let beta = crate::pairs::beta(0.1);
        expect_error(
            PreferenceBatch::new(&losses, &inputs.policy, &inputs.reference, beta).measure(),
            "losses holds 3 pairs, but policy holds 2",
        )?;
        expect_error(
            PreferenceBatch::new(&inputs.losses, &inputs.policy, &other.reference, beta).measure(),
            "policy holds 2 pairs, but reference holds 1",
        )?;
        expect_error(batch.with_betas(&losses).measure(), "betas holds 3 pairs, but policy holds 2")?;
        expect_error(batch.with_valid(&one_flag).measure(), "valid holds 1 pairs, but policy holds 2")?;

        let (Some([policy, reference]), Some([fewer, _])) = (&inputs.tokens, &other.tokens) else { unreachable!() };
        expect_error(batch.with_tokens(fewer, reference).measure(), "policy tokens has shape [2, 3], expected [4, 3]")?;
        expect_error(batch.with_tokens(policy, fewer).measure(), "reference tokens has shape [2, 3], expected [4, 3]")?;
        let Some(good) = &inputs.statistics else { unreachable!() };
        let (short, none) = (floats(&[0.0; 2], [2], &on.device, DType::F32), integers(&[0; 2], [2], &on.device));
        let spoilt = |spoil: &dyn Fn(&mut SequenceStatistics)| {
            let mut bad = good.clone();
            spoil(&mut bad);
            bad
        };
        for (what, bad) in [
            ("entropy", spoilt(&|bad| bad.entropy = short.clone())),
            ("mean_logit", spoilt(&|bad| bad.mean_logit = short.clone())),
            ("hits", spoilt(&|bad| bad.hits = none.clone())),
            ("statistics token_count", spoilt(&|bad| bad.token_count = none.clone())),
        ] {
            expect_error(batch.with_statistics(&bad).measure(), &format!("{what} has shape [2], expected [4]"))?;
        }
        prop_assert!(batch.measure().is_ok());
        Ok(())
    });
}

#[cfg(feature = "ndarray")]
#[test]
fn what_is_on_another_device_is_refused() {
    let [here, there] = &crate::devices::devices()[..2] else { unreachable!("there are always two") };
    let (inputs, away) = (two_pairs().inputs(here), two_pairs().inputs(there));
    let batch = inputs.batch();
    let expect_message = |batch: PreferenceBatch, words: String| {
        assert_eq!(batch.measure().err().map(|error| error.to_string()), Some(words));
    };
    let expect = |batch: PreferenceBatch, what: &str| {
        expect_message(batch, format!("{what} is on {:?}, but policy is on {:?}", there.device, here.device));
    };
    let beta = crate::pairs::beta(0.1);
    expect(PreferenceBatch::new(&away.losses, &inputs.policy, &inputs.reference, beta), "losses");
    expect_message(
        PreferenceBatch::new(&inputs.losses, &inputs.policy, &away.reference, beta),
        format!("policy is on {:?}, but reference is on {:?}", here.device, there.device),
    );
    let (Some([policy, other]), Some([far, _])) = (&inputs.tokens, &away.tokens) else { unreachable!() };
    expect(batch.with_tokens(far, other), "policy tokens");
    expect(batch.with_tokens(policy, far), "reference tokens");
    expect(batch.with_statistics(away.statistics.as_ref().unwrap()), "entropy");
    expect(batch.with_betas(away.betas.as_ref().unwrap()), "betas");
    expect(batch.with_valid(&flags(&[true; 2], [2], &there.device)), "valid");
}

// ---- k3 ----

/// From where the equation cancels to where it overflows, on both sides, in each format.
#[test]
fn the_k3_of_tokens_is_accurate_for_every_log_ratio() {
    let logit = prop_oneof![
        3 => (-8.0..0.0f64, any::<bool>()).prop_map(|(e, minus)| 10f64.powf(e) * if minus { -1.0 } else { 1.0 }),
        3 => -3.0..3.0f64,
        2 => -100.0..0.0f64,
        1 => select(vec![0.0, f64::NEG_INFINITY, f64::NAN, -1000.0]),
    ];
    for_all(logit, |on, &logit| {
        for dtype in on.arithmetic_dtypes() {
            // The chosen completion is scored by [0, 0] and then by [0, logit], the rejected one the other way round.
            let score = |second: [f64; 2]| {
                let logits = [0.0, second[0], 0.0, 0.0, 0.0, second[1], 0.0, 0.0];
                let ids = integers(&[0, 1, 0, 1], [2, 2], &on.device);
                let completions = Completions::new(ids, flags(&[true; 4], [2, 2], &on.device)).unwrap();
                token_log_probs(floats(&logits, [2, 2, 2], &on.device, dtype), &completions).unwrap()
            };
            let (policy, reference) = (score([0.0, logit]), score([logit, 0.0]));
            let (p, r) = (numbers(&policy.values()), numbers(&reference.values()));
            let pairs = policy.sequences().into_pairs().unwrap();
            let losses = floats(&[0.0], [1], &on.device, dtype);
            let batch = PreferenceBatch::new(&losses, &pairs, &pairs, crate::pairs::beta(0.1));
            let metrics = batch.with_tokens(&policy, &reference).measure().unwrap();
            let actual = [metrics.k3_per_token_chosen().unwrap(), metrics.k3_per_token_rejected().unwrap()];
            let x = [p[0] - r[0], p[1] - r[1]];
            let exact = x.map(reference::k3);
            let rounding = Rounding::of(on, dtype);
            expect_close("k3", dtype, &actual, &exact, |side| tolerance::k3(rounding, x[side], exact[side]))?;
        }
        Ok(())
    });
}

// ---- the running mean ----

#[test]
fn a_running_mean_of_any_parts_is_the_mean_of_the_whole() {
    let numbers = vec(prop_oneof![8 => -100.0f32..100.0, 1 => select(vec![f32::NAN, f32::INFINITY])], 0..20);
    for_all((numbers, 0..20usize), |on, (numbers, at)| {
        let numbers: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
        let (left, right) = numbers.split_at(*at.min(&numbers.len()));
        let mut whole = RunningMean::default();
        whole.add_numbers(&numbers);
        let [mut one, mut other] = [left, right].map(|part| {
            let mut mean = RunningMean::default();
            mean.add(&floats(part, [part.len()], &on.device, DType::F32)).unwrap();
            let mut read = RunningMean::default();
            wait_for(read.add_async(&floats(part, [part.len()], &on.device, DType::F32))).unwrap();
            assert_eq!(serde_json::to_string(&read).unwrap(), serde_json::to_string(&mean).unwrap());
            mean
        });
        let copy = one;
        one.merge(&other);
        other.merge(&copy);
        let exact = (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64);
        prop_assert_eq!(whole.count(), numbers.len() as u64);
        for merged in [whole, one, other] {
            prop_assert_eq!(merged.count(), whole.count());
            let alike = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-12;
            prop_assert!(merged.mean().zip(exact).is_none_or(|(a, b)| alike(a, b)), "{:?} {:?}", merged, exact);
            prop_assert_eq!(merged.mean().is_some(), exact.is_some());
            prop_assert!(exact.is_some() || merged.mean_or(0.25) == 0.25);

            let json = serde_json::to_string(&merged).unwrap();
            let back: RunningMean = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(bits(&[back.mean_or(0.0)]), bits(&[merged.mean_or(0.0)]));
        }
        Ok(())
    });
}

#[test]
fn a_running_mean_takes_every_float_and_no_graph() {
    on_every_device(|on| {
        for dtype in on.float_dtypes() {
            let mut mean = RunningMean::default();
            mean.add(&floats(&[0.5, 1.5], [2], &on.autodiff(), dtype).require_grad()).unwrap();
            prop_assert_eq!(mean.mean(), Some(1.0));
        }
        for dtype in on.refused_float_dtypes() {
            // nothing can be put there on some devices; where it can, it is refused
            let made =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| floats(&[0.5], [1], &on.device, dtype)));
            let Ok(numbers) = made else { continue };
            let refused = RunningMean::default().add(&numbers);
            let as_expected = matches!(refused, Err(Error::DType { what: "numbers", .. }));
            prop_assert!(as_expected, "{refused:?}");
        }
        Ok(())
    });
    assert!(serde_json::from_str::<RunningMean>(r#"{"sum": 1.0, "count": 1, "mean": 1.0}"#).is_err());
}

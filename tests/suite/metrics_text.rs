//! Metrics as text: JSON loses nothing and is refused where it is not ours, and what is printed reads well.

use burn::tensor::DType;
use burn_dpo::{PreferenceMetrics, dpo_loss};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    devices::{for_all, on_every_device},
    host::bits,
    measured::{Given, wild},
    metrics::values,
    pairs::{Model, Sums, beta},
};

/// NaN and infinities included, which JSON does not have; through text and through values.
#[test]
fn json_loses_nothing() {
    for_all(wild(), |on, measured| {
        let metrics = measured.metrics(on);
        let json = serde_json::to_string(&metrics).unwrap();
        let back: PreferenceMetrics = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(bits(&values(&back)), bits(&values(&metrics)));
        prop_assert_eq!(back.margins(), metrics.margins());
        prop_assert_eq!(back.first_non_finite(), metrics.first_non_finite());
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), json);
        let through_value: PreferenceMetrics = serde_json::from_value(serde_json::to_value(&metrics).unwrap()).unwrap();
        prop_assert_eq!(bits(&values(&through_value)), bits(&values(&metrics)));

        // And what was read goes on as what was written.
        let (mut one, mut other) = (metrics.clone(), back);
        one.merge(&metrics);
        other.merge(&metrics);
        prop_assert_eq!(bits(&values(&one)), bits(&values(&other)));
        Ok(())
    });
}

/// Trainers keep metrics in structs of their own.
#[test]
fn json_may_be_flattened_into_another_struct() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Step {
        step: u64,
        #[serde(flatten)]
        metrics: Wrapped,
    }
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Wrapped {
        preference: PreferenceMetrics,
    }
    for_all(wild(), |on, measured| {
        let metrics = measured.metrics(on);
        let step = Step { step: 7, metrics: Wrapped { preference: metrics.clone() } };
        let back: Step = serde_json::from_str(&serde_json::to_string(&step).unwrap()).unwrap();
        prop_assert_eq!(bits(&values(&back.metrics.preference)), bits(&values(&metrics)));
        prop_assert_eq!(back.metrics.preference.margins(), metrics.margins());
        Ok(())
    });
}

fn of(deltas: &[f64], beta: f64, on: &crate::devices::Tested) -> PreferenceMetrics {
    let sums: Vec<Sums> = deltas.iter().copied().map(Sums::with_delta).collect();
    let policy = Model::policy(&sums, &on.device, DType::F32).pairs;
    let reference = Model::reference(&sums, &on.device, DType::F32).pairs;
    let beta = self::beta(beta);
    PreferenceMetrics::from_batch(&dpo_loss(&policy, &reference, beta).unwrap(), &policy, &reference, beta).unwrap()
}

#[test]
fn infinities_are_written_by_name() {
    on_every_device(|on| {
        let json = serde_json::to_value(of(&[f64::NEG_INFINITY, 1.0], 0.5, on)).unwrap();
        prop_assert_eq!(&json["loss"], "inf");
        prop_assert_eq!(&json["drift"], &json!({ "chosen": "-inf", "rejected": 0.0 }));
        prop_assert_eq!(&json["non_finite_pairs"], 1);
        prop_assert_eq!(&json["margins"], &json!([[-16377, 1], [8177, 1]]));
        prop_assert_eq!(&json["statistics"], &Value::Null);
        prop_assert_eq!(
            &json["first_non_finite"],
            &json!({ "tensor": "policy_chosen", "pair": 0, "token": null, "value": "-inf" })
        );
        Ok(())
    });
}

#[test]
fn text_that_is_not_ours_is_refused() {
    let good = serde_json::to_value(PreferenceMetrics::default()).unwrap();
    assert_eq!(serde_json::from_value::<PreferenceMetrics>(good.clone()).unwrap(), PreferenceMetrics::default());
    let read_with = |field: &str, value: Value| {
        let mut json = good.clone();
        json[field] = value;
        serde_json::from_value::<PreferenceMetrics>(json).map_err(|error| error.to_string())
    };
    let refused = |field: &str, value: Value, words: &str| {
        let error = read_with(field, value).unwrap_err();
        assert!(error.contains(words), "{error}");
    };
    refused("rewards", json!(1.0), "unknown field `rewards`");
    refused("loss", json!("much"), "invalid value: string \"much\"");
    refused("pairs", json!(-1), "invalid value");
    refused("drift", json!({ "chosen": 0.0, "rejected": 0.0, "other": 0.0 }), "unknown field `other`");
    refused("token_level", json!({ "k3": { "chosen": 0.0, "rejected": 0.0 } }), "missing field `tokens`");
    refused("margins", json!([[99999, 1]]), "99999 is the key of no bucket");
    refused("margins", json!([[1, 0]]), "bucket 1 is empty");
    refused("margins", json!([[2, 1], [2, 1]]), "bucket 2 comes after bucket 2");
    refused("first_non_finite", json!({ "tensor": "weights", "pair": 0, "value": "NaN" }), "unknown variant `weights`");
    assert_eq!(read_with("loss", json!(3)).map(|_| ()), Ok(()), "a whole number is a number");

    let mut short = good;
    short.as_object_mut().unwrap().remove("wins");
    let missing = serde_json::from_value::<PreferenceMetrics>(short).unwrap_err().to_string();
    assert!(missing.starts_with("missing field `wins`"), "{missing}");
}

#[test]
fn printed_there_is_one_line_per_entry() {
    on_every_device(|on| {
        let metrics = of(&[2.0], 0.5, on);
        let lines: Vec<String> = metrics.entries().iter().map(|(name, value)| format!("{name}: {value}")).collect();
        prop_assert_eq!(metrics.to_string(), lines.join("\n"));
        prop_assert!(lines.contains(&"rewards/margins: 1".to_string()), "{metrics}");
        Ok(())
    });
}

#[test]
fn printed_the_first_bad_value_has_a_line_of_its_own() {
    on_every_device(|on| {
        let metrics = of(&[2.0, f64::NAN], 0.5, on);
        let printed = metrics.to_string();
        let last = printed.lines().last();
        prop_assert_eq!(last, Some("first non-finite: policy chosen log-prob of pair 1 is NaN"));
        prop_assert_eq!(printed.lines().count(), metrics.entries().len() + 1);
        Ok(())
    });
}

#[test]
fn what_was_not_given_has_no_entry() {
    for_all(wild(), |on, measured| {
        let names = |given| {
            let entries = measured.given(given).metrics(on).entries();
            entries.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let (least, most) = (names(Given::NOTHING), names(Given::EVERYTHING));
        let added: Vec<_> = most.into_iter().filter(|name| !least.contains(name)).collect();
        let optional = [
            "k3_per_token/chosen",
            "k3_per_token/rejected",
            "entropy",
            "logits/chosen",
            "logits/rejected",
            "mean_token_accuracy",
        ];
        prop_assert_eq!(added, if measured.pairs.is_empty() { &[][..] } else { &optional[..] });
        Ok(())
    });
}

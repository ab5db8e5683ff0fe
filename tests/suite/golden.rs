//! Agreement with another implementation: float64 PyTorch autograd, cross-checked against TRL's `DPOTrainer`.
//!
//! The values are in `../shared/golden/`, whose README says how they were made; `BURN_DPO_GOLDEN` names another file. Each of
//! their configurations is answered as `tools/src/bin/score` answers it, by the same code.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::PathBuf};

use burn::tensor::DType;
use proptest::{prelude::*, test_runner::TestCaseResult};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    devices::{nothing_may_be_skipped, on_every_device},
    tolerance::{GOLDEN_GRADIENT, GOLDEN_VALUE, GOLDEN_WIDE},
};

#[path = "../../tools/src/bin/score/config.rs"]
mod config;
#[path = "../../tools/src/bin/score/input.rs"]
mod input;
#[path = "../../tools/src/bin/score/losses.rs"]
mod losses;
#[path = "../../tools/src/bin/score/model.rs"]
mod model;

use config::Config;
use input::Input;
use model::{Answer, Model, ModelOutput, numbers};

/// What the file expects of each case, beside what [`Input`] reads of it.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    token_log_probs: Vec<Vec<f64>>,
    reference_token_log_probs: Vec<Vec<f64>>,
    entropy: Vec<Vec<f64>>,
    log_sum_sq_probs: Vec<Vec<f64>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    loss: f64,
    per_pair: Vec<f64>,
    /// In full for the small cases.
    grad_hidden: Option<Vec<Vec<Vec<f64>>>>,
    grad_weight: Option<Vec<Vec<f64>>>,
    grad_hidden_norm: f64,
    grad_weight_norm: f64,
    metrics: BTreeMap<String, f64>,
    sequence_log_probs: SequenceLogProbs,
}

#[derive(Deserialize)]
struct SequenceLogProbs {
    policy: Vec<f64>,
    reference: Vec<f64>,
}

#[test]
fn every_configuration_agrees_with_the_golden_values() {
    let Some((input, golden)) = read() else { return };
    on_every_device(|on| {
        for (dtype, path) in on
            .arithmetic_dtypes()
            .flat_map(|dtype| [ModelOutput::Logits, ModelOutput::Hidden].map(|path| (dtype, path)))
        {
            let mut agreement = Agreement::new(dtype);
            for (case, expected) in input.cases.iter().zip(&golden.cases) {
                let model = Model::new(case, &on.device, dtype, path).expect("tensors that fit each other");
                agreement.expect_case(&model, expected)?;
                for (run, expected) in case.runs.iter().zip(&expected.runs) {
                    let answer = Config::parse(&run.config).and_then(|config| model.run(&config));
                    let answer = answer.map_err(|error| TestCaseError::fail(format!("{}: {error:#}", run.config)))?;
                    agreement.expect_run(&run.config, &answer, expected)?;
                }
            }
            prop_assert!(agreement.runs >= 57 * golden.cases.len(), "only {} runs were found", agreement.runs);
            for (what, error) in agreement.worst {
                println!("{}, {dtype:?}, from {path:?}: {what}: largest relative disagreement {error:.1e}", on.name);
            }
        }
        Ok(())
    });
}

#[test]
fn a_configuration_with_a_key_missing_not_read_or_out_of_range_is_refused() {
    let refused = [
        (r#"{"loss": "foo", "beta": 0.1}"#, "unknown loss \"foo\""),
        (r#"{"loss": "orpo"}"#, "the configuration has no beta"),
        (r#"{"loss": "robust", "beta": 0.1}"#, "the configuration has no label_smoothing"),
        (
            r#"{"loss": "hinge", "beta": 0.1, "label_smoothing": 0}"#,
            "label_smoothing is 0, but \"hinge\" does not read it",
        ),
        (r#"{"loss": "sigmoid", "beta": 0.1, "alpha": 0.5}"#, "alpha is 0.5, but \"sigmoid\" does not read it"),
        (
            r#"{"loss": "aot", "beta": 0.1, "f_divergence": "forward_kl"}"#,
            "f_divergence is \"forward_kl\", but aot does",
        ),
        (
            r#"{"loss": ["ipo", "bco_pair"], "weights": [1, 1], "beta": 0.1, "f_divergence": "forward_kl"}"#,
            "f_divergence is \"forward_kl\", but bco_pair does not read it",
        ),
        (r#"{"loss": ["ipo", "sft"], "weights": [1], "beta": 0.1}"#, "2 losses, but 1 weights"),
        (r#"{"loss": "hinge", "beta": [0.1, 0.2]}"#, "beta is [0.1,0.2], but hinge reads one number"),
        (r#"{"loss": "sigmoid", "beta": [0.1, 0]}"#, "beta: beta is 0, expected"),
        (r#"{"loss": "soft", "beta": 0.1, "label_probability": [1.5]}"#, "label_probability is 1.5, expected"),
        (
            r#"{"loss": "bco", "beta": 0.1, "delta": 0, "ld_alpha": 0.5}"#,
            "ld_alpha is 0.5, but \"bco\" does not read it",
        ),
        (r#"{"loss": "sft", "beta": 0.1, "ld_alpha": 0.5}"#, "ld_alpha does not go with \"sft\""),
    ];
    for (config, expected) in refused {
        let error = Config::parse(&serde_json::from_str(config).expect("JSON")).expect_err(config);
        assert!(format!("{error:#}").starts_with(expected), "{config}: {error:#}");
    }
}

#[test]
fn every_golden_configuration_is_refused_with_a_key_more_and_without_beta() {
    let Some((input, _)) = read() else { return };
    for run in input.cases.iter().flat_map(|case| &case.runs) {
        let (mut more, mut less) = (run.config.clone(), run.config.clone());
        more["surprise"] = Value::from(1);
        less.as_object_mut().expect("an object").remove("beta");
        assert!(Config::parse(&run.config).is_ok(), "{}", run.config);
        assert!(Config::parse(&more).is_err(), "{more}");
        assert!(Config::parse(&less).is_err(), "{less}");
    }
}

fn read() -> Option<(Input, Golden)> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/golden/preference_losses.json");
    let path = std::env::var_os("BURN_DPO_GOLDEN").map_or_else(|| beside.into(), PathBuf::from);
    match File::open(&path) {
        Ok(file) => {
            let json: Value = serde_json::from_reader(BufReader::new(file)).expect("golden values in JSON");
            let input = Input::deserialize(&json).expect("batches in the known format");
            Some((input, Golden::deserialize(&json).expect("golden values in the known format")))
        }
        Err(cause) => {
            assert!(!nothing_may_be_skipped(), "{}: {cause}", path.display());
            eprintln!("skipping the golden values: {}: {cause}", path.display());
            None
        }
    }
}

/// 0 may not be off at all.
fn relative(difference: f64, of: f64) -> f64 {
    if difference == 0.0 { 0.0 } else { (difference / of).abs() }
}

/// How far a device in one format is from the golden values.
struct Agreement {
    dtype: DType,
    runs: usize,
    /// The configuration being compared.
    run: String,
    /// The largest disagreement seen of each kind, relative.
    worst: BTreeMap<&'static str, f64>,
}

impl Agreement {
    fn new(dtype: DType) -> Self {
        Self { dtype, runs: 0, run: String::new(), worst: BTreeMap::new() }
    }

    fn expect_case(&mut self, model: &Model, golden: &Case) -> TestCaseResult {
        let (_, statistics) = model.policy().expect("tensors that fit each other");
        self.expect("token log-probs", &numbers(statistics.log_probs().values()), &golden.token_log_probs.concat())?;
        let reference = numbers(model.reference().values());
        self.expect("token log-probs", &reference, &golden.reference_token_log_probs.concat())?;
        self.expect("entropies", &numbers(statistics.entropy()), &golden.entropy.concat())?;
        self.expect("log Σ p²", &numbers(statistics.log_sum_sq_probs()), &golden.log_sum_sq_probs.concat())
    }

    fn expect_run(&mut self, config: &Value, answer: &Answer, golden: &Run) -> TestCaseResult {
        self.runs += 1;
        self.run = config.to_string();
        self.expect("sequence log-probs", &answer.policy, &golden.sequence_log_probs.policy)?;
        self.expect("sequence log-probs", &answer.reference, &golden.sequence_log_probs.reference)?;
        self.expect("losses", &answer.losses, &golden.per_pair)?;
        self.expect("losses", &[answer.metrics.loss()], &[golden.loss])?;

        let metrics: BTreeMap<&str, f64> = answer.metrics.entries().into_iter().collect();
        for (name, &expected) in &golden.metrics {
            let Some(&metric) = metrics.get(name.as_str()) else {
                return Err(TestCaseError::fail(format!("no metric {name}")));
            };
            let rewards = golden.metrics["rewards/chosen"].abs() + golden.metrics["rewards/rejected"].abs();
            if self.dtype == DType::F32 && name == "rewards/margins" && rewards > 5.0 * expected.abs() {
                // See GOLDEN_VALUE.
                self.note("margins that cancel", metric, expected, relative(metric - expected, rewards), GOLDEN_VALUE)?;
            } else {
                self.expect("metrics", &[metric], &[expected])?;
            }
        }

        let hidden = golden.grad_hidden.as_ref().map(|gradient| gradient.concat().concat());
        self.expect_gradient("hidden gradient", &answer.grad_hidden, hidden, golden.grad_hidden_norm)?;
        let weight = golden.grad_weight.as_ref().map(|gradient| gradient.concat());
        self.expect_gradient("weight gradient", &answer.grad_weight, weight, golden.grad_weight_norm)
    }

    /// Each number within the format's bound of its golden one, relative to it; 0 is 0.
    fn expect(&mut self, what: &'static str, actual: &[f64], golden: &[f64]) -> TestCaseResult {
        prop_assert_eq!(actual.len(), golden.len(), "{}", what);
        let (bound, smallest) = match self.dtype {
            DType::F64 => (GOLDEN_WIDE, f64::MIN_POSITIVE),
            _ => (GOLDEN_VALUE, f64::from(f32::MIN_POSITIVE)),
        };
        for (&actual, &golden) in actual.iter().zip(golden) {
            let beneath_the_format = golden != 0.0 && golden.abs() < smallest && actual.abs() < smallest;
            let difference = if beneath_the_format { 0.0 } else { actual - golden };
            self.note(what, actual, golden, relative(difference, golden), bound)?;
        }
        Ok(())
    }

    /// A gradient within the format's bound of the golden one, relative to its norm; and their norms alike.
    fn expect_gradient(
        &mut self,
        what: &'static str,
        actual: &[f64],
        golden: Option<Vec<f64>>,
        norm: f64,
    ) -> TestCaseResult {
        let bound = if self.dtype == DType::F64 { GOLDEN_WIDE } else { GOLDEN_GRADIENT };
        let norm_of = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
        if let Some(golden) = golden {
            prop_assert_eq!(actual.len(), golden.len(), "{}", what);
            let difference: Vec<f64> = actual.iter().zip(&golden).map(|(actual, golden)| actual - golden).collect();
            self.note(what, norm_of(actual), norm, relative(norm_of(&difference), norm), bound)?;
        }
        self.note(what, norm_of(actual), norm, relative(norm_of(actual) - norm, norm), bound)
    }

    fn note(&mut self, what: &'static str, actual: f64, golden: f64, error: f64, bound: f64) -> TestCaseResult {
        let (dtype, run) = (self.dtype, &self.run);
        prop_assert!(
            error <= bound,
            "{dtype:?}, {run}: {what}: {actual:e} instead of {golden:e}, off by {error:.2e}, allowed {bound:.0e}"
        );
        let worst = self.worst.entry(what).or_default();
        *worst = worst.max(error);
        Ok(())
    }
}

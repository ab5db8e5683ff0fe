//! Agreement with another implementation: float64 PyTorch autograd, cross-checked against TRL's `DPOTrainer`.
//!
//! The values are in `../shared/golden/`, whose README says how they were made; `BURN_DPO_GOLDEN` names another file. Of
//! their configurations, those that this crate has are checked.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::PathBuf};

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{PreferenceMetrics, dpo_loss, token_log_probs, token_statistics};
use proptest::{prelude::*, test_runner::TestCaseResult};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    batch::Batch,
    devices::{Tested, nothing_may_be_skipped, on_every_device},
    host::{floats, numbers},
    pairs::beta,
    tolerance::{GOLDEN_GRADIENT, GOLDEN_VALUE},
};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    vocab: usize,
    tokens: Vec<Vec<i64>>,
    completion_mask: Vec<Vec<u8>>,
    policy_hidden: Vec<Vec<Vec<f64>>>,
    policy_weight: Vec<Vec<f64>>,
    reference_hidden: Vec<Vec<Vec<f64>>>,
    reference_weight: Vec<Vec<f64>>,
    token_log_probs: Vec<Vec<f64>>,
    reference_token_log_probs: Vec<Vec<f64>>,
    entropy: Vec<Vec<f64>>,
    log_sum_sq_probs: Vec<Vec<f64>>,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    config: BTreeMap<String, Value>,
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

impl Run {
    /// β, if it is a run of plain DPO.
    fn beta(&self) -> Option<f64> {
        let plain = self.config.len() == 2 && self.config.get("loss").is_some_and(|loss| loss == "sigmoid");
        self.config.get("beta").filter(|_| plain)?.as_f64()
    }
}

/// The largest disagreement seen of each kind, relative.
#[derive(Default)]
struct Worst(BTreeMap<&'static str, f64>);

impl Worst {
    /// Each number within `bound` of its golden one, relative to it.
    fn expect(&mut self, what: &'static str, actual: &[f64], golden: &[f64]) -> TestCaseResult {
        prop_assert_eq!(actual.len(), golden.len(), "{}", what);
        for (actual, golden) in actual.iter().zip(golden) {
            let error = if actual == golden { 0.0 } else { (actual - golden).abs() / golden.abs() };
            self.note(what, error, GOLDEN_VALUE, format_args!("{actual:e} instead of {golden:e}"))?;
        }
        Ok(())
    }

    /// A gradient within `bound` of the golden one, relative to its norm; and their norms alike.
    fn expect_gradient(
        &mut self,
        what: &'static str,
        actual: &[f64],
        golden: Option<Vec<f64>>,
        norm: f64,
    ) -> TestCaseResult {
        let norm_of = |numbers: &[f64]| numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
        if let Some(golden) = golden {
            prop_assert_eq!(actual.len(), golden.len(), "{}", what);
            let difference: Vec<f64> = actual.iter().zip(&golden).map(|(actual, golden)| actual - golden).collect();
            self.note(what, norm_of(&difference) / norm, GOLDEN_GRADIENT, format_args!("elementwise"))?;
        }
        let error = (norm_of(actual) - norm).abs() / norm;
        self.note(what, error, GOLDEN_GRADIENT, format_args!("norm {:e} instead of {norm:e}", norm_of(actual)))
    }

    fn note(&mut self, what: &'static str, error: f64, bound: f64, detail: std::fmt::Arguments) -> TestCaseResult {
        let worst = self.0.entry(what).or_default();
        *worst = worst.max(error);
        prop_assert!(error <= bound, "{what}: off by {error:.2e}, allowed {bound:.0e}: {detail}");
        Ok(())
    }
}

#[test]
fn agrees_with_the_golden_values() {
    let Some(golden) = read() else { return };
    on_every_device(|on| {
        let mut worst = Worst::default();
        let mut runs = 0;
        for case in &golden.cases {
            runs += case.check(on, &mut worst)?;
        }
        prop_assert!(runs >= 2 * golden.cases.len(), "only {runs} runs of plain DPO found");
        for (what, error) in worst.0 {
            println!("{}: {runs} golden runs: {what}: largest relative disagreement {error:.1e}", on.name);
        }
        Ok(())
    });
}

fn read() -> Option<Golden> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/golden/preference_losses.json");
    let path = std::env::var_os("BURN_DPO_GOLDEN").map_or_else(|| beside.into(), PathBuf::from);
    match File::open(&path) {
        Ok(file) => Some(serde_json::from_reader(BufReader::new(file)).expect("golden values in the known format")),
        Err(cause) => {
            assert!(!nothing_may_be_skipped(), "{}: {cause}", path.display());
            eprintln!("skipping the golden values: {}: {cause}", path.display());
            None
        }
    }
}

/// `logits = hidden · weightᵀ`, and the leaves they come from.
struct Head {
    hidden: Tensor<3>,
    weight: Tensor<2>,
}

impl Head {
    fn new(hidden: &[Vec<Vec<f64>>], weight: &[Vec<f64>], device: &Device) -> Self {
        let [sequences, time, size] = [hidden.len(), hidden[0].len(), hidden[0][0].len()];
        let hidden = floats(&hidden.concat().concat(), [sequences, time, size], device, DType::F32);
        let weight = floats(&weight.concat(), [weight.len(), size], device, DType::F32);
        Self { hidden, weight }
    }

    fn logits(&self) -> Tensor<3> {
        self.hidden.clone().matmul(self.weight.clone().transpose().unsqueeze())
    }
}

impl Case {
    /// How many runs were checked.
    fn check(&self, on: &Tested, worst: &mut Worst) -> Result<usize, TestCaseError> {
        let completions = Batch {
            sequences: self.tokens.len(),
            time: self.tokens[0].len(),
            vocab: self.vocab,
            logits: Vec::new(),
            tokens: self.tokens.concat(),
            mask: self.completion_mask.concat().into_iter().map(|counted| counted != 0).collect(),
            upstream: Vec::new(),
        }
        .completions(&on.device);

        let reference = Head::new(&self.reference_hidden, &self.reference_weight, &on.device);
        let reference = token_log_probs(reference.logits(), &completions).unwrap();
        worst.expect("token log-probs", &numbers(&reference.values()), &self.reference_token_log_probs.concat())?;
        let reference = reference.sequences();

        let policy = Head::new(&self.policy_hidden, &self.policy_weight, &on.device);
        let statistics = token_statistics(policy.logits(), &completions).unwrap();
        worst.expect("entropies", &numbers(&statistics.entropy()), &self.entropy.concat())?;
        worst.expect("log Σ p²", &numbers(&statistics.log_sum_sq_probs()), &self.log_sum_sq_probs.concat())?;

        let mut checked = 0;
        for run in &self.runs {
            let Some(beta_of_run) = run.beta() else { continue };
            checked += 1;
            let beta = beta(beta_of_run);

            let mut policy = Head::new(&self.policy_hidden, &self.policy_weight, &on.autodiff());
            policy.hidden = policy.hidden.require_grad();
            policy.weight = policy.weight.require_grad();
            let scored = token_log_probs(policy.logits(), &completions).unwrap();
            worst.expect("token log-probs", &numbers(&scored.values()), &self.token_log_probs.concat())?;
            let scored = scored.sequences();
            worst.expect("sequence log-probs", &numbers(&scored.sum), &run.sequence_log_probs.policy)?;
            worst.expect("sequence log-probs", &numbers(&reference.sum), &run.sequence_log_probs.reference)?;

            let (pairs, reference) = (scored.into_pairs().unwrap(), reference.clone().into_pairs().unwrap());
            let losses = dpo_loss(&pairs, &reference, beta).unwrap();
            worst.expect("losses", &numbers(&losses), &run.per_pair)?;

            let metrics = PreferenceMetrics::from_batch(&losses, &pairs, &reference, beta).unwrap();
            worst.expect("losses", &[metrics.loss()], &[run.loss])?;
            let mut shared = 0;
            for (name, value) in metrics.entries() {
                if let Some(&golden) = run.metrics.get(name) {
                    worst.expect("metrics", &[value], &[golden])?;
                    shared += 1;
                }
            }
            prop_assert_eq!(shared, 6, "rewards/{{chosen,rejected,margins,accuracies}}, logps/{{chosen,rejected}}");

            let gradients = losses.mean().backward();
            let hidden = numbers(&policy.hidden.grad(&gradients).unwrap());
            let weight = numbers(&policy.weight.grad(&gradients).unwrap());
            let golden = run.grad_hidden.as_ref().map(|gradient| gradient.concat().concat());
            worst.expect_gradient("hidden gradient", &hidden, golden, run.grad_hidden_norm)?;
            let golden = run.grad_weight.as_ref().map(|gradient| gradient.concat());
            worst.expect_gradient("weight gradient", &weight, golden, run.grad_weight_norm)?;
        }
        Ok(checked)
    }
}

//! TRL's configuration, and what it means here.

use serde::{Deserialize, Serialize};

use super::*;
use crate::{Error, Result};

/// The loss options of TRL's `DPOConfig` (1.16), by their names there: what a configuration written for TRL holds.
///
/// An option that is not given has TRL's default. Anything else of `DPOConfig` is refused as an unknown field: pick these out.
/// [`TrlConfig::objective`] converts, and refuses what TRL would silently ignore.
///
/// # Example
/// ```
/// use burn_dpo::TrlConfig;
///
/// let config: TrlConfig = serde_json::from_str(r#"{"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}"#).unwrap();
/// assert_eq!(config.objective()?.losses.to_string(), "1 sigmoid + 0.2 sft");
///
/// // TRL reads label_smoothing only for exo_pair, robust, aot and aot_unpaired.
/// let config: TrlConfig = serde_json::from_str(r#"{"loss_type": "sigmoid", "label_smoothing": 0.1}"#).unwrap();
/// let error = config.objective().unwrap_err().to_string();
/// assert_eq!(error, "label_smoothing is 0.1, but sigmoid does not read it");
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrlConfig {
    /// One name or several; `sigmoid` if not given. `cdpo` is not TRL's, and is taken for what its `sigmoid` was before 0.29.
    pub loss_type: Option<OneOrMany>,
    /// As many as losses; 1 each if not given.
    pub loss_weights: Option<Vec<f64>>,
    /// 0.1 if not given.
    pub beta: Option<f64>,
    /// 0 if not given.
    pub label_smoothing: Option<f64>,
    /// `reverse_kl` if not given.
    pub f_divergence_type: Option<String>,
    /// 0.5 if not given.
    pub f_alpha_divergence_coef: Option<f64>,
    /// 0.05 if not given.
    pub discopop_tau: Option<f64>,
    /// LD-DPO, if given.
    pub ld_alpha: Option<f64>,
    /// WPO; false if not given.
    pub use_weighting: Option<bool>,
}

/// TRL's `loss_type`: a name, or a list of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "loss_type should be a name or a list of names")]
pub enum OneOrMany {
    /// One name.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl TrlConfig {
    /// What the configuration means.
    ///
    /// # Errors
    /// - [`Error::UnknownName`] for a loss or divergence that TRL's `DPOTrainer` does not have.
    /// - [`Error::Parameter`] for a number outside its domain, or `exo_pair` without `label_smoothing`.
    /// - [`Error::Ignored`] for an option that no loss of the list reads, or a divergence that one of them does not.
    /// - [`Error::Shape`] if there are not as many weights as losses.
    /// - [`Error::Incompatible`] for WPO with losses that do not keep pairs apart, and for LD-DPO with `sft`, whose tokens TRL
    ///   counts in full.
    pub fn objective(&self) -> Result<Objective> {
        let names: Vec<&str> = match &self.loss_type {
            None => vec!["sigmoid"],
            Some(OneOrMany::One(name)) => vec![name],
            Some(OneOrMany::Many(names)) => names.iter().map(String::as_str).collect(),
        };
        let weights = match &self.loss_weights {
            None => vec![1.0; names.len()],
            Some(weights) if weights.len() == names.len() => weights.clone(),
            Some(weights) => {
                return Err(Error::Shape {
                    what: "loss_weights",
                    expected: vec![names.len()],
                    actual: vec![weights.len()],
                });
            }
        };
        let terms = names
            .iter()
            .zip(weights)
            .map(|(name, weight)| Ok(WeightedLoss { weight: Weight::new(weight)?, loss: self.loss(name)? }));
        let terms: Vec<WeightedLoss> = terms.collect::<Result<_>>()?;
        self.expect_everything_read(&names)?;

        let ld_alpha = self.ld_alpha.map(LdAlpha::new).transpose()?;
        Objective::new(LossMixture::new(terms)?, ld_alpha, self.use_weighting.unwrap_or(false))
    }

    fn loss(&self, name: &str) -> Result<PreferenceLoss> {
        use PreferenceLoss::*;
        let beta = Beta::new(self.beta.unwrap_or(0.1))?;
        let epsilon = self.label_smoothing.unwrap_or(0.0);
        let divergence = self.divergence()?;
        let loss = match name {
            "sigmoid" => Dpo { beta, divergence },
            "cdpo" => Cdpo { beta, label_smoothing: LabelSmoothing::new(epsilon)?, divergence },
            "hinge" => Hinge { beta, divergence },
            "ipo" => Ipo { beta, divergence },
            "exo_pair" => ExoPair { beta, label_smoothing: ExoSmoothing::new(epsilon)?, divergence },
            "nca_pair" => NcaPair { beta },
            "robust" => Robust { beta, label_smoothing: FlipRate::new(epsilon)?, divergence },
            "bco_pair" => BcoPair { beta },
            "sppo_hard" => SppoHard { beta },
            "aot" => Aot { beta, label_smoothing: LabelSmoothing::new(epsilon)? },
            "aot_unpaired" => AotUnpaired { beta, label_smoothing: LabelSmoothing::new(epsilon)? },
            "apo_zero" => ApoZero { beta },
            "apo_down" => ApoDown { beta },
            "discopop" => {
                Discopop { beta, temperature: Temperature::new(self.discopop_tau.unwrap_or(0.05))?, divergence }
            }
            "sft" => Sft {},
            "sigmoid_norm" => SigmoidNorm { beta, divergence },
            unknown => {
                return Err(Error::UnknownName { what: "loss_type", name: unknown.into(), known: NAMES.join(", ") });
            }
        };
        if divergence != FDivergence::ReverseKl && !reads_divergence(name) {
            return Err(Error::Ignored {
                parameter: "f_divergence_type",
                value: self.f_divergence_type.clone().unwrap_or_default(),
                loss: name.into(),
            });
        }
        Ok(loss)
    }

    fn divergence(&self) -> Result<FDivergence> {
        let name = self.f_divergence_type.as_deref().unwrap_or("reverse_kl");
        match name {
            "reverse_kl" => Ok(FDivergence::ReverseKl),
            "forward_kl" => Ok(FDivergence::ForwardKl),
            "js_divergence" => Ok(FDivergence::JsDivergence),
            "alpha_divergence" => {
                Ok(FDivergence::AlphaDivergence { alpha: Alpha::new(self.f_alpha_divergence_coef.unwrap_or(0.5))? })
            }
            unknown => Err(Error::UnknownName {
                what: "f_divergence_type",
                name: unknown.into(),
                known: "reverse_kl, forward_kl, js_divergence, alpha_divergence".into(),
            }),
        }
    }

    /// That every option given is read by a loss of the list, or is what TRL does without it.
    fn expect_everything_read(&self, names: &[&str]) -> Result<()> {
        let read_by = |readers: &[&str]| names.iter().any(|name| readers.contains(name));
        let list = names.join(", ");
        let ignored =
            |parameter, value: f64| Error::Ignored { parameter, value: value.to_string(), loss: list.clone() };

        // a whole configuration, written out, has every option with TRL's default
        let given = |option: Option<f64>, default: f64| option.filter(|&value| value != default);
        let smoothed = ["cdpo", "exo_pair", "robust", "aot", "aot_unpaired"];
        if let Some(epsilon) = given(self.label_smoothing, 0.0).filter(|_| !read_by(&smoothed)) {
            return Err(ignored("label_smoothing", epsilon));
        }
        if let Some(tau) = given(self.discopop_tau, 0.05).filter(|_| !read_by(&["discopop"])) {
            return Err(ignored("discopop_tau", tau));
        }
        if let Some(alpha) = given(self.f_alpha_divergence_coef, 0.5)
            && self.f_divergence_type.as_deref() != Some("alpha_divergence")
        {
            let divergence = self.f_divergence_type.as_deref().unwrap_or("reverse_kl").into();
            return Err(Error::Ignored {
                parameter: "f_alpha_divergence_coef",
                value: alpha.to_string(),
                loss: divergence,
            });
        }
        let without_rewards = names.iter().all(|&name| name == "sft");
        if let Some(beta) = given(self.beta, 0.1).filter(|_| without_rewards) {
            return Err(ignored("beta", beta));
        }
        if let Some(divergence) = &self.f_divergence_type
            && without_rewards
            && divergence != "reverse_kl"
        {
            return Err(Error::Ignored { parameter: "f_divergence_type", value: divergence.clone(), loss: list });
        }
        Ok(())
    }
}

const NAMES: [&str; 16] = [
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
    "cdpo",
];

/// Losses of a difference of rewards, and `sft`, which has no reward at all: not where it stands alone.
fn reads_divergence(name: &str) -> bool {
    ["sigmoid", "cdpo", "hinge", "ipo", "exo_pair", "robust", "discopop", "sigmoid_norm", "sft"].contains(&name)
}

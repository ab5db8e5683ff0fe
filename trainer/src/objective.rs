//! What is trained with: a member of the family, or a weighted sum of several.

use std::fmt;

use anyhow::Context;
use burn_dpo::{Beta, LossMixture, PreferenceLoss, Weight, WeightedLoss};
use serde::Serialize;
use serde_json::Value;

/// Of the likelihood of chosen completions, beside DPO, where no loss is named.
const SFT_WEIGHT: f64 = 5.0;

/// The loss; written as the list that `--loss-config` reads.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Objective {
    pub losses: LossMixture,
}

impl Objective {
    /// A member by name with its usual parameters, but for β where another one is given. Without a name: DPO, and the likelihood
    /// of the chosen completions, which keeps their spelling.
    ///
    /// # Errors
    /// If a β is given to a member without one.
    pub fn named(loss: Option<PreferenceLoss>, beta: Option<Beta>) -> anyhow::Result<Self> {
        let with_beta = |loss: PreferenceLoss, beta: Option<Beta>| match beta {
            Some(beta) => loss.with_beta(beta),
            None => Ok(loss),
        };
        if let Some(loss) = loss {
            return Ok(Self { losses: with_beta(loss, beta)?.into() });
        }
        let dpo = with_beta(PreferenceLoss::default(), Some(beta.unwrap_or(Beta::new(1.0)?)))?;
        let terms = [(Weight::ONE, dpo), (Weight::new(SFT_WEIGHT)?, PreferenceLoss::Sft {})];
        Ok(Self { losses: LossMixture::new(terms.map(|(weight, loss)| WeightedLoss { weight, loss }).to_vec())? })
    }

    /// From `{"loss": NAME, …}` or a list of `{"weight": w, "loss": {…}}`.
    pub fn from_json(json: &str) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_str(json).context("--loss-config")?;
        let losses = match value {
            Value::Array(_) => serde_json::from_value(value),
            one => serde_json::from_value::<PreferenceLoss>(one).map(LossMixture::from),
        };
        Ok(Self { losses: losses.context("--loss-config")? })
    }

    /// The scale of rewards in the metrics: the loss's own β, or the usual one where there is none.
    pub fn reward_beta(&self) -> Beta {
        let usual = || PreferenceLoss::default().beta();
        self.losses.beta().or_else(usual).unwrap_or_else(|| unreachable!("DPO has a β"))
    }
}

/// The member's name; of several, each with its weight.
impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.losses.terms() {
            [only] if only.weight == Weight::ONE => only.loss.fmt(f),
            _ => self.losses.fmt(f),
        }
    }
}

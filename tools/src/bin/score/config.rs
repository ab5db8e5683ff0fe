//! A loss configuration of the file, as the library's own types.
//!
//! Which parameters a loss reads is what [`PreferenceLoss`] serialises to; here is only what the file calls otherwise, and
//! the losses that are not of that enum. A key that nothing reads is refused.

use std::{collections::BTreeSet, str::FromStr};

use anyhow::{Context, bail, ensure};
use burn_dpo::{Alpha, Beta, FDivergence, LdAlpha, LossMixture, PreferenceLoss, TargetMargin, Weight, WeightedLoss};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

/// A loss, how log-probs are summed for it, and the β of rewards.
#[derive(Debug)]
pub struct Config {
    pub loss: Loss,
    pub beta: PerPair<Beta>,
    pub ld_alpha: Option<LdAlpha>,
    /// WPO.
    pub use_weighting: bool,
}

/// What is computed, and over what.
#[derive(Debug)]
pub enum Loss {
    /// Of each pair: one loss, or several with weights.
    Pairs(LossMixture),
    /// Of each pair: DPO with numbers that each pair has of its own.
    Annotated { offset: Option<PerPair<TargetMargin>>, label_probability: Option<PerPair<f64>> },
    /// Of each completion.
    Kto { kl: TargetMargin, desirable_weight: Weight, undesirable_weight: Weight },
    /// Of each completion.
    Bco { delta: TargetMargin },
    /// Of each ranking of so many sequences.
    PlackettLuce { group: usize },
}

/// One for all pairs, or one for each.
#[derive(Debug)]
pub enum PerPair<T> {
    All(T),
    Each(Vec<T>),
}

impl Config {
    pub fn parse(config: &Value) -> anyhow::Result<Self> {
        let object = config.as_object().context("a configuration must be an object")?;
        let mut keys = Keys { object, read: BTreeSet::from(["loss".into()]) };
        let name = object.get("loss").context("the configuration names no loss")?;
        let loss = match name {
            Value::String(name) => Loss::parse(name, &mut keys)?,
            Value::Array(names) => Loss::Pairs(mixture(names, &mut keys)?),
            other => bail!("loss is {other}, expected a name or a list of names"),
        };
        // Of a loss without β, too: its rewards have one.
        let beta = keys.per_pair("beta")?;

        let (mut ld_alpha, mut use_weighting) = (None, false);
        if let Loss::Pairs(_) | Loss::Annotated { .. } = loss {
            ld_alpha = keys.optional("ld_alpha")?;
            use_weighting = keys.optional("use_weighting")?.unwrap_or(false);
        }
        if ld_alpha.is_some() && loss.is_a_likelihood() {
            bail!("ld_alpha does not go with {name}: the likelihood of a completion is that of all its tokens");
        }
        keys.expect_all_read(name)?;
        Ok(Self { loss, beta, ld_alpha, use_weighting })
    }
}

impl Loss {
    fn parse(name: &str, keys: &mut Keys) -> anyhow::Result<Self> {
        Ok(match name {
            "kto" => Loss::Kto {
                kl: keys.required("kl")?,
                desirable_weight: keys.required("desirable_weight")?,
                undesirable_weight: keys.required("undesirable_weight")?,
            },
            "bco" => Loss::Bco { delta: keys.required("delta")? },
            "plackett_luce" => Loss::PlackettLuce { group: keys.required("group")? },
            "soft" => {
                let label_probability: PerPair<f64> = keys.per_pair("label_probability")?;
                let numbers = match &label_probability {
                    PerPair::All(one) => std::slice::from_ref(one),
                    PerPair::Each(list) => list,
                };
                if let Some(q) = numbers.iter().find(|q| !(0.0..=1.0).contains(*q)) {
                    bail!("label_probability is {q}, expected a number from 0 to 1");
                }
                Loss::Annotated { offset: None, label_probability: Some(label_probability) }
            }
            "odpo" if keys.is_list("beta") || keys.is_list("offset") => {
                Loss::Annotated { offset: Some(keys.per_pair("offset")?), label_probability: None }
            }
            "sigmoid" if keys.is_list("beta") => Loss::Annotated { offset: None, label_probability: None },
            _ => Loss::Pairs(preference_loss(name, keys)?.into()),
        })
    }

    /// Whether a likelihood is part of it.
    fn is_a_likelihood(&self) -> bool {
        let Loss::Pairs(mixture) = self else { return false };
        mixture.terms().iter().any(|term| matches!(term.loss, PreferenceLoss::Sft {} | PreferenceLoss::Nll {}))
    }
}

/// `"loss": [names…], "weights": [numbers…]`; other keys are for all terms that read them.
fn mixture(names: &[Value], keys: &mut Keys) -> anyhow::Result<LossMixture> {
    let weights: Vec<Weight> = keys.required("weights")?;
    ensure!(weights.len() == names.len(), "{} losses, but {} weights", names.len(), weights.len());
    let term = |(name, weight): (&Value, Weight)| {
        let name = name.as_str().with_context(|| format!("loss has {name}, expected a name"))?;
        Ok(WeightedLoss { weight, loss: preference_loss(name, keys)? })
    };
    let terms = names.iter().zip(weights).map(term).collect::<anyhow::Result<_>>()?;
    Ok(LossMixture::new(terms)?)
}

/// The loss of that name, its usual parameters replaced by the file's.
fn preference_loss(name: &str, keys: &mut Keys) -> anyhow::Result<PreferenceLoss> {
    let usual = PreferenceLoss::from_str(name)?;
    let mut loss = serde_json::to_value(usual)?;
    let parameters = loss.as_object_mut().context("a loss serialises to an object")?;
    let reads_divergence = parameters.contains_key("divergence");
    for (field, parameter) in parameters.iter_mut().filter(|(field, _)| *field != "loss") {
        let key = match field.as_str() {
            "divergence" => {
                *parameter = keys.divergence()?;
                continue;
            }
            "temperature" => "discopop_tau",
            "length_weight" => "alpha_len",
            same => same,
        };
        match keys.get(key) {
            Some(list @ Value::Array(_)) => bail!("{key} is {list}, but {name} reads one number"),
            Some(given) => *parameter = given.clone(),
            // The usual numbers are TRL's defaults: no smoothing, 0.05.
            None if [("aot", "label_smoothing"), ("aot_unpaired", "label_smoothing"), ("discopop", "discopop_tau")]
                .contains(&(name, key)) => {}
            None => bail!("the configuration has no {key}"),
        }
    }
    // A divergence is one of rewards: every loss that has rewards must read it, in a list too.
    if !reads_divergence && usual.beta().is_some() {
        keys.expect_absent("f_divergence", name)?;
    }
    serde_json::from_value(loss).with_context(|| name.to_string())
}

/// The keys of one configuration, and which of them something asked for.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    read: BTreeSet<String>,
}

impl<'a> Keys<'a> {
    fn get(&mut self, key: &str) -> Option<&'a Value> {
        self.read.insert(key.into());
        self.object.get(key)
    }

    fn is_list(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_array)
    }

    fn optional<T: DeserializeOwned>(&mut self, key: &str) -> anyhow::Result<Option<T>> {
        self.get(key).map(|value| T::deserialize(value).with_context(|| key.to_string())).transpose()
    }

    fn required<T: DeserializeOwned>(&mut self, key: &str) -> anyhow::Result<T> {
        self.optional(key)?.with_context(|| format!("the configuration has no {key}"))
    }

    fn per_pair<T: DeserializeOwned>(&mut self, key: &str) -> anyhow::Result<PerPair<T>> {
        if self.is_list(key) { Ok(PerPair::Each(self.required(key)?)) } else { Ok(PerPair::All(self.required(key)?)) }
    }

    /// `f_divergence`, and the `alpha` of the one that has it, as the library writes it.
    fn divergence(&mut self) -> anyhow::Result<Value> {
        let name: String = self.optional("f_divergence")?.unwrap_or_else(|| "reverse_kl".into());
        let divergence = if name == "alpha_divergence" {
            json!({ name: { "alpha": self.required::<Alpha>("alpha")? } })
        } else {
            json!(name)
        };
        FDivergence::deserialize(&divergence).context("f_divergence")?;
        Ok(divergence)
    }

    fn expect_absent(&self, key: &str, loss: &str) -> anyhow::Result<()> {
        match self.object.get(key) {
            None => Ok(()),
            Some(value) => bail!("{key} is {value}, but {loss} does not read it"),
        }
    }

    fn expect_all_read(&self, loss: &Value) -> anyhow::Result<()> {
        match self.object.iter().find(|(key, _)| !self.read.contains(*key)) {
            None => Ok(()),
            Some((key, value)) => bail!("{key} is {value}, but {loss} does not read it"),
        }
    }
}

impl<T: Copy> PerPair<T> {
    /// The first, or the only one.
    pub fn first(&self) -> anyhow::Result<T> {
        match self {
            PerPair::All(one) => Ok(*one),
            PerPair::Each(list) => list.first().copied().context("a list of one number per pair is empty"),
        }
    }

    /// The one for all.
    pub fn one(&self) -> anyhow::Result<T> {
        match self {
            PerPair::All(one) => Ok(*one),
            PerPair::Each(_) => bail!("one number per pair is given, but the loss reads one for all"),
        }
    }
}

//! The family as data: which loss, with which parameters.

use std::{fmt, str::FromStr};

use burn_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Error, PairLogProbs, PairWeights, Result};

/// A preference loss and its parameters: what a configuration file holds.
///
/// Each variant owns exactly the parameters that it reads, each of them checked where it was made: a parameter that would be
/// ignored cannot be written down, and text with an unknown field is refused. Names are TRL's where TRL has the loss
/// ([`name`](Self::name), `Display`); [`FromStr`] gives the loss of that name with the parameters that are usual for it.
///
/// The functions of the same name say what each is: [`dpo_loss`], [`cdpo_loss`], …
///
/// # Example
/// ```
/// use burn_dpo::{Beta, FDivergence, PairLogProbs, PreferenceLoss};
/// use burn::tensor::Device;
///
/// let loss: PreferenceLoss = serde_json::from_str(r#"{"loss": "hinge", "beta": 0.25}"#).unwrap();
/// assert_eq!(loss, PreferenceLoss::Hinge { beta: Beta::new(0.25)?, divergence: FDivergence::ReverseKl });
/// let error = serde_json::from_str::<PreferenceLoss>(r#"{"loss": "hinge", "beta": 0.25, "label_smoothing": 0.1}"#);
/// assert!(error.unwrap_err().to_string().starts_with("unknown field `label_smoothing`"));
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4)], &[(-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4)], &[(-7.0, 4)], &device)?;
/// assert_eq!(loss.losses(&policy, &reference)?.into_scalar::<f32>(), 0.5);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "loss", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
#[allow(missing_docs)] // the fields are the parameters of the functions, and their types say what they are
pub enum PreferenceLoss {
    /// [`dpo_loss`] and [`f_dpo_loss`]: TRL's `sigmoid`.
    #[serde(rename = "sigmoid", alias = "dpo")]
    Dpo {
        beta: Beta,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`cdpo_loss`].
    Cdpo {
        beta: Beta,
        label_smoothing: LabelSmoothing,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`robust_loss`].
    Robust {
        beta: Beta,
        label_smoothing: FlipRate,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`hinge_loss`].
    Hinge {
        beta: Beta,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`ipo_loss`].
    Ipo {
        beta: Beta,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`sigmoid_norm_loss`].
    SigmoidNorm {
        beta: Beta,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`exo_pair_loss`].
    ExoPair {
        beta: Beta,
        label_smoothing: ExoSmoothing,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`discopop_loss`].
    Discopop {
        beta: Beta,
        temperature: Temperature,
        #[serde(default)]
        divergence: FDivergence,
    },
    /// [`nca_pair_loss`].
    NcaPair { beta: Beta },
    /// [`bco_pair_loss`].
    BcoPair { beta: Beta },
    /// [`sppo_hard_loss`].
    SppoHard { beta: Beta },
    /// [`aot_loss`].
    Aot { beta: Beta, label_smoothing: LabelSmoothing },
    /// [`aot_unpaired_loss`]: TRL's `aot_pair` before its 0.29.
    #[serde(alias = "aot_pair")]
    AotUnpaired { beta: Beta, label_smoothing: LabelSmoothing },
    /// [`apo_zero_loss`].
    ApoZero { beta: Beta },
    /// [`apo_down_loss`].
    ApoDown { beta: Beta },
    /// [`dpop_loss`].
    Dpop { beta: Beta, lambda: Weight },
    /// [`odpo_loss`].
    Odpo { beta: Beta, offset: TargetMargin },
    /// [`r_dpo_loss`].
    RDpo { beta: Beta, length_weight: Weight },
    /// [`simpo_loss`].
    Simpo { beta: Beta, gamma: TargetMargin },
    /// [`alphapo_loss`].
    Alphapo { beta: Beta, alpha: Alpha, gamma: TargetMargin },
    /// [`cpo_loss`].
    Cpo { beta: Beta, label_smoothing: LabelSmoothing },
    /// [`slic_loss`].
    Slic { delta: TargetMargin },
    /// [`orpo_loss`].
    Orpo {},
    /// [`sft_loss`].
    Sft {},
    /// [`nll_loss`].
    Nll {},
}

impl PreferenceLoss {
    /// One loss per pair (for AOT, per rank), not reduced. Losses without a reference do not look at it.
    ///
    /// # Errors
    /// Those of the loss.
    pub fn losses(&self, policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Tensor<1>> {
        use PreferenceLoss::*;
        match *self {
            Dpo { beta, divergence } => f_dpo_loss(policy, reference, beta, divergence),
            Cdpo { beta, label_smoothing, divergence } => {
                cdpo_loss(policy, reference, beta, label_smoothing, divergence)
            }
            Robust { beta, label_smoothing, divergence } => {
                robust_loss(policy, reference, beta, label_smoothing, divergence)
            }
            Hinge { beta, divergence } => hinge_loss(policy, reference, beta, divergence),
            Ipo { beta, divergence } => ipo_loss(policy, reference, beta, divergence),
            SigmoidNorm { beta, divergence } => sigmoid_norm_loss(policy, reference, beta, divergence),
            ExoPair { beta, label_smoothing, divergence } => {
                exo_pair_loss(policy, reference, beta, label_smoothing, divergence)
            }
            Discopop { beta, temperature, divergence } => {
                discopop_loss(policy, reference, beta, temperature, divergence)
            }
            NcaPair { beta } => nca_pair_loss(policy, reference, beta),
            BcoPair { beta } => bco_pair_loss(policy, reference, beta),
            SppoHard { beta } => sppo_hard_loss(policy, reference, beta),
            Aot { beta, label_smoothing } => aot_loss(policy, reference, beta, label_smoothing),
            AotUnpaired { beta, label_smoothing } => aot_unpaired_loss(policy, reference, beta, label_smoothing),
            ApoZero { beta } => apo_zero_loss(policy, reference, beta),
            ApoDown { beta } => apo_down_loss(policy, reference, beta),
            Dpop { beta, lambda } => dpop_loss(policy, reference, beta, lambda),
            Odpo { beta, offset } => odpo_loss(policy, reference, beta, offset),
            RDpo { beta, length_weight } => r_dpo_loss(policy, reference, beta, length_weight),
            Simpo { beta, gamma } => simpo_loss(policy, beta, gamma),
            Alphapo { beta, alpha, gamma } => alphapo_loss(policy, beta, alpha, gamma),
            Cpo { beta, label_smoothing } => cpo_loss(policy, beta, label_smoothing),
            Slic { delta } => slic_loss(policy, delta),
            Orpo {} => orpo_loss(policy),
            Sft {} => sft_loss(policy),
            Nll {} => nll_loss(policy),
        }
    }

    /// [`losses`](Self::losses), each times the weight of its pair; a pair of weight 0 counts for nothing.
    ///
    /// # Errors
    /// Those of the loss and of [`PairWeights::apply`]; [`Error::Incompatible`] for a loss that does not keep pairs apart.
    pub fn weighted_losses(
        &self,
        policy: &PairLogProbs,
        reference: &PairLogProbs,
        weights: &PairWeights,
    ) -> Result<Tensor<1>> {
        if !self.keeps_pairs_apart() {
            return Err(Error::Incompatible {
                left: "weights of pairs",
                right: self.name().into(),
                why: "its losses are not those of single pairs",
            });
        }
        weights.apply(self.losses(policy, reference)?)
    }

    /// Whether entry `i` of the losses is a function of pair `i` alone. Not so for AOT, which ranks the batch, and `sft`, which
    /// averages over its tokens.
    pub fn keeps_pairs_apart(&self) -> bool {
        use PreferenceLoss::*;
        !matches!(self, Aot { .. } | AotUnpaired { .. } | Sft {})
    }

    /// Whether the loss reads the reference at all.
    pub fn needs_reference(&self) -> bool {
        use PreferenceLoss::*;
        !matches!(self, Simpo { .. } | Alphapo { .. } | Cpo { .. } | Slic { .. } | Orpo {} | Sft {} | Nll {})
    }

    /// β, where the loss has one: the scale of the rewards in its metrics.
    pub fn beta(&self) -> Option<Beta> {
        let mut copy = *self;
        copy.beta_mut().copied()
    }

    /// The same loss with another β.
    ///
    /// # Errors
    /// [`Error::Ignored`] for a loss that has none.
    pub fn with_beta(mut self, beta: Beta) -> Result<Self> {
        match self.beta_mut() {
            Some(own) => *own = beta,
            None => {
                return Err(Error::Ignored { parameter: "beta", value: beta.to_string(), loss: self.name().into() });
            }
        }
        Ok(self)
    }

    fn beta_mut(&mut self) -> Option<&mut Beta> {
        use PreferenceLoss::*;
        match self {
            Dpo { beta, .. }
            | Cdpo { beta, .. }
            | Robust { beta, .. }
            | Hinge { beta, .. }
            | Ipo { beta, .. }
            | SigmoidNorm { beta, .. }
            | ExoPair { beta, .. }
            | Discopop { beta, .. }
            | NcaPair { beta }
            | BcoPair { beta }
            | SppoHard { beta }
            | Aot { beta, .. }
            | AotUnpaired { beta, .. }
            | ApoZero { beta }
            | ApoDown { beta }
            | Dpop { beta, .. }
            | Odpo { beta, .. }
            | RDpo { beta, .. }
            | Simpo { beta, .. }
            | Alphapo { beta, .. }
            | Cpo { beta, .. } => Some(beta),
            Slic { .. } | Orpo {} | Sft {} | Nll {} => None,
        }
    }

    /// TRL's name, or, where TRL has none, ours.
    pub fn name(&self) -> &'static str {
        use PreferenceLoss::*;
        match self {
            Dpo { .. } => "sigmoid",
            Cdpo { .. } => "cdpo",
            Robust { .. } => "robust",
            Hinge { .. } => "hinge",
            Ipo { .. } => "ipo",
            SigmoidNorm { .. } => "sigmoid_norm",
            ExoPair { .. } => "exo_pair",
            Discopop { .. } => "discopop",
            NcaPair { .. } => "nca_pair",
            BcoPair { .. } => "bco_pair",
            SppoHard { .. } => "sppo_hard",
            Aot { .. } => "aot",
            AotUnpaired { .. } => "aot_unpaired",
            ApoZero { .. } => "apo_zero",
            ApoDown { .. } => "apo_down",
            Dpop { .. } => "dpop",
            Odpo { .. } => "odpo",
            RDpo { .. } => "r_dpo",
            Simpo { .. } => "simpo",
            Alphapo { .. } => "alphapo",
            Cpo { .. } => "cpo",
            Slic { .. } => "slic",
            Orpo {} => "orpo",
            Sft {} => "sft",
            Nll {} => "nll",
        }
    }

    /// Every member, with the parameters that are usual for it: what [`FromStr`] gives for its name.
    ///
    /// β is 0.1 and smoothing 0 unless the loss is used with others: the papers' 1e-3 for EXO, 0.1 for cDPO and robust DPO, 0.05
    /// for DiscoPOP's temperature, 10 for `sigmoid_norm`, λ = 5 for DPO-Positive, an offset of 1 for ODPO, 0.01 per token for
    /// R-DPO, β = 2, γ = 1 for SimPO, α = 0.25 more for AlphaPO, δ = 1 for SLiC.
    pub fn all() -> [Self; 25] {
        use PreferenceLoss::*;
        let beta = Beta::USUAL;
        let divergence = FDivergence::ReverseKl;
        let trusted = LabelSmoothing::NONE;
        [
            Dpo { beta, divergence },
            Cdpo { beta, label_smoothing: LabelSmoothing::USUAL, divergence },
            Robust { beta, label_smoothing: FlipRate::USUAL, divergence },
            Hinge { beta, divergence },
            Ipo { beta, divergence },
            SigmoidNorm { beta: Beta::USUAL_PER_TOKEN, divergence },
            ExoPair { beta, label_smoothing: ExoSmoothing::USUAL, divergence },
            Discopop { beta, temperature: Temperature::USUAL, divergence },
            NcaPair { beta },
            BcoPair { beta },
            SppoHard { beta },
            Aot { beta, label_smoothing: trusted },
            AotUnpaired { beta, label_smoothing: trusted },
            ApoZero { beta },
            ApoDown { beta },
            Dpop { beta, lambda: Weight::USUAL_FOR_DPOP },
            Odpo { beta, offset: TargetMargin::ONE },
            RDpo { beta, length_weight: Weight::USUAL_FOR_R_DPO },
            Simpo { beta: Beta::USUAL_WITHOUT_REFERENCE, gamma: TargetMargin::ONE },
            Alphapo { beta: Beta::USUAL_WITHOUT_REFERENCE, alpha: Alpha::USUAL, gamma: TargetMargin::ONE },
            Cpo { beta, label_smoothing: trusted },
            Slic { delta: TargetMargin::ONE },
            Orpo {},
            Sft {},
            Nll {},
        ]
    }
}

/// Plain DPO with a β of 0.1.
impl Default for PreferenceLoss {
    fn default() -> Self {
        PreferenceLoss::Dpo { beta: Beta::USUAL, divergence: FDivergence::ReverseKl }
    }
}

/// The loss of that name, with its usual parameters: see [`PreferenceLoss::all`]. `dpo` is another name for `sigmoid`,
/// and `aot_pair` TRL's old one for `aot_unpaired`.
impl FromStr for PreferenceLoss {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let name = match name {
            "dpo" => "sigmoid",
            "aot_pair" => "aot_unpaired",
            name => name,
        };
        Self::all().into_iter().find(|loss| loss.name() == name).ok_or_else(|| Error::UnknownName {
            what: "loss",
            name: name.into(),
            known: Self::all().map(|loss| loss.name()).join(", "),
        })
    }
}

/// The name alone.
impl fmt::Display for PreferenceLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

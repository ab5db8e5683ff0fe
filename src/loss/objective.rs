//! Everything that is computed in a step, as data.

use burn_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{Error, PairLogProbs, PairWeights, Result, TokenLogProbs, TokenStatistics};

/// What is computed in a step: losses, and how their log-probs are summed and weighted.
///
/// | field           | what it does                                                                                |
/// |-----------------|---------------------------------------------------------------------------------------------|
/// | `losses`        | the losses, weighted                                                                         |
/// | `ld_alpha`      | LD-DPO: how the log-probs of policy and reference are summed; [`pairs`](Self::pairs) does it |
/// | `use_weighting` | WPO: losses are weighted by how probable their pairs are; [`losses`](Self::losses) does it   |
///
/// Made by [`new`](Self::new), from text, or from [`TrlConfig::objective`]; all three check that the parts go together.
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_dpo::{Completions, Objective, token_log_probs, token_statistics};
///
/// let objective: Objective = serde_json::from_str(
///     r#"{"losses": [{"weight": 1, "loss": {"loss": "sigmoid", "beta": 0.1}}], "ld_alpha": 0.5, "use_weighting": true}"#,
/// ).unwrap();
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 1, 2], [0, 3, 1]], &[1, 1], 4, &device)?;
/// let logits = || Tensor::<3>::zeros([2, 3, 4], &device);
/// let statistics = token_statistics(logits(), &completions)?;
/// let policy = objective.pairs(&statistics.log_probs())?;
/// let reference = objective.pairs(&token_log_probs(logits(), &completions)?)?;
///
/// let losses = objective.losses(&policy, &reference, Some(&statistics))?;
/// assert!((losses.into_scalar::<f32>() - 2f32.ln()).abs() < 1e-6); // of a uniform model, WPO's weight is 1
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
#[non_exhaustive]
pub struct Objective {
    /// The losses, weighted.
    pub losses: LossMixture,
    /// LD-DPO's α.
    pub ld_alpha: Option<LdAlpha>,
    /// Whether losses are weighted by how probable their pairs are (WPO).
    pub use_weighting: bool,
}

/// What is written down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    losses: LossMixture,
    #[serde(default)]
    ld_alpha: Option<LdAlpha>,
    #[serde(default)]
    use_weighting: bool,
}

impl Objective {
    /// From its parts.
    ///
    /// # Errors
    /// [`Error::Incompatible`] for WPO with losses that do not keep pairs apart, and for LD-DPO with `sft` or `nll`: the
    /// likelihood of a completion is that of all its tokens.
    pub fn new(losses: LossMixture, ld_alpha: Option<LdAlpha>, use_weighting: bool) -> Result<Self> {
        for loss in losses.terms().iter().map(|term| term.loss) {
            let refused = |left, why| Error::Incompatible { left, right: loss.name().into(), why };
            if use_weighting && !loss.keeps_pairs_apart() {
                return Err(refused("use_weighting", "its losses are not those of single pairs"));
            }
            if ld_alpha.is_some() && matches!(loss, PreferenceLoss::Sft {} | PreferenceLoss::Nll {}) {
                return Err(refused("ld_alpha", "the likelihood of a completion is that of all its tokens"));
            }
        }
        Ok(Self { losses, ld_alpha, use_weighting })
    }

    /// The pairs that the losses are computed from: summed plainly, or as LD-DPO sums.
    ///
    /// # Errors
    /// As [`SequenceLogProbs::into_pairs`](crate::SequenceLogProbs::into_pairs).
    pub fn pairs(&self, tokens: &TokenLogProbs) -> Result<PairLogProbs> {
        match self.ld_alpha {
            Some(alpha) => tokens.length_desensitized_pairs(alpha),
            None => tokens.sequences().into_pairs(),
        }
    }

    /// One value per pair, not reduced; weighted by WPO if that is asked for, for which the policy's statistics are needed.
    ///
    /// # Errors
    /// Those of the losses and of [`TokenStatistics::wpo_weights`]; [`Error::Incompatible`] for WPO without statistics.
    pub fn losses(
        &self,
        policy: &PairLogProbs,
        reference: &PairLogProbs,
        statistics: Option<&TokenStatistics>,
    ) -> Result<Tensor<1>> {
        match (self.use_weighting, statistics) {
            (false, _) => self.losses.losses(policy, reference),
            (true, Some(statistics)) => {
                let weights = PairWeights::new(statistics.wpo_weights()?)?;
                self.losses.weighted_losses(policy, reference, &weights)
            }
            (true, None) => Err(Error::Incompatible {
                left: "use_weighting",
                right: "no statistics".into(),
                why: "WPO weighs pairs by the statistics of the policy's tokens",
            }),
        }
    }
}

impl TryFrom<Unchecked> for Objective {
    type Error = Error;

    fn try_from(unchecked: Unchecked) -> Result<Self> {
        Self::new(unchecked.losses, unchecked.ld_alpha, unchecked.use_weighting)
    }
}

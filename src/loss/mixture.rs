//! Several losses at once.

use burn_tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Beta, PreferenceLoss, Weight};
use crate::{Error, PairLogProbs, PairWeights, Result};

/// One term of a [`LossMixture`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightedLoss {
    /// What it is multiplied by.
    pub weight: Weight,
    /// The loss.
    pub loss: PreferenceLoss,
}

/// A weighted sum of losses (MPO): one value per pair.
///
/// ```text
/// ℓ = Σ wᵢ ℓᵢ
/// ```
///
/// The weights are not normalised, as in TRL. Each term keeps its own parameters and its own length normalisation. A term of
/// weight 0 is not computed. Terms that are +∞ and −∞ at once (only [`robust_loss`](crate::robust_loss) reaches the latter, at
/// margins beyond f32) sum to NaN. Serialises as a list of terms.
///
/// # Example
/// ```
/// use burn_dpo::LossMixture;
///
/// // DPO with a likelihood term, as RPO has it.
/// let mixture: LossMixture = serde_json::from_str(
///     r#"[{"weight": 1.0, "loss": {"loss": "sigmoid", "beta": 0.1}}, {"weight": 0.5, "loss": {"loss": "nll"}}]"#,
/// ).unwrap();
/// assert_eq!(mixture.to_string(), "1 sigmoid + 0.5 nll");
/// assert!(serde_json::from_str::<LossMixture>("[]").is_err());
/// ```
///
/// # Source
/// Wang et al. 2024, MPO (arXiv:2411.10442); `loss_type` and `loss_weights` of TRL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<WeightedLoss>", into = "Vec<WeightedLoss>")]
pub struct LossMixture(Vec<WeightedLoss>);

impl LossMixture {
    /// From its terms.
    ///
    /// # Errors
    /// [`Error::Parameter`] without a term, or unless one weight at least is above 0.
    pub fn new(terms: Vec<WeightedLoss>) -> Result<Self> {
        if terms.is_empty() {
            return Err(Error::Parameter { name: "the number of losses", value: 0.0, expected: "at least 1" });
        }
        let total = terms.iter().fold(0.0, |sum, term| sum + term.weight.get()); // `sum` of nothing is −0
        if total > 0.0 {
            Ok(Self(terms))
        } else {
            Err(Error::Parameter {
                name: "the sum of the mixture's weights",
                value: total,
                expected: "a number above 0",
            })
        }
    }

    /// The terms, in order.
    pub fn terms(&self) -> &[WeightedLoss] {
        &self.0
    }

    /// One value per pair, not reduced.
    ///
    /// # Errors
    /// Those of the losses.
    pub fn losses(&self, policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Tensor<1>> {
        self.sum(|loss| loss.losses(policy, reference))
    }

    /// [`losses`](Self::losses), each times the weight of its pair.
    ///
    /// # Errors
    /// Those of [`PreferenceLoss::weighted_losses`].
    pub fn weighted_losses(
        &self,
        policy: &PairLogProbs,
        reference: &PairLogProbs,
        weights: &PairWeights,
    ) -> Result<Tensor<1>> {
        self.sum(|loss| loss.weighted_losses(policy, reference, weights))
    }

    /// The β of the first term that has one: the scale of the rewards in the metrics.
    pub fn beta(&self) -> Option<Beta> {
        self.0.iter().find_map(|term| term.loss.beta())
    }

    /// Whether any term reads the reference.
    pub fn needs_reference(&self) -> bool {
        self.counted().any(|term| term.loss.needs_reference())
    }

    fn counted(&self) -> impl Iterator<Item = &WeightedLoss> {
        self.0.iter().filter(|term| term.weight.get() > 0.0)
    }

    fn sum(&self, losses: impl Fn(&PreferenceLoss) -> Result<Tensor<1>>) -> Result<Tensor<1>> {
        let mut terms = self.counted().map(|term| Ok(losses(&term.loss)? * term.weight.get()));
        let first = terms.next().unwrap_or_else(|| unreachable!("a mixture has a weight above 0"))?;
        terms.try_fold(first, |sum, term| Ok(sum + term?))
    }
}

impl From<PreferenceLoss> for LossMixture {
    fn from(loss: PreferenceLoss) -> Self {
        Self(vec![WeightedLoss { weight: Weight::ONE, loss }])
    }
}

impl TryFrom<Vec<WeightedLoss>> for LossMixture {
    type Error = Error;

    fn try_from(terms: Vec<WeightedLoss>) -> Result<Self> {
        Self::new(terms)
    }
}

impl From<LossMixture> for Vec<WeightedLoss> {
    fn from(mixture: LossMixture) -> Self {
        mixture.0
    }
}

/// `0.8 sigmoid + 0.2 bco_pair`.
impl std::fmt::Display for LossMixture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, term) in self.0.iter().enumerate() {
            let plus = if index == 0 { "" } else { " + " };
            write!(f, "{plus}{} {}", term.weight, term.loss)?;
        }
        Ok(())
    }
}

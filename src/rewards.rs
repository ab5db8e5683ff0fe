//! The rewards that a policy implies.

use burn_tensor::Tensor;

use crate::{Beta, PairLogProbs, Result, compare::compare, sides::Sides};

/// The reward that the policy implicitly gives each completion, relative to the reference.
///
/// ```text
/// r(x, y) = β (log π(y|x) − log π_ref(y|x))
/// ```
///
/// | field      | shape     | unit                                        | gradient |
/// |------------|-----------|---------------------------------------------|----------|
/// | `chosen`   | `[pairs]` | reward, up to a term that the prompt alone decides | none |
/// | `rejected` | `[pairs]` | reward, up to the same term                 | none     |
#[derive(Debug, Clone)]
pub struct ImplicitRewards {
    /// Rewards of the chosen completions, `[pairs]`.
    pub chosen: Tensor<1>,
    /// Rewards of the rejected completions, `[pairs]`.
    pub rejected: Tensor<1>,
}

impl ImplicitRewards {
    /// `r(chosen) − r(rejected)`, `[pairs]`: above 0 where the policy ranks the pair as the label does, more than the
    /// reference did. The unknown term of the prompt cancels here.
    pub fn margins(&self) -> Tensor<1> {
        self.chosen.clone() - self.rejected.clone()
    }
}

/// The implicit rewards of each pair's completions: see [`ImplicitRewards`].
///
/// They are measurements: no gradient flows into either model, and none comes back.
///
/// # Example
/// ```
/// use burn_dpo::{Beta, PairLogProbs, SequenceLogProbs, implicit_rewards};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let one = |nats: f32| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats([nats], &device), Tensor::<1, Int>::from_ints([4], &device))
/// };
/// let policy = PairLogProbs::new(one(-9.0)?, one(-8.0)?)?;
/// let reference = PairLogProbs::new(one(-10.0)?, one(-7.0)?)?;
///
/// let rewards = implicit_rewards(&policy, &reference, Beta::new(0.5)?)?;
/// assert_eq!(rewards.chosen.clone().into_scalar::<f32>(), 0.5);
/// assert_eq!(rewards.rejected.clone().into_scalar::<f32>(), -0.5);
/// assert_eq!(rewards.margins().into_scalar::<f32>(), 1.0);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss).
///
/// # Source
/// Rafailov et al. 2023, section 5.1 (arXiv:2305.18290).
pub fn implicit_rewards(policy: &PairLogProbs, reference: &PairLogProbs, beta: Beta) -> Result<ImplicitRewards> {
    let log_ratio = compare(policy, reference)?.log_ratio;
    let Sides { chosen, rejected } = log_ratio.map(|log_ratio| (log_ratio * beta.get()).evaluate());
    Ok(ImplicitRewards { chosen, rejected })
}

//! Where NaN or an infinity was seen first.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first value that is NaN or infinite, of all that entered the measured pairs.
///
/// Pairs are counted from 0 over everything merged, without those that do not count; within a pair, causes come before
/// what they cause, in the order of [`MeasuredTensor`].
///
/// # Example
/// ```
/// use burn_dpo::{Beta, MeasuredTensor, NonFiniteValue, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss};
/// use burn::tensor::{Device, Int, Tensor};
///
/// let device = Device::default();
/// let sequences = |sums: [f32; 2]| {
///     SequenceLogProbs::new(Tensor::<1>::from_floats(sums, &device), Tensor::<1, Int>::from_ints([3, 3], &device))
/// };
/// let policy = PairLogProbs::new(sequences([-4.0, -5.0])?, sequences([-6.0, f32::NAN])?)?;
/// let reference = PairLogProbs::new(sequences([-5.0, -5.0])?, sequences([-5.0, -5.0])?)?;
/// let beta = Beta::new(0.1)?;
///
/// let losses = dpo_loss(&policy, &reference, beta)?;
/// let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta)?;
/// let first = metrics.first_non_finite().unwrap();
/// assert_eq!((first.tensor, first.pair, first.value), (MeasuredTensor::PolicyRejected, 1, NonFiniteValue::Nan));
/// assert_eq!(first.to_string(), "policy rejected log-prob of pair 1 is NaN");
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct NonFinite {
    /// Which tensor holds it.
    pub tensor: MeasuredTensor,
    /// Which pair.
    pub pair: u64,
    /// Which token: the first counted one whose log-prob is NaN or infinite, by its place in the row of tokens. Known if
    /// log-probs of tokens were measured, and if it is a log-prob.
    pub token: Option<u64>,
    /// What it is.
    pub value: NonFiniteValue,
}

/// A tensor that enters a preference, causes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MeasuredTensor {
    /// The policy's log-probs of the chosen completions.
    PolicyChosen,
    /// The policy's log-probs of the rejected completions.
    PolicyRejected,
    /// The reference's log-probs of the chosen completions.
    ReferenceChosen,
    /// The reference's log-probs of the rejected completions.
    ReferenceRejected,
    /// A β per pair.
    Betas,
    /// The losses.
    Losses,
}

/// What is not a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NonFiniteValue {
    /// Not a number.
    #[serde(rename = "NaN")]
    Nan,
    /// +∞.
    #[serde(rename = "inf")]
    Infinity,
    /// −∞.
    #[serde(rename = "-inf")]
    NegativeInfinity,
}

impl NonFiniteValue {
    /// What a number is, if it is not finite.
    pub(super) fn of(number: f64) -> Option<Self> {
        match number {
            _ if number.is_finite() => None,
            _ if number.is_nan() => Some(Self::Nan),
            _ if number > 0.0 => Some(Self::Infinity),
            _ => Some(Self::NegativeInfinity),
        }
    }
}

/// `policy chosen log-prob of pair 3 is NaN, first at token 17`.
impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of pair {} is {}", self.tensor, self.pair, self.value)?;
        self.token.map_or(Ok(()), |token| write!(f, ", first at token {token}"))
    }
}

impl fmt::Display for MeasuredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PolicyChosen => "policy chosen log-prob",
            Self::PolicyRejected => "policy rejected log-prob",
            Self::ReferenceChosen => "reference chosen log-prob",
            Self::ReferenceRejected => "reference rejected log-prob",
            Self::Betas => "beta",
            Self::Losses => "loss",
        })
    }
}

impl fmt::Display for NonFiniteValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nan => "NaN",
            Self::Infinity => "inf",
            Self::NegativeInfinity => "-inf",
        })
    }
}

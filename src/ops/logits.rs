//! How logits were computed, and how targets are marked. Plain data: nothing here knows burn.

/// The target of a row in which nothing is counted.
pub(crate) const IGNORED: i32 = -1;
/// The target of a counted row whose token is outside the vocabulary.
pub(crate) const OUT_OF_VOCAB: i32 = i32::MAX;

/// How logits `z` were computed from what they are differentiated in: `z = softcap · tanh(scale · x / softcap)`, or `scale · x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogitTransform {
    /// `scale`.
    pub scale: f64,
    /// `softcap`.
    pub softcap: Option<f64>,
}

impl LogitTransform {
    /// Logits as they are.
    pub(crate) const NONE: Self = Self { scale: 1.0, softcap: None };
}

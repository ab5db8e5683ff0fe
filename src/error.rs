//! What can be wrong with the arguments, and nothing else.
//!
//! Shapes, lengths and parameters are checked before any work is done. What the *numbers* in a tensor are is never
//! read back to be checked: what NaN, an infinite logit or an empty completion gives is defined where it arises.

use std::fmt;

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an argument was refused: what, where, and both numbers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor or slice whose shape does not fit the one that it goes with.
    #[error("{what} has shape {actual:?}, expected {expected:?}")]
    Shape {
        /// The argument.
        what: &'static str,
        /// The shape that it should have.
        expected: Vec<usize>,
        /// The shape that it has.
        actual: Vec<usize>,
    },

    /// Two sides that should hold the same number of preference pairs.
    #[error("{left} holds {left_pairs} pairs, but {right} holds {right_pairs}")]
    PairCount {
        /// The one side.
        left: &'static str,
        /// How many pairs it holds.
        left_pairs: usize,
        /// The other side.
        right: &'static str,
        /// How many pairs it holds.
        right_pairs: usize,
    },

    /// A stack of chosen and rejected sequences that cannot be halved.
    #[error("{sequences} sequences cannot be halved into chosen and rejected")]
    OddSequences {
        /// How many sequences the stack holds.
        sequences: usize,
    },

    /// A parameter outside its domain.
    #[error("{name} is {}, expected {expected}", Short(*value))]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// The value given.
        value: f64,
        /// The domain, in words.
        expected: &'static str,
    },

    /// Log-probs of a policy that no gradient would reach.
    #[error("{what} is not part of a graph: no gradient would reach the policy")]
    NotTracked {
        /// The side that is not.
        what: &'static str,
    },

    /// A parameter that the loss would not read.
    #[error("{parameter} is {value}, but {loss} does not read it")]
    Ignored {
        /// The parameter.
        parameter: &'static str,
        /// The value given.
        value: String,
        /// The loss, by name.
        loss: String,
    },

    /// Two things that do not go together.
    #[error("{left} and {right} do not go together: {why}")]
    Incompatible {
        /// The one.
        left: &'static str,
        /// The other.
        right: String,
        /// Why not.
        why: &'static str,
    },

    /// A name that is not known.
    #[error("unknown {what} {name:?}, expected one of {known}")]
    UnknownName {
        /// What it should name.
        what: &'static str,
        /// The name given.
        name: String,
        /// The names that there are.
        known: String,
    },

    /// A token id that the vocabulary does not have.
    #[error("sequence {sequence}, position {position}: token id {token}, but the vocabulary has {vocab_size}")]
    TokenId {
        /// The row.
        sequence: usize,
        /// The position in the row.
        position: usize,
        /// The id found there.
        token: u64,
        /// How many ids there are.
        vocab_size: usize,
    },

    /// A length that does not fit the one that contains it.
    #[error("sequence {sequence}: {what} is {length}, longer than {limit_name} of {limit}")]
    Length {
        /// The row.
        sequence: usize,
        /// Which length.
        what: &'static str,
        /// The length given.
        length: usize,
        /// What it is measured against.
        limit_name: &'static str,
        /// The longest that fits.
        limit: usize,
    },

    /// A vocabulary with no token in it.
    #[error("{what} has a vocabulary of 0")]
    EmptyVocabulary {
        /// The argument.
        what: &'static str,
    },

    /// A dtype in which the device computes wrong numbers, or that is not a float.
    #[error("{what} is {dtype}, in which {device} cannot compute")]
    DType {
        /// The argument.
        what: &'static str,
        /// Its dtype.
        dtype: String,
        /// The device that holds it.
        device: String,
    },

    /// Tensors on different devices.
    #[error("{left} is on {left_device}, but {right} is on {right_device}")]
    Device {
        /// The one side.
        left: &'static str,
        /// Where it is.
        left_device: String,
        /// The other side.
        right: &'static str,
        /// Where it is.
        right_device: String,
    },

    /// Two sides recorded under different gradient checkpointing strategies, which burn cannot join in one graph.
    #[error("{left} and {right} are recorded under different gradient checkpointing strategies")]
    Checkpointing {
        /// The one side.
        left: &'static str,
        /// The other side.
        right: &'static str,
    },

    /// A reference that is not what the policy started from.
    #[error(
        "row {row}: policy and reference differ by {} nats, expected at most {}",
        Short(*difference),
        Short(*tolerance)
    )]
    ReferenceDrift {
        /// The row of the largest difference.
        row: usize,
        /// The difference.
        difference: f64,
        /// The largest that was expected.
        tolerance: f64,
    },

    /// A completion that policy and reference did not see the same tokens of.
    #[error("row {row}: the policy counted {policy} tokens, but the reference {reference}")]
    TokenCount {
        /// The row.
        row: usize,
        /// How many tokens the policy counted.
        policy: u64,
        /// How many tokens the reference counted.
        reference: u64,
    },

    /// LD-DPO's sums of policy and reference with different `α`: their margin would not start at 0.
    #[error("the policy's log-probs have an LD-α of {}, but the reference's one of {}", Short(*policy), Short(*reference))]
    LdAlpha {
        /// Of the policy; 1 if its sums are plain.
        policy: f64,
        /// Of the reference; 1 if its sums are plain.
        reference: f64,
    },

    /// A device that could not hand its numbers over.
    #[error("reading {what} back from the device failed: {cause}")]
    Read {
        /// What was being read.
        what: &'static str,
        /// The device's own words.
        cause: String,
    },
}

/// A number in its shortest form: with an exponent if it is very large or very small.
pub(crate) struct Short(pub f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.0 == 0.0 || !self.0.is_finite() || (1e-5..1e16).contains(&self.0.abs());
        if plain { self.0.fmt(f) } else { fmt::LowerExp::fmt(&self.0, f) }
    }
}

/// Refuses two numbers of pairs that differ.
pub(crate) fn expect_pairs(
    left: &'static str,
    left_pairs: usize,
    right: &'static str,
    right_pairs: usize,
) -> Result<()> {
    if left_pairs == right_pairs { Ok(()) } else { Err(Error::PairCount { left, left_pairs, right, right_pairs }) }
}

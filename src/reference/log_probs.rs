//! Log-probabilities of tokens and completions.

use crate::{Error, Result};

/// `log p(target) = z[target] − log Σ_v exp z[v]`, in nats.
///
/// NaN if `target` is not an index of `logits`.
pub fn token_log_prob(logits: &[f64], target: usize) -> f64 {
    match logits.get(target) {
        Some(logit) => {
            let max = largest(logits);
            (logit - max) - sum_of_exp(logits, max).ln()
        }
        None => f64::NAN,
    }
}

/// `∂ log p(target) / ∂z[v] = 1[v = target] − exp z[v] / Σ_u exp z[u]`.
///
/// All NaN if `target` is not an index of `logits`.
pub fn token_log_prob_gradient(logits: &[f64], target: usize) -> Vec<f64> {
    if target >= logits.len() {
        return vec![f64::NAN; logits.len()];
    }
    let max = largest(logits);
    let sum = sum_of_exp(logits, max);
    let softmax = |logit: f64| (logit - max).exp() / sum;
    logits.iter().enumerate().map(|(v, &logit)| f64::from(u8::from(v == target)) - softmax(logit)).collect()
}

/// NaN if any logit is.
fn largest(logits: &[f64]) -> f64 {
    logits.iter().fold(f64::NEG_INFINITY, |max, &logit| if logit.is_nan() || logit > max { logit } else { max })
}

fn sum_of_exp(logits: &[f64], max: f64) -> f64 {
    logits.iter().map(|logit| (logit - max).exp()).sum()
}

/// Logits, tokens and mask of a batch, row-major, in the coordinates of [`Completions`](crate::Completions).
#[derive(Debug, Clone, Copy)]
pub struct TokenRows<'a> {
    /// `[sequences, time, vocab]`, as a causal model returns them: position `t` predicts token `t + 1`.
    pub logits: &'a [f64],
    /// `[sequences, time]`.
    pub tokens: &'a [i64],
    /// `[sequences, time]`, true = completion token.
    pub mask: &'a [bool],
    /// Tokens per sequence.
    pub time: usize,
    /// Logits per position.
    pub vocab: usize,
}

impl<'a> TokenRows<'a> {
    fn check(&self) -> Result<()> {
        let cells = self.tokens.len();
        let whole_rows = if self.time == 0 { 0 } else { self.time * cells.div_ceil(self.time) };
        if cells != whole_rows {
            return Err(shape("tokens", whole_rows, cells));
        }
        if self.mask.len() != cells {
            return Err(shape("mask", cells, self.mask.len()));
        }
        let logits = cells.saturating_mul(self.vocab);
        if self.logits.len() != logits {
            return Err(shape("logits", logits, self.logits.len()));
        }
        Ok(())
    }

    /// For each predicted token, sequence by sequence: `(index of the predicting position, the token)`, or `None` where
    /// it is not counted.
    fn predictions(self) -> impl Iterator<Item = Option<(usize, i64)>> + 'a {
        (0..self.tokens.len())
            .filter(move |cell| cell % self.time + 1 < self.time)
            .map(move |cell| self.mask[cell + 1].then(|| (cell, self.tokens[cell + 1])))
    }

    fn position(&self, cell: usize) -> &'a [f64] {
        &self.logits[cell * self.vocab..][..self.vocab]
    }
}

/// `[sequences, time − 1]`: the log-prob of every counted token, 0 elsewhere, NaN for a counted token outside the
/// vocabulary.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn token_log_probs(rows: TokenRows<'_>) -> Result<Vec<f64>> {
    rows.check()?;
    let log_prob = |(cell, token): (usize, i64)| token_log_prob(rows.position(cell), index(token));
    Ok(rows.predictions().map(|prediction| prediction.map_or(0.0, log_prob)).collect())
}

/// `[sequences, time, vocab]`: the gradient of `Σ upstream · log-prob` in the logits, with `upstream` shaped like
/// [`token_log_probs`]. Zero at uncounted positions, whatever `upstream` holds there.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn token_log_probs_gradient(rows: TokenRows<'_>, upstream: &[f64]) -> Result<Vec<f64>> {
    rows.check()?;
    let expected = rows.predictions().count();
    if upstream.len() != expected {
        return Err(shape("upstream", expected, upstream.len()));
    }
    let mut gradient = vec![0.0; rows.logits.len()];
    for (prediction, scale) in rows.predictions().zip(upstream) {
        let Some((cell, token)) = prediction else { continue };
        let row = token_log_prob_gradient(rows.position(cell), index(token));
        for (out, partial) in gradient[cell * rows.vocab..].iter_mut().zip(row) {
            *out = scale * partial;
        }
    }
    Ok(gradient)
}

/// The log-prob of one completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SequenceLogProb {
    /// `Σ log p`, nats.
    pub sum: f64,
    /// How many tokens were summed.
    pub token_count: usize,
}

impl SequenceLogProb {
    /// `sum / token_count`, 0 for an empty completion.
    pub fn mean(self) -> f64 {
        if self.token_count == 0 { 0.0 } else { self.sum / self.token_count as f64 }
    }
}

/// The sum over each sequence's counted tokens, and how many there are.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn sequence_log_probs(rows: TokenRows<'_>) -> Result<Vec<SequenceLogProb>> {
    let log_probs = token_log_probs(rows)?;
    let counted: Vec<bool> = rows.predictions().map(|prediction| prediction.is_some()).collect();
    let width = rows.time.saturating_sub(1);
    Ok((0..rows.tokens.len().checked_div(rows.time).unwrap_or(0))
        .map(|sequence| {
            let columns = sequence * width..(sequence + 1) * width;
            SequenceLogProb {
                sum: log_probs[columns.clone()].iter().sum(),
                token_count: counted[columns].iter().filter(|&&counted| counted).count(),
            }
        })
        .collect())
}

/// An id as an index; a negative one is outside every vocabulary.
fn index(token: i64) -> usize {
    usize::try_from(token).unwrap_or(usize::MAX)
}

fn shape(what: &'static str, expected: usize, actual: usize) -> Error {
    Error::Shape { what, expected: vec![expected], actual: vec![actual] }
}

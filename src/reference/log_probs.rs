//! Log-probabilities of tokens and completions.

use super::Pair;
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

/// `H = −Σ_v p_v log p_v`, in nats, with `0 log 0 = 0`.
pub fn token_entropy(logits: &[f64]) -> f64 {
    let log_probs = log_softmax(logits);
    let surprise = |&log_prob: &f64| if log_prob == f64::NEG_INFINITY { 0.0 } else { -log_prob.exp() * log_prob };
    log_probs.iter().map(surprise).sum()
}

/// `∂H/∂z_v = −p_v (log p_v + H) = −p_v (s_v − Σ_u p_u s_u)`, 0 where `p_v = 0`.
///
/// `s_v = z_v − max z`, so that `log p_v = s_v − log Σ exp s`: the logarithm cancels against the one in `H`.
pub fn token_entropy_gradient(logits: &[f64]) -> Vec<f64> {
    let max = largest(logits);
    let weighted = |log_prob: f64, s: f64| if log_prob == f64::NEG_INFINITY { 0.0 } else { log_prob.exp() * s };
    let log_probs = log_softmax(logits);
    let mean: f64 = logits.iter().zip(&log_probs).map(|(logit, &log_prob)| weighted(log_prob, logit - max)).sum();
    logits.iter().zip(&log_probs).map(|(logit, &log_prob)| -weighted(log_prob, (logit - max) - mean)).collect()
}

/// `log Σ_v p_v² = log Σ_v exp 2z_v − 2 log Σ_v exp z_v`.
pub fn log_sum_sq_probs(logits: &[f64]) -> f64 {
    let doubled: Vec<f64> = log_softmax(logits).iter().map(|log_prob| 2.0 * log_prob).collect();
    let (max, log_sum) = log_sum_exp(&doubled);
    max + log_sum
}

/// `(1/V) Σ_v z_v`.
pub fn mean_logit(logits: &[f64]) -> f64 {
    logits.iter().map(|logit| logit / logits.len() as f64).sum()
}

/// Whether `target` is the index of the largest logit, the first of equals. It is not if there is a NaN.
pub fn is_argmax(logits: &[f64], target: usize) -> bool {
    let max = largest(logits);
    logits.iter().position(|&logit| logit == max) == Some(target)
}

/// `z_v − log Σ_u exp z_u` of each.
fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let (max, log_sum) = log_sum_exp(logits);
    logits.iter().map(|logit| (logit - max) - log_sum).collect()
}

/// The largest, and by how much `log Σ exp` is above it: the largest's own 1 is not added to what may be small beside it.
fn log_sum_exp(logits: &[f64]) -> (f64, f64) {
    let max = largest(logits);
    if !max.is_finite() {
        return (max, f64::NAN); // no distribution
    }
    let first = logits.iter().position(|&logit| logit == max);
    let others = logits.iter().enumerate().filter(|&(v, _)| Some(v) != first);
    (max, others.map(|(_, logit)| (logit - max).exp()).sum::<f64>().ln_1p())
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

    /// The gradient of `Σ upstream · f`, of which `partials` gives each position's `∂f/∂z`. What is weighed by 0 adds 0,
    /// NaN too.
    fn gradient(&self, upstream: &[f64], partials: impl Fn(&[f64], i64) -> Vec<f64>) -> Result<Vec<f64>> {
        self.check()?;
        let expected = self.predictions().count();
        if upstream.len() != expected {
            return Err(shape("upstream", expected, upstream.len()));
        }
        let mut gradient = vec![0.0; self.logits.len()];
        for (prediction, scale) in self.predictions().zip(upstream) {
            let Some((cell, token)) = prediction.filter(|_| *scale != 0.0) else { continue };
            let row = partials(self.position(cell), token);
            for (out, partial) in gradient[cell * self.vocab..].iter_mut().zip(row) {
                *out = scale * partial;
            }
        }
        Ok(gradient)
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
/// [`token_log_probs`]. Zero at uncounted positions, whatever `upstream` holds there, and
/// where `upstream` is 0, whatever the logits are.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn token_log_probs_gradient(rows: TokenRows<'_>, upstream: &[f64]) -> Result<Vec<f64>> {
    rows.gradient(upstream, |logits, token| token_log_prob_gradient(logits, index(token)))
}

/// What one position's logits say of the token that they predict, beside its log-prob. All 0 and false where not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenStatistic {
    /// [`token_entropy`].
    pub entropy: f64,
    /// [`log_sum_sq_probs`].
    pub log_sum_sq_probs: f64,
    /// [`mean_logit`].
    pub mean_logit: f64,
    /// [`is_argmax`].
    pub is_argmax: bool,
}

/// `[sequences, time − 1]`: the statistics of every counted token.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn token_statistics(rows: TokenRows<'_>) -> Result<Vec<TokenStatistic>> {
    rows.check()?;
    let statistic = |(cell, token): (usize, i64)| {
        let logits = rows.position(cell);
        TokenStatistic {
            entropy: token_entropy(logits),
            log_sum_sq_probs: log_sum_sq_probs(logits),
            mean_logit: mean_logit(logits),
            is_argmax: is_argmax(logits, index(token)),
        }
    };
    Ok(rows.predictions().map(|prediction| prediction.map(statistic).unwrap_or_default()).collect())
}

/// `[sequences, time, vocab]`: the gradient of `Σ upstream · entropy` in the logits, with `upstream` shaped like
/// [`token_statistics`]. Zero at uncounted positions, whatever `upstream` holds there, and
/// where `upstream` is 0, whatever the logits are.
///
/// # Errors
/// [`Error::Shape`] if the slices do not fit each other.
pub fn token_entropies_gradient(rows: TokenRows<'_>, upstream: &[f64]) -> Result<Vec<f64>> {
    rows.gradient(upstream, |logits, _| token_entropy_gradient(logits))
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

/// LD-DPO's log-prob of each completion of one pair, from the log-probs of their counted tokens: those beyond the length
/// of the shorter one are scaled by `alpha`, or left out where that is 0.
pub fn length_desensitized_sums(chosen: &[f64], rejected: &[f64], alpha: f64) -> Pair {
    let shared = chosen.len().min(rejected.len());
    let sum = |tokens: &[f64]| {
        let (within, beyond) = tokens.split_at(shared);
        within.iter().sum::<f64>() + if alpha == 0.0 { 0.0 } else { alpha * beyond.iter().sum::<f64>() }
    };
    Pair { chosen: sum(chosen), rejected: sum(rejected) }
}

/// WPO's weight of one pair, from `log p − log Σ_v p_v²` of each counted token: `exp` of the sum of both completions' means.
pub fn wpo_weight(chosen: &[f64], rejected: &[f64]) -> f64 {
    let mean = |tokens: &[f64]| tokens.iter().sum::<f64>() / tokens.len().max(1) as f64;
    (mean(chosen) + mean(rejected)).exp()
}

/// An id as an index; a negative one is outside every vocabulary.
fn index(token: i64) -> usize {
    usize::try_from(token).unwrap_or(usize::MAX)
}

fn shape(what: &'static str, expected: usize, actual: usize) -> Error {
    Error::Shape { what, expected: vec![expected], actual: vec![actual] }
}

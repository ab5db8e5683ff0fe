//! A batch on the host: what goes into `token_log_probs`, what comes out, and what the f64 reference makes of it.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{
    Completions, TokenLogProbs,
    reference::{self, TokenRows},
    token_log_probs,
};

use crate::{generators::Junk, host};

/// Logits, tokens and mask of a batch, and what each log-prob is multiplied with before the backward pass.
#[derive(Debug, Clone)]
pub struct Batch {
    pub sequences: usize,
    pub time: usize,
    pub vocab: usize,
    /// `[sequences, time, vocab]`.
    pub logits: Vec<f32>,
    /// `[sequences, time]`.
    pub tokens: Vec<i64>,
    /// `[sequences, time]`.
    pub mask: Vec<bool>,
    /// `[sequences, time − 1]`.
    pub upstream: Vec<f32>,
}

impl Batch {
    /// One sequence of token 0, all counted, with these logits of two ids at its positions.
    pub fn of_rows(rows: &[[f32; 2]]) -> Self {
        let time = rows.len();
        Self {
            sequences: 1,
            time,
            vocab: 2,
            logits: rows.concat(),
            tokens: vec![0; time],
            mask: vec![true; time],
            upstream: vec![1.0; time - 1],
        }
    }

    /// Which predictions count, `[sequences, time − 1]`: prediction `t` of a row is of its token `t + 1`.
    pub fn counted(&self) -> Vec<bool> {
        self.mask.chunks(self.time).flat_map(|row| row[1..].iter().copied()).collect()
    }

    /// Which positions' logits predict a counted token, `[sequences, time]`.
    pub fn seen(&self) -> Vec<bool> {
        self.mask.chunks(self.time).flat_map(|row| row[1..].iter().copied().chain([false])).collect()
    }

    /// The cell `[sequences, time]` of the position that makes prediction `[sequences, time − 1]`.
    pub fn position(&self, prediction: usize) -> usize {
        let width = self.time - 1;
        prediction / width * self.time + prediction % width
    }

    /// The logits of a position `[sequences, time]`.
    pub fn row(&self, position: usize) -> Range<usize> {
        position * self.vocab..(position + 1) * self.vocab
    }

    /// On a device, ids as 32-bit integers.
    pub fn completions(&self, device: &Device) -> Completions {
        let shape = [self.sequences, self.time];
        Completions::new(host::integers(&self.tokens, shape, device), host::flags(&self.mask, shape, device))
            .expect("tokens and mask have one shape")
    }

    /// On a device.
    pub fn logits(&self, device: &Device, dtype: DType) -> Tensor<3> {
        let logits: Vec<f64> = self.logits.iter().copied().map(f64::from).collect();
        host::floats(&logits, [self.sequences, self.time, self.vocab], device, dtype)
    }

    /// What the library makes of it.
    pub fn score(&self, device: &Device, dtype: DType) -> TokenLogProbs {
        token_log_probs(self.logits(device, dtype), &self.completions(device)).expect("shapes fit")
    }

    /// The log-probs, and the gradient in the logits of `Σ upstream · log-prob`.
    pub fn score_with_gradient(&self, device: &Device, dtype: DType) -> Scored {
        let logits = self.logits(&device.clone().autodiff(), dtype).require_grad();
        let log_probs = token_log_probs(logits.clone(), &self.completions(device)).expect("shapes fit");
        let upstream: Vec<f64> = self.upstream.iter().copied().map(f64::from).collect();
        let values = log_probs.values();
        let upstream = host::floats(&upstream, values.dims(), device, values.dtype());
        Scored {
            log_probs: host::numbers(&values),
            sums: host::numbers(&log_probs.sequences().sum),
            token_counts: host::whole_numbers(&log_probs.sequences().token_count),
            gradient: host::gradient_of_sum(values * upstream, &logits),
        }
    }

    /// What the f64 reference makes of it.
    pub fn expected(&self) -> Scored {
        let logits: Vec<f64> = self.logits.iter().copied().map(f64::from).collect();
        let upstream: Vec<f64> = self.upstream.iter().copied().map(f64::from).collect();
        let rows = self.rows(&logits);
        let sequences = reference::sequence_log_probs(rows).expect("shapes fit");
        Scored {
            log_probs: reference::token_log_probs(rows).expect("shapes fit"),
            sums: sequences.iter().map(|sequence| sequence.sum).collect(),
            token_counts: sequences.iter().map(|sequence| sequence.token_count as i64).collect(),
            gradient: reference::token_log_probs_gradient(rows, &upstream).expect("shapes fit"),
        }
    }

    /// In the reference's terms, with logits of its own.
    pub fn rows<'a>(&'a self, logits: &'a [f64]) -> TokenRows<'a> {
        TokenRows { logits, tokens: &self.tokens, mask: &self.mask, time: self.time, vocab: self.vocab }
    }

    /// The same sequences in another order.
    pub fn with_first_sequence_last(&self) -> Self {
        let mut other = self.clone();
        if self.sequences > 0 {
            other.logits.rotate_left(self.time * self.vocab);
            other.tokens.rotate_left(self.time);
            other.mask.rotate_left(self.time);
            other.upstream.rotate_left(self.time - 1);
        }
        other
    }

    /// The same sequences with that many uncounted tokens more on either side, and `junk` there.
    pub fn padded(&self, left: usize, right: usize, junk: &Junk) -> Self {
        let widened = |row: &[f32], per: usize| {
            let side = |tokens: usize| junk.numbers.iter().copied().cycle().take(tokens * per);
            side(left).chain(row.iter().copied()).chain(side(right)).collect::<Vec<_>>()
        };
        let ids = |tokens: usize| junk.ids.iter().copied().cycle().take(tokens);
        let mut other = Self { time: left + self.time + right, ..self.clone() };
        other.logits = self.logits.chunks(self.time * self.vocab).flat_map(|row| widened(row, self.vocab)).collect();
        other.tokens.clear();
        other.mask.clear();
        other.upstream.clear();
        for sequence in 0..self.sequences {
            let row = sequence * self.time..(sequence + 1) * self.time;
            other.tokens.extend(ids(left).chain(self.tokens[row.clone()].iter().copied()).chain(ids(right)));
            // The row's first token was not counted, whatever its mask said; behind a prompt it would be.
            let first = left == 0 && self.mask[row.start];
            let rest = self.mask[row.start + 1..row.end].iter().copied();
            other.mask.extend([false].repeat(left).into_iter().chain([first]).chain(rest).chain([false].repeat(right)));
            let upstream = &self.upstream[sequence * (self.time - 1)..(sequence + 1) * (self.time - 1)];
            other.upstream.extend(widened(upstream, 1));
        }
        other
    }

    /// The same batch with `junk` wherever the mask says that nothing is looked at: in the logits, in the ids (those of
    /// uncounted tokens), in the mask's own first column, and in the upstream gradient.
    pub fn overwritten_where_unseen(&self, junk: &Junk) -> Self {
        let mut other = self.clone();
        for (position, seen) in self.seen().into_iter().enumerate() {
            if !seen {
                let row = self.row(position);
                for (logit, junk) in other.logits[row].iter_mut().zip(junk.numbers.iter().cycle().skip(position)) {
                    *logit = *junk;
                }
            }
        }
        for cell in 0..self.tokens.len() {
            if cell % self.time == 0 {
                other.mask[cell] = junk.first_in_mask;
            }
            if cell % self.time == 0 || !self.mask[cell] {
                other.tokens[cell] = junk.ids[cell % junk.ids.len()];
            }
        }
        for (prediction, counted) in self.counted().into_iter().enumerate() {
            if !counted {
                other.upstream[prediction] = junk.numbers[prediction % junk.numbers.len()];
            }
        }
        other
    }
}

/// Results on the host.
#[derive(Debug, Clone)]
pub struct Scored {
    /// `[sequences, time − 1]`.
    pub log_probs: Vec<f64>,
    /// `[sequences]`.
    pub sums: Vec<f64>,
    /// `[sequences]`.
    pub token_counts: Vec<i64>,
    /// `[sequences, time, vocab]`.
    pub gradient: Vec<f64>,
}

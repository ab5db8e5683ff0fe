//! Token statistics, and the sequence-level forms that need tokens: LD-DPO's sums and WPO's weights.

mod accuracy;
mod argmax;
mod contracts;
mod definitions;
mod gradients;
mod length_desensitized;
mod values;
mod wpo;

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{
    Completions, Error, LdAlpha, TokenStatistics,
    reference::{self, TokenStatistic},
    token_log_probs, token_statistics,
};
use proptest::{prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    batch::Batch,
    devices::{Tested, for_all, for_all_numbers, on_every_device},
    generators::{batches, batches_that_predict, id_out_of_range, junk, moderate_pairs, paired_batches, wild_batches},
    host::{bits, booleans, exact_sum, expect_close, flags, floats, gradient_of_sum, integers, numbers, whole_numbers},
    tolerance::{self, Distribution, Rounding},
};

/// What the library makes of a batch, and the gradient in the logits of `Σ upstream · entropy`.
#[derive(Debug, Clone)]
struct Measured {
    entropy: Vec<f64>,
    log_sum_sq_probs: Vec<f64>,
    mean_logit: Vec<f64>,
    is_argmax: Vec<bool>,
    gradient: Vec<f64>,
}

impl Measured {
    /// Everything, as bits.
    fn bits(&self) -> [Vec<u64>; 4] {
        [&self.entropy, &self.log_sum_sq_probs, &self.mean_logit, &self.gradient].map(|numbers| bits(numbers))
    }
}

fn statistics(batch: &Batch, device: &Device, dtype: DType) -> TokenStatistics {
    token_statistics(batch.logits(device, dtype), &batch.completions(device)).expect("shapes fit")
}

fn measured(batch: &Batch, on: &Tested, dtype: DType) -> Measured {
    let logits = batch.logits(&on.autodiff(), dtype).require_grad();
    let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).expect("shapes fit");
    Measured {
        entropy: numbers(&statistics.entropy()),
        log_sum_sq_probs: numbers(&statistics.log_sum_sq_probs()),
        mean_logit: numbers(&statistics.mean_logit()),
        is_argmax: booleans(&statistics.is_argmax()),
        gradient: gradient_of_sum(statistics.entropy() * upstream(batch, on, &statistics), &logits),
    }
}

/// The batch's upstream gradient, shaped like its statistics.
fn upstream(batch: &Batch, on: &Tested, statistics: &TokenStatistics) -> Tensor<2> {
    let upstream: Vec<f64> = batch.upstream.iter().copied().map(f64::from).collect();
    let values = statistics.entropy();
    floats(&upstream, values.dims(), &on.device, values.dtype())
}

/// The same by the f64 reference.
fn expected(batch: &Batch) -> Measured {
    let logits = wide(&batch.logits);
    let statistics = reference::token_statistics(batch.rows(&logits)).unwrap();
    let of = |f: fn(&TokenStatistic) -> f64| statistics.iter().map(f).collect();
    Measured {
        entropy: of(|statistic| statistic.entropy),
        log_sum_sq_probs: of(|statistic| statistic.log_sum_sq_probs),
        mean_logit: of(|statistic| statistic.mean_logit),
        is_argmax: statistics.iter().map(|statistic| statistic.is_argmax).collect(),
        gradient: reference::token_entropies_gradient(batch.rows(&logits), &wide(&batch.upstream)).unwrap(),
    }
}

fn wide(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// The logits that make a prediction.
fn logits_of(batch: &Batch, prediction: usize) -> Vec<f64> {
    wide(&batch.logits[batch.row(batch.position(prediction))])
}

fn distribution(batch: &Batch, prediction: usize) -> Distribution {
    Distribution::of(&logits_of(batch, prediction))
}

/// Two sequences of three tokens over three ids.
fn small() -> Batch {
    Batch {
        sequences: 2,
        time: 3,
        vocab: 3,
        logits: (0..18).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.0).collect(),
        tokens: vec![0, 2, 1, 1, 0, 2],
        mask: vec![false, true, true, false, true, false],
        upstream: vec![1.0; 4],
    }
}

fn alpha(alpha: f64) -> LdAlpha {
    LdAlpha::new(alpha).unwrap()
}

/// The values of a sequence's counted tokens, in order.
fn counted_values(batch: &Batch, values: &[f64], sequence: usize) -> Vec<f64> {
    let width = batch.time - 1;
    let counted = batch.counted();
    (sequence * width..(sequence + 1) * width).filter(|&i| counted[i]).map(|i| values[i]).collect()
}

//! How long the library's own work takes on the CPU, from logits to gradient. `cargo bench`.

use std::hint::black_box;

use burn::tensor::{Device, Tensor, TensorData};
use burn_dpo::{Beta, Completions, PairLogProbs, SequenceLogProbs, dpo_loss, token_log_probs};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SEQUENCES: usize = 4;
const TIME: usize = 64;

/// Numbers that no two positions share and no compiler guesses.
fn noise(count: usize) -> Vec<f32> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    })
    .take(count)
    .collect()
}

fn log_probs(c: &mut Criterion) {
    let mut group = c.benchmark_group("token_log_probs, forward and backward");
    let device = Device::flex().autodiff();
    for vocab in [1_000usize, 32_000] {
        let rows = vec![vec![7u32; TIME]; SEQUENCES];
        let completions =
            Completions::from_sequences(&rows, &[TIME / 2; SEQUENCES], vocab, &device).expect("valid rows");
        let data = TensorData::new(noise(SEQUENCES * TIME * vocab), [SEQUENCES, TIME, vocab]);
        let logits = Tensor::<3>::from_data(data, &device).require_grad();
        group.throughput(Throughput::Elements((SEQUENCES * TIME * vocab) as u64));
        group.bench_function(BenchmarkId::new("flex", vocab), |b| {
            b.iter(|| {
                let log_probs = token_log_probs(logits.clone() * 1.0, &completions).expect("shapes fit");
                black_box(logits.grad(&log_probs.sequences().sum.sum().backward()))
            })
        });
    }
    group.finish();
}

fn loss(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let side = |pairs: usize| {
        let sum = Tensor::<1>::from_data(TensorData::new(noise(pairs), [pairs]), &device).require_grad();
        SequenceLogProbs::new(sum, Tensor::ones([pairs], &device)).expect("as long as each other")
    };
    let beta = Beta::new(0.1).expect("positive");
    let mut group = c.benchmark_group("dpo_loss, forward and backward");
    for pairs in [8usize, 4_096] {
        let policy = PairLogProbs::new(side(pairs), side(pairs)).expect("as many pairs");
        let reference = PairLogProbs::new(side(pairs), side(pairs)).expect("as many pairs");
        group.throughput(Throughput::Elements(pairs as u64));
        group.bench_function(BenchmarkId::new("flex", pairs), |b| {
            b.iter(|| black_box(dpo_loss(&policy, &reference, beta).expect("as many pairs").mean().backward()))
        });
    }
    group.finish();
}

criterion_group!(benches, log_probs, loss);
criterion_main!(benches);

//! How long log-probs take on the CPU, from logits to their gradient. `cargo bench -p burn-dpo-tools --bench log_probs`.

use std::hint::black_box;

use burn::tensor::{Device, Tensor, TensorData};
use burn_dpo::{Completions, token_log_probs};
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

criterion_group!(benches, log_probs);
criterion_main!(benches);

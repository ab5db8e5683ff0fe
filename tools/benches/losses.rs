//! How long a loss of pairs takes on the CPU, from summed log-probs to their gradient. `cargo bench -p burn-dpo-tools --bench losses`.

use std::{hint::black_box, time::Duration};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_dpo::{Beta, PairLogProbs, PreferenceLoss, SequenceLogProbs, dpo_loss};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};

const PAIRS: [usize; 3] = [8, 1024, 1 << 20];

/// Log-probs of completions of 1 to 300 tokens, chosen ones first.
struct Model {
    sums: Tensor<1>,
    token_counts: Tensor<1, Int>,
}

impl Model {
    fn new(pairs: usize, seed: u32, device: &Device) -> Self {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        let sums: Vec<f32> = (0..2 * pairs).map(|_| -60.0 - 20.0 * uniform()).collect();
        let counts: Vec<i32> = (0..2 * pairs as i32).map(|i| 1 + i * 37 % 300).collect();
        Self {
            sums: Tensor::from_data(TensorData::new(sums, [2 * pairs]), (device, DType::F32)),
            token_counts: Tensor::from_data(TensorData::new(counts, [2 * pairs]), (device, DType::I32)),
        }
    }

    fn pairs(&self) -> PairLogProbs {
        let sequences = SequenceLogProbs::new(self.sums.clone(), self.token_counts.clone()).expect("as many of each");
        sequences.into_pairs().expect("an even number")
    }
}

/// The gradient of the mean loss in the policy's log-probs.
fn of_each_size(c: &mut Criterion, name: &str, losses: impl Fn(&PairLogProbs, &PairLogProbs) -> Tensor<1>) {
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for pairs in PAIRS {
        let device = Device::flex();
        let mut policy = Model::new(pairs, 1, &device.clone().autodiff());
        policy.sums = policy.sums.require_grad();
        let reference = Model::new(pairs, 2, &device).pairs();
        group.bench_function(pairs.to_string(), |b| {
            b.iter_batched(
                || policy.pairs(),
                |pairs| black_box(policy.sums.grad(&losses(&pairs, &reference).mean().backward())),
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

fn dpo(c: &mut Criterion) {
    let beta = Beta::new(0.1).expect("positive");
    of_each_size(c, "dpo_loss", |policy, reference| dpo_loss(policy, reference, beta).expect("as many pairs"));
}

fn family(c: &mut Criterion) {
    for loss in PreferenceLoss::all() {
        of_each_size(c, loss.name(), |policy, reference| loss.losses(policy, reference).expect("as many pairs"));
    }
}

criterion_group!(benches, dpo, family);
criterion_main!(benches);

//! The work of `tools measure`, small: from logits or hidden states to a gradient, by each implementation. `cargo bench -p burn-dpo-tools`.

use std::time::Duration;

use burn::tensor::{DType, Device};
use clap::ValueEnum;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use files::Source;
use work::{Heads, Implementation, Logits, Loss, Size, Work};

#[path = "../src/bin/measure/files.rs"]
#[allow(dead_code)] // the program's own
mod files;
#[path = "../src/bin/measure/work/mod.rs"]
#[allow(dead_code)] // the program's own
mod work;

const SIZE: Size = Size {
    rows: 4,
    vocab: 8_000,
    hidden: 128,
    time: 32,
    density: 0.5,
    frozen_head: false,
    implementation: Implementation::Fast,
};

fn logits(c: &mut Criterion) {
    let size = Size { rows: 64, vocab: 32_000, density: 1.0, ..SIZE };
    of_each(c, "logits", size, |size, device| Logits::new(size, DType::F32, &Source::Drawn, device));
}

fn head(c: &mut Criterion) {
    of_each(c, "head", SIZE, |size, device| Heads::new(size, Loss::Sum, DType::F32, &Source::Drawn, device));
}

fn dpo(c: &mut Criterion) {
    of_each(c, "dpo", SIZE, |size, device| Heads::new(size, Loss::Dpo, DType::F32, &Source::Drawn, device));
}

fn dpo_with_frozen_head(c: &mut Criterion) {
    let size = Size { frozen_head: true, ..SIZE };
    of_each(c, "dpo, frozen head", size, |size, device| {
        Heads::new(size, Loss::Dpo, DType::F32, &Source::Drawn, device)
    });
}

/// Forward alone, and forward with backward.
fn of_each<W: Work>(c: &mut Criterion, name: &str, size: Size, work: impl Fn(&Size, &Device) -> anyhow::Result<W>) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(1));
    for implementation in Implementation::value_variants() {
        let size = Size { implementation: *implementation, ..size };
        let work = work(&size, &Device::flex()).expect("the sizes fit each other");
        let name = format!("{implementation:?}").to_lowercase();
        group.bench_function(format!("{name}, forward"), |b| {
            b.iter_with_large_drop(|| work.forward().expect("the sizes fit each other"))
        });
        group.bench_function(format!("{name}, forward and backward"), |b| {
            b.iter_batched(
                || work.start(),
                |start| work.forward_backward(start).expect("the sizes fit each other"),
                BatchSize::PerIteration,
            )
        });
    }
    group.finish();
}

criterion_group!(benches, logits, head, dpo, dpo_with_frozen_head);
criterion_main!(benches);

//! How many kernels a GPU is asked to run for each part of a step: a bound for each, and that they are this crate's own.
//!
//! A binary of its own, with one test, as launches are counted for the whole program.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use burn_dpo::{
    Beta, Completions, PairLogProbs, PreferenceBatch, PreferenceLoss, SequenceLogProbs, dpo_loss, token_log_probs,
};
use cubecl::logging::LaunchObservation;

#[path = "suite/devices.rs"]
#[allow(dead_code)] // shared with the suite
mod devices;
#[path = "../tools/src/bin/launches/observer.rs"]
mod observer;

const SEQUENCES: usize = 8;
const TIME: usize = 16;
const VOCAB: usize = 1000;

/// What a part of a step may cost.
struct Bound {
    what: &'static str,
    launches: usize,
    /// Kernels that have to be among them.
    own: &'static [&'static str],
}

/// What the part launches when it is run once more. What it returns is what has to be computed.
fn expect(device: &Device, bound: Bound, part: &dyn Fn() -> Vec<Tensor<1>>) {
    drop(part()); // compiles the kernels, and makes what is kept
    device.sync().unwrap();
    let counts = Arc::new(observer::Launches::default());
    let watching = LaunchObservation::new(counts.clone());
    let results = part();
    device.sync().unwrap();
    drop(watching);
    drop(results);
    let counts = counts.counts();
    let launches = counts.values().sum::<usize>();
    println!("{launches:3} of {:3}  {}: {counts:?}", bound.launches, bound.what);
    for kernel in bound.own {
        assert!(counts.contains_key(*kernel), "{}: no {kernel} among {counts:?}", bound.what);
    }
    assert!(launches <= bound.launches, "{}: {launches} launches, at most {}: {counts:?}", bound.what, bound.launches);
}

#[test]
fn a_step_is_a_handful_of_launches() {
    for on in devices::devices().iter().filter(|on| !["flex", "ndarray"].contains(&on.name)) {
        let device = &on.device;
        let row = |row: u32| -> Vec<u32> { (0..TIME as u32).map(|t| (row * 37 + t * 11) % VOCAB as u32).collect() };
        let rows: Vec<Vec<u32>> = (0..SEQUENCES as u32).map(row).collect();
        let from_host = Completions::from_sequences(&rows, &[4; SEQUENCES], VOCAB, device).unwrap();
        let numbers: Vec<f32> = (0..SEQUENCES * TIME * VOCAB).map(|i| (i * 31 % 997) as f32 / 249.0).collect();
        let data = TensorData::new(numbers, [SEQUENCES, TIME, VOCAB]);
        let constant = Tensor::<3>::from_data(data, device);
        let logits = constant.clone().autodiff().require_grad();
        let known: Vec<(f32, usize)> = (0..SEQUENCES / 2).map(|pair| (-80.0 - pair as f32, TIME - 4)).collect();
        let reference = &PairLogProbs::from_host(&known, &known, device).unwrap();
        let beta = Beta::new(0.1).unwrap();
        let bound =
            Bound { what: "logits → log-probs", launches: 4, own: &["SoftmaxStateKernel", "PredictionsKernel"] };
        expect(device, bound, &|| vec![token_log_probs(constant.clone(), &from_host).unwrap().values().reshape([-1])]);

        let bound = Bound { what: "logits → log-probs, new completions", launches: 5, own: &["TargetsKernel"] };
        expect(device, bound, &|| {
            let completions = Completions::new(from_host.tokens(), from_host.mask()).unwrap();
            vec![token_log_probs(constant.clone(), &completions).unwrap().values().reshape([-1])]
        });

        let scored = token_log_probs(constant.clone(), &from_host).unwrap();
        let bound = Bound { what: "log-probs → loss", launches: 4, own: &["AccurateSumsKernel", "ProgramKernel"] };
        expect(device, bound, &|| {
            vec![dpo_loss(&scored.sequences().into_pairs().unwrap(), reference, beta).unwrap().mean()]
        });

        let bound = Bound {
            what: "logits → loss → gradient",
            launches: 14, // 11 with burn's fusion; without it the mean's gradient is some more
            own: &["ProgramKernel", "ScaledDerivativesKernel", "RowsGradientKernel", "GradientKernel"],
        };
        expect(device, bound, &|| {
            let scored = token_log_probs(logits.clone(), &from_host).unwrap();
            let policy = scored.sequences().into_pairs().unwrap();
            let loss = dpo_loss(&policy, reference, beta).unwrap().mean();
            vec![logits.grad(&loss.backward()).unwrap().reshape([-1])]
        });

        let SequenceLogProbs { sum, token_count, .. } = scored.sequences();
        let sum = sum.autodiff().require_grad();
        let own = &["ProgramKernel", "ScaledDerivativesKernel"];
        expect(device, Bound { what: "sums → loss → gradient", launches: 8, own }, &|| {
            let sums = SequenceLogProbs::new(sum.clone(), token_count.clone()).unwrap();
            let loss = dpo_loss(&sums.into_pairs().unwrap(), reference, beta).unwrap().mean();
            vec![sum.grad(&loss.backward()).unwrap()]
        });

        let policy = scored.sequences().into_pairs().unwrap();
        for loss in PreferenceLoss::all() {
            // what mixes pairs sorts or adds them up
            let (what, launches) = (loss.name(), if loss.keeps_pairs_apart() { 1 } else { 16 });
            let own: &[&str] = if loss.keeps_pairs_apart() { &["ProgramKernel"] } else { &[] };
            expect(device, Bound { what, launches, own }, &|| vec![loss.losses(&policy, reference).unwrap()]);
        }

        let losses = dpo_loss(&policy, reference, beta).unwrap();
        let bound = Bound { what: "metrics", launches: 1, own: &["ProgramKernel"] };
        expect(device, bound, &|| {
            PreferenceBatch::new(&losses, &policy, reference, beta).measure().unwrap();
            Vec::new()
        });
    }
}

//! How much memory is held at a time, by an allocator that counts: gradients, a budget, and little else.
//!
//! A binary of its own, as an allocator is a program's. One test, as others would be counted with it.

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData, s};
use burn_dpo::{Completions, LmHead, LossMixture, PairLogProbs, PreferenceLoss, token_log_probs, token_statistics};

#[path = "../tools/src/bin/measure/allocator.rs"]
mod allocator;

const SEQUENCES: usize = 4;
const TIME: usize = 33;
const HIDDEN: usize = 64;
const VOCAB: usize = 32_768;
const MIB: usize = 1 << 20;

/// What is not worth counting: numbers per token, the tape; and what matrix products pack their factors into, which no budget is
/// asked about.
const SLACK: usize = MIB;

/// Bytes of `[counted tokens, vocab]`, 16.8 MB: whoever holds them holds more than is allowed.
const LOGITS: usize = SEQUENCES * (TIME - 1) * VOCAB * 4;
const OF_WEIGHT: usize = HIDDEN * VOCAB * 4;
const OF_HIDDEN: usize = SEQUENCES * TIME * HIDDEN * 4;

#[test]
fn no_more_is_held_than_gradients_and_the_budget() {
    let device = Device::flex();
    let ids: Vec<u32> = (0..SEQUENCES * TIME).map(|i| (i * 7919 % VOCAB) as u32).collect();
    let all = &Completions::from_lengths(&ids, TIME, &[1; SEQUENCES], &[TIME; SEQUENCES], VOCAB, &device).unwrap();
    let numbers = |shape: [usize; 2], scale: f32| {
        let numbers: Vec<f32> =
            (0..shape[0] * shape[1]).map(|i| scale * ((i * 31 % 997) as f32 / 498.0 - 1.0)).collect();
        Tensor::<2>::from_data(TensorData::new(numbers, shape), (&device, DType::F32))
    };
    let hidden =
        || numbers([SEQUENCES * TIME, HIDDEN], 1.0).reshape([SEQUENCES, TIME, HIDDEN]).autodiff().require_grad();
    let constant = numbers([HIDDEN, VOCAB], 0.1);
    let trained = || constant.clone().autodiff().require_grad();

    // logits fresh from a model: nobody else holds them
    let logits = || {
        let parameter = Tensor::<3>::zeros([1, 1, VOCAB], (&device.clone().autodiff(), DType::F32)).require_grad();
        let logits = Tensor::<3>::zeros([SEQUENCES, TIME, VOCAB], (&device, DType::F32));
        (logits.autodiff().slice_assign(s![0..1, 0..1, ..], parameter.clone()), parameter)
    };
    let row = VOCAB * 4; // the parameter's gradient, and a copy of it
    expect("logits", 4 * row, || {
        let (logits, parameter) = logits();
        move || drop(parameter.grad(&token_log_probs(logits, all).unwrap().sequences().sum.sum().backward()))
    });
    expect("logits, statistics", 4 * row, || {
        let (logits, parameter) = logits();
        move || drop(parameter.grad(&token_statistics(logits, all).unwrap().entropy().sum().backward()))
    });

    for budget in [MIB, 4 * MIB] {
        let head = |weight: Tensor<2>| LmHead::new(weight, None).with_memory_budget(budget);
        // of hidden states there are those of counted tokens as well, and their gradient, within the budget
        let gradients = OF_WEIGHT + OF_HIDDEN;
        expect("a head, trained", gradients + budget, || {
            let (hidden, weight) = (hidden(), trained());
            move || {
                let log_probs = head(weight.clone()).token_log_probs(hidden.clone(), all).unwrap();
                drop(weight.grad(&log_probs.sequences().sum.sum().backward()));
            }
        });
        let bias = || Tensor::<1>::zeros([VOCAB], (&device.clone().autodiff(), DType::F32)).require_grad();
        expect("a head with a bias, trained", gradients + 4 * VOCAB + budget, || {
            let (hidden, weight, bias) = (hidden(), trained(), bias());
            move || {
                let head = LmHead::new(weight.clone(), Some(bias.clone())).with_memory_budget(budget);
                let log_probs = head.token_log_probs(hidden.clone(), all).unwrap();
                drop(weight.grad(&log_probs.sequences().sum.sum().backward()));
            }
        });
        expect("a head of 16 bits, trained", OF_WEIGHT / 2 + OF_HIDDEN + budget, || {
            let (hidden, weight) = (hidden(), constant.clone().cast(FloatDType::BF16).autodiff().require_grad());
            move || {
                let log_probs = head(weight.clone()).token_log_probs(hidden.clone(), all).unwrap();
                drop(weight.grad(&log_probs.sequences().sum.sum().backward()));
            }
        });
        expect("a head, frozen", OF_HIDDEN + budget, || {
            let (hidden, weight) = (hidden(), constant.clone());
            move || {
                let log_probs = head(weight.clone()).token_log_probs(hidden.clone(), all).unwrap();
                drop(hidden.grad(&log_probs.sequences().sum.sum().backward()));
            }
        });
        expect("a head, by burn's operations", gradients + budget, || {
            let (hidden, weight) = (hidden(), trained());
            move || {
                let head = head(weight.clone()).with_portable_operations();
                let log_probs = head.token_log_probs(hidden.clone(), all).unwrap();
                drop(weight.grad(&log_probs.sequences().sum.sum().backward()));
            }
        });
        expect("a step", gradients + budget, || {
            let (hidden, weight) = (hidden(), trained());
            let reference = PairLogProbs::from_host(&[(-300.0, 32); 2], &[(-300.0, 32); 2], &device).unwrap();
            let loss = LossMixture::from(PreferenceLoss::all()[0]);
            move || {
                let step = head(weight.clone()).preference_step(hidden.clone(), all, &reference, &loss).unwrap();
                drop(weight.grad(&step.loss.backward()));
            }
        });
    }
}

/// The most that `work` holds beyond what it starts from. Once before it is counted: threads keep what they multiply in.
fn expect<W: FnOnce()>(what: &str, bound: usize, mut start: impl FnMut() -> W) {
    start()();
    let work = start();
    let ((), peak) = allocator::peak_of(work);
    println!("{what}: {:.2} MiB at most, of {:.2} that may be", peak as f64 / MIB as f64, bound as f64 / MIB as f64);
    assert!(peak <= bound + SLACK, "{what} holds {peak} bytes at a time, expected at most {bound} and {SLACK}");
    assert!(bound + SLACK < LOGITS, "a bound that logits fit in shows nothing");
}

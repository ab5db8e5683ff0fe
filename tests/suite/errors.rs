//! What is refused, and in which words. Nothing here may panic.

use std::panic::catch_unwind;

use burn::tensor::{Bool, DType, Device, Int, Tensor};
use burn_dpo::{
    Beta, Completions, PairLogProbs, PreferenceMetrics, SequenceLogProbs, dpo_loss, implicit_rewards, token_log_probs,
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{devices, for_all, on_every_device},
    host::flags,
    pairs::{Model, Sums, beta},
};

/// That it failed, with exactly this message.
fn expect_error<T>(result: burn_dpo::Result<T>, message: &str) -> TestCaseResult {
    let actual = result.err().map(|error| error.to_string());
    prop_assert_eq!(actual.as_deref(), Some(message));
    Ok(())
}

fn ids(shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    Tensor::zeros(shape, device)
}

fn counted(shape: [usize; 2], device: &Device) -> Tensor<2, Bool> {
    flags(&vec![true; shape[0] * shape[1]], shape, device)
}

fn sequences(length: usize, device: &Device) -> SequenceLogProbs {
    SequenceLogProbs::new(Tensor::zeros([length], device), Tensor::zeros([length], device)).unwrap()
}

fn pairs(length: usize, device: &Device) -> PairLogProbs {
    PairLogProbs::new(sequences(length, device), sequences(length, device)).unwrap()
}

#[test]
fn a_mask_that_does_not_fit_its_tokens_is_refused() {
    on_every_device(|on| {
        for (shape, message) in [
            ([2, 4], "mask has shape [2, 4], expected [2, 3]"),
            ([3, 2], "mask has shape [3, 2], expected [2, 3]"),
            ([0, 3], "mask has shape [0, 3], expected [2, 3]"),
        ] {
            expect_error(Completions::new(ids([2, 3], &on.device), counted(shape, &on.device)), message)?;
        }
        Ok(())
    });
}

#[test]
fn logits_that_do_not_fit_their_completions_are_refused() {
    on_every_device(|on| {
        let completions = Completions::new(ids([2, 3], &on.device), counted([2, 3], &on.device)).unwrap();
        for (shape, message) in [
            ([2, 4, 5], "logits has shape [2, 4, 5], expected [2, 3, 5]"),
            ([2, 2, 5], "logits has shape [2, 2, 5], expected [2, 3, 5]"), // already shifted: the shift is made here
            ([1, 3, 5], "logits has shape [1, 3, 5], expected [2, 3, 5]"),
            ([2, 3, 0], "logits has a vocabulary of 0"),
        ] {
            expect_error(token_log_probs(Tensor::zeros(shape, &on.device), &completions), message)?;
        }
        Ok(())
    });
}

#[test]
fn sums_and_counts_of_different_lengths_are_refused() {
    on_every_device(|on| {
        let counts = |length: usize| Tensor::zeros([length], &on.device);
        let message = "token_count has shape [3], expected [2]";
        expect_error(SequenceLogProbs::new(Tensor::zeros([2], &on.device), counts(3)), message)?;

        // The fields can be assigned to, so it is asked again where it matters.
        let fit = sequences(2, &on.device);
        let mut unfit = fit.clone();
        unfit.token_count = counts(3);
        expect_error(PairLogProbs::new(unfit.clone(), fit.clone()), &format!("chosen {message}"))?;
        expect_error(PairLogProbs::new(fit.clone(), unfit.clone()), &format!("rejected {message}"))?;
        expect_error(unfit.clone().into_pairs(), message)?;
        unfit.token_count = counts(0);
        expect_error(unfit.into_pairs(), "token_count has shape [0], expected [2]")
    });
}

/// burn would panic on joining the two in one graph.
#[test]
fn sides_recorded_under_different_checkpointing_strategies_are_refused() {
    on_every_device(|on| {
        let side = |device: &Device| {
            let sum = Tensor::<1>::zeros([2], device).require_grad();
            SequenceLogProbs::new(sum, Tensor::zeros([2], &on.device)).unwrap()
        };
        let (plain, recorded) = (sequences(2, &on.device), side(&on.autodiff()));
        let checkpointed = side(&on.autodiff().gradient_checkpointing());
        let message = "chosen and rejected are recorded under different gradient checkpointing strategies";
        expect_error(PairLogProbs::new(recorded.clone(), checkpointed.clone()), message)?;
        expect_error(PairLogProbs::new(checkpointed.clone(), recorded.clone()), message)?;
        for (chosen, rejected) in [(&recorded, &plain), (&plain, &checkpointed), (&checkpointed, &checkpointed)] {
            let pairs = PairLogProbs::new(chosen.clone(), rejected.clone()).unwrap();
            prop_assert!(dpo_loss(&pairs, &pairs, beta(0.1)).unwrap().is_tracked());
        }
        Ok(())
    });
}

#[test]
fn an_odd_number_of_sequences_cannot_be_paired() {
    on_every_device(|on| {
        let message = "3 sequences cannot be halved into chosen and rejected";
        expect_error(sequences(3, &on.device).into_pairs(), message)
    });
}

#[test]
fn different_numbers_of_pairs_are_refused_by_everything_that_compares() {
    on_every_device(|on| {
        let (two, three) = (pairs(2, &on.device), pairs(3, &on.device));
        let losses = Tensor::zeros([3], &on.device);
        expect_error(
            PairLogProbs::new(sequences(2, &on.device), sequences(3, &on.device)),
            "chosen holds 2 pairs, but rejected holds 3",
        )?;
        let message = "policy holds 2 pairs, but reference holds 3";
        expect_error(dpo_loss(&two, &three, beta(0.1)), message)?;
        expect_error(implicit_rewards(&two, &three, beta(0.1)), message)?;
        expect_error(PreferenceMetrics::from_batch(&losses, &two, &three, beta(0.1)), message)?;
        expect_error(
            PreferenceMetrics::from_batch(&losses, &two, &two, beta(0.1)),
            "losses holds 3 pairs, but policy holds 2",
        )
    });
}

#[test]
fn a_beta_that_is_no_positive_f32_is_refused() {
    let refused = [
        (0.0, "0"),
        (-0.0, "-0"),
        (-0.1, "-0.1"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
        (1e-39, "1e-39"),
        (1e-300, "1e-300"), // not three hundred digits
        (1e39, "1e39"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
    ];
    for (value, text) in refused {
        let message = format!("beta is {text}, expected a finite number above 0, normal in f32");
        assert_eq!(Beta::new(value).unwrap_err().to_string(), message);
        assert!(serde_json::from_value::<Beta>(serde_json::json!(value)).is_err());
    }
    assert_eq!(serde_json::from_str::<Beta>("-1.0").unwrap_err().to_string(), Beta::new(-1.0).unwrap_err().to_string());
    assert_eq!("a".parse::<Beta>().unwrap_err(), "beta is \"a\": invalid float literal");
    assert_eq!("-2".parse::<Beta>().unwrap_err(), Beta::new(-2.0).unwrap_err().to_string());
}

#[test]
fn a_beta_survives_text_and_json() {
    for value in [0.1, 1.0, 0.3, f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)] {
        let beta = Beta::new(value).unwrap();
        assert_eq!(beta.get(), value);
        assert_eq!(f64::from(beta), value);
        assert_eq!(beta.to_string().parse(), Ok(beta));
        assert_eq!(serde_json::to_string(&beta).unwrap(), serde_json::to_string(&value).unwrap());
        assert_eq!(serde_json::from_str::<Beta>(&serde_json::to_string(&beta).unwrap()).unwrap(), beta);
    }
}

#[test]
fn an_ignore_index_that_the_labels_cannot_hold_is_refused() {
    let signed =
        [(DType::I8, i64::from(i8::MIN)), (DType::I16, i64::from(i16::MIN)), (DType::I32, i64::from(i32::MIN))];
    let unsigned = [(DType::U8, 0), (DType::U16, 0), (DType::U32, 0), (DType::U64, 0)];
    on_every_device(|on| {
        let labels = |dtype| Tensor::<2, Int>::zeros([1, 2], (&on.device, dtype));
        for (dtype, lowest) in signed.into_iter().chain(unsigned) {
            if !on.device.supports_dtype(dtype) {
                continue;
            }
            prop_assert!(Completions::from_labels(labels(dtype), lowest).is_ok(), "{dtype:?}");
            let message =
                format!("ignore_index is {}, expected a value that the labels' integer type can hold", lowest - 1);
            expect_error(Completions::from_labels(labels(dtype), lowest - 1), &message)?;
        }
        prop_assert!(Completions::from_labels(labels(DType::I32), -100).is_ok());
        Ok(())
    });
}

/// Not every GPU has 8-bit integers, say.
#[test]
fn ids_of_a_type_that_the_device_does_not_have_are_refused() {
    on_every_device(|on| {
        for dtype in INTEGERS.into_iter().filter(|&dtype| !on.device.supports_dtype(dtype)) {
            // Some backends do not even store it. Then there is nothing to refuse.
            let stored = || catch_unwind(|| Tensor::<2, Int>::zeros([1, 2], (&on.device, dtype))).ok();
            let (Some(tokens), Some(labels)) = (stored(), stored()) else { continue };
            let message = |what: &str| format!("{what} is {dtype:?}, in which {:?} cannot compute", on.device);
            expect_error(Completions::new(tokens, counted([1, 2], &on.device)), &message("tokens"))?;
            expect_error(Completions::from_labels(labels, 1), &message("labels"))?;
        }
        Ok(())
    });
}

const INTEGERS: [DType; 8] =
    [DType::I8, DType::I16, DType::I32, DType::I64, DType::U8, DType::U16, DType::U32, DType::U64];

#[test]
fn host_data_is_checked_id_by_id_and_length_by_length() {
    on_every_device(|on| {
        let lengths = |tokens: &[u32], time, prompts: &[usize], totals: &[usize], vocab| {
            Completions::from_lengths(tokens, time, prompts, totals, vocab, &on.device)
        };
        let six = [1, 2, 3, 4, 5, 6];
        expect_error(lengths(&six, 3, &[1, 1], &[3], 10), "total_lengths has shape [1], expected [2]")?;
        expect_error(lengths(&six[..5], 3, &[1, 1], &[3, 3], 10), "tokens has shape [5], expected [6]")?;
        expect_error(lengths(&six, 3, &[1, 1], &[3, 4], 10), "sequence 1: total length is 4, longer than time of 3")?;
        expect_error(
            lengths(&six, 3, &[1, 3], &[3, 2], 10),
            "sequence 1: prompt length is 3, longer than total length of 2",
        )?;
        expect_error(
            lengths(&six, 3, &[1, 1], &[3, 2], 5),
            "sequence 1, position 1: token id 5, but the vocabulary has 5",
        )?;
        expect_error(
            lengths(&[u32::MAX], 1, &[0], &[1], 7),
            "sequence 0, position 0: token id 4294967295, but the vocabulary has 7",
        )?;
        // Padding may hold anything.
        prop_assert!(lengths(&[1, 2, u32::MAX], 3, &[1], &[2], 5).is_ok());

        let ragged = |rows: &[&[u32]], prompts: &[usize]| Completions::from_sequences(rows, prompts, 10, &on.device);
        expect_error(ragged(&[&[1], &[2]], &[1]), "prompt_lengths has shape [1], expected [2]")?;
        expect_error(
            ragged(&[&[1, 2], &[2]], &[1, 2]),
            "sequence 1: prompt length is 2, longer than total length of 1",
        )?;
        expect_error(ragged(&[&[1, 10]], &[1]), "sequence 0, position 1: token id 10, but the vocabulary has 10")
    });
}

/// Any lengths at all, fitting or not, and a vocabulary of any size.
#[test]
fn host_data_never_panics() {
    let length = || prop_oneof![8 => 0..5usize, 1 => select(vec![usize::MAX, usize::MAX / 2 + 1, 1 << 32])];
    let inputs = (
        vec(prop_oneof![4 => 0..6u32, 1 => Just(u32::MAX)], 0..12),
        length(),
        vec(length(), 1..4),
        vec(length(), 1..4),
        prop_oneof![4 => 0..6usize, 1 => select(vec![usize::MAX, 1 << 31, 1 << 32])],
    );
    for_all(inputs, |on, (tokens, time, prompts, totals, vocab)| {
        if let Ok(completions) = Completions::from_lengths(tokens, *time, prompts, totals, *vocab, &on.device) {
            prop_assert_eq!(completions.dims(), [prompts.len(), *time]);
        }
        let rows: Vec<&[u32]> = tokens.chunks(3).collect();
        if let Ok(completions) = Completions::from_sequences(&rows, prompts, *vocab, &on.device) {
            prop_assert_eq!(completions.dims()[0], rows.len());
        }
        Ok(())
    });
}

/// Every shape of logits, tokens and mask, fitting or not.
#[test]
fn no_shape_panics() {
    let shape = || prop_oneof![3 => Just([2usize, 3]), 2 => [0..4usize, 0..4usize]];
    for_all((shape(), shape(), shape(), 0..3usize), |on, (tokens, mask, logits, vocab)| {
        let completions = Completions::new(ids(*tokens, &on.device), counted(*mask, &on.device));
        prop_assert_eq!(completions.is_ok(), tokens == mask);
        let Ok(completions) = completions else { return Ok(()) };
        let scored = token_log_probs(Tensor::zeros([logits[0], logits[1], *vocab], &on.device), &completions);
        prop_assert_eq!(scored.is_ok(), logits == tokens && *vocab > 0);
        let Ok(scored) = scored else { return Ok(()) };
        let pairs = scored.sequences().into_pairs();
        prop_assert_eq!(pairs.is_ok(), tokens[0].is_multiple_of(2));
        if let Ok(pairs) = pairs {
            prop_assert_eq!(dpo_loss(&pairs, &pairs, beta(0.1)).unwrap().dims(), [tokens[0] / 2]);
        }
        Ok(())
    });
}

/// Two devices of one machine are two devices; the autodiff state of a device is not another one.
#[cfg(feature = "ndarray")]
#[test]
fn tensors_on_different_devices_are_refused() {
    let [here, there] = &devices()[..2] else { unreachable!("there are always two") };
    let (here, there) = (&here.device, &there.device);
    let on_both = |left: &str, right: &str| format!("{left} is on {here:?}, but {right} is on {there:?}");
    let expect = |result: Option<burn_dpo::Error>, left: &str, right: &str| {
        assert_eq!(result.map(|error| error.to_string()), Some(on_both(left, right)));
    };

    expect(Completions::new(ids([1, 2], here), counted([1, 2], there)).err(), "tokens", "mask");
    let completions = Completions::new(ids([1, 2], there), counted([1, 2], there)).unwrap();
    expect(token_log_probs(Tensor::zeros([1, 2, 3], here), &completions).err(), "logits", "completions");

    let (sum, token_count) = (Tensor::zeros([1], here), Tensor::zeros([1], there));
    expect(SequenceLogProbs::new(sum, token_count.clone()).err(), "sum", "token_count");
    let mut torn = sequences(1, here);
    torn.token_count = token_count;
    expect(torn.clone().into_pairs().err(), "sum", "token_count");
    expect(PairLogProbs::new(torn, sequences(1, here)).err(), "sum", "chosen token_count");
    expect(PairLogProbs::new(sequences(1, here), sequences(1, there)).err(), "chosen", "rejected");

    let (policy, reference) = (pairs(1, here), pairs(1, there));
    expect(dpo_loss(&policy, &reference, beta(0.1)).err(), "policy", "reference");
    expect(implicit_rewards(&policy, &reference, beta(0.1)).err(), "policy", "reference");
    let losses = |device| Tensor::zeros([1], device);
    expect(PreferenceMetrics::from_batch(&losses(here), &policy, &reference, beta(0.1)).err(), "policy", "reference");
    let reference = pairs(1, here);
    let away = PreferenceMetrics::from_batch(&losses(there), &policy, &reference, beta(0.1)).err();
    assert_eq!(away.map(|error| error.to_string()), Some(format!("losses is on {there:?}, but policy is on {here:?}")));
}

#[test]
fn the_autodiff_state_of_a_device_makes_it_no_other_device() {
    on_every_device(|on| {
        let completions = Completions::new(ids([2, 3], &on.autodiff()), counted([2, 3], &on.device)).unwrap();
        prop_assert!(token_log_probs(Tensor::zeros([2, 3, 4], &on.autodiff()), &completions).is_ok());
        let sums = [Sums::with_delta(0.0)];
        let (policy, reference) =
            (Model::policy(&sums, &on.device, DType::F32), Model::reference(&sums, &on.device, DType::F32));
        prop_assert!(dpo_loss(&policy.pairs, &reference.pairs, beta(0.1)).is_ok());
        prop_assert!(dpo_loss(&reference.pairs, &policy.pairs, beta(0.1)).is_ok());
        Ok(())
    });
}

/// A quantized tensor is a float tensor to burn; we compute nothing from it.
#[test]
fn quantized_logits_and_sums_are_refused() {
    let device = &devices()[0].device; // of the backends, flex always quantizes
    let quantized = Tensor::<3>::ones([1, 32, 32], device).quantize_dynamic(&Default::default());
    let dtype = quantized.dtype();
    let message = |what: &str| format!("{what} is {dtype:?}, in which {device:?} cannot compute");
    let completions = Completions::new(ids([1, 32], device), counted([1, 32], device)).unwrap();
    let error = token_log_probs(quantized, &completions).unwrap_err();
    assert_eq!(error.to_string(), message("logits"));

    let quantized = Tensor::<1>::ones([32], device).quantize_dynamic(&Default::default());
    let error = SequenceLogProbs::new(quantized.clone(), Tensor::zeros([32], device)).unwrap_err();
    assert_eq!(error.to_string(), message("sum"));
    let mut sums = sequences(32, device);
    sums.sum = quantized;
    let error = PairLogProbs::new(sums.clone(), sequences(32, device)).unwrap_err();
    assert_eq!(error.to_string(), message("chosen sum"));
    let error = PairLogProbs::new(sequences(32, device), sums).unwrap_err();
    assert_eq!(error.to_string(), message("rejected sum"));
}

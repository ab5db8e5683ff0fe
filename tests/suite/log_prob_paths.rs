//! One answer by every path: from logits and from hidden states, by kernels and by burn's operations, whole and in tiles or
//! parts of the vocabulary.

use burn::{
    module::Param,
    nn::Embedding,
    tensor::{DType, Device, FloatDType, Tensor, s},
};
use burn_dpo::{Completions, LmHead, TokenLogProbs, VocabularyPart, portable, token_log_probs, token_statistics};
use proptest::prelude::*;

use crate::{
    batch::{Batch, Scored},
    devices::{Tested, for_all, for_several, has_kernels, on_every_device},
    generators::{batches, batches_that_predict, junk, wild_batches},
    host::{bits, expect_close, flags, floats, gradient_of_sum, integers, numbers},
    tolerance::{self, Rounding},
};

/// A way from logits to log-probs.
struct Path {
    name: &'static str,
    take: fn(Tensor<3>, &Completions) -> burn_dpo::Result<TokenLogProbs>,
    /// Whether it multiplies: a head that hands logits on, as an identity, makes NaN of `0 · ∞`.
    multiplies: bool,
}

const PATHS: [Path; 9] = [
    Path { name: "logits", take: token_log_probs, multiplies: false },
    Path { name: "logits, portable", take: portable::token_log_probs, multiplies: false },
    Path {
        name: "logits, with statistics",
        take: |logits, completions| Ok(token_statistics(logits, completions)?.log_probs()),
        multiplies: false,
    },
    Path {
        name: "logits, with statistics, portable",
        take: |logits, completions| Ok(portable::token_statistics(logits, completions)?.log_probs()),
        multiplies: false,
    },
    Path {
        name: "hidden",
        take: |hidden, completions| identity(&hidden).token_log_probs(hidden, completions),
        multiplies: true,
    },
    Path {
        name: "hidden, a logit at a time",
        take: |hidden, completions| identity(&hidden).with_memory_budget(1).token_log_probs(hidden, completions),
        multiplies: true,
    },
    Path {
        name: "hidden, portable, a few logits at a time",
        take: |hidden, completions| {
            let head = identity(&hidden).with_portable_operations().with_memory_budget(48);
            head.token_log_probs(hidden, completions)
        },
        multiplies: true,
    },
    Path {
        name: "hidden, tied and trained",
        take: |hidden, completions| {
            let weight = eye(&hidden);
            let weight = if hidden.is_autodiff() { weight.autodiff().require_grad() } else { weight };
            let embedding = Embedding { weight: Param::from_tensor(weight) };
            LmHead::from_embedding(&embedding).with_memory_budget(64).token_log_probs(hidden, completions)
        },
        multiplies: true,
    },
    Path {
        name: "hidden, with statistics",
        take: |hidden, completions| Ok(identity(&hidden).token_statistics(hidden, completions)?.log_probs()),
        multiplies: true,
    },
];

/// The head whose logits are the hidden states.
fn identity(hidden: &Tensor<3>) -> LmHead {
    LmHead::new(eye(hidden), None)
}

fn eye(hidden: &Tensor<3>) -> Tensor<2> {
    let [_, _, vocab] = hidden.dims();
    let ones = (0..vocab * vocab).map(|i| f64::from(u8::from(i / vocab == i % vocab))).collect::<Vec<_>>();
    floats(&ones, [vocab, vocab], &hidden.device().without_autodiff(), hidden.dtype())
}

impl Path {
    /// Where there are no kernels, burn's operations are what every path takes.
    fn is_one_of_its_own(&self, on: &Tested) -> bool {
        has_kernels(on) || !self.name.contains("portable")
    }

    fn score(&self, batch: &Batch, device: &Device, dtype: DType) -> Scored {
        let logits = batch.logits(&device.clone().autodiff(), dtype).require_grad();
        let log_probs = (self.take)(logits.clone(), &batch.completions(device)).expect("shapes fit");
        let upstream: Vec<f64> = batch.upstream.iter().copied().map(f64::from).collect();
        let values = log_probs.values();
        let upstream = floats(&upstream, values.dims(), device, values.dtype());
        Scored {
            log_probs: numbers(&values),
            sums: numbers(&log_probs.sequences().sum),
            token_counts: Vec::new(),
            gradient: gradient_of_sum(values * upstream, &logits),
        }
    }
}

/// Every path, values and gradients, on logits as models give them and harder ones.
#[test]
fn log_probs_and_gradients_are_those_of_the_reference_by_every_road() {
    for_all(batches(), |on, batch| every_road_is_right(on, batch, &PATHS));
}

/// Those that do not multiply, on NaN, ±∞ and the ends of f32 as well.
#[test]
fn nan_and_infinities_are_what_the_reference_says_by_every_road_from_logits() {
    for_all(wild_batches(), |on, batch| every_road_is_right(on, batch, &PATHS[..4]));
}

fn every_road_is_right(on: &Tested, batch: &Batch, paths: &[Path]) -> Result<(), TestCaseError> {
    let expected = batch.expected();
    for dtype in on.arithmetic_dtypes() {
        let rounding = Rounding::of(on, dtype);
        for path in paths.iter().filter(|path| path.is_one_of_its_own(on)) {
            let actual = path.score(batch, &on.device, dtype);
            expect_close(path.name, dtype, &actual.log_probs, &expected.log_probs, |i| {
                tolerance::token_log_prob(rounding, expected.log_probs[i], batch.vocab)
            })?;
            let bound = tolerance::token_gradient(rounding, 2.0, batch.vocab);
            expect_close(path.name, dtype, &actual.gradient, &expected.gradient, |_| bound)?;
        }
    }
    Ok(())
}

#[test]
fn what_the_mask_leaves_out_cannot_be_seen_by_any_road() {
    for_several((batches_that_predict(), junk()), |on, (batch, junk)| {
        let other = batch.overwritten_where_unseen(junk);
        for path in PATHS.iter().filter(|path| path.is_one_of_its_own(on)) {
            let (one, two) = (path.score(batch, &on.device, DType::F32), path.score(&other, &on.device, DType::F32));
            prop_assert_eq!(bits(&one.log_probs), bits(&two.log_probs), "{}", path.name);
            prop_assert_eq!(bits(&one.sums), bits(&two.sums), "{}", path.name);
            prop_assert_eq!(bits(&one.gradient), bits(&two.gradient), "{}", path.name);
        }
        Ok(())
    });
}

#[test]
fn an_id_outside_the_vocabulary_is_nan_there_and_nowhere_else_by_every_road() {
    let batch = || Batch {
        sequences: 2,
        time: 3,
        vocab: 4,
        logits: (0..24).map(|i| (i % 7) as f32 - 3.0).collect(),
        tokens: vec![0, 1, 2, 3, 2, 1],
        mask: vec![false, true, true, false, true, true],
        upstream: vec![1.0; 4],
    };
    on_every_device(|on| {
        for (path, id) in PATHS.iter().flat_map(|path| [-1, 4, i64::from(i32::MAX)].map(|id| (path, id))) {
            let mut other = batch();
            other.tokens[4] = id; // the first prediction of the second sequence
            let (right, wrong) =
                (path.score(&batch(), &on.device, DType::F32), path.score(&other, &on.device, DType::F32));
            for (prediction, (right, wrong)) in right.log_probs.iter().zip(&wrong.log_probs).enumerate() {
                prop_assert_eq!(wrong.is_nan(), prediction == 2, "{}, id {}, prediction {}", path.name, id, prediction);
                prop_assert!(prediction == 2 || right == wrong, "{}", path.name);
            }
            for (logit, (right, wrong)) in right.gradient.iter().zip(&wrong.gradient).enumerate() {
                let hit = (12..16).contains(&logit);
                prop_assert_eq!(wrong.is_nan(), hit, "{}, id {}, logit {}", path.name, id, logit);
                prop_assert!(hit || right == wrong, "{}", path.name);
            }
        }
        Ok(())
    });
}

/// On a GPU 65 535 is as far as one axis of a grid goes; a row of these has its own target, and so its own log-prob.
#[test]
fn there_may_be_more_rows_than_a_grid_is_wide() {
    on_every_device(|on| {
        let (time, vocab) = (70_001, 3);
        let logits: Vec<f64> = (0..time * vocab).map(|i| f64::from((i % 11) as u8) / 4.0).collect();
        let tokens: Vec<i64> = (0..time as i64).map(|t| t * t % 3).collect();
        let completions =
            Completions::new(integers(&tokens, [1, time], &on.device), flags(&vec![true; time], [1, time], &on.device));
        let leaf = floats(&logits, [1, time, vocab], &on.device, DType::F32).autodiff().require_grad();
        let values = token_log_probs(leaf.clone(), &completions.unwrap()).unwrap().values();
        let (actual, gradient) = (numbers(&values), gradient_of_sum(values, &leaf));
        for (row, z) in logits.chunks(vocab).take(time - 1).enumerate() {
            let log_sum = z.iter().map(|z| z.exp()).sum::<f64>().ln();
            let target = tokens[row + 1] as usize;
            prop_assert!((actual[row] - (z[target] - log_sum)).abs() < 1e-5, "row {}: {}", row, actual[row]);
            for (column, z) in z.iter().enumerate() {
                let expected = f64::from(u8::from(column == target)) - (z - log_sum).exp();
                let actual = gradient[row * vocab + column];
                prop_assert!((actual - expected).abs() < 1e-5, "row {}, column {}: {}", row, column, actual);
            }
        }
        Ok(())
    });
}

/// 16 bits in, f32 computed: the same as of the same numbers in f32, by any path; gradients in the input's own format.
#[test]
fn half_precision_is_computed_in_f32_by_every_road() {
    for_several(batches_that_predict(), |on, batch| {
        for dtype in on.float_dtypes().filter(|dtype| matches!(dtype, DType::F16 | DType::BF16)) {
            let held = batch.logits(&on.device, dtype);
            let wide: Vec<f32> = numbers(&held).into_iter().map(|z| z as f32).collect();
            if wide.iter().any(|z| !z.is_finite()) {
                continue; // 1e30 is no number of f16
            }
            let same = Batch { logits: wide, ..batch.clone() };
            for path in &PATHS {
                let (half, single) = (path.score(batch, &on.device, dtype), path.score(&same, &on.device, DType::F32));
                if !path.multiplies {
                    prop_assert_eq!(bits(&half.log_probs), bits(&single.log_probs), "{} {:?}", path.name, dtype);
                }
                // a head of 16 bits may be multiplied in other tiles
                let rounding = Rounding::of(on, DType::F32);
                expect_close(path.name, DType::F32, &half.log_probs, &single.log_probs, |i| {
                    2.0 * tolerance::token_log_prob(rounding, single.log_probs[i], batch.vocab)
                })?;
                let rounded = floats(&single.gradient, [single.gradient.len()], &on.device, dtype);
                let unit = if dtype == DType::F16 { 2f64.powi(-11) } else { 2f64.powi(-8) };
                expect_close(path.name, DType::F32, &half.gradient, &numbers(&rounded), |i| {
                    2.0 * unit * single.gradient[i].abs() + 1e-7
                })?;
            }
        }
        Ok(())
    });
}

/// Gradients are made where logits are only if nobody else holds them.
#[test]
fn what_the_caller_holds_is_not_overwritten_by_any_road() {
    for_several(batches_that_predict(), |on, batch| {
        for path in &PATHS {
            let logits = batch.logits(&on.autodiff(), DType::F32).require_grad();
            let before = numbers(&logits);
            let log_probs = (path.take)(logits.clone(), &batch.completions(&on.device)).expect("shapes fit");
            gradient_of_sum(log_probs.values(), &logits);
            prop_assert_eq!(bits(&numbers(&logits)), bits(&before), "{}", path.name);
        }
        Ok(())
    });
}

#[test]
fn results_repeat_bit_by_bit_by_every_road() {
    for_several(batches_that_predict(), |on, batch| {
        for path in PATHS.iter().filter(|path| path.is_one_of_its_own(on)) {
            let (one, two) = (path.score(batch, &on.device, DType::F32), path.score(batch, &on.device, DType::F32));
            prop_assert_eq!(bits(&one.log_probs), bits(&two.log_probs), "{}", path.name);
            prop_assert_eq!(bits(&one.gradient), bits(&two.gradient), "{}", path.name);
        }
        Ok(())
    });
}

/// A vocabulary in up to eight parts of unequal width, merged in any order, has the log-probs of the whole, and every part its
/// own piece of the gradient.
#[test]
fn a_vocabulary_in_parts_gives_the_log_probs_and_the_gradient_of_the_whole() {
    for_all((wild_batches(), 1..=8usize, any::<u64>()), |on, (batch, shards, seed)| {
        if batch.sequences * (batch.time - 1) == 0 {
            return Ok(());
        }
        let completions = batch.completions(&on.device);
        let ranges = cut(batch.vocab, *shards, *seed);
        let expected = batch.expected();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let logits = batch.logits(&on.device, dtype);
            let piece = |range: &std::ops::Range<usize>| logits.clone().slice(s![.., .., range.clone()]);
            let parts = ranges.iter().map(|range| {
                VocabularyPart::of(&piece(range), &completions, range.start, batch.vocab).expect("it fits")
            });
            let mut parts: Vec<_> = parts.collect();
            let length = parts.len();
            parts.rotate_left(*seed as usize % length);
            let merged = parts.into_iter().reduce(|one, two| one.merge(two).expect("one device")).expect("a part");
            let mut gradient = vec![0.0; batch.logits.len()];
            for range in &ranges {
                let leaf = piece(range).autodiff().require_grad();
                let scored =
                    merged.token_log_probs(leaf.clone(), &completions, range.start, batch.vocab).expect("it fits");
                expect_close("log-prob", dtype, &numbers(&scored.values()), &expected.log_probs, |i| {
                    // merging scales sums once more for each part, by an exponential of its own
                    tolerance::token_log_prob(rounding, expected.log_probs[i], batch.vocab + 4 * shards)
                })?;
                let upstream: Vec<f64> = batch.upstream.iter().copied().map(f64::from).collect();
                let upstream = floats(&upstream, scored.values().dims(), &on.device, dtype);
                let own = gradient_of_sum(scored.values() * upstream, &leaf);
                for (index, own) in own.into_iter().enumerate() {
                    let (position, column) = (index / range.len(), index % range.len());
                    gradient[position * batch.vocab + range.start + column] = own;
                }
            }
            let bound = tolerance::token_gradient(rounding, 2.0, batch.vocab + 4 * shards);
            expect_close("gradient", dtype, &gradient, &expected.gradient, |_| bound)?;
        }
        Ok(())
    });
}

/// `0..length` in up to that many parts, none of them empty.
fn cut(length: usize, parts: usize, seed: u64) -> Vec<std::ops::Range<usize>> {
    let mut cuts: Vec<usize> =
        (0..parts as u64 - 1).map(|i| (seed.rotate_left(7 * i as u32) % length as u64) as usize).collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|ends| ends[0]..ends[1]).collect()
}

#[test]
fn merging_parts_of_a_vocabulary_is_associative_and_sent_numbers_are_the_same_numbers() {
    for_several(batches_that_predict(), |on, batch| {
        let completions = batch.completions(&on.device);
        let logits = batch.logits(&on.device, DType::F32);
        let vocab = batch.vocab;
        let ranges = cut(vocab, 3, 0x9e37_79b9_7f4a_7c15);
        let part = |index: usize| {
            let range = ranges[index % ranges.len()].clone();
            let part =
                VocabularyPart::of(&logits.clone().slice(s![.., .., range.clone()]), &completions, range.start, vocab);
            VocabularyPart::from_tensor(part.unwrap().to_tensor()).unwrap()
        };
        let left = part(0).merge(part(1)).unwrap().merge(part(2)).unwrap();
        let right = part(0).merge(part(1).merge(part(2)).unwrap()).unwrap();
        let [left, right] = [left, right]
            .map(|merged| numbers(&merged.token_log_probs(logits.clone(), &completions, 0, vocab).unwrap().values()));
        let rounding = Rounding::of(on, DType::F32);
        expect_close("log-prob", DType::F32, &left, &right, |i| {
            2.0 * tolerance::token_log_prob(rounding, right[i], vocab)
        })
    });
}

/// Of no positions, or of positions that predict nothing.
#[test]
fn parts_of_nothing_are_merged_and_differentiated_like_others() {
    on_every_device(|on| {
        for [sequences, time] in [[2, 0], [0, 5], [0, 0], [2, 1]] {
            let completions = Completions::new(
                integers(&vec![0; sequences * time], [sequences, time], &on.device),
                flags(&vec![true; sequences * time], [sequences, time], &on.device),
            );
            let completions = completions.unwrap();
            let leaf = floats(&vec![1.0; sequences * time * 2], [sequences, time, 2], &on.device, DType::F32);
            let leaf = leaf.autodiff().require_grad();
            let part = || VocabularyPart::of(&leaf, &completions, 0, 4).unwrap();
            let merged = part().merge(part()).unwrap();
            prop_assert_eq!(merged.to_tensor().dims(), [sequences * time, 8]);
            let scored = merged.token_log_probs(leaf.clone(), &completions, 0, 4).unwrap();
            prop_assert_eq!(scored.values().dims(), [sequences, time.saturating_sub(1)]);
            let gradient = gradient_of_sum(scored.values(), &leaf);
            prop_assert!(gradient.iter().all(|g| *g == 0.0), "{:?}", gradient);
            let whole = token_log_probs(leaf.clone(), &completions).unwrap();
            prop_assert_eq!(numbers(&whole.sequences().sum), vec![0.0; sequences]);
        }
        Ok(())
    });
}

#[test]
fn parts_that_do_not_go_together_are_refused() {
    on_every_device(|on| {
        let device = &on.device;
        let completions = |time: usize| Completions::from_sequences(&[vec![0; time]], &[1], 4, device).unwrap();
        let logits = |time: usize, vocab: usize| Tensor::<3>::zeros([1, time, vocab], device).cast(FloatDType::F32);
        let error = VocabularyPart::of(&logits(3, 3), &completions(3), 2, 4).unwrap_err();
        prop_assert_eq!(error.to_string(), "a part of the vocabulary has shape [1, 3, 3], expected [1, 3, 2]");
        let part = |time| VocabularyPart::of(&logits(time, 2), &completions(time), 0, 4).unwrap();
        let error = part(3).merge(part(2)).unwrap_err();
        prop_assert_eq!(error.to_string(), "the other part has shape [2, 8], expected [3, 8]");
        let error = part(3).token_log_probs(logits(2, 2), &completions(2), 0, 4).unwrap_err();
        prop_assert_eq!(error.to_string(), "the merged parts has shape [3, 8], expected [2, 8]");
        let error = VocabularyPart::of(&logits(3, 3), &completions(3), 0, usize::MAX).unwrap_err();
        prop_assert!(error.to_string().starts_with("vocab_size is "), "{}", error);
        let error = VocabularyPart::from_tensor(Tensor::zeros([3, 7], device)).unwrap_err();
        prop_assert_eq!(error.to_string(), "a part of the vocabulary has shape [3, 7], expected [3, 8]");
        Ok(())
    });
}

/// Numbers may be sent in either format, merged with others, and differentiated behind.
#[test]
fn numbers_of_a_part_may_come_in_another_format() {
    for_several(batches_that_predict(), |on, batch| {
        let completions = batch.completions(&on.device);
        let half = batch.vocab / 2;
        let part = |range: std::ops::Range<usize>, dtype: DType| {
            let logits = batch.logits(&on.device, DType::F32).slice(s![.., .., range.clone()]);
            let part = VocabularyPart::of(&logits, &completions, range.start, batch.vocab).unwrap();
            VocabularyPart::from_tensor(part.to_tensor().cast(FloatDType::from(dtype))).unwrap()
        };
        let formats: Vec<DType> = on.arithmetic_dtypes().collect();
        for (one, two) in formats.iter().flat_map(|one| formats.iter().map(move |two| (*one, *two))) {
            let merged = part(0..half.max(1), one);
            let merged = if half > 0 { merged.merge(part(half..batch.vocab, two)).unwrap() } else { merged };
            let leaf = batch.logits(&on.device, DType::F32).autodiff().require_grad();
            let scored = merged.token_log_probs(leaf.clone(), &completions, 0, batch.vocab).unwrap();
            let rounding = Rounding::of(on, DType::F32);
            let expected = batch.expected();
            // in f32 the largest logit, the sums and the target's logit are rounded once more
            expect_close("log-prob", DType::F32, &numbers(&scored.values()), &expected.log_probs, |i| {
                2.0 * tolerance::token_log_prob(rounding, expected.log_probs[i], batch.vocab + 8)
            })?;
            let gradient = gradient_of_sum(scored.values(), &leaf);
            let upstream = vec![1.0; batch.upstream.len()];
            let expected = Batch { upstream, ..batch.clone() }.expected().gradient;
            let bound = 2.0 * tolerance::token_gradient(rounding, 1.0, batch.vocab + 8);
            expect_close("gradient", DType::F32, &gradient, &expected, |_| bound)?;
        }
        Ok(())
    });
}

/// An id of the vocabulary that no merged part had: NaN, value and gradient, as one that the vocabulary does not have.
#[test]
fn an_id_that_no_part_had_is_nan() {
    on_every_device(|on| {
        let completions = Completions::from_sequences(&[[0, 3, 1]], &[1], 4, &on.device).unwrap();
        let logits = floats(&[0.0, 1.0, 2.0, 0.5, 1.5, -1.0], [1, 3, 2], &on.device, DType::F32);
        let leaf = logits.autodiff().require_grad();
        let part = VocabularyPart::of(&leaf, &completions, 0, 4).unwrap();
        let values = part.token_log_probs(leaf.clone(), &completions, 0, 4).unwrap().values();
        let log_probs = numbers(&values);
        prop_assert!(log_probs[0].is_nan() && log_probs[1].is_finite(), "{:?}", log_probs);
        let gradient = gradient_of_sum(values, &leaf);
        let nan: Vec<bool> = gradient.iter().map(|g| g.is_nan()).collect();
        prop_assert_eq!(nan, [true, true, false, false, false, false]);
        Ok(())
    });
}

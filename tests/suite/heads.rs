//! What holds for heads of real weights: against the f64 reference, in any tiles, with whichever parameters are trained; and
//! for the step that makes loss and gradient together.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::{
    module::{Module, Param},
    nn::{Embedding, Linear},
    tensor::{DType, Tensor},
};
use burn_dpo::{
    Completions, Error, LmHead, LossMixture, PairLogProbs, PreferenceLoss,
    reference::{self, TokenRows},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{Tested, for_several, has_kernels, on_every_device},
    family::members,
    host::{bits, expect_close, flags, floats, gradient_of_sum, integers, numbers},
    metrics::wait_for,
    tolerance::{self, Distribution, Rounding},
};

/// A batch of hidden states and the head that they go through.
#[derive(Debug, Clone)]
struct Case {
    sequences: usize,
    time: usize,
    width: usize,
    vocab: usize,
    hidden: Vec<f64>,
    /// `[hidden, vocab]`.
    weight: Vec<f64>,
    bias: Option<Vec<f64>>,
    tokens: Vec<i64>,
    mask: Vec<bool>,
    scale: f64,
    soft_cap: Option<f64>,
    temperature: f64,
    /// As an embedding holds it.
    transposed: bool,
    /// If not, whether in memory it is transposed all the same, as a linear layer may be.
    strided: bool,
    budget: usize,
    upstream: Vec<f64>,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (prop_oneof![Just(2usize), Just(4)], 2..=5usize, 1..=6usize, 1..=11usize);
    sizes.prop_flat_map(|(sequences, time, width, vocab)| {
        // sixteenths: every format holds them
        let number = || (-32..=32i32).prop_map(|i| f64::from(i) / 16.0);
        let cells = sequences * time;
        let shapes = (
            Just((sequences, time, width, vocab)),
            any::<bool>(),
            any::<bool>(),
            select(vec![1usize, 100, 400, 1 << 26]),
        );
        let numbers = (
            vec(number(), cells * width),
            vec(number(), width * vocab),
            proptest::option::of((vec(prop_oneof![3 => number(), 1 => Just(f64::NEG_INFINITY)], vocab), 0..vocab)),
            vec(0..vocab as i64, cells),
            vec(any::<bool>(), cells),
            vec(select(vec![1.0, -1.0, 0.5, 0.0, -2.0]), sequences * (time - 1)),
        );
        let chain = (
            select(vec![1.0, 0.25, -1.0, 2.0]),
            proptest::option::of(select(vec![0.5, 3.0, 30.0])),
            select(vec![1.0, 0.5, 2.0]),
        );
        (shapes, numbers, chain).prop_map(
            |((sizes, transposed, strided, budget), (hidden, weight, bias, tokens, mask, upstream), chain)| Case {
                sequences: sizes.0,
                time: sizes.1,
                width: sizes.2,
                vocab: sizes.3,
                hidden,
                weight,
                bias: bias.filter(|_| !transposed).map(|(mut bias, finite)| {
                    // a vocabulary that is padded has −∞ there; one id at least can be had
                    bias[finite] = bias[finite].max(-2.0);
                    bias
                }),
                tokens,
                mask,
                scale: chain.0,
                soft_cap: chain.1,
                temperature: chain.2,
                transposed,
                strided,
                budget,
                upstream,
            },
        )
    })
}

/// Which parameters are trained.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trained {
    hidden: bool,
    weight: bool,
    bias: bool,
}

const ALL: Trained = Trained { hidden: true, weight: true, bias: true };
const FROZEN: Trained = Trained { hidden: true, weight: false, bias: false };

/// What comes out; gradients where they were asked for.
struct Outcome {
    log_probs: Vec<f64>,
    entropies: Vec<f64>,
    hidden: Option<Vec<f64>>,
    weight: Option<Vec<f64>>,
    bias: Option<Vec<f64>>,
}

/// A case on a device.
struct OnDevice {
    head: LmHead,
    hidden: Tensor<3>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    completions: Completions,
}

impl Case {
    fn on_device(&self, on: &Tested, dtypes: [DType; 2], trained: Trained) -> OnDevice {
        let device = on.autodiff();
        let leaf = |tracked: bool, tensor: Tensor<2>| if tracked { tensor.require_grad() } else { tensor };
        let hidden = floats(&self.hidden, [self.sequences, self.time, self.width], &device, dtypes[0]);
        let hidden = if trained.hidden { hidden.require_grad() } else { hidden };
        let (weight, shape) = if self.transposed {
            (self.transposed_weight(), [self.vocab, self.width])
        } else {
            (self.weight.clone(), [self.width, self.vocab])
        };
        let weight = match self.strided && !self.transposed {
            false => floats(&weight, shape, &on.device, dtypes[1]),
            true => floats(&self.transposed_weight(), [self.vocab, self.width], &on.device, dtypes[1]).transpose(),
        };
        let weight = leaf(trained.weight, weight.autodiff());
        let bias = self.bias.as_ref().map(|bias| {
            let bias = floats(bias, [self.vocab], &device, dtypes[1]);
            if trained.bias { bias.require_grad() } else { bias }
        });
        // modules train what they are made of, unless they are told not to
        let head = match (self.transposed, trained.weight, &bias) {
            (true, true, _) => LmHead::from_embedding(&Embedding { weight: Param::from_tensor(weight.clone()) }),
            (true, false, _) => {
                LmHead::from_embedding(&Embedding { weight: Param::from_tensor(weight.clone()) }.no_grad())
            }
            (false, true, None) => {
                LmHead::from_linear(&Linear { weight: Param::from_tensor(weight.clone()), bias: None })
            }
            (false, ..) => LmHead::new(weight.clone(), bias.clone()),
        };
        let head = head.with_scale(self.scale).with_temperature(self.temperature).with_memory_budget(self.budget);
        let head = match self.soft_cap {
            Some(cap) => head.with_softcap(cap),
            None => head,
        };
        let shape = [self.sequences, self.time];
        let completions =
            Completions::new(integers(&self.tokens, shape, &on.device), flags(&self.mask, shape, &on.device));
        OnDevice { head, hidden, weight, bias, completions: completions.unwrap() }
    }

    fn transposed_weight(&self) -> Vec<f64> {
        (0..self.vocab * self.width).map(|i| self.weight[i % self.width * self.vocab + i / self.width]).collect()
    }

    /// `[sequences · time, vocab]`, exact, and what a derivative in them is multiplied by on its way back.
    fn logits(&self) -> (Vec<f64>, Vec<f64>) {
        let products = self.hidden.chunks(self.width).flat_map(|hidden| {
            (0..self.vocab).map(move |v| {
                let product = (0..self.width).map(|k| hidden[k] * self.weight[k * self.vocab + v]).sum::<f64>();
                self.scale * (product + self.bias.as_ref().map_or(0.0, |bias| bias[v]))
            })
        });
        let capped = products.map(|x| match self.soft_cap {
            None => (x / self.temperature, self.scale / self.temperature),
            Some(cap) => {
                let tanh = (x / cap).tanh();
                (cap * tanh / self.temperature, self.scale / self.temperature * (1.0 - tanh * tanh))
            }
        });
        capped.unzip()
    }

    /// By the f64 reference, and the chain rule through the head.
    fn expected(&self) -> Outcome {
        let (logits, slopes) = self.logits();
        let rows =
            TokenRows { logits: &logits, tokens: &self.tokens, mask: &self.mask, time: self.time, vocab: self.vocab };
        let of_logits = reference::token_log_probs_gradient(rows, &self.upstream).unwrap();
        let of_products: Vec<f64> = of_logits.iter().zip(&slopes).map(|(g, slope)| g * slope).collect();
        let mut hidden = vec![0.0; self.hidden.len()];
        let mut weight = vec![0.0; self.weight.len()];
        let mut bias = vec![0.0; self.vocab];
        for (row, of_row) in of_products.chunks(self.vocab).enumerate() {
            for (v, &g) in of_row.iter().enumerate() {
                bias[v] += g;
                for k in 0..self.width {
                    hidden[row * self.width + k] += g * self.weight[k * self.vocab + v];
                    weight[k * self.vocab + v] += g * self.hidden[row * self.width + k];
                }
            }
        }
        let statistics = reference::token_statistics(rows).unwrap();
        Outcome {
            log_probs: reference::token_log_probs(rows).unwrap(),
            entropies: statistics.iter().map(|statistic| statistic.entropy).collect(),
            hidden: Some(hidden),
            weight: Some(weight),
            bias: self.bias.is_some().then_some(bias),
        }
    }

    fn outcome(&self, on: &Tested, dtypes: [DType; 2], trained: Trained, portable: bool) -> Outcome {
        let OnDevice { head, hidden, weight, bias, completions } = self.on_device(on, dtypes, trained);
        let head = if portable { head.with_portable_operations() } else { head };
        let scored = head.token_log_probs(hidden.clone(), &completions).expect("shapes fit");
        let values = scored.values();
        let log_probs = numbers(&values);
        let gradient = |tensor: Option<Tensor<2>>| tensor.map(|tensor| numbers(&tensor));
        let mut outcome = Outcome { log_probs, entropies: Vec::new(), hidden: None, weight: None, bias: None };
        if !values.is_tracked() {
            return outcome;
        }
        let upstream = floats(&self.upstream, values.dims(), &on.device, values.dtype());
        let gradients = (values * upstream).sum().backward();
        outcome.hidden = hidden.grad(&gradients).map(|gradient| numbers(&gradient));
        outcome.weight = gradient(weight.grad(&gradients)).map(|weight| self.as_hidden_by_vocab(weight));
        outcome.bias = bias.and_then(|bias| bias.grad(&gradients)).map(|gradient| numbers(&gradient));
        outcome
    }

    fn as_hidden_by_vocab(&self, weight: Vec<f64>) -> Vec<f64> {
        if !self.transposed {
            return weight;
        }
        (0..weight.len()).map(|i| weight[i % self.vocab * self.width + i / self.vocab]).collect()
    }

    /// How far a logit may be off: `width` products and additions of numbers up to 4, bias, scale, cap and temperature.
    ///
    /// The cap's `tanh` errs by a few units of the cap. Numbers are at most 2 · 4 · (width + 1) before the temperature.
    fn logit_error(&self, rounding: Rounding) -> f64 {
        let size = self.scale.abs() * 4.0 * (self.width as f64 + 1.0) / self.temperature;
        let capped = self.soft_cap.map_or(0.0, |cap| 16.0 * cap / self.temperature);
        rounding.bound((self.width as f64 + 6.0) * size + capped)
    }

    /// Of log-probs, and of the gradients in logits, for upstream gradients of at most 2.
    fn bounds(&self, rounding: Rounding, log_prob: f64) -> (f64, f64) {
        let inexact = self.logit_error(rounding);
        let log_prob = tolerance::token_log_prob(rounding, log_prob, self.vocab) + 2.0 * inexact;
        // p is off by a factor of exp(2·inexact); the slope of the cap, 1 − tanh², by 2·inexact/cap and its own rounding
        let slope = (self.scale / self.temperature).abs();
        let of_cap = self.soft_cap.map_or(0.0, |cap| 4.0 * inexact * self.temperature / cap + 32.0 * rounding.unit);
        let of_logit =
            tolerance::token_gradient(rounding, 2.0, self.vocab) + 2.0 * (2.0 * inexact).exp_m1() + 2.0 * of_cap;
        (log_prob, slope * of_logit)
    }

    /// Of a sum of so many products of numbers up to 2 with gradients of logits, each of which may be off.
    fn sum_error(&self, rounding: Rounding, terms: f64) -> f64 {
        let (_, of_logit) = self.bounds(rounding, 0.0);
        let slope = 2.0 * (self.scale / self.temperature).abs();
        terms * 2.0 * of_logit + rounding.bound((terms + 4.0) * terms * 2.0 * slope)
    }

    /// Of any gradient.
    fn gradient_error(&self, rounding: Rounding) -> f64 {
        self.sum_error(rounding, (self.vocab.max(self.sequences * self.time)) as f64)
    }

    fn expect(&self, rounding: Rounding, dtype: DType, trained: Trained, actual: &Outcome) -> TestCaseResult {
        let expected = self.expected();
        let any = trained.hidden || trained.weight || trained.bias && self.bias.is_some();
        prop_assert_eq!(actual.hidden.is_some(), trained.hidden && any);
        prop_assert_eq!(actual.weight.is_some(), trained.weight && any);
        prop_assert_eq!(actual.bias.is_some(), trained.bias && self.bias.is_some());
        expect_close("log-prob", dtype, &actual.log_probs, &expected.log_probs, |i| {
            self.bounds(rounding, expected.log_probs[i]).0
        })?;
        let tokens = (self.sequences * self.time) as f64;
        let sum_of = |terms: f64| self.sum_error(rounding, terms);
        for (what, actual, expected, terms) in [
            ("hidden", &actual.hidden, &expected.hidden, self.vocab as f64),
            ("weight", &actual.weight, &expected.weight, tokens),
            ("bias", &actual.bias, &expected.bias, tokens),
        ] {
            if let (Some(actual), Some(expected)) = (actual, expected) {
                expect_close(what, dtype, actual, expected, |_| sum_of(terms))?;
            }
        }
        Ok(())
    }
}

#[test]
fn log_probs_and_gradients_of_a_head_are_those_of_the_reference() {
    for_several(cases(), |on, case| {
        for dtype in on.arithmetic_dtypes() {
            for (trained, portable) in [(ALL, false), (ALL, true), (FROZEN, false), (FROZEN, true)] {
                let outcome = case.outcome(on, [dtype; 2], trained, portable);
                case.expect(Rounding::of(on, dtype), dtype, trained, &outcome)?;
            }
        }
        Ok(())
    });
}

/// What is not tracked gets no gradient; what is gets the same one, whatever else is tracked.
#[test]
fn gradients_flow_into_what_is_trained_and_into_nothing_else() {
    for_several(cases(), |on, case| {
        for bits in 0..8u8 {
            let trained = Trained { hidden: bits & 1 > 0, weight: bits & 2 > 0, bias: bits & 4 > 0 };
            let outcome = case.outcome(on, [DType::F32; 2], trained, false);
            case.expect(Rounding::of(on, DType::F32), DType::F32, trained, &outcome)?;
        }
        Ok(())
    });
}

/// How many bytes may be held changes the order of additions and nothing else.
#[test]
fn the_budget_changes_nothing_beyond_rounding() {
    for_several(cases(), |on, case| {
        for budget in [0, 4, 64, 1000] {
            let other = Case { budget, ..case.clone() };
            let outcome = other.outcome(on, [DType::F32; 2], ALL, false);
            other.expect(Rounding::of(on, DType::F32), DType::F32, ALL, &outcome)?;
        }
        Ok(())
    });
}

/// 16-bit weights, hidden states, or both: the numbers are whole sixteenths, so nothing is lost on the way in.
#[test]
fn a_head_of_16_bits_is_computed_in_f32_and_its_gradients_are_rounded_once() {
    for_several(cases(), |on, case| {
        for half in on.float_dtypes().filter(|dtype| matches!(dtype, DType::F16 | DType::BF16)) {
            let all = [[half, half], [DType::F32, half], [half, DType::F32]];
            for &dtypes in if has_kernels(on) { &all[..] } else { &all[..1] } {
                let (single, actual) =
                    (case.outcome(on, [DType::F32; 2], ALL, false), case.outcome(on, dtypes, ALL, false));
                let inexact = case.logit_error(Rounding::of(on, DType::F32));
                expect_close("log-prob", DType::F32, &actual.log_probs, &single.log_probs, |i| {
                    2.0 * case.bounds(Rounding::of(on, DType::F32), single.log_probs[i]).0 + inexact
                })?;
                let unit = |dtype| match dtype {
                    DType::F16 => 2f64.powi(-11),
                    DType::BF16 => 2f64.powi(-8),
                    _ => 0.0,
                };
                for (what, actual, single, dtype) in [
                    ("hidden", actual.hidden, single.hidden, dtypes[0]),
                    ("weight", actual.weight, single.weight, dtypes[1]),
                    ("bias", actual.bias, single.bias, dtypes[1]),
                ] {
                    let (Some(actual), Some(single)) = (actual, single) else {
                        prop_assert!(what == "bias" && case.bias.is_none(), "no gradient of {}", what);
                        continue;
                    };
                    // rounded once, and where that is subnormal (f16) by 2⁻²⁵; the f32 numbers themselves may be made in other tiles
                    let own = case.gradient_error(Rounding::of(on, DType::F32));
                    expect_close(what, DType::F32, &actual, &single, |i| {
                        unit(dtype) * single[i].abs() + 2f64.powi(-25) + 2.0 * own
                    })?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn statistics_of_a_head_are_those_of_its_logits() {
    for_several(cases(), |on, case| {
        let rounding = Rounding::of(on, DType::F32);
        let (expected, inexact) = (case.expected(), case.logit_error(rounding));
        let (logits, _) = case.logits();
        let counted: Vec<bool> = case.mask.chunks(case.time).flat_map(|row| row[1..].iter().copied()).collect();
        for portable in [false, true] {
            let OnDevice { head, hidden, completions, .. } = case.on_device(on, [DType::F32; 2], ALL);
            let head = if portable { head.with_portable_operations() } else { head };
            let statistics = head.token_statistics(hidden.clone(), &completions).unwrap();
            let log_probs = head.token_log_probs(hidden.clone(), &completions).unwrap();
            prop_assert_eq!(bits(&numbers(&statistics.log_probs().values())), bits(&numbers(&log_probs.values())));
            expect_close("entropy", DType::F32, &numbers(&statistics.entropy()), &expected.entropies, |i| {
                let position = i / (case.time - 1) * case.time + i % (case.time - 1);
                let row = &logits[position * case.vocab..(position + 1) * case.vocab];
                // |∂H/∂z| sums to at most 2 (ln V + 1)
                let of_logits = 2.0 * ((case.vocab as f64).ln() + 1.0) * inexact;
                tolerance::entropy(rounding, &Distribution::of(row)) + of_logits
            })?;
            let means = numbers(&statistics.mean_logit());
            for (i, counted) in counted.iter().enumerate() {
                let position = i / (case.time - 1) * case.time + i % (case.time - 1);
                let row = &logits[position * case.vocab..(position + 1) * case.vocab];
                let mean = if *counted { row.iter().sum::<f64>() / case.vocab as f64 } else { 0.0 };
                let bound = inexact + tolerance::mean_logit(rounding, row);
                prop_assert!(
                    means[i] == mean || (means[i] - mean).abs() <= bound,
                    "mean logit {} of {}",
                    means[i],
                    mean
                );
            }
            let gradient = gradient_of_sum(statistics.entropy(), &hidden);
            let expected = case.entropy_gradient(&counted);
            let of_logit = 40.0 * (case.vocab as f64).ln().max(1.0) * (inexact + 64.0 * rounding.unit);
            let slope = (case.scale / case.temperature).abs();
            expect_close("gradient", DType::F32, &gradient, &expected, |_| {
                case.vocab as f64 * 2.0 * slope * of_logit + rounding.tiny
            })?;
        }
        Ok(())
    });
}

impl Case {
    /// Of the sum of counted entropies in hidden states, by the reference.
    fn entropy_gradient(&self, counted: &[bool]) -> Vec<f64> {
        let (logits, slopes) = self.logits();
        let mut gradient = vec![0.0; self.hidden.len()];
        for (i, _) in counted.iter().enumerate().filter(|(_, counted)| **counted) {
            let position = i / (self.time - 1) * self.time + i % (self.time - 1);
            let row = position * self.vocab..(position + 1) * self.vocab;
            let of_row = reference::token_entropy_gradient(&logits[row.clone()]);
            for ((v, g), slope) in of_row.iter().enumerate().zip(&slopes[row]) {
                for k in 0..self.width {
                    gradient[position * self.width + k] += g * slope * self.weight[k * self.vocab + v];
                }
            }
        }
        gradient
    }
}

/// Loss, and gradients of the mean loss times 3.
fn step(
    case: &Case,
    on: &Tested,
    loss: &LossMixture,
    trained: Trained,
    whole: bool,
) -> (Vec<f64>, Vec<f64>, [Vec<f64>; 3]) {
    let OnDevice { head, hidden, weight, bias, completions } = case.on_device(on, [DType::F32; 2], trained);
    let reference = reference_pairs(case, on);
    let (loss, losses) = if whole {
        let step = head.preference_step(hidden.clone(), &completions, &reference, loss).unwrap();
        (step.loss, step.losses)
    } else {
        let policy = head.token_log_probs(hidden.clone(), &completions).unwrap().sequences().into_pairs().unwrap();
        let losses = loss.losses(&policy, &reference).unwrap();
        (losses.clone().mean(), losses)
    };
    let value = numbers(&loss);
    let gradients = (loss * 3.0).backward();
    let of = |gradient: Option<Vec<f64>>| gradient.expect("a gradient");
    let gradients = [
        of(hidden.grad(&gradients).map(|g| numbers(&g))),
        of(weight.grad(&gradients).map(|g| numbers(&g))),
        bias.map(|bias| of(bias.grad(&gradients).map(|g| numbers(&g)))).unwrap_or_default(),
    ];
    (value, numbers(&losses), gradients)
}

fn reference_pairs(case: &Case, on: &Tested) -> PairLogProbs {
    let pairs: Vec<(f32, usize)> = (0..case.sequences / 2).map(|pair| (-1.5 - pair as f32, 2)).collect();
    PairLogProbs::from_host(&pairs, &pairs.iter().map(|(sum, n)| (sum - 0.5, *n)).collect::<Vec<_>>(), &on.device)
        .unwrap()
}

/// Every member of the family: the same but for the order of additions, however many logits were kept.
#[test]
fn a_step_has_the_loss_and_the_gradient_of_its_parts() {
    for_several((cases(), select(members())), |on, (case, loss)| {
        for &budget in if has_kernels(on) { &[1, 300, 1 << 26][..] } else { &[300] } {
            let case = Case { budget, ..case.clone() };
            let mixture = LossMixture::from(*loss);
            let (loss, losses, gradients) = step(&case, on, &mixture, ALL, true);
            let (expected_loss, expected_losses, expected) = step(&case, on, &mixture, ALL, false);
            // the same code on log-probs that differ by their rounding: 1e-4 of the largest is a thousand times that
            let near = |what: &str, actual: &[f64], expected: &[f64]| {
                let largest = expected.iter().fold(1.0f64, |a, b| if b.is_finite() { a.max(b.abs()) } else { a });
                expect_close(what, DType::F32, actual, expected, |_| 1e-4 * largest)
            };
            near("loss", &loss, &expected_loss)?;
            near("losses", &losses, &expected_losses)?;
            for (what, actual, expected) in
                [("hidden", 0), ("weight", 1), ("bias", 2)].map(|(what, i)| (what, &gradients[i], &expected[i]))
            {
                near(what, actual, expected)?;
            }
        }
        Ok(())
    });
}

/// As many rows wait in the memory of the weight's gradient as there are hidden numbers, if one tile has as many.
#[test]
fn a_step_says_how_many_of_its_logits_were_made_once() {
    let case = |width: usize, budget| Case {
        sequences: 4,
        time: 3,
        width,
        vocab: 5,
        hidden: (0..12 * width).map(|i| (i % 5) as f64 / 4.0).collect(),
        weight: (0..5 * width).map(|i| (i % 7) as f64 / 4.0 - 0.5).collect(),
        bias: None,
        tokens: vec![0, 1, 2, 0, 3, 4, 0, 2, 1, 0, 4, 3],
        mask: vec![true; 12],
        scale: 1.0,
        soft_cap: None,
        temperature: 1.0,
        transposed: false,
        strided: false,
        budget,
        upstream: vec![1.0; 8],
    };
    let loss = LossMixture::from(PreferenceLoss::all()[0]);
    on_every_device(|on| {
        // 8 rows are counted
        for (width, budget, dtype, trained, expected) in [
            (9, 1 << 20, DType::F32, ALL, 1.0),
            (8, 1 << 20, DType::F32, ALL, 1.0),
            (2, 1 << 20, DType::F32, ALL, 0.25),
            (8, 1, DType::F32, ALL, 0.125),
            (8, 1 << 20, DType::F32, FROZEN, 0.0),
            (8, 1 << 20, DType::BF16, ALL, 0.0),
        ] {
            if !on.computes_in(dtype) {
                continue;
            }
            let case = case(width, budget);
            let OnDevice { head, hidden, completions, .. } = case.on_device(on, [DType::F32, dtype], trained);
            let step = head.preference_step(hidden, &completions, &reference_pairs(&case, on), &loss).unwrap();
            prop_assert_eq!(step.cached, expected, "{} hidden numbers, budget {}, {:?}", width, budget, dtype);
            prop_assert!(step.loss.is_tracked() && !step.losses.is_tracked() && !step.policy.chosen().sum.is_tracked());
            prop_assert_eq!(step.policy.pairs(), 2);
        }
        Ok(())
    });
}

#[test]
fn batches_without_a_counted_token_train_without_effect() {
    for_several(cases(), |on, case| {
        let mut case = case.clone();
        case.mask.fill(false);
        let outcome = case.outcome(on, [DType::F32; 2], ALL, false);
        prop_assert!(outcome.log_probs.iter().all(|x| x.to_bits() == 0), "log-probs of nothing");
        for gradient in [outcome.hidden, outcome.weight].map(|gradient| gradient.expect("a gradient")) {
            prop_assert!(gradient.iter().all(|&g| g == 0.0), "gradient of nothing");
        }
        let (loss, ..) = step(&case, on, &LossMixture::from(PreferenceLoss::all()[0]), ALL, true);
        let (expected, ..) = step(&case, on, &LossMixture::from(PreferenceLoss::all()[0]), ALL, false);
        prop_assert_eq!(loss, expected);
        Ok(())
    });
}

#[test]
fn what_does_not_go_together_is_refused() {
    on_every_device(|on| {
        let device = &on.device;
        let completions = Completions::from_sequences(&[[0, 1, 2], [0, 1, 2]], &[1, 1], 5, device).unwrap();
        let hidden = |width| Tensor::<3>::zeros([2, 3, width], (device, DType::F32));
        let weight = || Tensor::<2>::zeros([4, 5], (device, DType::F32));
        let refused = |head: LmHead, hidden: Tensor<3>| {
            let statistics = head.token_statistics(hidden.clone(), &completions).unwrap_err();
            let error = head.token_log_probs(hidden, &completions).unwrap_err();
            assert_eq!(statistics.to_string(), error.to_string());
            error.to_string()
        };
        let head = || LmHead::new(weight(), None);
        prop_assert_eq!(refused(head(), hidden(3)), "hidden has shape [2, 3, 3], expected [2, 3, 4]");
        let short = Tensor::zeros([2, 2, 4], (device, DType::F32));
        prop_assert_eq!(refused(head(), short), "hidden has shape [2, 2, 4], expected [2, 3, 4]");
        let bias = Tensor::zeros([4], (device, DType::F32));
        prop_assert_eq!(refused(LmHead::new(weight(), Some(bias)), hidden(4)), "bias has shape [4], expected [5]");
        let empty = LmHead::new(Tensor::zeros([0, 5], (device, DType::F32)), None);
        prop_assert_eq!(refused(empty, hidden(0)), "weight has shape [0, 5], expected [1, 5]");
        let none = LmHead::new(Tensor::zeros([4, 0], (device, DType::F32)), None);
        prop_assert_eq!(refused(none, hidden(4)), "weight has a vocabulary of 0");
        for (head, name) in [
            (head().with_temperature(0.0), "temperature"),
            (head().with_softcap(-1.0), "softcap"),
            (head().with_scale(f64::NAN), "scale"),
            (head().with_scale(0.0), "scale"),
            (head().with_scale(1e30).with_temperature(1e-30), "scale"),
            (head().with_softcap(1e30).with_temperature(1e-30), "softcap"),
        ] {
            prop_assert!(refused(head, hidden(4)).contains(name));
        }
        let loss = LossMixture::from(PreferenceLoss::all()[0]);
        let pairs = PairLogProbs::from_host(&[(-1.0, 1); 2], &[(-1.0, 1); 2], device).unwrap();
        let error = head().preference_step(hidden(4), &completions, &pairs, &loss).unwrap_err();
        prop_assert_eq!(error.to_string(), "policy holds 1 pairs, but reference holds 2");
        let three = Completions::from_sequences(&[[0, 1], [0, 1], [0, 1]], &[1; 3], 5, device).unwrap();
        let odd = Tensor::zeros([3, 2, 4], (device, DType::F32));
        let error = head().preference_step(odd, &three, &pairs, &loss).unwrap_err();
        prop_assert_eq!(error, Error::OddSequences { sequences: 3 });
        for dtype in on.refused_float_dtypes() {
            // some backends do not even store it
            let stored = || Tensor::<2>::zeros([4, 5], (device, dtype));
            let Ok(weight) = catch_unwind(AssertUnwindSafe(stored)) else { continue };
            let unusable = LmHead::new(weight, None);
            let refused = unusable.token_log_probs(hidden(4), &completions).unwrap_err();
            prop_assert!(matches!(refused, Error::DType { what: "weight", .. }), "{}", refused);
        }
        Ok(())
    });
}

#[test]
fn tensors_under_different_checkpointing_strategies_are_refused() {
    on_every_device(|on| {
        let device = &on.device;
        let completions = Completions::from_sequences(&[[0, 1]], &[1], 5, device).unwrap();
        let hidden = Tensor::<3>::zeros([1, 2, 4], (&on.autodiff().gradient_checkpointing(), DType::F32));
        let head = LmHead::new(Tensor::zeros([4, 5], (&on.autodiff(), DType::F32)), None);
        let error = head.token_log_probs(hidden, &completions).unwrap_err();
        prop_assert_eq!(error, Error::Checkpointing { left: "hidden", right: "weight" });
        let plain = Tensor::<3>::zeros([1, 2, 4], (device, DType::F32));
        let bias = Tensor::<1>::zeros([5], (&on.autodiff().gradient_checkpointing(), DType::F32));
        let head = LmHead::new(Tensor::zeros([4, 5], (&on.autodiff(), DType::F32)), Some(bias));
        let error = head.token_log_probs(plain, &completions).unwrap_err();
        prop_assert_eq!(error, Error::Checkpointing { left: "weight", right: "bias" });
        Ok(())
    });
}

/// The mask that a batch was made with on the host, and one that has to be read, say the same; reading ahead changes nothing.
#[test]
fn completions_know_or_read_which_tokens_count() {
    on_every_device(|on| {
        let device = &on.device;
        let known = Completions::from_sequences(&[vec![0, 1, 2, 3], vec![0, 4, 1]], &[2, 1], 5, device).unwrap();
        let read = Completions::new(known.tokens(), known.mask()).unwrap();
        let ahead = Completions::new(known.tokens(), known.mask()).unwrap();
        wait_for(ahead.locate()).unwrap();
        let weight: Vec<f64> = (0..20).map(|i| f64::from(i) / 10.0).collect();
        let head = LmHead::new(floats(&weight, [4, 5], device, DType::F32), None);
        let hidden: Vec<f64> = (0..32).map(|i| f64::from(i % 11) / 10.0).collect();
        let hidden = floats(&hidden, [2, 4, 4], device, DType::F32);
        let [one, two, three] = [known, read, ahead]
            .map(|completions| bits(&numbers(&head.token_log_probs(hidden.clone(), &completions).unwrap().values())));
        prop_assert_eq!(&one, &two);
        prop_assert_eq!(&one, &three);
        Ok(())
    });
}

/// Whatever becomes of the loss behind a step: it is one number among others, in any place, times anything.
#[test]
fn a_step_hands_on_what_it_receives_wherever_its_loss_ends_up() {
    for_several(cases(), |on, case| {
        let mixture = LossMixture::from(PreferenceLoss::all()[0]);
        let (_, _, expected) = step(case, on, &mixture, ALL, false); // times 3
        let all = [(3.0, 1), (0.0, 0), (3.0, 0), (1.0, 1), (-6.0, 0)];
        for &(factor, place) in if has_kernels(on) { &all[..] } else { &all[..2] } {
            let OnDevice { head, hidden, weight, completions, .. } = case.on_device(on, [DType::F32; 2], ALL);
            let loss =
                head.preference_step(hidden.clone(), &completions, &reference_pairs(case, on), &mixture).unwrap().loss;
            let other = floats(&[7.0], [1], &on.autodiff(), DType::F32).require_grad();
            let mut all = vec![other.clone(), other];
            all.insert(place, loss);
            let factors = (0..3).map(|i| if i == place { factor } else { 11.0 }).collect::<Vec<_>>();
            let gradients = (Tensor::cat(all, 0) * floats(&factors, [3], &on.device, DType::F32)).sum().backward();
            for (what, actual, expected) in [
                ("hidden", numbers(&hidden.grad(&gradients).unwrap()), &expected[0]),
                ("weight", numbers(&weight.grad(&gradients).unwrap()), &expected[1]),
            ] {
                let scaled: Vec<f64> = expected.iter().map(|g| g * factor / 3.0).collect();
                let largest = scaled.iter().fold(1.0f64, |a, b| a.max(b.abs()));
                expect_close(what, DType::F32, &actual, &scaled, |_| if factor == 0.0 { 0.0 } else { 1e-4 * largest })?;
            }
        }
        Ok(())
    });
}

/// NaN in hidden states that count but that nothing flows into stays there.
#[test]
fn a_position_that_the_caller_leaves_out_pulls_on_nothing_even_if_it_is_nan() {
    for_several(cases(), |on, case| {
        let mut other = case.clone();
        let left_out = |sequence: usize| sequence == 0;
        for (cell, number) in other.hidden.iter_mut().enumerate() {
            if left_out(cell / (case.time * case.width)) {
                *number = f64::NAN;
            }
        }
        let upstream = |case: &Case| {
            let mut case = case.clone();
            case.upstream.iter_mut().take(case.time - 1).for_each(|g| *g = 0.0);
            case
        };
        let (case, other) = (upstream(case), upstream(&other));
        let (one, two) =
            (case.outcome(on, [DType::F32; 2], ALL, false), other.outcome(on, [DType::F32; 2], ALL, false));
        let own = case.gradient_error(Rounding::of(on, DType::F32));
        for (what, one, two) in [("weight", one.weight, two.weight), ("hidden", one.hidden, two.hidden)] {
            expect_close(what, DType::F32, &two.expect("a gradient"), &one.expect("a gradient"), |_| 2.0 * own)?;
        }
        Ok(())
    });
}

#[test]
fn a_weight_that_is_read_backwards_is_a_weight() {
    on_every_device(|on| {
        let weight: Vec<f64> = (0..20).map(|i| f64::from(i) / 10.0).collect();
        let hidden =
            floats(&(0..16).map(|i| f64::from(i % 5) / 4.0).collect::<Vec<_>>(), [2, 2, 4], &on.device, DType::F32);
        let completions = Completions::from_sequences(&[[0, 1], [0, 4]], &[1, 1], 5, &on.device).unwrap();
        let weight = floats(&weight, [4, 5], &on.device, DType::F32);
        let there_and_back = weight.clone().flip([0]).flip([0]);
        let [one, two] = [weight, there_and_back].map(|weight| {
            numbers(
                &LmHead::new(weight.flip([0]), None).token_log_probs(hidden.clone(), &completions).unwrap().values(),
            )
        });
        prop_assert_eq!(bits(&one), bits(&two));
        prop_assert!(one.iter().all(|log_prob| *log_prob < 0.0));
        Ok(())
    });
}

/// Three tiles of the vocabulary, and rows in one part or in several: wider than the narrowest tile.
fn wide_cases(on: &Tested) -> impl Iterator<Item = Case> {
    let (sequences, time, width, vocab) = (4, 4, 16, 700);
    let sixteenth = |i: usize, turn: usize| ((i * turn) % 65) as f64 / 16.0 - 2.0;
    let case = move |transposed: bool, budget: usize, masked: usize| Case {
        sequences,
        time,
        width,
        vocab,
        hidden: (0..sequences * time * width).map(|i| sixteenth(i, 29)).collect(),
        weight: (0..width * vocab).map(|i| sixteenth(i, 37)).collect(),
        // a bias that masks the whole first tile, as of a vocabulary that is padded in front
        bias: (!transposed)
            .then(|| (0..vocab).map(|v| if v < masked { f64::NEG_INFINITY } else { sixteenth(v, 11) }).collect()),
        tokens: (0..sequences * time).map(|i| (500 + i * 13) as i64).collect(),
        mask: (0..sequences * time).map(|i| i % 7 != 3).collect(),
        scale: 0.5,
        soft_cap: None,
        temperature: 1.0,
        transposed,
        strided: false,
        budget,
        upstream: (0..sequences * (time - 1)).map(|i| [1.0, -1.0, 0.5][i % 3]).collect(),
    };
    let budgets = [12 * 256 * 4, 40 * 256 * 4, 1 << 26];
    let all = budgets.into_iter().flat_map(move |budget| {
        [(false, 0), (false, 300), (true, 0)].map(|(transposed, masked)| case(transposed, budget, masked))
    });
    all.step_by(if has_kernels(on) { 1 } else { 4 })
}

#[test]
fn a_wide_vocabulary_in_several_tiles_is_that_of_the_reference() {
    on_every_device(|on| {
        for case in wide_cases(on) {
            for dtype in on.arithmetic_dtypes() {
                for (trained, portable) in [(ALL, false), (ALL, true), (FROZEN, false), (FROZEN, true)] {
                    let outcome = case.outcome(on, [dtype; 2], trained, portable);
                    case.expect(Rounding::of(on, dtype), dtype, trained, &outcome)?;
                    prop_assert!(outcome.hidden.unwrap().iter().all(|g| g.is_finite()));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_step_over_a_wide_vocabulary_in_several_tiles_has_the_gradient_of_its_parts() {
    on_every_device(|on| {
        for case in wide_cases(on) {
            let mixture = LossMixture::from(PreferenceLoss::all()[0]);
            let (loss, losses, gradients) = step(&case, on, &mixture, ALL, true);
            let (expected_loss, expected_losses, expected) = step(&case, on, &mixture, ALL, false);
            let near = |what: &str, actual: &[f64], expected: &[f64]| {
                let largest = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
                expect_close(what, DType::F32, actual, expected, |_| 1e-4 * largest)
            };
            near("loss", &loss, &expected_loss)?;
            near("losses", &losses, &expected_losses)?;
            for ((what, actual), expected) in ["hidden", "weight", "bias"].iter().zip(&gradients).zip(&expected) {
                near(what, actual, expected)?;
            }
        }
        Ok(())
    });
}

//! What holds for heads of real weights: against the f64 reference, in any tiles, with whichever parameters are trained; and
//! for the step that makes loss and gradient together.

mod contracts;
mod fused_step;
mod gradients;
mod statistics;
mod values;
mod wide;

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
        let (logits, derivatives) = self.logits();
        let rows =
            TokenRows { logits: &logits, tokens: &self.tokens, mask: &self.mask, time: self.time, vocab: self.vocab };
        let of_logits = reference::token_log_probs_gradient(rows, &self.upstream).unwrap();
        let of_products: Vec<f64> = of_logits.iter().zip(&derivatives).map(|(g, derivative)| g * derivative).collect();
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
        // p is off by a factor of exp(2·inexact); the derivative of the cap, 1 − tanh², by 2·inexact/cap and its own rounding
        let derivative = (self.scale / self.temperature).abs();
        let of_cap = self.soft_cap.map_or(0.0, |cap| 4.0 * inexact * self.temperature / cap + 32.0 * rounding.unit);
        let of_logit =
            tolerance::token_gradient(rounding, 2.0, self.vocab) + 2.0 * (2.0 * inexact).exp_m1() + 2.0 * of_cap;
        (log_prob, derivative * of_logit)
    }

    /// Of a sum of so many products of numbers up to 2 with gradients of logits, each of which may be off.
    fn sum_error(&self, rounding: Rounding, terms: f64) -> f64 {
        let (_, of_logit) = self.bounds(rounding, 0.0);
        let derivative = 2.0 * (self.scale / self.temperature).abs();
        terms * 2.0 * of_logit + rounding.bound((terms + 4.0) * terms * 2.0 * derivative)
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

//! Pairs with all that can be measured of them, on the host and on a device.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor};
use burn_dpo::{
    Completions, PairLogProbs, PreferenceBatch, PreferenceMetrics, SequenceLogProbs, SequenceStatistics, TokenLogProbs,
    reference::{MeasuredCompletion, MeasuredPair, SequenceLogProb, SequenceStatistic},
    token_log_probs,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    devices::Tested,
    host::{booleans, flags, floats, integers, numbers},
    pairs,
};

/// Tokens in a row, of which all but the first are predicted.
pub const TIME: usize = 4;
const PREDICTED: usize = TIME - 1;

/// One completion. The sums are not those of the tokens: nothing that is measured asks for that.
#[derive(Debug, Clone)]
pub struct Completion {
    pub policy: f64,
    pub reference: f64,
    pub token_count: i64,
    /// `[time, 2]`, of the policy and of the reference.
    pub logits: [Vec<f64>; 2],
    pub ids: Vec<i64>,
    pub mask: Vec<bool>,
    pub entropy: f64,
    pub mean_logit: f64,
    pub hits: i64,
    pub statistic_count: i64,
}

#[derive(Debug, Clone)]
pub struct OnePair {
    pub loss: f64,
    pub beta: f64,
    pub chosen: Completion,
    pub rejected: Completion,
}

/// What is given beside the least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Given {
    pub tokens: bool,
    pub statistics: bool,
    pub betas: bool,
}

impl Given {
    pub const NOTHING: Self = Self { tokens: false, statistics: false, betas: false };
    pub const EVERYTHING: Self = Self { tokens: true, statistics: true, betas: true };
}

#[derive(Debug, Clone)]
pub struct Measured {
    pub pairs: Vec<OnePair>,
    pub beta: f64,
    pub given: Given,
}

/// None to six pairs of numbers that f32 holds exactly, and whose differences it does. Ties are common.
pub fn tame() -> impl Strategy<Value = Measured> {
    measured(0.0)
}

/// The same, with NaN and infinities among them.
pub fn wild() -> impl Strategy<Value = Measured> {
    measured(0.1)
}

pub fn given() -> impl Strategy<Value = Given> {
    any::<[bool; 3]>().prop_map(|[tokens, statistics, betas]| Given { tokens, statistics, betas })
}

fn measured(poison: f64) -> impl Strategy<Value = Measured> {
    let pairs = prop_oneof![1 => Just(0usize), 1 => Just(1usize), 4 => 2..=6usize];
    let pairs = pairs.prop_flat_map(move |pairs| vec(pair(poison), pairs));
    (pairs, select(vec![0.1, 0.5, 1.0, 3.7]), given()).prop_map(|(pairs, beta, given)| Measured { pairs, beta, given })
}

fn pair(poison: f64) -> impl Strategy<Value = OnePair> {
    let beta = select(vec![0.5, 1.0, f64::from(0.1f32), 8.0]);
    (poisoned(eighths(0..=80), poison), poisoned(beta, poison / 2.0), completion(poison), completion(poison))
        .prop_map(|(loss, beta, chosen, rejected)| OnePair { loss, beta, chosen, rejected })
}

fn completion(poison: f64) -> impl Strategy<Value = Completion> {
    let nats = || poisoned(prop_oneof![eighths(-80..=0), select(vec![-1.0, -1.125])], poison);
    let count = prop_oneof![2 => 0..5i64, 2 => 1..100i64, 1 => Just(1i64 << 24)];
    (
        (nats(), nats(), count),
        logits(poison),
        (vec(0..2i64, TIME), vec(any::<bool>(), TIME)),
        (poisoned(eighths(0..=80), poison), poisoned(eighths(-80..=80), poison), 0..9i64, 0..9i64),
    )
        .prop_map(|((policy, reference, token_count), logits, (ids, mask), statistics)| {
            let (entropy, mean_logit, hits, statistic_count) = statistics;
            Completion { policy, reference, token_count, logits, ids, mask, entropy, mean_logit, hits, statistic_count }
        })
}

/// Of policy and reference: apart, near each other, or alike.
fn logits(poison: f64) -> impl Strategy<Value = [Vec<f64>; 2]> {
    let one = move || vec(poisoned(-4.0f32..4.0, poison / 2.0), 2 * TIME);
    (one(), one(), select(vec![1.0, 1e-3, 0.0])).prop_map(|(policy, other, apart)| {
        let reference = policy.iter().zip(&other).map(|(p, o)| if apart == 0.0 { *p } else { p + apart * o }).collect();
        [policy, reference]
    })
}

fn eighths(range: std::ops::RangeInclusive<i32>) -> impl Strategy<Value = f64> {
    range.prop_map(|eighths| f64::from(eighths) / 8.0)
}

fn poisoned<T: Into<f64>>(numbers: impl Strategy<Value = T>, probability: f64) -> impl Strategy<Value = f64> {
    let special = select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY]);
    (numbers, 0.0..1.0f64, special).prop_map(
        move |(number, chance, special)| {
            if chance > 1.0 - probability { special } else { number.into() }
        },
    )
}

impl Measured {
    pub fn part(&self, range: Range<usize>) -> Self {
        Self { pairs: self.pairs[range].to_vec(), ..*self }
    }

    /// The pairs of which `keep` is true.
    pub fn only(&self, keep: &[bool]) -> Self {
        let kept = self.pairs.iter().zip(keep).filter(|(_, keep)| **keep).map(|(pair, _)| pair.clone());
        Self { pairs: kept.collect(), ..*self }
    }

    pub fn given(&self, given: Given) -> Self {
        Self { given, ..self.clone() }
    }

    /// By the library.
    pub fn metrics(&self, on: &Tested) -> PreferenceMetrics {
        self.inputs(on).batch().measure().expect("everything fits")
    }

    /// Chosen completions, then rejected ones.
    fn completions(&self) -> Vec<&Completion> {
        let chosen = self.pairs.iter().map(|pair| &pair.chosen);
        chosen.chain(self.pairs.iter().map(|pair| &pair.rejected)).collect()
    }

    pub fn inputs(&self, on: &Tested) -> Inputs {
        let (pairs, rows) = (self.pairs.len(), self.completions());
        let device = &on.device;
        let floats_of = |f: &dyn Fn(&Completion) -> f64| {
            floats(&rows.iter().map(|one| f(one)).collect::<Vec<_>>(), [rows.len()], device, DType::F32)
        };
        let counts_of = |f: &dyn Fn(&Completion) -> i64| {
            integers(&rows.iter().map(|one| f(one)).collect::<Vec<_>>(), [rows.len()], device)
        };
        let model = |f: &dyn Fn(&Completion) -> f64| {
            let sequences = SequenceLogProbs::new(floats_of(f), counts_of(&|one| one.token_count)).unwrap();
            sequences.into_pairs().unwrap()
        };
        let tokens = |model: usize| {
            let shape = [rows.len(), TIME];
            let ids: Vec<i64> = rows.iter().flat_map(|one| one.ids.clone()).collect();
            let mask: Vec<bool> = rows.iter().flat_map(|one| one.mask.clone()).collect();
            let logits: Vec<f64> = rows.iter().flat_map(|one| one.logits[model].clone()).collect();
            let completions = Completions::new(integers(&ids, shape, device), flags(&mask, shape, device)).unwrap();
            token_log_probs(floats(&logits, [rows.len(), TIME, 2], device, DType::F32), &completions).unwrap()
        };
        let per_pair = |f: &dyn Fn(&OnePair) -> f64| {
            floats(&self.pairs.iter().map(f).collect::<Vec<_>>(), [pairs], device, DType::F32)
        };
        Inputs {
            losses: per_pair(&|pair| pair.loss),
            policy: model(&|one| one.policy),
            reference: model(&|one| one.reference),
            beta: self.beta,
            tokens: self.given.tokens.then(|| [tokens(0), tokens(1)]),
            statistics: self.given.statistics.then(|| {
                sequence_statistics(
                    [floats_of(&|one| one.entropy), floats_of(&|one| one.mean_logit)],
                    [counts_of(&|one| one.hits), counts_of(&|one| one.statistic_count)],
                )
            }),
            betas: self.given.betas.then(|| per_pair(&|pair| pair.beta)),
        }
    }

    /// What the definitions are about: the same pairs, with the log-probs of tokens that the device computed.
    pub fn pairs_by_definition(&self, on: &Tested) -> Vec<MeasuredPair> {
        let tokens = self.inputs(on).tokens;
        let ratios = tokens.map(|[policy, reference]| {
            let (p, r) = (numbers(&policy.values()), numbers(&reference.values()));
            let ratios: Vec<f64> = p.iter().zip(&r).map(|(p, r)| p - r).collect();
            (ratios, booleans(&policy.counted()))
        });
        let completion = |row: usize, one: &Completion| MeasuredCompletion {
            policy: SequenceLogProb { sum: one.policy, token_count: one.token_count as usize },
            reference: one.reference,
            token_log_ratios: ratios.as_ref().map(|(ratios, counted)| {
                let cells = row * PREDICTED..(row + 1) * PREDICTED;
                cells.filter(|&cell| counted[cell]).map(|cell| ratios[cell]).collect()
            }),
            statistics: self.given.statistics.then_some(SequenceStatistic {
                entropy: one.entropy,
                mean_logit: one.mean_logit,
                hits: one.hits as usize,
                token_count: one.statistic_count as usize,
            }),
        };
        let half = self.pairs.len();
        self.pairs
            .iter()
            .enumerate()
            .map(|(i, pair)| MeasuredPair {
                loss: pair.loss,
                beta: if self.given.betas { pair.beta } else { self.beta },
                chosen: completion(i, &pair.chosen),
                rejected: completion(half + i, &pair.rejected),
            })
            .collect()
    }
}

/// Of any numbers: entropy and mean logit, hits and token count.
fn sequence_statistics(
    [entropy, mean_logit]: [Tensor<1>; 2],
    [hits, token_count]: [Tensor<1, Int>; 2],
) -> SequenceStatistics {
    SequenceStatistics { entropy, mean_logit, hits, token_count }
}

/// On a device.
pub struct Inputs {
    pub losses: Tensor<1>,
    pub policy: PairLogProbs,
    pub reference: PairLogProbs,
    pub beta: f64,
    pub tokens: Option<[TokenLogProbs; 2]>,
    pub statistics: Option<SequenceStatistics>,
    pub betas: Option<Tensor<1>>,
}

impl Inputs {
    pub fn batch(&self) -> PreferenceBatch<'_> {
        let mut batch = PreferenceBatch::new(&self.losses, &self.policy, &self.reference, pairs::beta(self.beta));
        if let Some([policy, reference]) = &self.tokens {
            batch = batch.with_tokens(policy, reference);
        }
        if let Some(statistics) = &self.statistics {
            batch = batch.with_statistics(statistics);
        }
        if let Some(betas) = &self.betas {
            batch = batch.with_betas(betas);
        }
        batch
    }
}

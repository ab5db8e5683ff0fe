//! The losses of the f64 reference: the stable forms against the printed ones, against finite differences, at the ends
//! of the number range, and the laws that bind them to each other.

mod extremes;
mod laws;
mod printed;

use std::f64::consts::LN_2;

use burn_dpo::reference::{
    self, BatchLossAndGradient, FDivergence, LossAndGradient, Pair, RankingLossAndGradient, SequenceLogProb,
    SequencePair, UnpairedLossAndGradient, as_printed,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::devices::for_all_numbers;

/// What any loss is given: a batch of pairs, of which most losses look at the first, and all parameters.
#[derive(Debug, Clone)]
struct Case {
    policies: Vec<SequencePair>,
    references: Vec<Pair>,
    beta: f64,
    divergence: FDivergence,
    epsilon: f64,
    probability: f64,
    offset: f64,
    weight: f64,
    temperature: f64,
    alpha: f64,
    desirable: bool,
    ranked: usize,
}

impl Case {
    fn sums(&self) -> Pair {
        self.policies[0].sums()
    }

    fn all_sums(&self) -> Vec<Pair> {
        self.policies.iter().map(|pair| pair.sums()).collect()
    }

    /// `[c, r, c, r, …]`: what gradients are taken in, and a ranking for the loss that wants one.
    fn log_probs(&self) -> Vec<f64> {
        self.all_sums().into_iter().flat_map(flat).collect()
    }

    fn with_log_prob(&self, index: usize, number: f64) -> Self {
        let mut moved = self.clone();
        let pair = &mut moved.policies[index / 2];
        (if index.is_multiple_of(2) { &mut pair.chosen } else { &mut pair.rejected }).sum = number;
        moved
    }
}

/// A loss, or several, with the derivatives of their sum in as many of the case's log-probs as it depends on.
#[derive(Debug, Clone, PartialEq)]
struct Outcome {
    values: Vec<f64>,
    gradient: Vec<f64>,
}

impl Outcome {
    fn value(&self) -> f64 {
        self.values.iter().sum()
    }

    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.values.iter().chain(&self.gradient).copied()
    }
}

fn flat(pair: Pair) -> [f64; 2] {
    [pair.chosen, pair.rejected]
}

impl From<LossAndGradient> for Outcome {
    fn from(of: LossAndGradient) -> Self {
        Self { values: vec![of.value], gradient: flat(of.gradient).to_vec() }
    }
}

impl From<BatchLossAndGradient> for Outcome {
    fn from(of: BatchLossAndGradient) -> Self {
        Self { values: of.values, gradient: of.gradients.into_iter().flat_map(flat).collect() }
    }
}

impl From<UnpairedLossAndGradient> for Outcome {
    fn from(of: UnpairedLossAndGradient) -> Self {
        Self { values: vec![of.value], gradient: vec![of.gradient] }
    }
}

impl From<RankingLossAndGradient> for Outcome {
    fn from(of: RankingLossAndGradient) -> Self {
        Self { values: vec![of.value], gradient: of.gradient }
    }
}

/// One member of the family, in both forms.
struct Member {
    name: &'static str,
    stable: fn(&Case) -> Outcome,
    printed: fn(&Case) -> Outcome,
}

macro_rules! members {
    ($($name:ident(|$case:ident| $($argument:expr),*)),* $(,)?) => {
        [$(Member {
            name: stringify!($name),
            stable: |$case| reference::$name($($argument),*).into(),
            printed: |$case| as_printed::$name($($argument),*).into(),
        }),*]
    };
}

const MEMBERS: [Member; 31] = members![
    dpo_loss(|case| case.sums(), case.references[0], case.beta),
    f_dpo_loss(|case| case.sums(), case.references[0], case.beta, case.divergence),
    cdpo_loss(|case| case.sums(), case.references[0], case.beta, case.epsilon, case.divergence),
    soft_dpo_loss(|case| case.sums(), case.references[0], case.beta, case.offset, case.probability),
    robust_loss(|case| case.sums(), case.references[0], case.beta, case.epsilon, case.divergence),
    exo_pair_loss(|case| case.sums(), case.references[0], case.beta, case.epsilon, case.divergence),
    hinge_loss(|case| case.sums(), case.references[0], case.beta, case.divergence),
    ipo_loss(|case| case.policies[0], case.references[0], case.beta, case.divergence),
    sigmoid_norm_loss(|case| case.policies[0], case.references[0], case.beta, case.divergence),
    odpo_loss(|case| case.sums(), case.references[0], case.beta, case.offset),
    r_dpo_loss(|case| case.policies[0], case.references[0], case.beta, case.weight),
    dpop_loss(|case| case.sums(), case.references[0], case.beta, case.weight),
    discopop_loss(|case| case.sums(), case.references[0], case.beta, case.temperature, case.divergence),
    nca_pair_loss(|case| case.sums(), case.references[0], case.beta),
    bco_pair_loss(|case| case.sums(), case.references[0], case.beta),
    sppo_hard_loss(|case| case.sums(), case.references[0], case.beta),
    apo_zero_loss(|case| case.sums(), case.references[0], case.beta),
    apo_down_loss(|case| case.sums(), case.references[0], case.beta),
    aot_loss(|case| &case.all_sums(), &case.references, case.beta, case.epsilon),
    aot_unpaired_loss(|case| &case.all_sums(), &case.references, case.beta, case.epsilon),
    sft_loss(|case| &case.policies.iter().map(|pair| pair.chosen).collect::<Vec<_>>()),
    nll_loss(|case| case.policies[0].chosen),
    simpo_loss(|case| case.policies[0], case.beta, case.offset),
    cpo_loss(|case| case.sums(), case.beta, case.epsilon),
    slic_loss(|case| case.sums(), case.offset),
    alphapo_loss(|case| case.policies[0], case.beta, case.alpha, case.offset),
    orpo_loss(|case| case.policies[0]),
    kto_loss(
        |case| case.sums().chosen,
        case.references[0].chosen,
        case.desirable,
        case.offset,
        case.beta,
        case.weight,
        case.probability
    ),
    bco_loss(|case| case.sums().chosen, case.references[0].chosen, case.desirable, case.offset, case.beta),
    plackett_luce_loss(
        |case| &case.log_probs(),
        &case.references.iter().copied().flat_map(flat).collect::<Vec<_>>(),
        case.beta,
        case.ranked
    ),
    // the same at a parameter of its own: every place is ranked
    plackett_luce_loss(
        |case| &case.log_probs(),
        &case.references.iter().copied().flat_map(flat).collect::<Vec<_>>(),
        case.beta,
        2 * case.policies.len()
    ),
];

/// Log-ratios within ±3, scores within ±20, `|z|` below 40 and `|z/τ|` below 80: nothing overflows, and no parameter makes
/// the printed form cancel but in its last digits. Log-probs stay away from 0, where odds are infinite.
fn moderate() -> impl Strategy<Value = Case> {
    let side = || (-3.0..-0.1f64, 1..=6usize).prop_map(|(sum, token_count)| SequenceLogProb { sum, token_count });
    let pairs = vec((side(), side(), -3.0..0.0f64, -3.0..0.0f64), 1..=4);
    // near α = 1 or AlphaPO's α = 0 the printed form divides a difference of near equals by a small number
    let alpha = prop_oneof![Just(0.0), Just(1.0), Just(2.0), 0.0..0.9f64, 1.1..2.0f64];
    let divergence = prop_oneof![
        Just(FDivergence::ReverseKl),
        Just(FDivergence::ForwardKl),
        Just(FDivergence::JsDivergence),
        alpha.clone().prop_map(|alpha| FDivergence::AlphaDivergence { alpha }),
    ];
    let numbers = (0.05..1.0f64, 0.01..0.4f64, 0.0..=1.0f64, -2.0..2.0f64, 0.0..3.0f64, 0.5..2.0f64);
    let alphapo = alpha.prop_map(|alpha| alpha - 1.0);
    (pairs, divergence, numbers, alphapo, any::<bool>(), 1..=8usize).prop_map(
        |(pairs, divergence, (beta, epsilon, probability, offset, weight, temperature), alpha, desirable, ranked)| {
            let ranked = ranked.min(2 * pairs.len());
            let (policies, references) = pairs
                .into_iter()
                .map(|(chosen, rejected, of_chosen, of_rejected)| {
                    (SequencePair { chosen, rejected }, Pair { chosen: of_chosen, rejected: of_rejected })
                })
                .unzip();
            Case {
                policies,
                references,
                beta,
                divergence,
                epsilon,
                probability,
                offset,
                weight,
                temperature,
                alpha,
                desirable,
                ranked,
            }
        },
    )
}

const DIVERGENCES: [FDivergence; 8] = [
    FDivergence::ReverseKl,
    FDivergence::ForwardKl,
    FDivergence::JsDivergence,
    FDivergence::AlphaDivergence { alpha: 0.5 },
    FDivergence::AlphaDivergence { alpha: 1.0 },
    FDivergence::AlphaDivergence { alpha: 1.0 + 1e-9 },
    FDivergence::AlphaDivergence { alpha: 2.0 },
    FDivergence::AlphaDivergence { alpha: -1e30 },
];

fn pair(chosen: f64, rejected: f64) -> Pair {
    Pair { chosen, rejected }
}

/// Of `chosen` and `rejected` tokens.
fn counted(sums: Pair, chosen: usize, rejected: usize) -> SequencePair {
    SequencePair {
        chosen: SequenceLogProb { sum: sums.chosen, token_count: chosen },
        rejected: SequenceLogProb { sum: sums.rejected, token_count: rejected },
    }
}

fn loss(value: f64, chosen: f64, rejected: f64) -> LossAndGradient {
    LossAndGradient { value, gradient: pair(chosen, rejected) }
}

const ZERO: Pair = Pair { chosen: 0.0, rejected: 0.0 };

const HUGE: f64 = 1e30;

const INF: f64 = f64::INFINITY;

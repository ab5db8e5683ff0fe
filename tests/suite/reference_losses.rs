//! The losses of the f64 reference: the stable forms against the printed ones, against finite differences, at the ends
//! of the number range, and the laws that bind them to each other.

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

// ---------------------------------------------------------------------------------------------- against the printed

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

/// A printed form rounds some 50 times; it enlarges what has been rounded by at most 80 (`|z/τ|`, in `exp`), by 10 (`1/κ`),
/// or by `z′ ≤ 20` in gradients, once each: 50 · 80 · 10 · 20 · 2⁻⁵³ ≈ 1e-10. Measured, in 100 000 cases: 1e-12.
const PRINTED: f64 = 1e-10;

#[test]
fn the_printed_form_of_every_loss_and_the_stable_one_agree() {
    for_all_numbers(moderate(), |case| {
        for member in &MEMBERS {
            let (stable, printed) = ((member.stable)(case), (member.printed)(case));
            prop_assert_eq!(stable.values.len(), printed.values.len(), "{}", member.name);
            prop_assert_eq!(stable.gradient.len(), printed.gradient.len(), "{}", member.name);
            let size = 1.0 + printed.numbers().fold(0.0, |max: f64, number| max.max(number.abs()));
            for (stable_number, printed_number) in stable.numbers().zip(printed.numbers()) {
                let close = (stable_number - printed_number).abs() <= PRINTED * size;
                prop_assert!(close, "{}: stable {stable:?}, printed {printed:?}", member.name);
            }
        }
        Ok(())
    });
}

/// By a rule of fourth order, whose error is `h⁴/30` times the fifth derivative: for these inputs that is below 1e7. The
/// values' own rounding adds `3u/h` times their size, and a kink among them not more than it makes slopes jump unevenly.
#[test]
fn the_gradient_of_every_loss_is_its_finite_difference() {
    for_all_numbers(moderate(), |case| {
        let h = 1e-4;
        let log_probs = case.log_probs();
        for member in &MEMBERS {
            let of = (member.stable)(case);
            for (index, slope) in of.gradient.iter().copied().enumerate() {
                let values = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|steps| {
                    let moved = case.with_log_prob(index, log_probs[index] + steps * h);
                    (member.stable)(&moved).value()
                });
                let difference = (8.0 * (values[3] - values[1]) - (values[4] - values[0])) / (12.0 * h);
                let jumps = [1, 2, 3].map(|i| (values[i - 1] - 2.0 * values[i] + values[i + 1]) / h);
                let (least, most) = (jumps.into_iter().fold(INF, f64::min), jumps.into_iter().fold(-INF, f64::max));
                let size = 1.0 + slope.abs() + values.iter().map(|value| value.abs()).sum::<f64>();
                let bound = h.powi(4) / 30.0 * 1e7 + 1e-11 * size + (most - least);
                prop_assert!((slope - difference).abs() <= bound, "{}, {index}: {slope} {difference}", member.name);
            }
        }
        Ok(())
    });
}

// --------------------------------------------------------------------------------------- the ends of the number range

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

/// One pair and all parameters, of which those that are not mentioned are moderate.
fn extreme(numbers: impl Strategy<Value = f64> + Clone) -> impl Strategy<Value = Case> {
    let count = || select(vec![0usize, 1, 2, 7]);
    let side = |numbers| (numbers, count()).prop_map(|(sum, token_count)| SequenceLogProb { sum, token_count });
    let pair = (side(numbers.clone()), side(numbers.clone()), numbers.clone(), numbers);
    (vec(pair, 2), select(&DIVERGENCES[..]), moderate()).prop_map(|(pairs, divergence, case)| {
        let (policies, references) = pairs
            .into_iter()
            .map(|(chosen, rejected, of_chosen, of_rejected)| {
                (SequencePair { chosen, rejected }, Pair { chosen: of_chosen, rejected: of_rejected })
            })
            .unzip();
        Case { policies, references, divergence, ranked: case.ranked.min(4), ..case }
    })
}

/// Whatever overflows is ±∞, not NaN.
#[test]
fn no_loss_is_nan_for_finite_log_probs() {
    let numbers = select(vec![0.0, -1e-300, -1.0, -17.0, -89.0, -709.0, -745.0, -1e4, -1e30, 1e30, 1e4, 800.0]);
    for_all_numbers(vec(extreme(numbers), 40), |cases| {
        for case in cases {
            for temperature in [1e-30, 0.05, 1.0, 3.0] {
                let case = Case { temperature, ..case.clone() };
                for member in &MEMBERS {
                    let of = (member.stable)(&case);
                    prop_assert!(!of.numbers().any(f64::is_nan), "{}: {of:?} at {case:?}", member.name);
                }
            }
        }
        Ok(())
    });
}

/// Scores that are exponentials overflow, and so does DiscoPOP above τ = 1; all else is finite.
#[test]
fn every_loss_of_log_probs_from_0_to_minus_1e30_is_finite() {
    let numbers = select(vec![0.0, -1e30]);
    for_all_numbers(vec(extreme(numbers), 40), |cases| {
        for case in cases {
            for divergence in [FDivergence::ReverseKl, FDivergence::JsDivergence] {
                let (alpha, temperature) = (case.alpha.min(0.0), case.temperature.min(1.0));
                let case = Case { divergence, alpha, temperature, ..case.clone() };
                for member in &MEMBERS {
                    let of = (member.stable)(&case);
                    prop_assert!(of.numbers().all(f64::is_finite), "{}: {of:?} at {case:?}", member.name);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn nan_in_a_log_prob_is_nan_in_every_loss() {
    for_all_numbers(moderate(), |case| {
        for divergence in DIVERGENCES {
            let case = Case { divergence, ..case.clone() }.with_log_prob(0, f64::NAN);
            for member in &MEMBERS {
                prop_assert!((member.stable)(&case).value().is_nan(), "{}, {divergence:?}", member.name);
            }
        }
        Ok(())
    });
}

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

/// Worked out by hand; `a` and `b` are the log-ratios.
#[test]
fn scores_that_overflow_saturate_where_their_difference_does() {
    let f_dpo = |a, b, divergence| reference::f_dpo_loss(pair(a, b), ZERO, 0.5, divergence);
    for divergence in [FDivergence::ForwardKl, FDivergence::AlphaDivergence { alpha: 0.5 }] {
        // equal scores, infinite slopes
        assert_eq!(f_dpo(-HUGE, -HUGE, divergence), loss(LN_2, -INF, INF));
        // z = −∞: the slope of the rejected score is 1 at 0
        assert_eq!(f_dpo(-HUGE, 0.0, divergence), loss(INF, -INF, 0.5));
        assert_eq!(f_dpo(0.0, -HUGE, divergence), loss(0.0, 0.0, 0.0));
        // scores level off
        assert_eq!(f_dpo(HUGE, HUGE, divergence), loss(LN_2, 0.0, 0.0));
    }
    assert_eq!(f_dpo(HUGE, HUGE, FDivergence::AlphaDivergence { alpha: 2.0 }), loss(LN_2, -INF, INF));
    assert_eq!(f_dpo(-HUGE, -HUGE, FDivergence::JsDivergence), loss(LN_2, -0.25, 0.25));
    assert_eq!(f_dpo(-HUGE, 0.0, FDivergence::JsDivergence), loss(0.5 * HUGE, -0.5, 0.25));
    assert_eq!(f_dpo(HUGE, HUGE, FDivergence::JsDivergence), loss(LN_2, 0.0, 0.0));

    // a term of weight 0 stays 0
    for (a, b) in [(-HUGE, 0.0), (0.0, -HUGE)] {
        for divergence in DIVERGENCES {
            let expected = f_dpo(a, b, divergence);
            assert_eq!(reference::cdpo_loss(pair(a, b), ZERO, 0.5, 0.0, divergence), expected);
            assert_eq!(reference::robust_loss(pair(a, b), ZERO, 0.5, 0.0, divergence), expected);
        }
    }

    // scores near each other: log σ(h) + log 2 = h/2 − h²/8
    let h = 2f64.powi(-30);
    let of = reference::hinge_loss(pair(h, 0.0), ZERO, 1.0 / h, FDivergence::JsDivergence);
    assert!((of.value - (0.5 + h / 8.0)).abs() < 1e-15, "{of:?}");

    // a tiny β times an exponential out of range is in range: 1e-300·(e^1000 − e^999)
    let z = (1000.0 + 1e-300f64.ln()).exp() * (1.0 - (-1f64).exp());
    let of = reference::hinge_loss(pair(-1000.0, -999.0), ZERO, 1e-300, FDivergence::ForwardKl);
    assert!((of.value / z - 1.0).abs() < 1e-12, "{of:?}");
    assert!((of.gradient.chosen / (-z / (1.0 - (-1f64).exp())) - 1.0).abs() < 1e-12, "{of:?}");
}

#[test]
fn length_normalized_scores_that_overflow_saturate_where_their_difference_does() {
    let forward = FDivergence::ForwardKl;
    let ipo = |a, b, chosen, rejected| reference::ipo_loss(counted(pair(a, b), chosen, rejected), ZERO, 0.5, forward);
    // the difference is 0, the target 1
    assert_eq!(ipo(-HUGE, -HUGE, 2, 2), loss(1.0, -INF, INF));
    // −e^1e30/2 + e^1e30/4 is −∞
    assert_eq!(ipo(-HUGE, -HUGE, 2, 4), loss(INF, -INF, INF));
    // 2(e^1e30/4)·e^−1e30/2 is a number, though neither factor is
    let apart = ipo(HUGE, -HUGE, 2, 4);
    assert_eq!((apart.value, apart.gradient.rejected), (INF, -INF));
    assert!((apart.gradient.chosen - 0.25).abs() < 1e-15, "{apart:?}");

    let norm = |a, b| reference::sigmoid_norm_loss(counted(pair(a, b), 2, 4), ZERO, 0.5, forward);
    assert_eq!(norm(-HUGE, -HUGE), loss(INF, -INF, INF));
    assert_eq!(norm(HUGE, -HUGE), loss(0.0, 0.0, 0.0));

    let alphapo = |c, r, alpha| reference::alphapo_loss(counted(pair(c, r), 2, 2), 0.5, alpha, 0.0);
    assert_eq!(alphapo(-HUGE, -HUGE, 0.25), loss(LN_2, -INF, INF));
    assert_eq!(alphapo(-HUGE, 0.0, 0.25), loss(INF, -INF, 0.25));
    assert_eq!(alphapo(-HUGE, -HUGE, -0.25), loss(LN_2, 0.0, 0.0));
}

#[test]
fn losses_of_huge_margins_are_their_limits() {
    let reverse = FDivergence::ReverseKl;
    let (right, wrong) = (pair(HUGE, 0.0), pair(-HUGE, 0.0));

    assert_eq!(reference::cdpo_loss(right, ZERO, 1.0, 0.25, reverse), loss(0.25 * HUGE, 0.25, -0.25));
    assert_eq!(reference::cdpo_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(0.75 * HUGE, -0.75, 0.75));
    assert_eq!(reference::robust_loss(right, ZERO, 1.0, 0.25, reverse), loss(-0.5 * HUGE, -0.5, 0.5));
    assert_eq!(reference::robust_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(1.5 * HUGE, -1.5, 1.5));
    let (from_right, from_wrong) = (-(-0.25f64).ln_1p(), -(0.25f64.ln()));
    assert_eq!(reference::exo_pair_loss(right, ZERO, 1.0, 0.25, reverse), loss(from_right, 0.0, 0.0));
    assert_eq!(reference::exo_pair_loss(wrong, ZERO, 1.0, 0.25, reverse), loss(from_wrong, 0.0, 0.0));
    assert_eq!(reference::hinge_loss(right, ZERO, 1.0, reverse), loss(0.0, 0.0, 0.0));
    assert_eq!(reference::hinge_loss(wrong, ZERO, 1.0, reverse), loss(HUGE, -1.0, 1.0));

    for temperature in [0.05, 0.5] {
        let discopop = |policy| reference::discopop_loss(policy, ZERO, 1.0, temperature, reverse);
        assert_eq!(discopop(wrong), loss(HUGE, -1.0, 1.0));
        assert_eq!(discopop(right), loss(0.0, 0.0, 0.0));
    }
    // at τ = 1 the second term tends to 1, beyond it grows without bound
    assert_eq!(reference::discopop_loss(pair(-50.0, 0.0), ZERO, 1.0, 1.0, reverse), loss(51.0, -1.0, 1.0));
    assert_eq!(reference::discopop_loss(wrong, ZERO, 1.0, 2.0, reverse), loss(INF, -INF, INF));

    assert_eq!(reference::nca_pair_loss(right, ZERO, 1.0), loss(0.5 * HUGE, 0.5, 0.25));
    assert_eq!(reference::nca_pair_loss(wrong, ZERO, 1.0), loss(HUGE, -1.0, 0.25));
    assert_eq!(reference::bco_pair_loss(wrong, ZERO, 1.0), loss(HUGE, -1.0, 0.5));
    assert_eq!(reference::apo_zero_loss(right, ZERO, 1.0), loss(0.5, 0.0, 0.25));
    assert_eq!(reference::apo_zero_loss(wrong, ZERO, 1.0), loss(1.5, 0.0, 0.25));
    assert_eq!(reference::apo_down_loss(right, ZERO, 1.0), loss(1.0, 0.0, 0.0));
    assert_eq!(reference::apo_down_loss(wrong, ZERO, 1.0), loss(1.0, 0.0, 0.0));
    assert_eq!(reference::sppo_hard_loss(wrong, ZERO, 0.5), loss(HUGE * HUGE, -2.0 * HUGE, 2.0));
    assert_eq!(reference::dpop_loss(wrong, ZERO, 1.0, 2.0), loss(3.0 * HUGE, -3.0, 1.0));
    assert_eq!(reference::odpo_loss(wrong, ZERO, 1.0, 5.0), loss(HUGE, -1.0, 1.0));
    assert_eq!(reference::slic_loss(wrong, 1.0), loss(HUGE, -1.0, 1.0));
    assert_eq!(reference::simpo_loss(counted(wrong, 2, 4), 1.0, 1.0), loss(0.5 * HUGE, -0.5, 0.25));

    // small, but not 0: 1 − σ(40) would be
    let apo = reference::apo_zero_loss(pair(40.0, -40.0), ZERO, 1.0);
    assert!((apo.value / (2.0 * (-40f64).exp()) - 1.0).abs() < 1e-14, "{apo:?}");

    let unpaired = |value, gradient| UnpairedLossAndGradient { value, gradient };
    assert_eq!(reference::kto_loss(-HUGE, 0.0, true, 1.0, 1.0, 3.0, 1.0), unpaired(3.0, 0.0));
    assert_eq!(reference::kto_loss(-HUGE, 0.0, false, 1.0, 1.0, 3.0, 1.0), unpaired(0.0, 0.0));
    assert_eq!(reference::bco_loss(-HUGE, 0.0, true, 1.0, 1.0), unpaired(HUGE, -1.0));
    assert_eq!(reference::bco_loss(-HUGE, 0.0, false, 1.0, 1.0), unpaired(0.0, 0.0));

    let worst_first = reference::plackett_luce_loss(&[-HUGE, 0.0, 0.0], &[0.0; 3], 1.0, 3);
    assert_eq!(worst_first, RankingLossAndGradient { value: HUGE + 2.0 * LN_2, gradient: vec![-1.0, 0.0, 1.0] });
}

#[test]
fn certainty_has_the_largest_odds_of_f32() {
    let certain = f64::from(f32::MIN_POSITIVE);
    let odds = |c, r| reference::orpo_loss(counted(pair(c, r), 2, 4));
    assert_eq!(odds(0.0, 0.0), loss(LN_2, -0.25 / certain, 0.125 / certain));
    assert_eq!(odds(0.0, -HUGE), loss(0.0, 0.0, 0.0));
    let wrong = odds(-HUGE, 0.0);
    assert_eq!((wrong.value, wrong.gradient.chosen), (0.5 * HUGE, -0.5));
    assert!((wrong.gradient.rejected * certain / 0.25 - 1.0).abs() < 1e-13, "{wrong:?}");
    // y ≈ 787, where σ(−y) is 0: e^−787/1.2e-38 is not
    let small = odds(0.0, -2800.0);
    assert!((small.gradient.chosen / (-0.5 * (-700f64).exp()) - 1.0).abs() < 1e-12, "{small:?}");
}

/// An empty completion is left out, whatever its log-prob.
#[test]
fn empty_completions_count_for_nothing_where_tokens_are_counted() {
    for_all_numbers(moderate(), |case| {
        let mut with_nan = case.clone();
        with_nan.policies[0].chosen = SequenceLogProb { sum: f64::NAN, token_count: 0 };
        let mut without = case.clone();
        without.policies[0].chosen = SequenceLogProb { sum: 0.0, token_count: 0 };
        let normalized =
            ["ipo_loss", "sigmoid_norm_loss", "sft_loss", "nll_loss", "simpo_loss", "alphapo_loss", "orpo_loss"];
        for member in MEMBERS.iter().filter(|member| normalized.contains(&member.name)) {
            let of = (member.stable)(&with_nan);
            prop_assert_eq!(&of, &(member.stable)(&without), "{}", member.name);
            prop_assert_eq!(of.gradient[0], 0.0, "{}", member.name);
            prop_assert!(!of.value().is_nan(), "{}", member.name);
        }
        Ok(())
    });
    assert_eq!(reference::sft_loss(&[]), BatchLossAndGradient { values: vec![], gradients: vec![] });
}

// --------------------------------------------------------------------------------------------------------------- laws

/// Log-probs of all sizes.
fn any_pair() -> impl Strategy<Value = Pair> {
    let number = || prop_oneof![4 => -30.0..0.0f64, 1 => select(vec![0.0, -89.0, -1e4, -1e30])];
    (number(), number()).prop_map(|(chosen, rejected)| pair(chosen, rejected))
}

fn close(x: LossAndGradient, y: LossAndGradient, bound: f64) -> bool {
    let near = |x: f64, y: f64| x == y || (x - y).abs() <= bound * (1.0 + x.abs());
    near(x.value, y.value)
        && near(x.gradient.chosen, y.gradient.chosen)
        && near(x.gradient.rejected, y.gradient.rejected)
}

#[test]
fn dpo_is_the_member_that_all_others_extend() {
    for_all_numbers((any_pair(), any_pair(), 0.01..2.0f64), |&(policy, reference, beta)| {
        let dpo = reference::dpo_loss(policy, reference, beta);
        let alpha_1 = FDivergence::AlphaDivergence { alpha: 1.0 };
        for divergence in [FDivergence::ReverseKl, alpha_1] {
            prop_assert_eq!(reference::f_dpo_loss(policy, reference, beta, divergence), dpo);
            prop_assert_eq!(reference::cdpo_loss(policy, reference, beta, 0.0, divergence), dpo);
            prop_assert_eq!(reference::robust_loss(policy, reference, beta, 0.0, divergence), dpo);
        }
        prop_assert_eq!(reference::soft_dpo_loss(policy, reference, beta, 0.0, 1.0), dpo);
        prop_assert_eq!(reference::odpo_loss(policy, reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::dpop_loss(policy, reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::r_dpo_loss(counted(policy, 3, 9), reference, beta, 0.0), dpo);
        prop_assert_eq!(reference::r_dpo_loss(counted(policy, 4, 4), reference, beta, 7.0), dpo);
        let one_token = counted(policy, 1, 1);
        prop_assert_eq!(reference::sigmoid_norm_loss(one_token, reference, beta, FDivergence::ReverseKl), dpo);
        prop_assert_eq!(reference::cpo_loss(policy, beta, 0.0), reference::dpo_loss(policy, ZERO, beta));
        prop_assert_eq!(reference::simpo_loss(one_token, beta, 0.0), reference::dpo_loss(policy, ZERO, beta));

        for ranked in [1, 2] {
            let ranking = reference::plackett_luce_loss(&flat(policy), &flat(reference), beta, ranked);
            prop_assert_eq!(ranking, RankingLossAndGradient { value: dpo.value, gradient: flat(dpo.gradient).into() });
        }
        Ok(())
    });
}

#[test]
fn optimal_transport_of_one_pair_is_label_smoothing() {
    for_all_numbers(moderate(), |case| {
        let (policy, reference, beta, epsilon) = (case.sums(), case.references[0], case.beta, case.epsilon);
        let cdpo = reference::cdpo_loss(policy, reference, beta, epsilon, FDivergence::ReverseKl);
        for aot in [reference::aot_loss, reference::aot_unpaired_loss] {
            let batch = aot(&[policy], &[reference], beta, epsilon);
            let aot = loss(batch.values[0], batch.gradients[0].chosen, batch.gradients[0].rejected);
            prop_assert!(close(aot, cdpo, 1e-14), "{aot:?} {cdpo:?}");
        }
        Ok(())
    });
}

#[test]
fn alpha_divergences_join_the_others_without_a_step() {
    for_all_numbers((moderate(), any_pair(), any_pair()), |(case, policy, reference)| {
        let beta = case.beta;
        let of = |alpha| reference::f_dpo_loss(*policy, *reference, beta, FDivergence::AlphaDivergence { alpha });
        let forward = reference::f_dpo_loss(*policy, *reference, beta, FDivergence::ForwardKl);
        prop_assert_eq!(of(0.0), forward);

        let (policy, reference) = (case.sums(), case.references[0]);
        let of = |alpha| reference::f_dpo_loss(policy, reference, beta, FDivergence::AlphaDivergence { alpha });
        for near in [1.0 - 1e-9, 1.0 + 1e-9, 1.0 + f64::EPSILON] {
            // log-ratios u are below 3 and s(u) moves by (α − 1)u²/2, which moves z by at most twice that
            prop_assert!(close(of(near), of(1.0), 1e-8), "{:?} {:?}", of(near), of(1.0));
        }
        let (policy, gamma) = (case.policies[0], case.offset);
        let simpo = reference::simpo_loss(policy, beta, gamma);
        prop_assert_eq!(reference::alphapo_loss(policy, beta, 0.0, gamma), simpo);
        for near in [1e-9, -1e-9, 1e-300] {
            prop_assert!(close(reference::alphapo_loss(policy, beta, near, gamma), simpo, 1e-8));
        }
        Ok(())
    });
}

/// `ℓ_ε(z) = (1 − ε)·ℓ(z) + ε·ℓ(−z)`, and with the rate of flips known the mixture is undone.
#[test]
fn label_smoothing_mixes_both_labels_and_robust_dpo_takes_them_apart() {
    let swapped = |of: Pair| pair(of.rejected, of.chosen);
    for_all_numbers((any_pair(), any_pair(), 0.01..2.0f64, 0.0..0.49f64), |&(policy, reference, beta, epsilon)| {
        let mixed = |right: LossAndGradient, wrong: LossAndGradient| {
            let mix = |right: f64, wrong: f64| (1.0 - epsilon) * right + epsilon * wrong;
            let (right_gradient, wrong_gradient) = (right.gradient, swapped(wrong.gradient));
            loss(
                mix(right.value, wrong.value),
                mix(right_gradient.chosen, wrong_gradient.chosen),
                mix(right_gradient.rejected, wrong_gradient.rejected),
            )
        };
        for divergence in [FDivergence::ReverseKl, FDivergence::JsDivergence] {
            let dpo = |policy, reference| reference::f_dpo_loss(policy, reference, beta, divergence);
            let cdpo = |epsilon| reference::cdpo_loss(policy, reference, beta, epsilon, divergence);
            let right = dpo(policy, reference);
            let wrong = dpo(swapped(policy), swapped(reference));
            prop_assert!(close(cdpo(epsilon), mixed(right, wrong), 1e-13));

            let half = reference::cdpo_loss(swapped(policy), swapped(reference), beta, 0.5, divergence);
            prop_assert_eq!(cdpo(0.5), LossAndGradient { gradient: swapped(half.gradient), ..half });

            // 1/(1 − 2ε) ≤ 50 enlarges rounding, twice
            let robust = |policy, reference| reference::robust_loss(policy, reference, beta, epsilon, divergence);
            let undone = mixed(robust(policy, reference), robust(swapped(policy), swapped(reference)));
            let scale = robust(policy, reference).value.abs();
            prop_assert!((undone.value - right.value).abs() <= 1e-13 * (1.0 + scale), "{undone:?} {right:?}");
            prop_assert!((undone.gradient.chosen - right.gradient.chosen).abs() <= 1e-12);
            prop_assert!((undone.gradient.rejected - right.gradient.rejected).abs() <= 1e-12);
        }
        // 1 − (1 − ε) is ε only to within u
        let soft = reference::soft_dpo_loss(policy, reference, beta, 0.0, 1.0 - epsilon);
        let cdpo = reference::cdpo_loss(policy, reference, beta, epsilon, FDivergence::ReverseKl);
        let z = beta * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected));
        prop_assert!(close(soft, cdpo, 1e-15 * (1.0 + z.abs())), "{soft:?} {cdpo:?}");
        Ok(())
    });
}

#[test]
fn exo_is_zero_and_flat_where_the_policy_prefers_as_the_labels_say() {
    for_all_numbers(0.001..0.5f64, |&epsilon| {
        let at = |z| reference::exo_pair_loss(pair(z, 0.0), ZERO, 1.0, epsilon, FDivergence::ReverseKl);
        let best = at(((1.0 - epsilon) / epsilon).ln());
        prop_assert!(best.value.abs() < 1e-15 && best.gradient.chosen.abs() < 1e-15, "{best:?}");
        prop_assert!(at(-3.0).value > 0.0 && at(9.0).value > 0.0);
        Ok(())
    });
}

/// `ℓ(a, b) − ℓ(b, a) = −β(a − b)` for BCO, which also treats leaving and joining alike: `ℓ(a, b) = ℓ(−b, −a)`; NCA is BCO and
/// half of what both sides differ by.
#[test]
fn swapping_the_labels_changes_bco_and_nca_as_their_terms_say() {
    for_all_numbers((any_pair(), 0.01..2.0f64), |&(of, beta)| {
        let Pair { chosen: a, rejected: b } = of;
        let bco = |a, b| reference::bco_pair_loss(pair(a, b), ZERO, beta);
        let nca = |a, b| reference::nca_pair_loss(pair(a, b), ZERO, beta);
        let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
        let scale = 1e-13 * (1.0 + beta * (a.abs() + b.abs()));
        let near = |x: f64, y: f64| (x - y).abs() <= scale;
        prop_assert!(near(bco(a, b).value - bco(b, a).value, -beta * (a - b)));
        prop_assert_eq!(bco(a, b).value, bco(-b, -a).value);
        prop_assert!(near(nca(a, b).value, bco(a, b).value + 0.5 * (softplus(beta * a) - softplus(beta * b))));
        prop_assert!(near(nca(a, b).value - nca(b, a).value, softplus(-beta * a) - softplus(-beta * b)));
        Ok(())
    });
}

#[test]
fn where_policy_and_reference_agree_losses_have_their_starting_values() {
    let at = pair(-7.0, -5.0);
    assert_eq!(reference::apo_zero_loss(at, at, 0.5), loss(1.0, -0.125, 0.125));
    assert_eq!(reference::apo_down_loss(at, at, 0.5), loss(1.0, 0.0, 0.125));
    assert_eq!(reference::nca_pair_loss(at, at, 0.5), loss(2.0 * LN_2, -0.125, 0.125));
    assert_eq!(reference::bco_pair_loss(at, at, 0.5), loss(2.0 * LN_2, -0.25, 0.25));
    assert_eq!(reference::sppo_hard_loss(at, at, 0.5), loss(2.0, -2.0, 2.0));
    assert_eq!(reference::dpop_loss(at, at, 0.5, 50.0), loss(LN_2, -0.25, 0.25)); // the penalty's kink
    for divergence in DIVERGENCES {
        assert_eq!(reference::f_dpo_loss(at, at, 0.5, divergence).value, LN_2);
        assert_eq!(reference::hinge_loss(at, at, 0.5, divergence).value, 1.0);
        assert_eq!(reference::ipo_loss(counted(at, 3, 5), at, 0.5, divergence).value, 1.0);
        assert_eq!(reference::sigmoid_norm_loss(counted(at, 3, 5), at, 0.5, divergence).value, LN_2);
        let discopop = reference::discopop_loss(at, at, 0.5, 0.05, divergence).value;
        assert!((discopop - (0.5 * LN_2 + 0.5)).abs() < 1e-15);
    }
}

#[test]
fn hinges_are_flat_at_the_kink() {
    let reverse = FDivergence::ReverseKl;
    let hinge = |z: f64| reference::hinge_loss(pair(z, 0.0), ZERO, 1.0, reverse);
    assert_eq!(hinge(1.0), loss(0.0, 0.0, 0.0));
    assert_eq!(hinge(1.0 - f64::EPSILON), loss(f64::EPSILON, -1.0, 1.0));
    assert_eq!(reference::slic_loss(pair(-1.0, -3.0), 2.0), loss(0.0, 0.0, 0.0));
    assert_eq!(reference::slic_loss(pair(-1.0, -3.0), 2.5), loss(0.5, -1.0, 1.0));
}

#[test]
fn optimal_transport_looks_at_ranks_alone() {
    for_all_numbers((moderate(), any::<prop::sample::Index>()), |(case, shift)| {
        let shift = shift.index(case.policies.len());
        let mut moved = case.clone();
        moved.policies.rotate_left(shift);
        for aot in [reference::aot_loss, reference::aot_unpaired_loss] {
            let of = aot(&case.all_sums(), &case.references, case.beta, case.epsilon);
            let mut rotated = of.gradients.clone();
            rotated.rotate_left(shift);

            let mut references = case.references.clone();
            references.rotate_left(shift);
            let together = aot(&moved.all_sums(), &references, case.beta, case.epsilon);
            prop_assert_eq!(&together.values, &of.values);
            prop_assert_eq!(&together.gradients, &rotated);
        }
        // policy margins are compared with reference margins, whichever pair they are of
        let alone = reference::aot_loss(&moved.all_sums(), &case.references, case.beta, case.epsilon);
        let of = reference::aot_loss(&case.all_sums(), &case.references, case.beta, case.epsilon);
        prop_assert_eq!(alone.values, of.values);
        Ok(())
    });
}

#[test]
fn of_tied_pairs_the_earlier_one_has_the_lower_rank() {
    // policy margins 0 and −0 tie; reference margins are −1 and 1
    let policies = [pair(0.0, 0.0), pair(-0.0, 0.0)];
    let references = [pair(-1.0, -2.0), pair(-2.0, -1.0)];
    let of = reference::aot_loss(&policies, &references, 1.0, 0.0);
    let at = |z| reference::dpo_loss(pair(z, 0.0), ZERO, 1.0);
    assert_eq!(of.values, [at(1.0).value, at(-1.0).value]);
    assert_eq!(of.gradients, [at(1.0).gradient, at(-1.0).gradient]);

    let unpaired = reference::aot_unpaired_loss(&[pair(0.0, 1.0), pair(-0.0, -1.0)], &[ZERO, ZERO], 1.0, 0.0);
    assert_eq!(unpaired.values, [at(1.0).value, at(-1.0).value]);
    let (better, worse) = (at(1.0).gradient, at(-1.0).gradient);
    assert_eq!(unpaired.gradients, [pair(better.chosen, worse.rejected), pair(worse.chosen, better.rejected)]);
}

#[test]
fn nan_has_the_highest_rank_and_stays_alone() {
    let policies = [pair(f64::NAN, 0.0), pair(-1.0, 0.0), pair(-2.0, 0.0)];
    let of = reference::aot_loss(&policies, &[ZERO; 3], 1.0, 0.0);
    assert!(of.values[0] > of.values[1] && of.values[2].is_nan());
    assert!(of.gradients[0].chosen.is_nan() && !of.gradients[1].chosen.is_nan() && !of.gradients[2].chosen.is_nan());
}

/// A whole ranking is a choice of the best, then a ranking of the rest.
#[test]
fn rankings_are_choices_one_after_another() {
    for_all_numbers((vec((-9.0..0.0f64, -9.0..0.0f64), 1..7), 0.01..2.0f64), |(log_probs, beta)| {
        let (policy, reference): (Vec<f64>, Vec<f64>) = log_probs.iter().copied().unzip();
        let of =
            |skip: usize, ranked| reference::plackett_luce_loss(&policy[skip..], &reference[skip..], *beta, ranked);
        let all = policy.len();
        prop_assert!((of(0, all).value - (of(0, 1).value + of(1, all).value)).abs() <= 1e-13);
        prop_assert_eq!(of(0, all), of(0, all - 1));
        prop_assert_eq!(of(0, all), of(0, all + 5));
        prop_assert_eq!(of(0, 0).value, 0.0);
        // probabilities of all rankings of three sum to 1
        if let [x, y, z, ..] = log_probs[..] {
            let orders = [[x, y, z], [x, z, y], [y, x, z], [y, z, x], [z, x, y], [z, y, x]];
            let probability = |order: [(f64, f64); 3]| {
                let (policy, reference): (Vec<f64>, Vec<f64>) = order.into_iter().unzip();
                (-reference::plackett_luce_loss(&policy, &reference, *beta, 3).value).exp()
            };
            prop_assert!((orders.map(probability).iter().sum::<f64>() - 1.0).abs() <= 1e-14);
        }
        // adding the same to all strengths changes nothing
        prop_assert!(of(0, all).gradient.iter().sum::<f64>().abs() <= 1e-14);
        Ok(())
    });
}

#[test]
fn the_likelihood_term_is_the_mean_over_all_tokens() {
    let side = |sum, token_count| SequenceLogProb { sum, token_count };
    let of = reference::sft_loss(&[side(-3.0, 1), side(-5.0, 3), side(f64::NAN, 0)]);
    assert_eq!(of.values, [2.0; 3]);
    assert_eq!(of.gradients, [pair(-0.75, 0.0), pair(-0.75, 0.0), ZERO]);
    let alone = reference::nll_loss(side(-5.0, 4));
    assert_eq!(alone, UnpairedLossAndGradient { value: 1.25, gradient: -0.25 });
    assert_eq!(reference::sft_loss(&[side(-5.0, 4)]).values, [alone.value]);
}

#[test]
fn means_and_sums_of_a_pair_are_those_of_its_completions() {
    let of = counted(pair(-6.0, -8.0), 3, 0);
    assert_eq!(of.sums(), pair(-6.0, -8.0));
    assert_eq!(of.means(), pair(-2.0, 0.0));
}

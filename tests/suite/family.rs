//! The whole family of losses: what holds for every member, from one table.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_dpo::{
    Alpha, Beta, ExoSmoothing, FDivergence, FlipRate, LabelSmoothing, PairLogProbs, PairWeights, PreferenceLoss,
    SequenceLogProbs, TargetMargin, Temperature, Weight,
    reference::{self, LossAndGradient, Pair, SequenceLogProb, SequencePair},
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestCaseResult};

use crate::{
    devices::{Tested, for_several, on_every_device},
    exact::exact,
    family_tolerance::{Bounds, bounds},
    generators::{extreme_sums, sums},
    host::{bits, flags, floats, numbers},
    pairs::{Model, Sums, pair_log_probs},
    tolerance::Rounding,
};

/// Every member as it is usually used, with smoothing and without, and every divergence where there is a choice.
pub fn members() -> Vec<PreferenceLoss> {
    use PreferenceLoss::*;
    let beta = Beta::new(0.1).unwrap();
    let divergence = FDivergence::ReverseKl;
    let mut members = PreferenceLoss::all().to_vec();
    members.extend([
        Cdpo { beta, label_smoothing: LabelSmoothing::new(0.0).unwrap(), divergence },
        Cdpo { beta, label_smoothing: LabelSmoothing::new(0.5).unwrap(), divergence },
        Robust { beta, label_smoothing: FlipRate::new(0.0).unwrap(), divergence },
        ExoPair { beta, label_smoothing: ExoSmoothing::new(0.5).unwrap(), divergence },
        Aot { beta, label_smoothing: LabelSmoothing::new(0.2).unwrap() },
        AotUnpaired { beta, label_smoothing: LabelSmoothing::new(0.2).unwrap() },
        Discopop { beta, temperature: Temperature::new(2.0).unwrap(), divergence },
        Odpo { beta, offset: TargetMargin::new(-0.5).unwrap() },
        Dpop { beta, lambda: Weight::new(0.0).unwrap() },
        Alphapo { beta, alpha: Alpha::new(-0.25).unwrap(), gamma: TargetMargin::new(0.0).unwrap() },
    ]);
    members.extend(divergences().into_iter().flat_map(|divergence| {
        [
            Dpo { beta, divergence },
            Cdpo { beta, label_smoothing: LabelSmoothing::new(0.1).unwrap(), divergence },
            Robust { beta, label_smoothing: FlipRate::new(0.1).unwrap(), divergence },
            Hinge { beta, divergence },
            Ipo { beta, divergence },
            SigmoidNorm { beta: Beta::new(2.0).unwrap(), divergence },
            ExoPair { beta, label_smoothing: ExoSmoothing::new(0.01).unwrap(), divergence },
            Discopop { beta, temperature: Temperature::new(0.05).unwrap(), divergence },
        ]
    }));
    members
}

/// All but reverse KL, and α at, near and far from its limits.
fn divergences() -> Vec<FDivergence> {
    let alpha = |alpha| FDivergence::AlphaDivergence { alpha: Alpha::new(alpha).unwrap() };
    let near = 1.0 + 1e-6;
    vec![
        FDivergence::ForwardKl,
        FDivergence::JsDivergence,
        alpha(0.5),
        alpha(1.0),
        alpha(near),
        alpha(-0.5),
        alpha(1.5),
    ]
}

/// Losses, and the gradients of their sum in the policy's log-probs of chosen and rejected.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub losses: Vec<f64>,
    pub chosen: Vec<f64>,
    pub rejected: Vec<f64>,
}

/// Pairs with their token counts.
#[derive(Debug, Clone)]
pub struct Counted {
    pub sums: Vec<Sums>,
    pub token_counts: Vec<[i64; 2]>,
}

impl Counted {
    /// Three tokens each.
    pub fn evenly(sums: Vec<Sums>) -> Self {
        Self { token_counts: vec![[3, 3]; sums.len()], sums }
    }

    fn policy(&self, device: &Device, dtype: DType) -> Model {
        let policy = Model::policy(&self.sums, device, dtype);
        let pairs = pair_log_probs(policy.chosen.clone(), policy.rejected.clone(), &self.token_counts);
        Model { pairs, ..policy }
    }

    fn reference(&self, device: &Device, dtype: DType) -> PairLogProbs {
        let reference = Model::reference(&self.sums, device, dtype);
        pair_log_probs(reference.chosen, reference.rejected, &self.token_counts)
    }

    /// By the library.
    pub fn outcome(&self, loss: &PreferenceLoss, on: &Tested, dtype: DType) -> Outcome {
        let policy = self.policy(&on.device, dtype);
        let losses = loss.losses(&policy.pairs, &self.reference(&on.device, dtype)).expect("as many pairs");
        Outcome::new(&policy, losses)
    }

    /// By the f64 reference.
    pub fn expected(&self, loss: &PreferenceLoss) -> Outcome {
        let (policies, references): (Vec<SequencePair>, Vec<Pair>) = self.pairs().unzip();
        match whole_batch(loss, &policies, &references) {
            Some(batch) => {
                let (chosen, rejected) = batch.gradients.iter().map(|slope| (slope.chosen, slope.rejected)).unzip();
                Outcome { losses: batch.values, chosen, rejected }
            }
            None => {
                let of: Vec<LossAndGradient> = policies
                    .iter()
                    .zip(references)
                    .map(|(&policy, reference)| of_pair(loss, policy, reference))
                    .collect();
                Outcome {
                    losses: of.iter().map(|loss| loss.value).collect(),
                    chosen: of.iter().map(|loss| loss.gradient.chosen).collect(),
                    rejected: of.iter().map(|loss| loss.gradient.rejected).collect(),
                }
            }
        }
    }
}

impl Outcome {
    fn new(policy: &Model, losses: Tensor<1>) -> Self {
        let values = numbers(&losses);
        // a loss without a rejected side does not reach it
        let gradients = losses.sum().backward();
        let [chosen, rejected] = [&policy.chosen, &policy.rejected]
            .map(|leaf| leaf.grad(&gradients).map_or_else(|| vec![0.0; values.len()], |gradient| numbers(&gradient)));
        Self { losses: values, chosen, rejected }
    }
}

/// Losses that do not keep pairs apart.
fn whole_batch(
    loss: &PreferenceLoss,
    policies: &[SequencePair],
    references: &[Pair],
) -> Option<reference::BatchLossAndGradient> {
    use PreferenceLoss::*;
    let sums: Vec<Pair> = policies.iter().map(|policy| policy.sums()).collect();
    let chosen: Vec<SequenceLogProb> = policies.iter().map(|policy| policy.chosen).collect();
    match *loss {
        Aot { beta, label_smoothing } => {
            Some(reference::aot_loss(&sums, references, beta.get(), label_smoothing.get()))
        }
        AotUnpaired { beta, label_smoothing } => {
            Some(reference::aot_unpaired_loss(&sums, references, beta.get(), label_smoothing.get()))
        }
        Sft {} => Some(reference::sft_loss(&chosen)),
        _ => None,
    }
}

/// The definition of every member that keeps pairs apart.
pub fn of_pair(loss: &PreferenceLoss, policy: SequencePair, reference: Pair) -> LossAndGradient {
    exact(loss, policy, reference).expect("every member has a definition")
}

/// Sums with token counts, an empty completion now and then.
fn counted(sums: impl Strategy<Value = Vec<Sums>>) -> impl Strategy<Value = Counted> {
    let count = prop_oneof![1 => Just(0i64), 4 => 1..50i64];
    (vec(sums, 1..=8), vec([count.clone(), count], 8 * 6)).prop_map(|(sums, token_counts)| {
        let sums = sums.concat();
        let token_counts = token_counts[..sums.len()].to_vec();
        // an empty completion has log-prob 0
        let sums = sums.into_iter().zip(&token_counts).map(|(mut sums, counts)| {
            if counts[0] == 0 {
                (sums.policy.chosen, sums.reference.chosen) = (0.0, 0.0);
            }
            if counts[1] == 0 {
                (sums.policy.rejected, sums.reference.rejected) = (0.0, 0.0);
            }
            sums
        });
        Counted { sums: sums.collect(), token_counts }
    })
}

/// Log-prob sums whose ratios an exponential of f32 can hold.
fn moderate_sums() -> impl Strategy<Value = Vec<Sums>> {
    let nats = prop_oneof![4 => -50.0f32..0.0, 1 => -1.0f32..0.0, 1 => select(vec![-1e-6f32, -1e-30, 0.0])];
    let pair = [nats.clone(), nats.clone(), nats.clone(), nats].prop_map(|[chosen, rejected, c, r]| {
        let [chosen, rejected, c, r] = [chosen, rejected, c, r].map(f64::from);
        Sums { policy: Pair { chosen, rejected }, reference: Pair { chosen: c, rejected: r } }
    });
    prop_oneof![1 => Just(0usize), 1 => Just(1usize), 4 => 2..=6usize].prop_flat_map(move |n| vec(pair.clone(), n))
}

/// Whether a score may leave the format although the log-ratios do not.
fn is_exponential(loss: &PreferenceLoss) -> bool {
    matches!(loss, PreferenceLoss::Alphapo { .. }) || {
        let text = serde_json::to_string(loss).unwrap();
        text.contains("forward_kl") || text.contains("alpha_divergence")
    }
}

/// Within its bound, or beyond what the format holds where the exact number is: infinite, or held at the largest number.
fn expect_within(what: &str, dtype: DType, actual: &[f64], exact: &[f64], bound: &[f64]) -> TestCaseResult {
    let most = if dtype == DType::F64 { 1e300 } else { 1e37 };
    prop_assert_eq!(actual.len(), exact.len(), "{}", what);
    for (index, ((&actual, &exact), &bound)) in actual.iter().zip(exact).zip(bound).enumerate() {
        let close = (actual - exact).abs() <= bound || actual == exact || actual.is_nan() && exact.is_nan();
        let beyond = exact.abs() >= most && actual.abs() >= most && actual.signum() == exact.signum();
        prop_assert!(
            close || beyond,
            "{what}[{index}] is {actual:e}, expected {exact:e}: off by {:.3e}, allowed {bound:.3e}",
            (actual - exact).abs()
        );
    }
    Ok(())
}

/// That a member's value and both slopes are the reference's, for pairs.
fn expect_reference(on: &Tested, dtype: DType, loss: &PreferenceLoss, pairs: &Counted) -> TestCaseResult {
    let rounding = Rounding::of(on, dtype);
    let (actual, exact) = (pairs.outcome(loss, on, dtype), pairs.expected(loss));
    let bounds: Vec<Bounds> = match loss.keeps_pairs_apart() {
        true => pairs.pairs().map(|(policy, reference)| bounds(rounding, loss, policy, reference)).collect(),
        false => pairs.batch_bounds(rounding, loss),
    };
    let of = |f: fn(&Bounds) -> f64| bounds.iter().map(f).collect::<Vec<_>>();
    let what = |part: &str| format!("{}: {part}", serde_json::to_string(loss).unwrap());
    expect_within(&what("loss"), dtype, &actual.losses, &exact.losses, &of(|b| b.value))?;
    expect_within(&what("chosen slope"), dtype, &actual.chosen, &exact.chosen, &of(|b| b.chosen))?;
    expect_within(&what("rejected slope"), dtype, &actual.rejected, &exact.rejected, &of(|b| b.rejected))
}

impl Counted {
    fn pairs(&self) -> impl Iterator<Item = (SequencePair, Pair)> {
        self.sums.iter().zip(&self.token_counts).map(|(sums, counts)| {
            let side = |sum, count: i64| SequenceLogProb { sum, token_count: count as usize };
            let policy = SequencePair {
                chosen: side(sums.policy.chosen, counts[0]),
                rejected: side(sums.policy.rejected, counts[1]),
            };
            (policy, sums.reference)
        })
    }

    /// Of losses over the whole batch: a rank is a smoothed logistic loss of two numbers of the batch, at worst of its largest;
    /// `sft` is one sum over one count.
    fn batch_bounds(&self, rounding: Rounding, loss: &PreferenceLoss) -> Vec<Bounds> {
        let largest = self.sums.iter().flat_map(|pair| {
            let Sums { policy, reference } = pair;
            [policy.chosen, policy.rejected, reference.chosen, reference.rejected]
        });
        let largest = largest.fold(0.0f64, |most, sum| most.max(sum.abs()));
        let unit = rounding.bound(1.0);
        let beta = loss.beta().map_or(1.0, Beta::get);
        let pairs = self.sums.len() as f64;
        let bound = match loss {
            PreferenceLoss::Sft {} => {
                let value = (pairs + 4.0 + 2.0 * rounding.division) * unit * largest;
                // every pair's slope is pairs/tokens
                Bounds { value: value * pairs, chosen: 8.0 * unit * pairs, rejected: 0.0 }
            }
            _ => {
                let z = 4.0 * beta * largest;
                let delta = 8.0 * unit * z;
                let k = rounding.evaluation(z) * unit;
                Bounds { value: delta + k * (z + 1.0), chosen: beta * (delta + k), rejected: beta * (delta + k) }
            }
        };
        vec![bound; self.sums.len()]
    }
}

// ---- values and gradients ----

#[test]
fn every_member_is_that_of_the_reference() {
    for_several(counted(moderate_sums()), |on, pairs| {
        for loss in members() {
            for dtype in on.arithmetic_dtypes() {
                expect_reference(on, dtype, &loss, pairs)?;
            }
        }
        Ok(())
    });
}

/// Log-prob sums down to −10³⁰, for every member whose reward is not an exponential of them.
#[test]
fn every_member_is_that_of_the_reference_for_sums_of_any_size() {
    for_several(counted(sums()), |on, pairs| {
        for loss in members().into_iter().filter(|loss| !is_exponential(loss) && loss.keeps_pairs_apart()) {
            expect_reference(on, DType::F32, &loss, pairs)?;
        }
        Ok(())
    });
}

/// Log-probs are finite and not above 0; then no loss and no gradient of any member is NaN, however large they are.
#[test]
fn finite_log_probs_never_give_nan_in_any_member() {
    for_several((counted(extreme_sums()), select(vec![None, Some(1e-30), Some(1e20)])), |on, (pairs, beta)| {
        for loss in members() {
            // at the ends of β too, where there is one
            let other = |beta: f64| loss.with_beta(Beta::new(beta).expect("a normal number")).unwrap_or(loss);
            let loss = beta.map_or(loss, other);
            let Outcome { losses, chosen, rejected } = pairs.outcome(&loss, on, DType::F32);
            for (what, numbers) in [("loss", losses), ("chosen slope", chosen), ("rejected slope", rejected)] {
                let loss = serde_json::to_string(&loss).unwrap();
                prop_assert!(!numbers.iter().any(|x| x.is_nan()), "{loss}: {what} {numbers:?}");
            }
        }
        Ok(())
    });
}

/// `cargo run --release -p burn-dpo-tools --bin losses -- --table` prints the numbers.
#[test]
fn every_member_is_right_over_the_whole_range_of_the_margin() {
    const MARGINS: [f64; 9] = [0.0, 17.0, -17.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30];
    on_every_device(|on| {
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let scale = match loss {
                PreferenceLoss::Ipo { .. } => 1.0,
                loss => loss.beta().map_or(1.0, Beta::get),
            };
            // One pair per margin, of a log-ratio, or mean log-prob, on the chosen side alone. Log-probs are not above 0: what the
            // chosen completion would gain is taken from its reference, or from the other side.
            let pair = |z: f64| {
                let shift = f64::from((z / scale) as f32);
                let [chosen, rejected, c, r] = match (loss, shift > 0.0) {
                    // here the chosen side alone cancels to 1
                    (PreferenceLoss::ApoDown { .. }, true) => [0.0, -shift, 0.0, 0.0],
                    (PreferenceLoss::ApoDown { .. }, false) => [0.0, 0.0, 0.0, shift],
                    (loss, true) if loss.needs_reference() => [0.0, 0.0, -shift, 0.0],
                    (_, true) => [0.0, -shift, 0.0, 0.0],
                    (_, false) => [shift, 0.0, 0.0, 0.0],
                };
                Sums { policy: Pair { chosen, rejected }, reference: Pair { chosen: c, rejected: r } }
            };
            let pairs = Counted { sums: MARGINS.map(pair).to_vec(), token_counts: vec![[1, 1]; MARGINS.len()] };
            expect_reference(on, DType::F32, &loss, &pairs)?;
        }
        Ok(())
    });
}

// ---- contracts ----

/// Wild numbers in one pair change no other pair's loss or gradient, bit for bit.
#[test]
fn nan_in_one_pair_stays_in_that_pair() {
    for_several(
        (counted(moderate_sums()), select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY])),
        |on, (pairs, poison)| {
            let Some(last) = pairs.sums.len().checked_sub(1) else { return Ok(()) };
            let mut poisoned = pairs.clone();
            poisoned.sums[last] = poisoned.sums[last].map(|_| *poison);
            for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
                let (clean, other) = (pairs.outcome(&loss, on, DType::F32), poisoned.outcome(&loss, on, DType::F32));
                prop_assert_eq!(bits(&clean.losses[..last]), bits(&other.losses[..last]), "{}", loss);
                prop_assert_eq!(bits(&clean.chosen[..last]), bits(&other.chosen[..last]), "{}", loss);
                prop_assert_eq!(bits(&clean.rejected[..last]), bits(&other.rejected[..last]), "{}", loss);
                let seen = pairs.token_counts[last] != [0, 0] || !per_token(&loss);
                if poison.is_nan() && seen && !matches!(loss, PreferenceLoss::Nll {}) {
                    prop_assert!(other.losses[last].is_nan(), "{loss} hides NaN");
                }
            }
            Ok(())
        },
    );
}

fn per_token(loss: &PreferenceLoss) -> bool {
    use PreferenceLoss::*;
    matches!(loss, Ipo { .. } | SigmoidNorm { .. } | Simpo { .. } | Alphapo { .. } | Orpo {} | Nll {})
}

#[test]
fn permuting_pairs_permutes_every_members_losses_and_gradients() {
    for_several((counted(moderate_sums()), 0..6usize), |on, (pairs, turn)| {
        let turn = turn % pairs.sums.len().max(1);
        let mut other = pairs.clone();
        other.sums.rotate_left(turn);
        other.token_counts.rotate_left(turn);
        let turned = |numbers: &[f64]| {
            let mut numbers = numbers.to_vec();
            numbers.rotate_left(turn);
            numbers
        };
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let (before, after) = (pairs.outcome(&loss, on, DType::F32), other.outcome(&loss, on, DType::F32));
            prop_assert_eq!(bits(&after.losses), bits(&turned(&before.losses)), "{}", loss);
            prop_assert_eq!(bits(&after.chosen), bits(&turned(&before.chosen)), "{}", loss);
            prop_assert_eq!(bits(&after.rejected), bits(&turned(&before.rejected)), "{}", loss);
        }
        Ok(())
    });
}

/// Ranks do not care about the order of the batch; the gradient follows its pair.
#[test]
fn aot_ranks_the_batch_whatever_its_order() {
    // distinct, so that no tie decides
    let distinct = moderate_sums().prop_map(|sums| {
        let spread = |(i, mut pair): (usize, Sums)| {
            pair.policy.chosen = -((pair.policy.chosen as i32 * 16).abs() as f64) - i as f64 / 8.0;
            pair.policy.rejected = -1.0;
            pair.reference.rejected = -2.0 - (i * i) as f64 / 64.0;
            pair
        };
        sums.into_iter().enumerate().map(spread).collect::<Vec<_>>()
    });
    for_several((distinct, 0..6usize), |on, (sums, turn)| {
        let turn = turn % sums.len().max(1);
        let mut other = sums.clone();
        other.rotate_left(turn);
        for loss in members().into_iter().filter(is_aot) {
            let before = Counted::evenly(sums.clone()).outcome(&loss, on, DType::F32);
            let after = Counted::evenly(other.clone()).outcome(&loss, on, DType::F32);
            let mut turned = before.chosen.clone();
            turned.rotate_left(turn);
            prop_assert_eq!(bits(&after.losses), bits(&before.losses), "{}", loss);
            prop_assert_eq!(bits(&after.chosen), bits(&turned), "{}", loss);
        }
        Ok(())
    });
}

fn is_aot(loss: &PreferenceLoss) -> bool {
    matches!(loss, PreferenceLoss::Aot { .. } | PreferenceLoss::AotUnpaired { .. })
}

/// Equal gaps are ranked by their place in the batch: the reference's smallest gap meets the first of them.
#[test]
fn ties_in_aot_are_ranked_in_the_order_of_the_batch() {
    on_every_device(|on| {
        let pair = |reference: f64| Sums {
            policy: Pair { chosen: -2.0, rejected: -3.0 },
            reference: Pair { chosen: reference, rejected: 0.0 },
        };
        let pairs = Counted::evenly(vec![pair(-1.0), pair(-5.0), pair(-3.0)]);
        let loss = "aot".parse().unwrap();
        let (actual, exact) = (pairs.outcome(&loss, on, DType::F32), pairs.expected(&loss));
        for (actual, exact) in [(&actual.losses, exact.losses), (&actual.chosen, exact.chosen)] {
            prop_assert!(actual.iter().zip(&exact).all(|(a, b)| (a - b).abs() < 1e-6), "{actual:?} {exact:?}");
        }
        // gaps of the reference, ascending: −5, −3, −1; so the first pair is furthest ahead and is pulled least
        prop_assert!(actual.chosen[0] > actual.chosen[1] && actual.chosen[1] > actual.chosen[2], "{actual:?}");
        Ok(())
    });
}

#[test]
fn the_reference_has_no_gradient_in_any_member() {
    on_every_device(|on| {
        let sums = [Sums::with_delta(-1.0), Sums::with_delta(2.0)];
        for loss in members() {
            let policy = Model::policy(&sums, &on.device, DType::F32);
            let reference = Model::new(sums.iter().map(|pair| pair.reference), |numbers| {
                floats(numbers, [numbers.len()], &on.autodiff().gradient_checkpointing(), DType::F32).require_grad()
            });
            let gradients = loss.losses(&policy.pairs, &reference.pairs).unwrap().sum().backward();
            prop_assert!(policy.chosen.grad(&gradients).is_some(), "{}", loss);
            prop_assert!(reference.chosen.grad(&gradients).is_none(), "{}", loss);
            prop_assert!(reference.rejected.grad(&gradients).is_none(), "{}", loss);
        }
        Ok(())
    });
}

#[test]
fn no_pairs_are_no_losses_and_can_be_differentiated() {
    on_every_device(|on| {
        for loss in members() {
            let outcome = Counted::evenly(vec![]).outcome(&loss, on, DType::F32);
            prop_assert_eq!(outcome, Outcome { losses: vec![], chosen: vec![], rejected: vec![] }, "{}", loss);
        }
        Ok(())
    });
}

#[test]
fn losses_come_in_f32_or_f64_whatever_sums_come_in() {
    on_every_device(|on| {
        let pairs = Counted::evenly(vec![Sums::with_delta(-1.0)]);
        for dtype in on.float_dtypes() {
            for loss in members() {
                let losses = loss.losses(&pairs.policy(&on.device, dtype).pairs, &pairs.reference(&on.device, dtype));
                let expected = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
                prop_assert_eq!(losses.unwrap().dtype(), expected, "{} of {:?}", loss, dtype);
            }
        }
        Ok(())
    });
}

/// `losses` is not reduced: a weight on a pair is a weight on its gradient.
#[test]
fn every_members_gradient_is_linear_in_what_arrives_from_above() {
    for_several((counted(moderate_sums()), vec(select(vec![0.0, 1.0, -2.0, 0.25]), 8 * 6)), |on, (pairs, weights)| {
        let weights = &weights[..pairs.sums.len()];
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let plain = pairs.outcome(&loss, on, DType::F32);
            let policy = pairs.policy(&on.device, DType::F32);
            let losses = loss.losses(&policy.pairs, &pairs.reference(&on.device, DType::F32)).unwrap();
            let upstream = floats(weights, [weights.len()], &on.device, DType::F32);
            let weighted = Outcome::new(&policy, losses * upstream);
            for (weighted, plain) in [(weighted.chosen, plain.chosen), (weighted.rejected, plain.rejected)] {
                let scaled = |(x, w): (&f64, &f64)| if *w == 0.0 { 0.0 } else { f64::from((x * w) as f32) };
                let expected = plain.iter().zip(weights).map(scaled).collect::<Vec<_>>();
                prop_assert_eq!(weighted, expected, "{}", loss);
            }
        }
        Ok(())
    });
}

// ---- weights of pairs ----

/// A pair of weight 0 counts for nothing, whatever it holds.
#[test]
fn padded_duplicates_count_for_nothing() {
    for_several((counted(moderate_sums()), 1..3usize), |on, (pairs, padding)| {
        let count = pairs.sums.len();
        let mut padded = pairs.clone();
        for _ in 0..*padding {
            padded.sums.push(Sums::with_delta(f64::NAN));
            padded.token_counts.push([3, 0]);
        }
        let valid: Vec<bool> = (0..count + padding).map(|i| i < count).collect();
        let weights = PairWeights::from_valid(flags(&valid, [valid.len()], &on.device)).unwrap();
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let clean = pairs.outcome(&loss, on, DType::F32);
            let policy = padded.policy(&on.device, DType::F32);
            let reference = padded.reference(&on.device, DType::F32);
            let losses = loss.weighted_losses(&policy.pairs, &reference, &weights).unwrap();
            let outcome = Outcome::new(&policy, losses);
            for (actual, clean) in [
                (outcome.losses, clean.losses.clone()),
                (outcome.chosen, clean.chosen),
                (outcome.rejected, clean.rejected),
            ] {
                prop_assert_eq!(bits(&actual[..count]), bits(&clean), "{}", loss);
                prop_assert!(actual[count..].iter().all(|&x| x == 0.0), "{loss}: {actual:?}");
            }
            let mean = numbers(&weights.mean(loss.losses(&policy.pairs, &reference).unwrap()).unwrap())[0];
            let sum: f64 = clean.losses.iter().sum();
            let size: f64 = clean.losses.iter().map(|x| x.abs()).sum();
            let bound = 16.0 * f64::from(f32::EPSILON) * size;
            let beyond = size > f64::from(f32::MAX); // the sum of finite losses may not be
            prop_assert!((mean - sum / count.max(1) as f64).abs() <= bound || beyond, "{loss}: {mean} {sum}");
        }
        Ok(())
    });
}

#[test]
fn weights_multiply_losses_and_have_no_gradient() {
    on_every_device(|on| {
        let losses = floats(&[1.0, 2.0, 4.0], [3], &on.autodiff(), DType::F32).require_grad();
        let numbers_of = floats(&[0.5, 0.0, 2.0], [3], &on.autodiff(), DType::F32).require_grad();
        let weights = PairWeights::new(numbers_of.clone()).unwrap();
        prop_assert!(!weights.values().is_tracked());
        prop_assert_eq!(numbers(&weights.apply(losses.clone()).unwrap()), [0.5, 0.0, 8.0]);
        prop_assert_eq!(numbers(&weights.total()), [2.5]);
        prop_assert_eq!(numbers(&weights.mean(losses.clone()).unwrap()), [8.5 / 2.5].map(|x| f64::from(x as f32)));
        let gradients = weights.mean(losses.clone()).unwrap().backward();
        let expected = [0.2, 0.0, 0.8].map(|x| f64::from(x as f32));
        prop_assert_eq!(numbers(&losses.grad(&gradients).unwrap()), expected);
        prop_assert!(numbers_of.grad(&gradients).is_none());

        let nothing = PairWeights::new(floats(&[0.0; 3], [3], &on.device, DType::F32)).unwrap();
        prop_assert_eq!(numbers(&nothing.mean(losses).unwrap()), [0.0]);

        let none = floats(&[], [0], &on.autodiff(), DType::F32).require_grad();
        let of_none = PairWeights::new(none.clone()).unwrap();
        let mean = of_none.mean(none.clone()).unwrap();
        prop_assert_eq!((numbers(&mean), numbers(&of_none.total())), (vec![0.0], vec![0.0]));
        prop_assert_eq!(none.grad(&mean.backward()).map(|gradient| gradient.dims()), Some([0]));
        Ok(())
    });
}

/// What a sum over a batch is made of can be split: micro-batches add up to the whole.
#[test]
fn weighted_sums_of_micro_batches_add_up_to_the_whole() {
    for_several((moderate_sums(), 0..=6usize), |on, (sums, cut)| {
        let cut = (*cut).min(sums.len());
        let loss = PreferenceLoss::default();
        let part = |sums: &[Sums]| {
            let pairs = Counted::evenly(sums.to_vec());
            let weights =
                PairWeights::new(floats(&vec![0.5; sums.len()], [sums.len()], &on.device, DType::F32)).unwrap();
            let policy = pairs.policy(&on.device, DType::F32);
            let losses =
                loss.weighted_losses(&policy.pairs, &pairs.reference(&on.device, DType::F32), &weights).unwrap();
            numbers(&losses).into_iter().sum::<f64>()
        };
        let (whole, parts) = (part(sums), part(&sums[..cut]) + part(&sums[cut..]));
        prop_assert!((whole - parts).abs() <= 1e-12 * whole.abs().max(1.0), "{whole} {parts}");
        Ok(())
    });
}

// ---- relatives ----

/// The same loss under two names, bit for bit.
#[test]
fn special_cases_are_their_relatives() {
    let parse = |text: &str| serde_json::from_str::<PreferenceLoss>(text).unwrap();
    let relatives = [
        (r#"{"loss":"cdpo","beta":0.1,"label_smoothing":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"robust","beta":0.1,"label_smoothing":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"dpop","beta":0.1,"lambda":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"odpo","beta":0.1,"offset":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"r_dpo","beta":0.1,"length_weight":0}"#, r#"{"loss":"sigmoid","beta":0.1}"#),
        (r#"{"loss":"alphapo","beta":2,"alpha":0,"gamma":1}"#, r#"{"loss":"simpo","beta":2,"gamma":1}"#),
        (
            r#"{"loss":"hinge","beta":0.1,"divergence":{"alpha_divergence":{"alpha":1}}}"#,
            r#"{"loss":"hinge","beta":0.1,"divergence":"reverse_kl"}"#,
        ),
        (
            r#"{"loss":"ipo","beta":0.1,"divergence":{"alpha_divergence":{"alpha":0}}}"#,
            r#"{"loss":"ipo","beta":0.1,"divergence":"forward_kl"}"#,
        ),
    ];
    for_several(counted(moderate_sums()), |on, pairs| {
        for (special, relative) in relatives {
            let (special, relative) = (parse(special), parse(relative));
            let (a, b) = (pairs.outcome(&special, on, DType::F32), pairs.outcome(&relative, on, DType::F32));
            prop_assert_eq!(bits(&a.losses), bits(&b.losses), "{} is not {}", special, relative);
            let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| a == b || (a - b).abs() <= 4e-7 * b.abs());
            prop_assert!(close(&a.chosen, &b.chosen) && close(&a.rejected, &b.rejected), "{special}: {a:?} {b:?}");
        }
        Ok(())
    });
}

/// An empty completion pulls on nothing in losses per token.
#[test]
fn an_empty_completion_has_no_gradient_in_losses_per_token() {
    on_every_device(|on| {
        let pairs =
            Counted { sums: vec![Sums::with_delta(0.0), Sums::with_delta(-2.0)], token_counts: vec![[0, 3], [3, 0]] };
        for loss in members().into_iter().filter(per_token) {
            let outcome = pairs.outcome(&loss, on, DType::F32);
            prop_assert!(outcome.losses.iter().all(|loss| loss.is_finite()), "{loss}: {outcome:?}");
            prop_assert_eq!((outcome.chosen[0], outcome.rejected[1]), (0.0, 0.0), "{}", loss);
        }
        Ok(())
    });
}

/// Nor does it matter what its sum holds: nobody looks at it.
#[test]
fn the_sum_of_an_empty_completion_cannot_be_seen_in_losses_per_token() {
    on_every_device(|on| {
        let with = |junk: f64| {
            let mut sums = vec![Sums::with_delta(0.0), Sums::with_delta(-2.0)];
            (sums[0].policy.chosen, sums[1].policy.rejected) = (junk, junk);
            Counted { sums, token_counts: vec![[0, 3], [3, 0]] }
        };
        for loss in members().into_iter().filter(per_token) {
            let clean = with(0.0).outcome(&loss, on, DType::F32);
            for junk in [f64::NAN, f64::NEG_INFINITY, -7.0] {
                let seen = with(junk).outcome(&loss, on, DType::F32);
                prop_assert_eq!(bits(&clean.losses), bits(&seen.losses), "{}: {}", loss, junk);
                prop_assert_eq!(
                    (clean.chosen.clone(), clean.rejected.clone()),
                    (seen.chosen, seen.rejected),
                    "{}",
                    loss
                );
            }
        }
        Ok(())
    });
}

/// Token counts come in whatever integers their owner keeps them in, and need not come in the same.
#[test]
fn token_counts_of_any_integer_type_count() {
    on_every_device(|on| {
        let side = |sum: f64, count: i64, dtype: DType| {
            let count = Tensor::<1, Int>::from_data(TensorData::new(vec![count; 2], [2]), (&on.device, dtype));
            SequenceLogProbs::new(floats(&[sum; 2], [2], &on.device, DType::F32), count).unwrap()
        };
        let pairs = |chosen: DType, rejected: DType| {
            PairLogProbs::new(side(-9.0, 100, chosen), side(-8.0, 120, rejected)).unwrap()
        };
        let plain = pairs(DType::I32, DType::I32);
        let types = [DType::U32, DType::U8, DType::I8, DType::I64].into_iter();
        for dtype in types.filter(|&dtype| on.device.supports_dtype(dtype)) {
            for loss in PreferenceLoss::all() {
                let of = |policy: &PairLogProbs| bits(&numbers(&loss.losses(policy, &plain).unwrap()));
                prop_assert_eq!(of(&pairs(dtype, dtype)), of(&plain), "{} {:?}", loss, dtype);
                prop_assert_eq!(of(&pairs(dtype, DType::I32)), of(&plain), "{} {:?}", loss, dtype);
            }
        }
        Ok(())
    });
}

/// That sequences and pairs can be made on the host.
#[test]
fn pairs_from_the_host_are_what_was_given() {
    on_every_device(|on| {
        let pairs = PairLogProbs::from_host(&[(-1.5, 3), (-2.0, 0)], &[(-4.0, 7), (-0.5, 1)], &on.autodiff()).unwrap();
        let SequenceLogProbs { sum, token_count, .. } = pairs.chosen().clone();
        prop_assert_eq!((numbers(&sum), crate::host::whole_numbers(&token_count)), (vec![-1.5, -2.0], vec![3, 0]));
        prop_assert_eq!(numbers(&pairs.rejected().sum), [-4.0, -0.5]);
        prop_assert!(!sum.is_autodiff());
        prop_assert!(PairLogProbs::from_host(&[(-1.0, 1)], &[], &on.device).is_err());
        Ok(())
    });
}

/// Where a loss has a kink its slope is the one that asks for nothing: 0 on reaching a target, DPO's own where nothing fell.
#[test]
fn at_a_kink_nothing_is_asked_for() {
    let parse = |text: &str| serde_json::from_str::<PreferenceLoss>(text).unwrap();
    on_every_device(|on| {
        let two_apart =
            Sums { policy: Pair { chosen: -3.0, rejected: -5.0 }, reference: Pair { chosen: -4.0, rejected: -4.0 } };
        for reached in [r#"{"loss":"hinge","beta":0.5}"#, r#"{"loss":"slic","delta":2}"#] {
            let outcome = Counted::evenly(vec![two_apart]).outcome(&parse(reached), on, DType::F32);
            prop_assert_eq!(
                (outcome.losses[0], outcome.chosen[0], outcome.rejected[0]),
                (0.0, 0.0, 0.0),
                "{}",
                reached
            );
        }
        let agree = Sums { reference: two_apart.policy, ..two_apart };
        let outcome =
            Counted::evenly(vec![agree]).outcome(&parse(r#"{"loss":"dpop","beta":0.5,"lambda":50}"#), on, DType::F32);
        prop_assert_eq!((outcome.chosen[0], outcome.rejected[0]), (-0.25, 0.25));
        Ok(())
    });
}

/// Where the scores of both completions are beyond the format, their difference still has a sign.
#[test]
fn scores_beyond_the_format_are_compared_all_the_same() {
    on_every_device(|on| {
        let pair = |chosen: f64, rejected: f64| Sums {
            policy: Pair { chosen, rejected },
            reference: Pair { chosen: 0.0, rejected: 0.0 },
        };
        // forward KL: scores −e^100 and −e^150, over 3 and 5 tokens
        let pairs = Counted { sums: vec![pair(-100.0, -150.0), pair(-150.0, -100.0)], token_counts: vec![[3, 5]; 2] };
        let beta = Beta::new(0.1).unwrap();
        for loss in [
            PreferenceLoss::SigmoidNorm { beta, divergence: FDivergence::ForwardKl },
            PreferenceLoss::Dpo { beta, divergence: FDivergence::ForwardKl },
        ] {
            let outcome = pairs.outcome(&loss, on, DType::F32);
            prop_assert_eq!((outcome.losses[0], outcome.chosen[0], outcome.rejected[0]), (0.0, 0.0, 0.0), "{}", loss);
            prop_assert!(outcome.losses[1] > 1e38 && outcome.chosen[1] < -1e38, "{loss}: {outcome:?}");
        }
        let ipo = PreferenceLoss::Ipo { beta, divergence: FDivergence::ForwardKl };
        let outcome = pairs.outcome(&ipo, on, DType::F32);
        prop_assert!(outcome.losses.iter().all(|&loss| loss > 1e38), "{outcome:?}");
        Ok(())
    });
}

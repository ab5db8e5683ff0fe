//! The whole family of losses: what holds for every member, from one table.

mod contracts;
mod relatives;
mod values;
mod weights;

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
                let (chosen, rejected) =
                    batch.gradients.iter().map(|derivative| (derivative.chosen, derivative.rejected)).unzip();
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

/// That a member's value and both derivatives are the reference's, for pairs.
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
    expect_within(&what("chosen derivative"), dtype, &actual.chosen, &exact.chosen, &of(|b| b.chosen))?;
    expect_within(&what("rejected derivative"), dtype, &actual.rejected, &exact.rejected, &of(|b| b.rejected))
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
                // every pair's derivative is pairs/tokens
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

fn per_token(loss: &PreferenceLoss) -> bool {
    use PreferenceLoss::*;
    matches!(loss, Ipo { .. } | SigmoidNorm { .. } | Simpo { .. } | Alphapo { .. } | Orpo {} | Nll {})
}

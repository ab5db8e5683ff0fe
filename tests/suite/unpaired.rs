//! Losses of completions that are not pairs: KTO and BCO, and rankings of several.

use burn::tensor::{DType, Device, Tensor};
use burn_dpo::{
    Beta, Error, PairAnnotations, PairLogProbs, RankedItems, RankedLogProbs, SequenceLogProbs, Weight,
    annotated_dpo_loss, bco_loss, dpo_loss, kl_estimate, kto_loss, plackett_luce_loss, reference,
};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    devices::{for_all, on_every_device},
    generators::{extreme_sums, sums},
    host::{bits, expect_close, flags, floats, gradient_of_sum, integers, numbers},
    pairs::{Model, Sums},
    tolerance::Rounding,
};

fn beta(beta: f64) -> Beta {
    Beta::new(beta).unwrap()
}

fn sequences(sums: &Tensor<1>) -> SequenceLogProbs {
    let count = sums.dims()[0];
    SequenceLogProbs::new(sums.clone(), integers(&vec![3; count], [count], &sums.device())).unwrap()
}

fn policy_and_reference(of: &[Sums], device: &Device, dtype: DType) -> (Tensor<1>, SequenceLogProbs, SequenceLogProbs) {
    let column = |f: fn(&Sums) -> f64| of.iter().map(f).collect::<Vec<f64>>();
    let policy = floats(&column(|one| one.policy.chosen), [of.len()], &device.clone().autodiff(), dtype).require_grad();
    let reference = floats(&column(|one| one.reference.chosen), [of.len()], device, dtype);
    (policy.clone(), sequences(&policy), sequences(&reference))
}

/// Both losses are a softplus or a sigmoid of `β(a − kl)`: three differences and products round, and then as in
/// [`family_tolerance`](crate::family_tolerance).
fn unpaired_bound(rounding: Rounding, a: f64, baseline: f64, beta: f64, size: f64) -> f64 {
    let z = beta * (a.abs() + baseline.abs());
    let delta = 8.0 * rounding.bound(1.0) * z + 8.0 * rounding.tiny;
    delta * beta.max(1.0)
        + size * (delta.min(1.0).exp_m1() + rounding.evaluation(z) * rounding.bound(1.0))
        + 8.0 * (1.0 + beta) * rounding.tiny
}

#[test]
fn kto_is_that_of_the_reference() {
    for_all((sums(), vec(any::<bool>(), 6), 0.0..3.0f32, select(vec![0.1, 1.0])), |on, (of, desirable, kl, b)| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let desirable = &desirable[..of.len()];
            let (leaf, policy, reference) = policy_and_reference(of, &on.device, dtype);
            let (d, u) = (Weight::new(1.0).unwrap(), Weight::new(1.5).unwrap());
            let kl_tensor = floats(&[f64::from(*kl)], [1], &on.device, dtype);
            let flags = flags(desirable, [of.len()], &on.device);
            let losses = kto_loss(&policy, &reference, &flags, &kl_tensor, beta(*b), d, u).unwrap();
            let expected: Vec<_> = of
                .iter()
                .zip(desirable)
                .map(|(one, &desirable)| {
                    reference::kto_loss(
                        one.policy.chosen,
                        one.reference.chosen,
                        desirable,
                        f64::from(*kl),
                        *b,
                        1.0,
                        1.5,
                    )
                })
                .collect();
            let bound = |i: usize, size: f64| {
                unpaired_bound(rounding, of[i].policy.chosen - of[i].reference.chosen, f64::from(*kl), *b, size)
            };
            let values: Vec<f64> = expected.iter().map(|loss| loss.value).collect();
            let derivatives: Vec<f64> = expected.iter().map(|loss| loss.gradient).collect();
            expect_close("loss", dtype, &numbers(&losses), &values, |i| bound(i, values[i]))?;
            let gradient = gradient_of_sum(losses, &leaf);
            expect_close("derivative", dtype, &gradient, &derivatives, |i| bound(i, derivatives[i].abs()))?;
        }
        Ok(())
    });
}

#[test]
fn bco_is_that_of_the_reference() {
    for_all((sums(), vec(any::<bool>(), 6), -3.0..3.0f32, select(vec![0.1, 1.0])), |on, (of, desirable, delta, b)| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let desirable = &desirable[..of.len()];
            let (leaf, policy, reference) = policy_and_reference(of, &on.device, dtype);
            let shift = floats(&[f64::from(*delta)], [1], &on.device, dtype);
            let flags = flags(desirable, [of.len()], &on.device);
            let losses = bco_loss(&policy, &reference, &flags, &shift, beta(*b)).unwrap();
            let expected: Vec<_> = of
                .iter()
                .zip(desirable)
                .map(|(one, &desirable)| {
                    reference::bco_loss(one.policy.chosen, one.reference.chosen, desirable, f64::from(*delta), *b)
                })
                .collect();
            let bound = |i: usize, size: f64| {
                unpaired_bound(rounding, of[i].policy.chosen - of[i].reference.chosen, f64::from(*delta) / b, *b, size)
            };
            let values: Vec<f64> = expected.iter().map(|loss| loss.value).collect();
            let derivatives: Vec<f64> = expected.iter().map(|loss| loss.gradient).collect();
            expect_close("loss", dtype, &numbers(&losses), &values, |i| bound(i, values[i]))?;
            let gradient = gradient_of_sum(losses, &leaf);
            expect_close("derivative", dtype, &gradient, &derivatives, |i| bound(i, derivatives[i].abs()))?;
        }
        Ok(())
    });
}

#[test]
fn finite_log_probs_never_give_nan_in_unpaired_losses() {
    for_all((extreme_sums(), any::<bool>()), |on, (of, side)| {
        let (leaf, policy, reference) = policy_and_reference(of, &on.device, DType::F32);
        let flags = flags(&vec![*side; of.len()], [of.len()], &on.device);
        let zero = floats(&[0.0], [1], &on.device, DType::F32);
        let one = Weight::ONE;
        for losses in [
            kto_loss(&policy, &reference, &flags, &zero, beta(0.1), one, one).unwrap(),
            bco_loss(&policy, &reference, &flags, &zero, beta(0.1)).unwrap(),
        ] {
            let values = numbers(&losses);
            let derivatives = gradient_of_sum(losses, &leaf);
            prop_assert!(values.iter().chain(&derivatives).all(|x| !x.is_nan()), "{values:?} {derivatives:?}");
        }
        Ok(())
    });
}

/// The estimate is a mean held at 0, has no gradient, and pulls on nothing.
#[test]
fn the_kl_estimate_is_the_mean_log_ratio_held_at_0() {
    on_every_device(|on| {
        let of = |pairs: &[(f64, f64)]| {
            let (policy, reference): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
            let policy = floats(&policy, [policy.len()], &on.autodiff(), DType::F32).require_grad();
            let reference = floats(&reference, [reference.len()], &on.device, DType::F32);
            kl_estimate(&sequences(&policy), &sequences(&reference)).unwrap()
        };
        prop_assert_eq!(numbers(&of(&[(-1.0, -3.0), (-2.0, -1.5)])), [0.75]);
        prop_assert_eq!(numbers(&of(&[(-3.0, -1.0)])), [0.0]);
        prop_assert_eq!(numbers(&of(&[])), [0.0]);
        prop_assert!(numbers(&of(&[(-3.0, -1.0), (f64::NAN, -1.0)]))[0].is_nan());
        prop_assert!(!of(&[(-1.0, -3.0)]).is_tracked());
        Ok(())
    });
}

#[test]
fn unpaired_arguments_that_do_not_go_together_are_refused() {
    on_every_device(|on| {
        let (_, policy, reference) = policy_and_reference(&[Sums::with_delta(1.0); 2], &on.device, DType::F32);
        let (_, short, _) = policy_and_reference(&[Sums::with_delta(1.0)], &on.device, DType::F32);
        let (two, three) = (flags(&[true, false], [2], &on.device), flags(&[true; 3], [3], &on.device));
        let (one, pair) = (floats(&[0.0], [1], &on.device, DType::F32), floats(&[0.0; 2], [2], &on.device, DType::F32));
        let shape = |what, expected: usize, actual: usize| Error::Shape {
            what,
            expected: vec![expected],
            actual: vec![actual],
        };
        let of = |policy, desirable, delta| bco_loss(policy, &reference, desirable, delta, beta(0.1)).unwrap_err();
        prop_assert_eq!(of(&short, &two, &one), shape("reference", 1, 2));
        prop_assert_eq!(of(&policy, &three, &one), shape("desirable", 2, 3));
        prop_assert_eq!(of(&policy, &two, &pair), shape("delta", 1, 2));
        let kto = kto_loss(&policy, &reference, &two, &pair, beta(0.1), Weight::ONE, Weight::ONE).unwrap_err();
        prop_assert_eq!(kto, shape("kl", 1, 2));
        prop_assert_eq!(kl_estimate(&short, &reference).unwrap_err(), shape("reference", 1, 2));
        Ok(())
    });
}

// ---- rankings ----

/// Rewards of `items` completions each, as sums of policy and reference.
#[derive(Debug, Clone)]
struct Rankings {
    items: usize,
    policy: Vec<f64>,
    reference: Vec<f64>,
}

fn rankings(nats: impl Strategy<Value = f32> + Clone + 'static) -> impl Strategy<Value = Rankings> {
    (0..4usize, 2..6usize).prop_flat_map(move |(rankings, items)| {
        let cells = vec(nats.clone().prop_map(f64::from), rankings * items);
        (cells.clone(), cells).prop_map(move |(policy, reference)| Rankings { items, policy, reference })
    })
}

fn nats() -> impl Strategy<Value = f32> + Clone {
    prop_oneof![4 => -40.0f32..0.0, 1 => select(vec![0.0f32, -1.0, -1e4, -1e30])]
}

impl Rankings {
    fn rows(&self) -> usize {
        self.policy.len() / self.items
    }

    fn leaf(&self, device: &Device, dtype: DType) -> Tensor<2> {
        floats(&self.policy, [self.rows(), self.items], &device.clone().autodiff(), dtype).require_grad()
    }

    fn ranked(sum: &Tensor<2>) -> RankedLogProbs {
        RankedLogProbs::new(sum.clone()).unwrap()
    }

    fn losses(&self, leaf: &Tensor<2>, device: &Device, b: f64, ranked: RankedItems) -> Tensor<1> {
        let reference = floats(&self.reference, [self.rows(), self.items], device, leaf.dtype());
        plackett_luce_loss(&Self::ranked(leaf), &Self::ranked(&reference), beta(b), ranked).unwrap()
    }

    fn expected(&self, b: f64, ranked: usize) -> (Vec<f64>, Vec<f64>) {
        let rows = self.policy.chunks(self.items).zip(self.reference.chunks(self.items));
        let of: Vec<_> = rows.map(|(p, q)| reference::plackett_luce_loss(p, q, b, ranked)).collect();
        (of.iter().map(|loss| loss.value).collect(), of.iter().flat_map(|loss| loss.gradient.clone()).collect())
    }

    /// `items` terms, each a softplus of differences of two rewards: `δz` and `K` as in
    /// [`family_tolerance`](crate::family_tolerance). A derivative is a sum of `items` shares.
    fn bounds(&self, rounding: Rounding, row: usize, b: f64, value: f64) -> (f64, f64) {
        let cells = row * self.items..(row + 1) * self.items;
        let size = |numbers: &[f64]| numbers[cells.clone()].iter().map(|x| x.abs()).fold(0.0, f64::max);
        let z = 2.0 * b * (size(&self.policy) + size(&self.reference));
        let (items, unit) = (self.items as f64, rounding.bound(1.0));
        let delta = 8.0 * unit * z;
        let k = (rounding.evaluation(z) + items) * unit;
        (items * delta + k * value + 16.0 * rounding.tiny, b * items * (delta.min(1.0) + k) + 16.0 * rounding.tiny)
    }
}

#[test]
fn plackett_luce_is_that_of_the_reference_for_whole_and_partial_rankings() {
    for_all((rankings(nats()), 0..6usize, select(vec![0.1, 1.0])), |on, (of, ranked, b)| {
        let ranked = *ranked.min(&of.items);
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            for (known, items) in [(RankedItems::All, of.items), (RankedItems::First(ranked), ranked)] {
                let leaf = of.leaf(&on.device, dtype);
                let losses = of.losses(&leaf, &on.device, *b, known);
                let (values, derivatives) = of.expected(*b, items);
                expect_close("loss", dtype, &numbers(&losses), &values, |i| of.bounds(rounding, i, *b, values[i]).0)?;
                let gradient = gradient_of_sum(losses, &leaf);
                expect_close("derivative", dtype, &gradient, &derivatives, |i| {
                    of.bounds(rounding, i / of.items, *b, 0.0).1
                })?;
            }
        }
        Ok(())
    });
}

/// ℓ(K = 2) = −log σ(r₁ − r₂): DPO, as closely as either rounds.
#[test]
fn of_two_items_plackett_luce_is_dpo() {
    for_all(sums(), |on, of| {
        let column = |f: fn(&Sums) -> [f64; 2]| of.iter().flat_map(f).collect::<Vec<f64>>();
        let rankings = Rankings {
            items: 2,
            policy: column(|one| [one.policy.chosen, one.policy.rejected]),
            reference: column(|one| [one.reference.chosen, one.reference.rejected]),
        };
        let leaf = rankings.leaf(&on.device, DType::F32);
        let of_ranking = rankings.losses(&leaf, &on.device, 0.1, RankedItems::All);
        let policy = Model::policy(of, &on.device, DType::F32);
        let of_pair = dpo_loss(&policy.pairs, &Model::reference(of, &on.device, DType::F32).pairs, beta(0.1)).unwrap();
        let rounding = Rounding::of(on, DType::F32);
        let (ranking, pair) = (numbers(&of_ranking), numbers(&of_pair));
        expect_close("loss", DType::F32, &ranking, &pair, |i| 2.0 * rankings.bounds(rounding, i, 0.1, pair[i]).0)?;
        let derivatives: Vec<f64> = gradient_of_sum(of_ranking, &leaf);
        let [chosen, rejected] = policy.gradients(of_pair);
        let interleaved: Vec<f64> = chosen.iter().zip(&rejected).flat_map(|(c, r)| [*c, *r]).collect();
        expect_close("derivative", DType::F32, &derivatives, &interleaved, |i| {
            2.0 * rankings.bounds(rounding, i / 2, 0.1, 0.0).1
        })
    });
}

/// Items that are not there cannot be seen, NaN included, and neither can the order of those that are not ranked.
#[test]
fn absent_items_cannot_be_seen() {
    for_all((rankings(-40.0f32..0.0), vec((0..6i64, 0..6i64), 4)), |on, (of, counts)| {
        let rows = of.rows();
        let present: Vec<i64> = counts[..rows].iter().map(|(present, _)| *present.min(&(of.items as i64))).collect();
        let ranked: Vec<i64> = counts[..rows].iter().map(|(_, ranked)| *ranked).collect();
        let counts = [&ranked, &present].map(|counts| integers(counts, [rows], &on.device));
        let known = RankedItems::Each { ranked: &counts[0], present: &counts[1] };
        let mut junk = of.clone();
        for cell in 0..junk.policy.len() {
            if (cell % of.items) as i64 >= present[cell / of.items] {
                (junk.policy[cell], junk.reference[cell]) = (f64::NAN, f64::INFINITY);
            }
        }
        let outcome = |of: &Rankings| {
            let leaf = of.leaf(&on.device, DType::F32);
            let losses = of.losses(&leaf, &on.device, 0.5, known);
            (numbers(&losses), gradient_of_sum(losses, &leaf))
        };
        let ((clean, derivatives), (seen, junk_slopes)) = (outcome(of), outcome(&junk));
        prop_assert_eq!(bits(&clean), bits(&seen));
        prop_assert_eq!(bits(&derivatives), bits(&junk_slopes));
        let rounding = Rounding::of(on, DType::F32);
        for row in 0..rows {
            let (items, ranked) = (present[row] as usize, (ranked[row].min(present[row])) as usize);
            let cells = row * of.items..row * of.items + items;
            let exact =
                reference::plackett_luce_loss(&of.policy[cells.clone()], &of.reference[cells.clone()], 0.5, ranked);
            let bound = of.bounds(rounding, row, 0.5, exact.value);
            expect_close("loss", DType::F32, &clean[row..=row], &[exact.value], |_| bound.0)?;
            expect_close("derivative", DType::F32, &derivatives[cells], &exact.gradient, |_| bound.1)?;
        }
        Ok(())
    });
}

#[test]
fn rankings_never_give_nan_and_keep_nan_apart() {
    let extreme = rankings(select(vec![f32::MIN, -1e38f32, -1e30, -3.0, 0.0]));
    for_all((extreme, select(vec![1.0, 1e3])), |on, (of, b)| {
        let outcome = |of: &Rankings| {
            let leaf = of.leaf(&on.device, DType::F32);
            let losses = of.losses(&leaf, &on.device, *b, RankedItems::All);
            (numbers(&losses), gradient_of_sum(losses, &leaf))
        };
        let (losses, derivatives) = outcome(of);
        prop_assert!(losses.iter().chain(&derivatives).all(|x| !x.is_nan()), "{losses:?} {derivatives:?}");
        if let Some(last) = of.rows().checked_sub(1) {
            let mut poisoned = of.clone();
            poisoned.policy[last * of.items] = f64::NAN;
            let (other, other_slopes) = outcome(&poisoned);
            prop_assert!(other[last].is_nan());
            prop_assert_eq!(bits(&other[..last]), bits(&losses[..last]));
            prop_assert_eq!(bits(&other_slopes[..last * of.items]), bits(&derivatives[..last * of.items]));
        }
        Ok(())
    });
}

#[test]
fn rankings_that_do_not_fit_are_refused() {
    on_every_device(|on| {
        let of = |rows: usize, items: usize| floats(&vec![0.0; rows * items], [rows, items], &on.device, DType::F32);
        let error = RankedLogProbs::new(of(2, 1)).unwrap_err().to_string();
        prop_assert_eq!(error, "the number of items in a ranking is 1, expected at least 2");
        let stack = sequences(&of(1, 6).reshape([6]));
        prop_assert_eq!(RankedLogProbs::from_sequences(&stack, 3).unwrap().sum().dims(), [2, 3]);
        let error = RankedLogProbs::from_sequences(&stack, 4).unwrap_err().to_string();
        prop_assert_eq!(error, "sequences has shape [6], expected [8]");
        prop_assert!(RankedLogProbs::from_sequences(&stack, 0).is_err());

        let (three, four) = (RankedLogProbs::new(of(2, 3)).unwrap(), RankedLogProbs::new(of(2, 4)).unwrap());
        let loss = |policy, reference, ranked: RankedItems| {
            plackett_luce_loss(policy, reference, beta(0.1), ranked).map(|_| ()).map_err(|error| error.to_string())
        };
        prop_assert_eq!(
            loss(&three, &four, RankedItems::All),
            Err("reference has shape [2, 4], expected [2, 3]".into())
        );
        prop_assert_eq!(
            loss(&three, &three, RankedItems::First(4)),
            Err("the number of ranked items is 4, expected at most the number of items".into())
        );
        let counts = |n: usize| integers(&vec![2; n], [n], &on.device);
        let (two, three_counts) = (counts(2), counts(3));
        let each = RankedItems::Each { ranked: &two, present: &three_counts };
        prop_assert_eq!(loss(&three, &three, each), Err("present has shape [3], expected [2]".into()));
        Ok(())
    });
}

// ---- annotations ----

#[test]
fn annotations_are_read_pair_by_pair() {
    let annotation = (select(vec![0.05f64, 0.1, 0.5]), -2.0..2.0f32, select(vec![0.0f64, 0.25, 0.5, 1.0]));
    for_all((sums(), vec(annotation, 6)), |on, (of, annotations)| {
        for dtype in on.arithmetic_dtypes() {
            let annotations = &annotations[..of.len()];
            let column = |f: fn(&(f64, f32, f64)) -> f64| {
                floats(&annotations.iter().map(f).collect::<Vec<_>>(), [of.len()], &on.device, dtype)
            };
            let given = PairAnnotations::new(beta(7.0))
                .with_betas(column(|a| a.0))
                .with_offsets(column(|a| f64::from(a.1)))
                .with_label_probabilities(column(|a| a.2));
            let policy = Model::policy(of, &on.device, dtype);
            let losses =
                annotated_dpo_loss(&policy.pairs, &Model::reference(of, &on.device, dtype).pairs, &given).unwrap();
            let values = numbers(&losses);
            let [chosen, rejected] = policy.gradients(losses);
            let rounding = Rounding::of(on, dtype);
            for (i, (pair, (b, offset, q))) in of.iter().zip(annotations).enumerate() {
                let exact = reference::soft_dpo_loss(pair.policy, pair.reference, *b, f64::from(*offset), *q);
                let ratio = pair.margin(1.0);
                let bound = |size: f64| {
                    let nats = 2.0 * (ratio.chosen.abs() + ratio.rejected.abs());
                    unpaired_bound(rounding, nats, f64::from(offset.abs()) / b, *b, size)
                };
                // two terms of the derivative, that of the label and that of the doubt, may cancel
                let z = *b * (ratio.chosen - ratio.rejected) - f64::from(*offset);
                let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
                let terms = b * (q * sigmoid(-z) + (1.0 - q) * sigmoid(z));
                expect_close("loss", dtype, &values[i..=i], &[exact.value], |_| bound(exact.value))?;
                expect_close("derivative", dtype, &chosen[i..=i], &[exact.gradient.chosen], |_| bound(terms))?;
                prop_assert_eq!(rejected[i], -chosen[i]);
            }
        }
        Ok(())
    });
}

/// Without annotations it is DPO, bit for bit.
#[test]
fn pairs_of_which_nothing_is_known_have_plain_dpo() {
    for_all(sums(), |on, of| {
        let [one, two] = [0, 1].map(|_| Model::policy(of, &on.device, DType::F32));
        let reference = Model::reference(of, &on.device, DType::F32);
        let annotated = annotated_dpo_loss(&one.pairs, &reference.pairs, &PairAnnotations::new(beta(0.1))).unwrap();
        let plain = dpo_loss(&two.pairs, &reference.pairs, beta(0.1)).unwrap();
        prop_assert_eq!(bits(&numbers(&annotated)), bits(&numbers(&plain)));
        prop_assert_eq!(one.gradients(annotated), two.gradients(plain));
        Ok(())
    });
}

/// A number outside its domain is NaN in its pair, and in no other.
#[test]
fn annotations_outside_their_domain_make_their_pair_nan() {
    on_every_device(|on| {
        let of = [Sums::with_delta(-1.0); 4];
        let reference = Model::reference(&of, &on.device, DType::F32);
        let given = |numbers: [f64; 4]| floats(&numbers, [4], &on.autodiff(), DType::F32);
        let plain = PairAnnotations::new(beta(0.1));
        for (annotations, nan) in [
            (plain.clone().with_betas(given([0.1, 0.0, -0.1, f64::INFINITY])), [false, true, true, true]),
            (plain.clone().with_label_probabilities(given([1.0, 1.1, -0.1, f64::NAN])), [false, true, true, true]),
            (plain.clone().with_offsets(given([0.0, f64::NAN, f64::INFINITY, 0.0])), [false, true, true, false]),
        ] {
            let policy = Model::policy(&of, &on.device, DType::F32);
            let losses = annotated_dpo_loss(&policy.pairs, &reference.pairs, &annotations).unwrap();
            let values = numbers(&losses);
            prop_assert_eq!(values.iter().map(|loss| loss.is_nan()).collect::<Vec<_>>(), nan);
            let [chosen, _] = policy.gradients(losses);
            prop_assert_eq!(chosen.iter().map(|derivative| derivative.is_nan()).collect::<Vec<_>>(), nan);
        }
        let short = PairAnnotations::new(beta(0.1)).with_betas(floats(&[0.1; 3], [3], &on.device, DType::F32));
        let error = annotated_dpo_loss(&reference.pairs, &reference.pairs, &short).unwrap_err().to_string();
        prop_assert_eq!(error, "betas has shape [3], expected [4]");
        Ok(())
    });
}

/// Log-probs of one device and kind only.
#[test]
fn pairs_of_different_number_are_refused_by_every_member() {
    on_every_device(|on| {
        let host = |pairs: usize| {
            PairLogProbs::from_host(&vec![(-1.0, 1); pairs], &vec![(-1.0, 1); pairs], &on.device).unwrap()
        };
        for loss in crate::family::members().into_iter().filter(burn_dpo::PreferenceLoss::needs_reference) {
            let error = loss.losses(&host(2), &host(3)).map(|_| ()).unwrap_err();
            let expected = Error::PairCount { left: "policy", left_pairs: 2, right: "reference", right_pairs: 3 };
            prop_assert_eq!(error, expected, "{}", loss);
        }
        Ok(())
    });
}

//! Weights of pairs.

use super::*;

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

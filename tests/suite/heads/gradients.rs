//! What arrives from above, and weights in any order of memory.

use super::*;

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

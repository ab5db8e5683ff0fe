//! Loss and gradient in one step.

use super::*;

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

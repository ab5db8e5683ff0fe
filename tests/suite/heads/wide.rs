//! Vocabularies of several tiles.

use super::*;

/// Three tiles of the vocabulary, and rows in one part or in several: wider than the narrowest tile.
fn wide_cases(on: &Tested) -> impl Iterator<Item = Case> {
    let (sequences, time, width, vocab) = (4, 4, 16, 700);
    let sixteenth = |i: usize, turn: usize| ((i * turn) % 65) as f64 / 16.0 - 2.0;
    let case = move |transposed: bool, budget: usize, masked: usize| Case {
        sequences,
        time,
        width,
        vocab,
        hidden: (0..sequences * time * width).map(|i| sixteenth(i, 29)).collect(),
        weight: (0..width * vocab).map(|i| sixteenth(i, 37)).collect(),
        // a bias that masks the whole first tile, as of a vocabulary that is padded in front
        bias: (!transposed)
            .then(|| (0..vocab).map(|v| if v < masked { f64::NEG_INFINITY } else { sixteenth(v, 11) }).collect()),
        tokens: (0..sequences * time).map(|i| (500 + i * 13) as i64).collect(),
        mask: (0..sequences * time).map(|i| i % 7 != 3).collect(),
        scale: 0.5,
        soft_cap: None,
        temperature: 1.0,
        transposed,
        strided: false,
        budget,
        upstream: (0..sequences * (time - 1)).map(|i| [1.0, -1.0, 0.5][i % 3]).collect(),
    };
    let budgets = [12 * 256 * 4, 40 * 256 * 4, 1 << 26];
    let all = budgets.into_iter().flat_map(move |budget| {
        [(false, 0), (false, 300), (true, 0)].map(|(transposed, masked)| case(transposed, budget, masked))
    });
    all.step_by(if has_kernels(on) { 1 } else { 4 })
}

#[test]
fn a_wide_vocabulary_in_several_tiles_is_that_of_the_reference() {
    on_every_device(|on| {
        for case in wide_cases(on) {
            for dtype in on.arithmetic_dtypes() {
                for (trained, portable) in [(ALL, false), (ALL, true), (FROZEN, false), (FROZEN, true)] {
                    let outcome = case.outcome(on, [dtype; 2], trained, portable);
                    case.expect(Rounding::of(on, dtype), dtype, trained, &outcome)?;
                    prop_assert!(outcome.hidden.unwrap().iter().all(|g| g.is_finite()));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_step_over_a_wide_vocabulary_in_several_tiles_has_the_gradient_of_its_parts() {
    on_every_device(|on| {
        for case in wide_cases(on) {
            let mixture = LossMixture::from(PreferenceLoss::all()[0]);
            let (loss, losses, gradients) = step(&case, on, &mixture, ALL, true);
            let (expected_loss, expected_losses, expected) = step(&case, on, &mixture, ALL, false);
            let near = |what: &str, actual: &[f64], expected: &[f64]| {
                let largest = expected.iter().fold(1.0f64, |a, b| a.max(b.abs()));
                expect_close(what, DType::F32, actual, expected, |_| 1e-4 * largest)
            };
            near("loss", &loss, &expected_loss)?;
            near("losses", &losses, &expected_losses)?;
            for ((what, actual), expected) in ["hidden", "weight", "bias"].iter().zip(&gradients).zip(&expected) {
                near(what, actual, expected)?;
            }
        }
        Ok(())
    });
}

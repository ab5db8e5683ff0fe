//! Log-probs and their gradients.

use super::*;

#[test]
fn log_probs_and_gradients_of_a_head_are_those_of_the_reference() {
    for_several(cases(), |on, case| {
        for dtype in on.arithmetic_dtypes() {
            for (trained, portable) in [(ALL, false), (ALL, true), (FROZEN, false), (FROZEN, true)] {
                let outcome = case.outcome(on, [dtype; 2], trained, portable);
                case.expect(Rounding::of(on, dtype), dtype, trained, &outcome)?;
            }
        }
        Ok(())
    });
}

/// What is not tracked gets no gradient; what is gets the same one, whatever else is tracked.
#[test]
fn gradients_flow_into_what_is_trained_and_into_nothing_else() {
    for_several(cases(), |on, case| {
        for bits in 0..8u8 {
            let trained = Trained { hidden: bits & 1 > 0, weight: bits & 2 > 0, bias: bits & 4 > 0 };
            let outcome = case.outcome(on, [DType::F32; 2], trained, false);
            case.expect(Rounding::of(on, DType::F32), DType::F32, trained, &outcome)?;
        }
        Ok(())
    });
}

/// How many bytes may be held changes the order of additions and nothing else.
#[test]
fn the_budget_changes_nothing_beyond_rounding() {
    for_several(cases(), |on, case| {
        for budget in [0, 4, 64, 1000] {
            let other = Case { budget, ..case.clone() };
            let outcome = other.outcome(on, [DType::F32; 2], ALL, false);
            other.expect(Rounding::of(on, DType::F32), DType::F32, ALL, &outcome)?;
        }
        Ok(())
    });
}

/// 16-bit weights, hidden states, or both: the numbers are whole sixteenths, so nothing is lost on the way in.
#[test]
fn a_head_of_16_bits_is_computed_in_f32_and_its_gradients_are_rounded_once() {
    for_several(cases(), |on, case| {
        for half in on.float_dtypes().filter(|dtype| matches!(dtype, DType::F16 | DType::BF16)) {
            let all = [[half, half], [DType::F32, half], [half, DType::F32]];
            for &dtypes in if has_kernels(on) { &all[..] } else { &all[..1] } {
                let (single, actual) =
                    (case.outcome(on, [DType::F32; 2], ALL, false), case.outcome(on, dtypes, ALL, false));
                let inexact = case.logit_error(Rounding::of(on, DType::F32));
                expect_close("log-prob", DType::F32, &actual.log_probs, &single.log_probs, |i| {
                    2.0 * case.bounds(Rounding::of(on, DType::F32), single.log_probs[i]).0 + inexact
                })?;
                let unit = |dtype| match dtype {
                    DType::F16 => 2f64.powi(-11),
                    DType::BF16 => 2f64.powi(-8),
                    _ => 0.0,
                };
                for (what, actual, single, dtype) in [
                    ("hidden", actual.hidden, single.hidden, dtypes[0]),
                    ("weight", actual.weight, single.weight, dtypes[1]),
                    ("bias", actual.bias, single.bias, dtypes[1]),
                ] {
                    let (Some(actual), Some(single)) = (actual, single) else {
                        prop_assert!(what == "bias" && case.bias.is_none(), "no gradient of {}", what);
                        continue;
                    };
                    // rounded once, and where that is subnormal (f16) by 2⁻²⁵; the f32 numbers themselves may be made in other tiles
                    let own = case.gradient_error(Rounding::of(on, DType::F32));
                    expect_close(what, DType::F32, &actual, &single, |i| {
                        unit(dtype) * single[i].abs() + 2f64.powi(-25) + 2.0 * own
                    })?;
                }
            }
        }
        Ok(())
    });
}

//! Against the printed forms, and against finite differences.

use super::*;

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
/// values' own rounding adds `3u/h` times their size, and a kink among them not more than it makes derivatives jump unevenly.
#[test]
fn the_gradient_of_every_loss_is_its_finite_difference() {
    for_all_numbers(moderate(), |case| {
        let h = 1e-4;
        let log_probs = case.log_probs();
        for member in &MEMBERS {
            let of = (member.stable)(case);
            for (index, derivative) in of.gradient.iter().copied().enumerate() {
                let values = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|steps| {
                    let moved = case.with_log_prob(index, log_probs[index] + steps * h);
                    (member.stable)(&moved).value()
                });
                let difference = (8.0 * (values[3] - values[1]) - (values[4] - values[0])) / (12.0 * h);
                let jumps = [1, 2, 3].map(|i| (values[i - 1] - 2.0 * values[i] + values[i + 1]) / h);
                let (least, most) = (jumps.into_iter().fold(INF, f64::min), jumps.into_iter().fold(-INF, f64::max));
                let size = 1.0 + derivative.abs() + values.iter().map(|value| value.abs()).sum::<f64>();
                let bound = h.powi(4) / 30.0 * 1e7 + 1e-11 * size + (most - least);
                prop_assert!(
                    (derivative - difference).abs() <= bound,
                    "{}, {index}: {derivative} {difference}",
                    member.name
                );
            }
        }
        Ok(())
    });
}

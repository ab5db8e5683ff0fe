//! Token statistics.

use super::*;

#[test]
fn statistics_of_a_head_are_those_of_its_logits() {
    for_several(cases(), |on, case| {
        let rounding = Rounding::of(on, DType::F32);
        let (expected, inexact) = (case.expected(), case.logit_error(rounding));
        let (logits, _) = case.logits();
        let counted: Vec<bool> = case.mask.chunks(case.time).flat_map(|row| row[1..].iter().copied()).collect();
        for portable in [false, true] {
            let OnDevice { head, hidden, completions, .. } = case.on_device(on, [DType::F32; 2], ALL);
            let head = if portable { head.with_portable_operations() } else { head };
            let statistics = head.token_statistics(hidden.clone(), &completions).unwrap();
            let log_probs = head.token_log_probs(hidden.clone(), &completions).unwrap();
            prop_assert_eq!(bits(&numbers(&statistics.log_probs().values())), bits(&numbers(&log_probs.values())));
            expect_close("entropy", DType::F32, &numbers(&statistics.entropy()), &expected.entropies, |i| {
                let position = i / (case.time - 1) * case.time + i % (case.time - 1);
                let row = &logits[position * case.vocab..(position + 1) * case.vocab];
                // |∂H/∂z| sums to at most 2 (ln V + 1)
                let of_logits = 2.0 * ((case.vocab as f64).ln() + 1.0) * inexact;
                tolerance::entropy(rounding, &Distribution::of(row)) + of_logits
            })?;
            let means = numbers(&statistics.mean_logit());
            for (i, counted) in counted.iter().enumerate() {
                let position = i / (case.time - 1) * case.time + i % (case.time - 1);
                let row = &logits[position * case.vocab..(position + 1) * case.vocab];
                let mean = if *counted { row.iter().sum::<f64>() / case.vocab as f64 } else { 0.0 };
                let bound = inexact + tolerance::mean_logit(rounding, row);
                prop_assert!(
                    means[i] == mean || (means[i] - mean).abs() <= bound,
                    "mean logit {} of {}",
                    means[i],
                    mean
                );
            }
            let gradient = gradient_of_sum(statistics.entropy(), &hidden);
            let expected = case.entropy_gradient(&counted);
            let of_logit = 40.0 * (case.vocab as f64).ln().max(1.0) * (inexact + 64.0 * rounding.unit);
            let derivative = (case.scale / case.temperature).abs();
            expect_close("gradient", DType::F32, &gradient, &expected, |_| {
                case.vocab as f64 * 2.0 * derivative * of_logit + rounding.tiny
            })?;
        }
        Ok(())
    });
}

impl Case {
    /// Of the sum of counted entropies in hidden states, by the reference.
    fn entropy_gradient(&self, counted: &[bool]) -> Vec<f64> {
        let (logits, derivatives) = self.logits();
        let mut gradient = vec![0.0; self.hidden.len()];
        for (i, _) in counted.iter().enumerate().filter(|(_, counted)| **counted) {
            let position = i / (self.time - 1) * self.time + i % (self.time - 1);
            let row = position * self.vocab..(position + 1) * self.vocab;
            let of_row = reference::token_entropy_gradient(&logits[row.clone()]);
            for ((v, g), derivative) in of_row.iter().enumerate().zip(&derivatives[row]) {
                for k in 0..self.width {
                    gradient[position * self.width + k] += g * derivative * self.weight[k * self.vocab + v];
                }
            }
        }
        gradient
    }
}

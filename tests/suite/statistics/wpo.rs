//! WPO's weights.

use super::*;

#[test]
fn wpo_weights_are_those_of_the_reference() {
    for_all(paired_batches(), |on, batch| {
        let wide_logits = wide(&batch.logits);
        let rows = batch.rows(&wide_logits);
        let log_probs = reference::token_log_probs(rows).unwrap();
        let squares = expected(batch).log_sum_sq_probs;
        let relative: Vec<f64> = log_probs.iter().zip(&squares).map(|(log_prob, square)| log_prob - square).collect();
        let half = batch.sequences / 2;
        let tokens: Vec<_> = (0..batch.sequences).map(|i| counted_values(batch, &relative, i)).collect();
        let weights: Vec<f64> = (0..half).map(|i| reference::wpo_weight(&tokens[i], &tokens[half + i])).collect();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            // Per token: the log-prob's, that of log Σ p², and their difference's.
            let inexact: Vec<f64> = (0..log_probs.len())
                .map(|i| match batch.counted()[i] {
                    false => 0.0,
                    true => {
                        tolerance::token_log_prob(rounding, log_probs[i], batch.vocab)
                            + tolerance::log_sum_sq_probs(rounding, &distribution(batch, i))
                            + 2.0 * rounding.unit * relative[i].abs()
                    }
                })
                .collect();
            let mean = |sequence: usize| {
                let (terms, n) = (&tokens[sequence], tokens[sequence].len().max(1) as f64);
                let errors = counted_values(batch, &inexact, sequence).iter().sum();
                let size: f64 = terms.iter().map(|x| x.abs()).sum();
                let sum = tolerance::sequence_sum(rounding, size, terms.len(), errors);
                sum / n + tolerance::sequence_mean(rounding, size / n)
            };
            let actual = numbers(&statistics(batch, &on.device, dtype).wpo_weights().unwrap());
            expect_close("weight", dtype, &actual, &weights, |i| {
                let exponent = weights[i].ln().abs().min(1e4);
                let inexact = mean(i) + mean(half + i) + 2.0 * rounding.unit * exponent;
                tolerance::wpo_weight(rounding, weights[i], inexact)
            })?;
        }
        Ok(())
    });
}

/// log p = log Σ p² where the model is certain of what it sees, and where it is wholly ignorant. An empty completion says
/// nothing.
#[test]
fn completions_that_the_policy_would_write_weigh_1() {
    on_every_device(|on| {
        let certain = Batch {
            sequences: 4,
            time: 3,
            vocab: 3,
            logits: [900.0, 0.0, -900.0].repeat(12),
            tokens: vec![0; 12],
            mask: [[false, true, true], [true; 3], [false; 3], [false, false, true]].concat(),
            upstream: vec![1.0; 8],
        };
        prop_assert_eq!(numbers(&statistics(&certain, &on.device, DType::F32).wpo_weights().unwrap()), [1.0, 1.0]);

        let ignorant = Batch { logits: vec![0.5; 36], tokens: vec![2; 12], ..certain };
        let weights = numbers(&statistics(&ignorant, &on.device, DType::F32).wpo_weights().unwrap());
        expect_close("weight", DType::F32, &weights, &[1.0, 1.0], |_| 1e-6)
    });
}

/// Likelier than what the policy would draw: above 1. Impossible: 0.
#[test]
fn wpo_weights_are_not_clamped() {
    on_every_device(|on| {
        let inf = f32::INFINITY;
        let batch = Batch {
            sequences: 4,
            time: 2,
            vocab: 2,
            logits: [[0.0, 1.0, 0.0, 0.0], [0.0, -inf, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]].concat(),
            tokens: [0, 1].repeat(4),
            mask: [false, true].repeat(4),
            upstream: vec![1.0; 4],
        };
        let weights = numbers(&statistics(&batch, &on.device, DType::F32).wpo_weights().unwrap());
        let p = 1.0 / (1.0 + (-1f64).exp());
        let above = (p / (p * p + (1.0 - p) * (1.0 - p))).powi(2);
        expect_close("weight", DType::F32, &weights, &[above, 0.0], |_| 1e-5)?;
        prop_assert!(weights[0] > 1.4);
        Ok(())
    });
}

#[test]
fn nan_in_one_sequence_stays_in_its_pairs_weight() {
    for_all((paired_batches(), 0..64usize), |on, (batch, place)| {
        let counted: Vec<usize> = (0..batch.seen().len()).filter(|&position| batch.seen()[position]).collect();
        let Some(&position) = counted.get(place % counted.len().max(1)) else { return Ok(()) };
        let mut poisoned = batch.clone();
        poisoned.logits[batch.row(position).start] = f32::NAN;
        let hit = position / batch.time % (batch.sequences / 2);
        let [clean, actual] =
            [batch, &poisoned].map(|batch| numbers(&statistics(batch, &on.device, DType::F32).wpo_weights().unwrap()));
        for pair in 0..clean.len() {
            let expected = if pair == hit { f64::NAN } else { clean[pair] };
            prop_assert_eq!(bits(&[actual[pair]]), bits(&[expected]), "pair {}", pair);
        }
        Ok(())
    });
}

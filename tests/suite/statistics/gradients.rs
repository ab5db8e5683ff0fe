//! The gradient of the entropy.

use super::*;

#[test]
fn the_gradient_of_the_entropy_is_that_of_the_reference_for_any_logits() {
    for_all(wild_batches(), |on, batch| {
        let mut expected = expected(batch).gradient;
        for prediction in (0..batch.upstream.len()).filter(|&i| batch.upstream[i] == 0.0) {
            expected[batch.row(batch.position(prediction))].fill(0.0); // of NaN as well
        }
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            expect_close("gradient", dtype, &measured(batch, on, dtype).gradient, &expected, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
            })?;
        }
        Ok(())
    });
}

/// `(H(z + h) − H(z − h)) / 2h` in f64, logit by logit.
#[test]
fn the_gradient_of_the_entropy_is_its_finite_difference() {
    const STEP: f64 = 1e-5;
    for_all(moderate_pairs(), |on, batch| {
        let mut logits = wide(&batch.logits);
        let sum = |logits: &[f64]| -> f64 {
            let statistics = reference::token_statistics(batch.rows(logits)).unwrap();
            statistics.iter().zip(&batch.upstream).map(|(of, &upstream)| of.entropy * f64::from(upstream)).sum()
        };
        let differences: Vec<f64> = (0..logits.len())
            .map(|i| {
                let here = logits[i];
                logits[i] = here + STEP;
                let above = sum(&logits);
                logits[i] = here - STEP;
                let below = sum(&logits);
                logits[i] = here;
                (above - below) / (2.0 * STEP)
            })
            .collect();
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let actual = measured(batch, on, dtype).gradient;
            // With a = ln p + H and |pa| ≤ 2.2 here, H‴ is a polynomial in p and a below 20: off by h²/6 of it, twice for
            // the upstream gradient, and by the rounding of at most 20 entropies of at most 2 over h.
            let truncated = 2.0 * 20.0 * STEP * STEP / 6.0 + 40.0 * f64::EPSILON / STEP;
            expect_close("gradient", dtype, &actual, &differences, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                truncated + tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
            })?;
        }
        Ok(())
    });
}

/// Σ_v ∂H/∂z_v = 0: the other side of the entropy's not knowing the common offset.
#[test]
fn the_gradient_of_the_entropy_sums_to_zero_over_the_vocabulary() {
    for_all(batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let gradient = measured(batch, on, dtype).gradient;
            let sums: Vec<f64> = gradient.chunks(batch.vocab).map(|row| row.iter().sum()).collect();
            expect_close("Σ gradient", dtype, &sums, &vec![0.0; sums.len()], |position| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(position)]));
                (0..batch.vocab).map(|v| tolerance::entropy_gradient(rounding, &of, v, 2.0)).sum()
            })?;
        }
        Ok(())
    });
}

/// Where the caller gives a gradient of exactly 0, the row gets 0, even if it holds NaN: it is out of the caller's loss.
#[test]
fn a_position_that_the_caller_leaves_out_pulls_on_nothing() {
    for_all(wild_batches(), |on, batch| {
        let expected = expected(batch);
        let upstream = |i: usize| if expected.entropy[i].is_nan() { 0.0 } else { batch.upstream[i] };
        let other = Batch { upstream: (0..batch.upstream.len()).map(upstream).collect(), ..batch.clone() };
        let gradient = measured(&other, on, DType::F32).gradient;
        for (i, entropy) in expected.entropy.iter().enumerate() {
            let row = &gradient[batch.row(batch.position(i))];
            let zero = entropy.is_nan() || other.upstream[i] == 0.0;
            prop_assert!(row.iter().all(|x| if zero { *x == 0.0 } else { x.is_finite() }), "{i}: {row:?}");
        }
        Ok(())
    });
}

/// A loss may use both: the gradients are added up.
#[test]
fn log_probs_and_entropy_may_be_in_one_loss() {
    for_all(batches(), |on, batch| {
        let (log_probs, entropy) = (batch.expected().gradient, expected(batch).gradient);
        let together: Vec<f64> = log_probs.iter().zip(&entropy).map(|(a, b)| a + b).collect();
        let rounding = Rounding::of(on, DType::F32);
        for device in [on.autodiff(), on.autodiff().gradient_checkpointing()] {
            let logits = batch.logits(&device, DType::F32).require_grad();
            let statistics = token_statistics(logits.clone(), &batch.completions(&on.device)).unwrap();
            let sum = statistics.log_probs().values() + statistics.entropy();
            let actual = gradient_of_sum(sum * upstream(batch, on, &statistics), &logits);
            expect_close("gradient", DType::F32, &actual, &together, |logit| {
                let of = Distribution::of(&wide(&batch.logits[batch.row(logit / batch.vocab)]));
                tolerance::entropy_gradient(rounding, &of, logit % batch.vocab, 2.0)
                    + tolerance::token_gradient(rounding, 2.0, batch.vocab)
                    + 2.0 * rounding.unit * together[logit].abs()
            })?;
        }
        Ok(())
    });
}

#[test]
fn only_log_probs_and_entropy_have_a_gradient() {
    on_every_device(|on| {
        let batch = small();
        for (device, tracked) in [(on.device.clone(), false), (on.autodiff(), true)] {
            let logits = batch.logits(&device, DType::F32);
            let logits = if tracked { logits.require_grad() } else { logits };
            let statistics = token_statistics(logits, &batch.completions(&device)).unwrap();
            prop_assert_eq!(statistics.entropy().is_tracked(), tracked);
            prop_assert_eq!(statistics.log_probs().values().is_tracked(), tracked);
            let sequences = statistics.sequences();
            for none in [statistics.log_sum_sq_probs(), statistics.mean_logit(), statistics.clone().detach().entropy()]
            {
                prop_assert!(!none.is_tracked());
            }
            for none in [sequences.entropy, sequences.mean_logit, statistics.wpo_weights().unwrap()] {
                prop_assert!(!none.is_tracked());
            }
            prop_assert!(!statistics.detach().log_probs().values().is_tracked());
        }
        Ok(())
    });
}

//! Values and gradients of every member.

use super::*;

#[test]
fn every_member_is_that_of_the_reference() {
    for_several(counted(moderate_sums()), |on, pairs| {
        for loss in members() {
            for dtype in on.arithmetic_dtypes() {
                expect_reference(on, dtype, &loss, pairs)?;
            }
        }
        Ok(())
    });
}

/// Log-prob sums down to −10³⁰, for every member whose reward is not an exponential of them.
#[test]
fn every_member_is_that_of_the_reference_for_sums_of_any_size() {
    for_several(counted(sums()), |on, pairs| {
        for loss in members().into_iter().filter(|loss| !is_exponential(loss) && loss.keeps_pairs_apart()) {
            expect_reference(on, DType::F32, &loss, pairs)?;
        }
        Ok(())
    });
}

/// Log-probs are finite and not above 0; then no loss and no gradient of any member is NaN, however large they are.
#[test]
fn finite_log_probs_never_give_nan_in_any_member() {
    for_several((counted(extreme_sums()), select(vec![None, Some(1e-30), Some(1e20)])), |on, (pairs, beta)| {
        for loss in members() {
            // at the ends of β too, where there is one
            let other = |beta: f64| loss.with_beta(Beta::new(beta).expect("a normal number")).unwrap_or(loss);
            let loss = beta.map_or(loss, other);
            let Outcome { losses, chosen, rejected } = pairs.outcome(&loss, on, DType::F32);
            for (what, numbers) in [("loss", losses), ("chosen derivative", chosen), ("rejected derivative", rejected)]
            {
                let loss = serde_json::to_string(&loss).unwrap();
                prop_assert!(!numbers.iter().any(|x| x.is_nan()), "{loss}: {what} {numbers:?}");
            }
        }
        Ok(())
    });
}

/// `cargo run --release -p burn-dpo-tools --bin losses -- --table` prints the numbers.
#[test]
fn every_member_is_right_over_the_whole_range_of_the_margin() {
    const MARGINS: [f64; 9] = [0.0, 17.0, -17.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30];
    on_every_device(|on| {
        for loss in members().into_iter().filter(PreferenceLoss::keeps_pairs_apart) {
            let scale = match loss {
                PreferenceLoss::Ipo { .. } => 1.0,
                loss => loss.beta().map_or(1.0, Beta::get),
            };
            // One pair per margin, of a log-ratio, or mean log-prob, on the chosen side alone. Log-probs are not above 0: what the
            // chosen completion would gain is taken from its reference, or from the other side.
            let pair = |z: f64| {
                let shift = f64::from((z / scale) as f32);
                let [chosen, rejected, c, r] = match (loss, shift > 0.0) {
                    // here the chosen side alone cancels to 1
                    (PreferenceLoss::ApoDown { .. }, true) => [0.0, -shift, 0.0, 0.0],
                    (PreferenceLoss::ApoDown { .. }, false) => [0.0, 0.0, 0.0, shift],
                    (loss, true) if loss.needs_reference() => [0.0, 0.0, -shift, 0.0],
                    (_, true) => [0.0, -shift, 0.0, 0.0],
                    (_, false) => [shift, 0.0, 0.0, 0.0],
                };
                Sums { policy: Pair { chosen, rejected }, reference: Pair { chosen: c, rejected: r } }
            };
            let pairs = Counted { sums: MARGINS.map(pair).to_vec(), token_counts: vec![[1, 1]; MARGINS.len()] };
            expect_reference(on, DType::F32, &loss, &pairs)?;
        }
        Ok(())
    });
}

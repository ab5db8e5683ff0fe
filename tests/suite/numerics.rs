//! Accuracy over the whole range, against f64. `-- --nocapture` prints how far each device really is from it.

use burn::tensor::DType;
use burn_dpo::reference;
use proptest::{prelude::*, test_runner::TestCaseResult};

use crate::{
    batch::Batch,
    devices::{Tested, on_every_device},
    host::{exact_sum, expect_close, numbers},
    pairs::{Outcome, Sums},
    tolerance::{self, Rounding},
};

/// Δ from the smallest to the largest, past every place where a format gives up: `e⁻ᶻ` is below a unit of rounding from
/// 17 (f32) and 37 (f64), subnormal from 88 and 709, nothing from 104 and 746.
const DELTAS: [f64; 14] = [0.0, 1e-30, 1e-6, 1.0, 17.0, 30.0, 37.0, 87.0, 88.0, 89.0, 104.0, 709.0, 1e4, 1e30];

#[test]
fn the_loss_and_its_gradient_are_accurate_over_the_whole_range() {
    let sums: Vec<Sums> = DELTAS.into_iter().flat_map(|delta| [delta, -delta]).map(Sums::with_delta).collect();
    on_every_device(|on| {
        for dtype in on.arithmetic_dtypes() {
            for beta in [1.0, 0.5, 0.1] {
                Outcome::of(&sums, beta, &on.device, dtype).expect(on, dtype, &sums, beta)?;
            }
            report_worst(on, dtype);
        }
        Ok(())
    });
}

/// On a fine grid and at β = 1, where Δ is z: relative, in units of rounding, where numbers are normal.
fn report_worst(on: &Tested, dtype: DType) {
    let rounding = Rounding::of(on, dtype);
    let range = if dtype == DType::F64 { 700 } else { 86 };
    let sums: Vec<Sums> =
        (-16 * range..=16 * range).map(|sixteenths| Sums::with_delta(f64::from(sixteenths) / 16.0)).collect();
    let (actual, exact) = (Outcome::of(&sums, 1.0, &on.device, dtype), Outcome::expected(&sums, 1.0));
    for (what, actual, exact) in [("value", actual.losses, exact.losses), ("derivative", actual.chosen, exact.chosen)] {
        for (side, sign) in [("z ≤ 0", -1.0), ("z ≥ 0", 1.0)] {
            let units = |i: usize| (actual[i] - exact[i]).abs() / exact[i].abs() / rounding.unit;
            let worst = (0..sums.len())
                .filter(|&i| sums[i].policy.chosen * sign >= 0.0)
                .max_by(|&a, &b| units(a).total_cmp(&units(b)))
                .expect("a grid has points");
            println!(
                "{} {dtype:?}: DPO {what}, {side}: at most {:.1} units of rounding off, at z = {}",
                on.name,
                units(worst),
                sums[worst].policy.chosen
            );
        }
    }
}

/// One position over a large vocabulary, and a few ids to ask for.
struct Row {
    name: &'static str,
    logits: Vec<f32>,
    ids: Vec<i64>,
}

/// Rows that are hard to sum: models', flat ones, and a winner with a long tail of equal losers, whose sum loses the same
/// way at every addition.
fn rows(vocab: usize) -> Vec<Row> {
    let ids = vec![0, 1, vocab as i64 / 2, vocab as i64 - 1];
    let model = |i: usize| {
        let turn = i as f64 * 0.618_033_988_749_894_9;
        (6.0 * (turn.fract() - 0.5) * (1.0 + 4.0 * (turn * 7.1).fract())) as f32
    };
    let tail = |height: f32| (0..vocab).map(|i| if i == 1 { 2.0 } else { height }).collect();
    vec![
        Row { name: "spread", logits: (0..vocab).map(model).collect(), ids: ids.clone() },
        Row { name: "flat", logits: vec![0.3; vocab], ids: ids.clone() },
        Row { name: "winner, near tail", logits: tail(1.9), ids: ids.clone() },
        Row { name: "winner, far tail", logits: tail(-6.7), ids },
    ]
}

impl Row {
    /// Each id as a sequence of its own.
    fn batch(&self) -> Batch {
        let (sequences, vocab) = (self.ids.len(), self.logits.len());
        let nothing = vec![0.0; vocab];
        Batch {
            sequences,
            time: 2,
            vocab,
            logits: [self.logits.as_slice(), &nothing].concat().repeat(sequences),
            tokens: self.ids.iter().flat_map(|&id| [0, id]).collect(),
            mask: [false, true].repeat(sequences),
            upstream: vec![1.0; sequences],
        }
    }

    /// Log-probs in `dtype` against f64 on the same logits as that format holds them, within `bound(log p)`.
    fn check(&self, on: &Tested, dtype: DType, bound: impl Fn(f64) -> f64) -> TestCaseResult {
        let batch = self.batch();
        let logits = numbers(&batch.logits(&on.device, dtype));
        let exact = reference::token_log_probs(batch.rows(&logits)).unwrap();
        let actual = numbers(&batch.score(&on.device, dtype).values());
        let worst = actual.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        println!("{} {dtype:?}: log-probs over {} ids, {}: at most {worst:.1e} off", on.name, batch.vocab, self.name);
        expect_close(self.name, dtype, &actual, &exact, |i| bound(exact[i]))
    }
}

/// Checks all, then fails if any did: what was printed is the whole picture.
fn all(checks: impl Iterator<Item = TestCaseResult>) -> TestCaseResult {
    checks.collect::<Vec<_>>().into_iter().collect()
}

#[test]
fn half_precision_logits_lose_nothing_beyond_their_own_rounding() {
    on_every_device(|on| {
        for dtype in [DType::F16, DType::BF16].into_iter().filter(|&dtype| on.computes_in(dtype)) {
            let bound = |log_prob: f64| tolerance::HALF_INPUT * log_prob.abs().max(1.0);
            all([50, 32_000].into_iter().flat_map(rows).map(|row| row.check(on, dtype, bound)))?;
        }
        Ok(())
    });
}

#[test]
fn log_probs_over_a_vocabulary_of_256_k_are_accurate() {
    on_every_device(|on| {
        all(rows(1 << 18).iter().map(|row| row.check(on, DType::F32, |_| tolerance::WIDE_VOCABULARY)))
    });
}

/// A preference is the small difference of large sums: 4096 tokens, each rounded the same way if their sum is.
#[test]
fn the_sum_over_a_long_completion_is_rounded_about_once() {
    on_every_device(|on| {
        let time = 4097;
        for gap in [0.01f32, 0.1, 1.7, 3.3, 6.6, -6.0, -9.0, -12.0] {
            let near = |t: usize| gap * (1.0 + (t as f32 * 0.618_034).fract() / 50.0);
            let batch = Batch {
                sequences: 1,
                time,
                vocab: 2,
                logits: (0..time).flat_map(|t| [near(t), 0.0]).collect(),
                tokens: vec![1; time],
                mask: vec![true; time],
                upstream: vec![1.0; time - 1],
            };
            let scored = batch.score(&on.device, DType::F32);
            let exact = exact_sum(&numbers(&scored.values()));
            let actual = numbers(&scored.sequences().sum);
            let ulps = (actual[0] - exact).abs() / ulp(exact);
            println!("{}: a sum of {} log-probs, {exact:.3}: {ulps:.2} ulp off", on.name, time - 1);
            expect_close("sum", DType::F32, &actual, &[exact], |_| tolerance::LONG_SUM_ULPS * ulp(exact))?;
        }
        Ok(())
    });
}

/// The distance of f32 numbers around `x`.
fn ulp(x: f64) -> f64 {
    let x = (x as f32).abs();
    f64::from(f32::from_bits(x.to_bits() + 1) - x)
}

/// The largest finite logits, far apart and all alike.
#[test]
fn no_finite_logit_overflows() {
    on_every_device(|on| {
        let rows = [[f32::MAX; 2], [f32::MIN; 2], [f32::MAX, 0.0], [0.0, f32::MIN], [0.0; 2]];
        let batch = Batch::of_rows(&rows);
        let scored = batch.score_with_gradient(&on.device, DType::F32);
        let half = 0.5f64.ln();
        expect_close("log-prob", DType::F32, &scored.log_probs, &[half, half, 0.0, 0.0], |_| 1e-7)?;
        prop_assert!(scored.gradient.iter().all(|partial| partial.is_finite()), "{:?}", scored.gradient);
        Ok(())
    });
}

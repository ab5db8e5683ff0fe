//! Gradients against the f64 reference, and against finite differences of it.

use burn::tensor::DType;
use burn_dpo::{
    dpo_loss,
    reference::{self, Pair, SequenceLogProb},
    token_log_probs,
};

use crate::{
    batch::Batch,
    devices::{Tested, for_all},
    generators::{batches, betas, moderate_pairs, wild_batches},
    host::{expect_close, floats, gradient_of_sum, numbers},
    pairs::{Sums, beta},
    tolerance::{self, Margin, Rounding},
};

#[test]
fn the_gradient_of_a_log_prob_is_that_of_the_reference_for_any_logits() {
    for_all(wild_batches(), |on, batch| {
        for dtype in on.arithmetic_dtypes() {
            let rounding = Rounding::of(on, dtype);
            let (actual, expected) = (batch.score_with_gradient(&on.device, dtype), batch.expected());
            let bound = tolerance::token_gradient(rounding, 2.0, batch.vocab);
            expect_close("gradient", dtype, &actual.gradient, &expected.gradient, |_| bound)?;
        }
        Ok(())
    });
}

/// Through the mean as well: 1/count at each counted token.
#[test]
fn the_gradient_of_a_mean_is_that_of_the_sum_over_the_count() {
    for_all(batches(), |on, batch| {
        let logits = batch.logits(&on.autodiff(), DType::F32).require_grad();
        let scored = token_log_probs(logits.clone(), &batch.completions(&on.device)).unwrap();
        let actual = gradient_of_sum(scored.sequences().mean(), &logits);
        let counts = batch.expected().token_counts;
        let per_token = |prediction: usize| 1.0 / counts[prediction / (batch.time - 1)].max(1) as f32;
        let upstream = (0..batch.upstream.len()).map(per_token).collect();
        let expected = Batch { upstream, ..batch.clone() }.expected().gradient;
        let rounding = Rounding::of(on, DType::F32);
        // The upstream gradient is a division's, twice rounded.
        let bound = tolerance::token_gradient(rounding, 1.0, batch.vocab) + 12.0 * rounding.unit;
        expect_close("gradient", DType::F32, &actual, &expected, |_| bound)
    });
}

/// ∂ℓ/∂z_v = ∓β σ(−βΔ) · (1[v = token] − p_v) at every counted position: the whole chain, from logits to loss.
#[test]
fn the_gradient_from_logits_to_loss_is_the_product_of_the_references_gradients() {
    for_all((moderate_pairs(), betas()), |on, (batch, beta)| {
        for dtype in on.arithmetic_dtypes() {
            let (rounding, chain) = (Rounding::of(on, dtype), Chain::new(batch, *beta));
            let (losses, actual) = chain.on_device(on, dtype);
            let sums = chain.sums(&chain.policy);
            let inexact = chain.inexact(rounding);
            let margin = |pair: usize| Margin { inexact: inexact[pair], ..sums[pair].margin(*beta) };
            let expected: Vec<_> =
                sums.iter().map(|pair| reference::dpo_loss(pair.policy, pair.reference, *beta)).collect();
            let values: Vec<f64> = expected.iter().map(|loss| loss.value).collect();
            expect_close("loss", dtype, &losses, &values, |pair| {
                tolerance::dpo_value(rounding, margin(pair), values[pair])
            })?;
            let per_logit = batch.time * batch.vocab;
            expect_close("gradient", dtype, &actual, &chain.gradient(), |logit| {
                let pair = logit / per_logit % sums.len();
                let derivative = expected[pair].gradient.chosen;
                tolerance::dpo_slope(rounding, margin(pair), derivative)
                    + tolerance::token_gradient(rounding, derivative, batch.vocab)
            })?;
        }
        Ok(())
    });
}

/// And that product is the derivative of the loss: `(ℓ(z + h) − ℓ(z − h)) / 2h` in f64, logit by logit.
#[test]
fn the_gradient_from_logits_to_loss_is_its_finite_difference() {
    for_all((moderate_pairs(), 0.01..1.0f64), |on, (batch, beta)| {
        let chain = Chain::new(batch, *beta);
        let differences = chain.finite_differences();
        for dtype in on.arithmetic_dtypes() {
            let (_, actual) = chain.on_device(on, dtype);
            let rounding = Rounding::of(on, dtype);
            // |ℓ‴| ≤ 1 here, so the difference is off by h²/6 and by the rounding of ℓ ≤ 100 over h; f32 by its own bound,
            // its log-probs, of at most 10 tokens a pair and 20 nats each, by 4e-5 in Δ.
            let own = tolerance::token_gradient(rounding, 1.0, batch.vocab) + 1000.0 * rounding.unit;
            let bound = STEP * STEP / 6.0 + 100.0 * f64::EPSILON / STEP + own;
            expect_close("gradient", dtype, &actual, &differences, |_| bound)?;
        }
        Ok(())
    });
}

/// The step at which truncation and rounding are about equal.
const STEP: f64 = 1e-5;

/// From the policy's logits to the losses, by the f64 reference. The reference model's logits are the policy's, halved.
struct Chain<'a> {
    batch: &'a Batch,
    beta: f64,
    policy: Vec<f64>,
    reference: Vec<f64>,
}

impl<'a> Chain<'a> {
    fn new(batch: &'a Batch, beta: f64) -> Self {
        let policy: Vec<f64> = batch.logits.iter().copied().map(f64::from).collect();
        let reference = policy.iter().map(|logit| logit / 2.0).collect();
        Self { batch, beta, policy, reference }
    }

    /// Losses and gradient, by the library.
    fn on_device(&self, on: &Tested, dtype: DType) -> (Vec<f64>, Vec<f64>) {
        let completions = self.batch.completions(&on.device);
        let pairs = |logits| token_log_probs(logits, &completions).unwrap().sequences().into_pairs().unwrap();
        let shape = [self.batch.sequences, self.batch.time, self.batch.vocab];
        let logits = floats(&self.policy, shape, &on.autodiff(), dtype).require_grad();
        let reference = pairs(floats(&self.reference, shape, &on.device, dtype));
        let losses = dpo_loss(&pairs(logits.clone()), &reference, beta(self.beta)).unwrap();
        (numbers(&losses), gradient_of_sum(losses, &logits))
    }

    fn sequences(&self, logits: &[f64]) -> Vec<SequenceLogProb> {
        reference::sequence_log_probs(self.batch.rows(logits)).unwrap()
    }

    fn sums(&self, policy: &[f64]) -> Vec<Sums> {
        let [policy, reference] = [policy, &self.reference].map(|logits| self.sequences(logits));
        let half = self.batch.sequences / 2;
        let pair = |of: &[SequenceLogProb], i: usize| Pair { chosen: of[i].sum, rejected: of[half + i].sum };
        (0..half).map(|i| Sums { policy: pair(&policy, i), reference: pair(&reference, i) }).collect()
    }

    fn loss(&self, policy: &[f64]) -> f64 {
        let losses =
            self.sums(policy).into_iter().map(|pair| reference::dpo_loss(pair.policy, pair.reference, self.beta));
        losses.map(|loss| loss.value).sum()
    }

    /// By the chain rule.
    fn gradient(&self) -> Vec<f64> {
        let sums = self.sums(&self.policy);
        let half = sums.len();
        let derivatives = |sequence: usize| {
            let pair = sums[sequence % half];
            let derivative = reference::dpo_loss(pair.policy, pair.reference, self.beta).gradient;
            if sequence < half { derivative.chosen } else { derivative.rejected }
        };
        let width = self.batch.time - 1;
        let upstream: Vec<f64> =
            (0..self.batch.sequences * width).map(|prediction| derivatives(prediction / width)).collect();
        reference::token_log_probs_gradient(self.batch.rows(&self.policy), &upstream).unwrap()
    }

    fn finite_differences(&self) -> Vec<f64> {
        let mut policy = self.policy.clone();
        (0..policy.len())
            .map(|i| {
                let at = |step: f64, policy: &mut Vec<f64>| {
                    policy[i] = self.policy[i] + step;
                    let loss = self.loss(policy);
                    policy[i] = self.policy[i];
                    loss
                };
                (at(STEP, &mut policy) - at(-STEP, &mut policy)) / (2.0 * STEP)
            })
            .collect()
    }

    /// How far each pair's Δ may be off: the sum of what its four log-probs may.
    fn inexact(&self, rounding: Rounding) -> Vec<f64> {
        let half = self.batch.sequences / 2;
        let mut inexact = vec![0.0; half];
        for logits in [&self.policy, &self.reference] {
            let log_probs = reference::token_log_probs(self.batch.rows(logits)).unwrap();
            for (i, sequence) in self.sequences(logits).iter().enumerate() {
                let width = self.batch.time - 1;
                let tokens = log_probs[i * width..(i + 1) * width].iter();
                let tokens =
                    tokens.map(|&log_prob| tolerance::token_log_prob(rounding, log_prob, self.batch.vocab)).sum();
                inexact[i % half] += tolerance::sequence_sum(rounding, sequence.sum, sequence.token_count, tokens);
            }
        }
        inexact
    }
}

/// A gradient that arrives in f16 or bf16 has been rounded once on the way out, from the f32 one.
#[test]
fn a_half_precision_gradient_is_the_single_precision_one_rounded_once() {
    for_all(batches(), |on, batch| {
        for (dtype, unit) in [(DType::F16, 2f64.powi(-11)), (DType::BF16, 2f64.powi(-8))] {
            if !on.computes_in(dtype) {
                continue;
            }
            let rounded: Vec<f64> = numbers(&batch.logits(&on.device, dtype));
            let logits = rounded.iter().map(|&logit| logit as f32).collect();
            let single = Batch { logits, ..batch.clone() }.score_with_gradient(&on.device, DType::F32).gradient;
            let half = batch.score_with_gradient(&on.device, dtype).gradient;
            // f16 is subnormal below 2⁻¹⁴, where its steps are 2⁻²⁴.
            expect_close("gradient", DType::F32, &half, &single, |i| unit * single[i].abs() + 2f64.powi(-25))?;
        }
        Ok(())
    });
}

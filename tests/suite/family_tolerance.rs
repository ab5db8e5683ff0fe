//! How far a member of the family may be from the f64 reference: one derivation for all of them.
//!
//! A computed loss is the exact loss of inputs that are a little off, and then rounded a few times more:
//!
//! | part                | bound                                                                                         |
//! |---------------------|-----------------------------------------------------------------------------------------------|
//! | inputs              | what the exact loss does when each log-prob sum moves by `η = (8 + D)·u·(|a| + |b| + |target|)`: the log-ratios, their difference, division by a count, β, the target and the product round, none by more than `u` (`D·u` for a division) of one of these |
//! | score of a divergence | what the exact loss does when `z` moves by `δz = K·u·Σ|scores|·β`: scores are products of functions that err by a factor `1 ± K·u` |
//! | evaluation          | `K·u·Σ|terms|`: the terms whose sum the value or the derivative is, each a product of such functions |
//! | what is subnormal   | `8·(1 + β)·(1 + s′)·(1 + |ℓ′|)·tiny`                                                                              |
//!
//! `K = 16 + 2·E(0) + E′·min(|z|, 90) + 3·D + L`: at most three of `exp`, division and logarithm follow one another in any term, with a dozen
//! sums and products; beyond 90 an exponential is nothing or its sum's whole. How far the exact loss moves is asked of the
//! reference itself, at the corners of the box that the inputs may be in.

use burn_dpo::{
    Beta, FDivergence, PreferenceLoss,
    reference::{LossAndGradient, Pair, SequenceLogProb, SequencePair},
};

use crate::{family::of_pair, tolerance::Rounding};

/// Bounds on the absolute error of the value and of both derivatives.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    pub value: f64,
    pub chosen: f64,
    pub rejected: f64,
}

impl Bounds {
    /// At least the distance of the two.
    fn cover(&mut self, a: LossAndGradient, b: LossAndGradient) {
        let distance = |a: f64, b: f64| if a == b { 0.0 } else { (a - b).abs() };
        self.value = self.value.max(distance(a.value, b.value));
        self.chosen = self.chosen.max(distance(a.gradient.chosen, b.gradient.chosen));
        self.rejected = self.rejected.max(distance(a.gradient.rejected, b.gradient.rejected));
    }

    fn add(&mut self, value: f64, chosen: f64, rejected: f64) {
        self.value += value;
        self.chosen += chosen;
        self.rejected += rejected;
    }
}

/// For one pair under a loss that keeps pairs apart.
pub fn bounds(rounding: Rounding, loss: &PreferenceLoss, policy: SequencePair, reference: Pair) -> Bounds {
    let exact = of_pair(loss, policy, reference);
    let view = View::of(loss, policy, reference);
    let unit = rounding.bound(1.0);
    let mut bounds = Bounds::default();

    let eta = (8.0 + rounding.division) * unit * (view.a.abs() + view.b.abs() + view.target) + 4.0 * rounding.tiny;
    for (chosen, rejected) in [(eta, eta), (eta, -eta), (-eta, eta), (-eta, -eta)] {
        bounds.cover(of_pair(loss, moved(policy, chosen, rejected), reference), exact);
    }

    let k = rounding.evaluation(view.z) * unit;
    if let Some(plain) = under_reverse_kl(loss) {
        let at = |z: f64| {
            let sum = |sum, token_count| SequenceLogProb { sum, token_count };
            let policy =
                SequencePair { chosen: sum(view.sum_for(z), view.counts[0]), rejected: sum(0.0, view.counts[1]) };
            of_pair(&plain, policy, Pair { chosen: 0.0, rejected: 0.0 })
        };
        let within = |z: f64| z.clamp(-1e300, 1e300);
        let (z, delta) = (within(view.z), within(k * view.scores + 4.0 * rounding.tiny));
        let here = at(z);
        for there in [at(within(z - delta)), at(within(z + delta))] {
            let derivative = (there.gradient.chosen - here.gradient.chosen).abs();
            let per_count = |count: usize| view.counts[0] as f64 / count.max(1) as f64;
            bounds.add(
                (there.value - here.value).abs(),
                derivative * view.rates[0],
                derivative * view.rates[1] * if view.per_token { per_count(view.counts[1]) } else { 1.0 },
            );
        }
    }

    let terms = terms(loss, &view, exact);
    bounds.add(k * terms[0], k * terms[1], k * terms[2]);
    // what a subnormal factor is multiplied by: the derivative in z, which only squares have above 1 by itself
    let steep = if matches!(loss, PreferenceLoss::Ipo { .. }) { 1.0 + 2.0 * (view.z.abs() + view.target) } else { 1.0 };
    let subnormal = |rate: f64| 8.0 * (1.0 + view.beta) * (1.0 + rate) * steep * rounding.tiny;
    bounds.add(subnormal(0.0), subnormal(view.rates[0]), subnormal(view.rates[1]));
    bounds
}

fn moved(policy: SequencePair, chosen: f64, rejected: f64) -> SequencePair {
    let side = |side: SequenceLogProb, by: f64| SequenceLogProb { sum: side.sum + by, ..side };
    SequencePair { chosen: side(policy.chosen, chosen), rejected: side(policy.rejected, rejected) }
}

/// What a loss sees of a pair.
struct View {
    beta: f64,
    /// Log-ratios, or log-probs where there is no reference.
    a: f64,
    b: f64,
    z: f64,
    counts: [usize; 2],
    per_token: bool,
    /// `β (|s(a)| + |s(b)|)` and the size of `z`, per token where the loss is.
    scores: f64,
    /// `s′(a)`, `s′(b)`.
    rates: [f64; 2],
    /// A number that the margin is held against, in nats of a sum.
    target: f64,
}

impl View {
    fn of(loss: &PreferenceLoss, policy: SequencePair, reference: Pair) -> Self {
        use PreferenceLoss::*;
        let beta = match loss {
            Ipo { .. } => 1.0,
            loss => loss.beta().map_or(1.0, Beta::get),
        };
        let sums = policy.sums();
        let (a, b) = match loss.needs_reference() {
            true => (sums.chosen - reference.chosen, sums.rejected - reference.rejected),
            false => (sums.chosen, sums.rejected),
        };
        let counts = [policy.chosen.token_count, policy.rejected.token_count];
        let per_token =
            matches!(loss, Ipo { .. } | SigmoidNorm { .. } | Simpo { .. } | Alphapo { .. } | Orpo {} | Nll {});
        let divisor = |side: usize| if per_token { counts[side].max(1) as f64 } else { 1.0 };
        let (score, derivative) = score(loss);
        let (of_a, of_b) = match loss {
            Alphapo { .. } => (score(a / divisor(0)), score(b / divisor(1))),
            _ => (score(a) / divisor(0), score(b) / divisor(1)),
        };
        let of_log_two = if divergence(loss) == Some(FDivergence::JsDivergence) { std::f64::consts::LN_2 } else { 0.0 };
        let largest_count = counts[0].max(counts[1]).max(1) as f64;
        let target = match *loss {
            Ipo { beta, .. } => 0.5 / beta.get() * largest_count,
            SppoHard { beta } => 0.5 / beta.get(),
            Odpo { beta, offset } => offset.get().abs() / beta.get(),
            RDpo { beta, length_weight } => length_weight.get() * (counts[0] + counts[1]) as f64 / beta.get(),
            Simpo { beta, gamma } | Alphapo { beta, gamma, .. } => gamma.get().abs() / beta.get() * largest_count,
            Slic { delta } => delta.get().abs(),
            Hinge { beta, .. } => 1.0 / beta.get(),
            // the penalty is a log-ratio times λ
            Dpop { lambda, .. } => (lambda.get() + 1.0) * a.abs(),
            _ => 0.0,
        };
        Self {
            beta,
            a,
            b,
            z: (beta * (of_a - of_b)).clamp(-1e300, 1e300),
            counts,
            per_token,
            // log 2 + log σ cancels near 0
            scores: beta * (of_a.abs() + of_b.abs() + 4.0 * of_log_two),
            rates: [derivative(a), derivative(b)],
            target,
        }
    }

    /// The sum whose reward margin is `z` under reverse KL.
    fn sum_for(&self, z: f64) -> f64 {
        z / self.beta * if self.per_token { self.counts[0] as f64 } else { 1.0 }
    }
}

type Function = Box<dyn Fn(f64) -> f64>;

/// `s` and `s′`, plainly.
fn score(loss: &PreferenceLoss) -> (Function, Function) {
    let exponential = |kappa: f64| -> (Function, Function) {
        if kappa == 0.0 {
            return (Box::new(|u| u), Box::new(|_| 1.0));
        }
        (Box::new(move |u| (kappa * u).exp_m1() / kappa), Box::new(move |u| (kappa * u).exp()))
    };
    if let PreferenceLoss::Alphapo { alpha, .. } = loss {
        return exponential(-alpha.get());
    }
    match divergence(loss) {
        Some(FDivergence::ForwardKl) => exponential(-1.0),
        Some(FDivergence::AlphaDivergence { alpha }) => exponential(alpha.get() - 1.0),
        Some(FDivergence::JsDivergence) => (
            Box::new(|u: f64| (-(-u).max(0.0) - (-u.abs()).exp().ln_1p()) + std::f64::consts::LN_2),
            Box::new(|u: f64| 1.0 / (1.0 + u.exp())),
        ),
        Some(FDivergence::ReverseKl) | None => exponential(0.0),
    }
}

fn divergence(loss: &PreferenceLoss) -> Option<FDivergence> {
    use PreferenceLoss::*;
    match *loss {
        Dpo { divergence, .. }
        | Cdpo { divergence, .. }
        | Robust { divergence, .. }
        | Hinge { divergence, .. }
        | Ipo { divergence, .. }
        | SigmoidNorm { divergence, .. }
        | ExoPair { divergence, .. }
        | Discopop { divergence, .. } => Some(divergence),
        _ => None,
    }
}

/// The same loss of the same `z`, where another divergence makes it; `None` where no score is computed.
fn under_reverse_kl(loss: &PreferenceLoss) -> Option<PreferenceLoss> {
    use PreferenceLoss::*;
    let mut plain = *loss;
    match &mut plain {
        Dpo { divergence, .. }
        | Cdpo { divergence, .. }
        | Robust { divergence, .. }
        | Hinge { divergence, .. }
        | Ipo { divergence, .. }
        | SigmoidNorm { divergence, .. }
        | ExoPair { divergence, .. }
        | Discopop { divergence, .. }
            if *divergence != FDivergence::ReverseKl =>
        {
            *divergence = FDivergence::ReverseKl;
        }
        Alphapo { beta, gamma, .. } => plain = Simpo { beta: *beta, gamma: *gamma },
        _ => return None,
    }
    Some(plain)
}

/// `Σ|terms|` of value, chosen derivative and rejected derivative: their own size unless terms cancel.
fn terms(loss: &PreferenceLoss, view: &View, exact: LossAndGradient) -> [f64; 3] {
    use PreferenceLoss::*;
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let z = view.z;
    let both = |value: f64, derivative: f64| {
        let per = |side: usize| {
            let count = if view.per_token { view.counts[side].max(1) as f64 } else { 1.0 };
            derivative * view.beta * view.rates[side] / count
        };
        [value, per(0), per(1)]
    };
    let size = [exact.value.abs(), exact.gradient.chosen.abs(), exact.gradient.rejected.abs()];
    match *loss {
        Cdpo { label_smoothing, .. } | Cpo { label_smoothing, .. } => {
            let epsilon = label_smoothing.get();
            both(size[0], epsilon * sigmoid(z) + (1.0 - epsilon) * sigmoid(-z))
        }
        Robust { label_smoothing, .. } => {
            let bonus = label_smoothing.get() / (1.0 - 2.0 * label_smoothing.get());
            both(softplus(-z) + bonus * z.abs(), sigmoid(-z) + bonus)
        }
        ExoPair { label_smoothing, .. } => {
            let epsilon = label_smoothing.get();
            let (right, wrong) = (sigmoid(z), sigmoid(-z));
            let value = right * (softplus(-z) + (-epsilon).ln_1p().abs()) + wrong * (softplus(z) + epsilon.ln().abs());
            both(value, right * wrong * (z.abs() + ((1.0 - epsilon) / epsilon).ln().abs()))
        }
        Discopop { temperature, .. } => {
            let tau = temperature.get();
            let m = sigmoid(z / tau);
            let modulated = (-z - softplus(-z / tau)).exp();
            let derivative = sigmoid(-z) * (1.0 - m) + modulated + (modulated + m * softplus(-z)) * (1.0 - m) / tau;
            // z and z/τ err by u of themselves, which m and the exponential make relative
            let exponents = z.abs() * (1.0 + 1.0 / tau);
            both(size[0] + modulated * exponents, derivative * (1.0 + exponents))
        }
        NcaPair { .. } => {
            let reward = view.beta * view.a;
            [size[0], view.beta * (0.5 * sigmoid(reward) + sigmoid(-reward)), size[2]]
        }
        ApoDown { .. } => {
            let derivative = |x: f64| sigmoid(x) * sigmoid(-x);
            let chosen = view.beta * (derivative(view.beta * view.a) + derivative(z));
            [size[0], chosen, size[2]]
        }
        Orpo {} => {
            // exponentials of −log(1 + e^y) − log(1 − e^x), each of which errs by K·u relative to itself
            let log_rest = |sum: f64, count: usize| {
                let mean = (sum / count.max(1) as f64).min(-f64::from(f32::MIN_POSITIVE));
                (-mean.exp_m1()).ln()
            };
            let rest = [log_rest(view.a, view.counts[0]), log_rest(view.b, view.counts[1])];
            let exponent = |side: usize| 1.0 + rest[0].abs() + rest[1].abs() + rest[side].abs() + view.z.abs();
            // a small loss is e^−y, and y errs by u·|log(1 − e^x)|
            [size[0] * (1.0 + rest[0].abs() + rest[1].abs()), size[1] * exponent(0), size[2] * exponent(1)]
        }
        _ => size,
    }
}

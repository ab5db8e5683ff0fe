//! How far a result may be from the f64 reference on the same inputs: the one table of accuracy bounds.
//!
//! `u` is the format's unit of rounding, 2⁻²⁴ in f32 and 2⁻⁵³ in f64: `+ − × ÷` and a change of format each err by a
//! factor `1 ± u`. `E(x)` is the relative error of `exp(x)` and `D` that of a division, which on a GPU is not `u`; `L` is
//! the relative error of `ln` above 2 and `L₁` its absolute error on `[1, 2]`: see [`Rounding`]. `tiny` is what is lost
//! where numbers become subnormal. `V` is the vocabulary, `z = βΔ`.
//!
//! | function                    | bound on the absolute error, of first order                                        |
//! |-----------------------------|------------------------------------------------------------------------------------|
//! | [`token_log_prob`]          | `u·(2·|log p| + V − 1) + E(0) + (E′ + u + L)·ln V + L₁`                            |
//! | [`token_gradient`]          | `(2·E(0) + (E′ + u)·(ln V + 1) + u·(V + 3) + 2·D) · |upstream|`                    |
//! | [`sequence_sum`]            | the tokens' bounds, and `u·(|Σ| + n²/16)`                                          |
//! | [`sequence_mean`]           | `D·|mean|`, for the sum that there is                                              |
//! | [`entropy`], [`log_sum_sq_probs`], [`entropy_gradient`] | of the moments of `d = z_max − z` under `p`; see there |
//! | [`mean_logit`]              | `u·(V + 1)·mean|z|`                                                                |
//! | [`wpo_weight`]              | `w·(expm1 δ + E(ln w))`, for an exponent within `δ`                                |
//! | [`dpo_margin`]              | `δz = u·β·(|a| + |b| + |Δ|) + 2u·|z|` for log-ratios `a`, `b`, `Δ = a − b`; and `β` times the error of `Δ` |
//! | [`dpo_value`]               | `min(δz, ℓ·expm1 δz) + ℓ·(1.09·(E(z) + D + u) + 4u) + 4·tiny`                      |
//! | [`dpo_slope`]               | `|derivative|·(expm1(δz·σ(z + δz)) + E(z) + D + 3u) + 4·(1 + β)·tiny`                   |
//! | [`reward`]                  | `3u·β·|a| + tiny`                                                                  |
//! | [`family_tolerance`](crate::family_tolerance) | of every other member of the family: derived there      |
//! | [`k3`]                      | `11u·k₃` where `|x| ≤ 1`, else `u·|x|·|e^−x − 1| + E(x)·e^−x + u·(|e^−x − 1| + k₃)` |
//! | [`k3_sum`]                  | the tokens' bounds, and `u·n·Σ`                                                    |
//! | [`HALF_INPUT`], [`WIDE_VOCABULARY`] | what the design promises for f16 and bf16 input, and for f32 at 256 k ids  |
//! | [`GOLDEN_VALUE`], [`GOLDEN_GRADIENT`], [`GOLDEN_WIDE`] | what the issue promises against another implementation                   |
//!
//! First-order bounds are enlarged by [`SECOND_ORDER`], and in f64 doubled, for there the reference errs as much; nothing
//! else is.

use burn::tensor::DType;

use crate::devices::Tested;

/// Per token, times `max(1, |log p|)`: f16 or bf16 logits against f64 on the same rounded logits. In f32 that is 34 units
/// of rounding; `2·|log p|` and a dozen of `exp` and `ln` leave some 20 for the sum over the vocabulary.
pub const HALF_INPUT: f64 = 2e-6;

/// Per token: f32 logits over a vocabulary of 256 k = 64³, added up in three levels of 64. Equal terms, the worst case,
/// lose half a unit per addition, 96 in all (5.7e-6), beside 2 for each of at most 25 nats of `|log p|` (3e-6).
pub const WIDE_VOCABULARY: f64 = 1e-5;

/// Relative: entropy, `log Σ p²` and, near certainty, the norm of the entropy's gradient, for 256 k ids at most 75 below the
/// largest. On a GPU `exp(−75)` errs by 306 units of rounding and the subtraction before it makes 75 more; a sum in three
/// levels of 64 adds 192, the rest a few dozen: 630 units, 3.8e-5, and the second order of what each of them is the most.
pub const NEAR_CERTAINTY: f64 = 4e-5;

/// Relative: f32 against the golden values. Theirs are f64; ours err by `u·|Σ| ≈ 1e-5` nats in a log-prob of −170, and
/// by `β` times that in a reward.
///
/// Except for a mean margin that is less than a fifth of the mean rewards it is the difference of (four of the file's 230
/// runs): there the error is relative to those rewards. In one case four margins of up to 2.3 nats cancel
/// to 0.09, and rounding the exact log-probs of tokens to f32, with nothing else rounded, moves it by 1.3e-5 of itself.
/// [`GOLDEN_WIDE`] has no exception.
pub const GOLDEN_VALUE: f64 = 1e-5;

/// Relative: f64 against the golden values, gradients relative to their norm. `u` is 2⁻²⁹ of f32's, so that 1e-5 there is
/// 2e-14 here, and 1e-13 for the margin above. More is lost in the file itself, where a distribution is nearly certain: its
/// smallest `log Σ p²`, −5e-4, is the logarithm of a number near 1 and errs by some `6u`, 1.4e-12 of itself.
pub const GOLDEN_WIDE: f64 = 1e-11;

/// Relative to the gradient's norm: f32 against the golden values.
pub const GOLDEN_GRADIENT: f64 = 1e-4;

/// The products of two errors that first-order bounds leave out: none of the bounds used comes near 1e-3.
const SECOND_ORDER: f64 = 1.001;

/// How a device rounds in one format. All but `unit` and `tiny` are in units of rounding.
#[derive(Debug, Clone, Copy)]
pub struct Rounding {
    /// `u`.
    pub unit: f64,
    /// `E(0)`.
    exp_at_zero: f64,
    /// `E(0)` of the exponentials over a vocabulary, which on a CPU are the crate's own.
    row_exp_at_zero: f64,
    /// `E′`: `E(x) = E(0) + E′·|x|`.
    exp_per_unit: f64,
    /// `L`.
    log: f64,
    /// `L₁`.
    log_near_one: f64,
    /// `D`.
    pub division: f64,
    /// Rounding of a subnormal number, or the smallest normal one where the device may make subnormals 0.
    pub tiny: f64,
    /// Below this an exponential over a vocabulary may count as 0.
    row_tiny: f64,
}

impl Rounding {
    /// Of a device in f32 (which f16 and bf16 are computed in) or f64.
    ///
    /// On a CPU `exp` and `ln` are the platform's, within 1 ulp (2 units); over a vocabulary `exp` is the crate's, within 1.1
    /// ulp, and 0 below e^−86.99 (f32) and e^−708.3. On a GPU WebGPU's specification counts, which
    /// CUDA's functions keep: `exp` 3 + 2·|x| ulp, `ln` 3 ulp and 2⁻²¹ near 1, division 2.5 ulp, subnormals may be 0.
    pub fn of(on: &Tested, dtype: DType) -> Self {
        let (unit, subnormal, normal) = match dtype {
            DType::F64 => (f64::EPSILON / 2.0, f64::from_bits(1), f64::MIN_POSITIVE),
            _ => (f64::from(f32::EPSILON) / 2.0, f64::from(f32::from_bits(1)), f64::from(f32::MIN_POSITIVE)),
        };
        match on.name {
            "flex" | "ndarray" => Self {
                unit,
                exp_at_zero: 2.0,
                row_exp_at_zero: 2.2,
                exp_per_unit: 0.0,
                log: 2.0,
                log_near_one: 2.0 * std::f64::consts::LN_2,
                division: 1.0,
                tiny: subnormal,
                row_tiny: if dtype == DType::F64 { 3e-308 } else { 1.7e-38 },
            },
            _ => Self {
                unit,
                exp_at_zero: 6.0,
                row_exp_at_zero: 6.0,
                exp_per_unit: 4.0,
                log: 6.0,
                log_near_one: 8.0,
                division: 5.0,
                tiny: normal,
                row_tiny: normal,
            },
        }
    }

    /// `K` of [`family_tolerance`](crate::family_tolerance), in units.
    pub fn evaluation(self, z: f64) -> f64 {
        16.0 + 2.0 * self.exp_at_zero + self.exp_per_unit * z.abs().min(90.0) + 3.0 * self.division + self.log
    }

    pub fn bound(self, units: f64) -> f64 {
        let sides = if self.unit < 1e-9 { 2.0 } else { 1.0 };
        sides * units * self.unit * SECOND_ORDER
    }
}

/// `log p = (z_y − m) − ln S`, `S = Σ exp s_v`, `s_v = z_v − m ≤ 0`, `p_v = exp(s_v)/S`.
///
/// - `s_v` errs by `u·|s_v|`, which `exp` makes relative, beside its own `E(s_v)`. In `S` these weigh `p_v`, and
///   `Σ p_v |s_v| = entropy − ln(1/p_max) ≤ ln V`; its `V − 1` additions err by `u` each.
/// - `ln` turns the relative error of `S` into an absolute one and adds its own, as `0 ≤ ln S ≤ ln V`.
/// - `s_y` errs by `u·|s_y| ≤ u·|log p|`, and the last subtraction by as much.
pub fn token_log_prob(rounding: Rounding, log_prob: f64, vocab: usize) -> f64 {
    let (vocab, log_vocab) = (vocab as f64, (vocab as f64).ln());
    rounding.bound(
        2.0 * log_prob.abs()
            + (vocab - 1.0)
            + rounding.row_exp_at_zero
            + (rounding.exp_per_unit + 1.0 + rounding.log) * log_vocab
            + rounding.log_near_one,
    ) + vocab * rounding.row_tiny
}

/// `upstream · (1[v = y] − p_v)`, `p_v = exp(s_v) · (1/S)`.
///
/// The relative error of `p_v` is that of `exp(s_v)`, of `S` (see [`token_log_prob`]), of the division that `ln` has for
/// a derivative (twice: `1/S` and by it), and of three products and one difference. Times `p_v ≤ 1`, and
/// `p_v·|s_v| ≤ p_v·|ln p_v| ≤ 1`.
pub fn token_gradient(rounding: Rounding, upstream: f64, vocab: usize) -> f64 {
    let (vocab, log_vocab) = (vocab as f64, (vocab as f64).ln());
    upstream.abs()
        * (rounding.bound(
            2.0 * rounding.row_exp_at_zero
                + (rounding.exp_per_unit + 1.0) * (log_vocab + 1.0)
                + (vocab + 3.0)
                + 2.0 * rounding.division,
        ) + vocab * rounding.row_tiny)
        + rounding.tiny
}

/// `Σ log p` over `n` tokens, each within `tokens` in total.
///
/// The sum is of whole eighths, exact below 2²¹ nats, and of remainders of at most 1/16, each exact: each of their `n − 1`
/// additions errs by `u` times a partial sum of at most `n/16`. Then both are added.
pub fn sequence_sum(rounding: Rounding, sum: f64, count: usize, tokens: f64) -> f64 {
    let n = count as f64;
    tokens + rounding.bound(sum.abs() + n * n / 16.0)
}

/// In units in the last place of a sum over 4096 tokens.
///
/// [`sequence_sum`] has every addition rounded the same way, which does not happen here. Where the eighths are the sum, its
/// rounding is the final one. Where the remainders are (tokens near certainty), they are added in blocks of 64 and then
/// over 64 blocks: some 126 roundings that differ, `√126 ≈ 11` of them in effect, half an ulp each of partial sums of a
/// fifth of the whole on average: 1 ulp, and ½ each for the final rounding and the
/// next number's distance.
///
/// That is an estimate, written after the number was chosen, not a proof. Measured: at most 0.89 on flex, 1.17 on ndarray,
/// 1.28 on wgpu.
pub const LONG_SUM_ULPS: f64 = 2.0;

/// `Σ / n` for the `Σ` that there is. A count is exact.
pub fn sequence_mean(rounding: Rounding, mean: f64) -> f64 {
    rounding.bound(rounding.division * mean.abs()) + rounding.tiny
}

/// What a loss is computed from: the log-ratios of one pair, and β.
#[derive(Debug, Clone, Copy)]
pub struct Margin {
    pub chosen: f64,
    pub rejected: f64,
    pub beta: f64,
    /// How far the difference of the two may be off before the loss begins: 0 where log-probs are given, not computed.
    pub inexact: f64,
}

impl Margin {
    pub fn z(self) -> f64 {
        self.beta * (self.chosen - self.rejected)
    }
}

/// Of `z = β·(a − b)`: three differences err by `u` times themselves, β is rounded, and so is the product.
pub fn dpo_margin(rounding: Rounding, of: Margin) -> f64 {
    let differences = of.chosen.abs() + of.rejected.abs() + (of.chosen - of.rejected).abs();
    let own = rounding.bound(of.beta * differences + 2.0 * of.z().abs()) + (3.0 * of.beta + 1.0) * rounding.tiny;
    of.beta * of.inexact + own
}

/// `ℓ = max(−z, 0) + log1p(e)`, `e = exp(−|z|)`, `log1p(e) = 2 artanh(s)`, `s = e/(2 + e)`.
///
/// - `|ℓ′| ≤ 1` and `|ℓ′| ≤ ℓ`: an error `δz` in `z` adds at most `δz`, and is a factor of at most `exp δz`.
/// - The relative error of `e` is `E(z)`, that of `s` `D + u` more, and `artanh` enlarges it by at most 1.09, as `s ≤ ⅓`.
/// - The series is `1 + s²/3 + …`, of which all but the 1 is below 0.04: its additions round by `u`, and what went before
///   by less than another half. The product with `s` and the final sum round by `u` each. The terms left out are below
///   `u/40`.
/// - `e` may be subnormal: rounded, halved, multiplied.
pub fn dpo_value(rounding: Rounding, of: Margin, value: f64) -> f64 {
    let own = 1.09 * (small_exp(rounding, of) + rounding.division + 1.0) + 4.0;
    let margin = dpo_margin(rounding, of);
    margin.min(relative(value, margin.exp_m1())) + relative(value, rounding.bound(own)) + 4.0 * rounding.tiny
}

/// `β·σ(−z)`: `σ` is `e/(1 + e)` or `1/(1 + e)`. A sum, a division, β and the product round.
///
/// `(ln σ(−z))′ = −σ(z)`, which grows with `z`: an error `δz` in `z` is a factor of at most `exp(δz·σ(z + δz))`.
pub fn dpo_slope(rounding: Rounding, of: Margin, derivative: f64) -> f64 {
    let own = small_exp(rounding, of) + rounding.division + 3.0;
    let margin = dpo_margin(rounding, of);
    let from_margin = (margin / (1.0 + (-of.z() - margin).exp())).exp_m1();
    relative(derivative, from_margin + rounding.bound(own)) + 4.0 * (1.0 + of.beta) * rounding.tiny
}

/// `E(z)` where `e = exp(−|z|)` is a number at all; where it is not, `tiny` covers it.
fn small_exp(rounding: Rounding, of: Margin) -> f64 {
    rounding.exp_at_zero + rounding.exp_per_unit * of.z().abs().min(1100.0)
}

/// `β·(log π − log π_ref)`: a difference, β and a product round.
pub fn reward(rounding: Rounding, reward: f64) -> f64 {
    rounding.bound(3.0 * reward.abs()) + rounding.tiny
}

/// `k₃(x) = e^y − 1 − y`, `y = −x`, of an `x` that is itself a rounded difference.
///
/// - That rounding, `u·|x|`, weighs `|k₃′| = |e^−x − 1|`.
/// - Where `|x| > 1`, `exp` errs by `E(x)`, and the two differences round by `u` of themselves.
/// - Where `|x| ≤ 1`, `k₃ = y²·S`, `S = Σ y^j/(j + 2)!`, `0.36 ≤ S`. Horner's rule errs by at most `u·Σ (2j + 1)/(j + 2)! = 1.3u`
///   and the coefficients by `u·0.72`, together 5.6u of `S`; three products and what is left out add `3.1u`. There the
///   first item is at most `2.4u·k₃`.
pub fn k3(rounding: Rounding, x: f64, value: f64) -> f64 {
    if x.abs() <= 1.0 {
        return relative(value, rounding.bound(11.1)) + 4.0 * rounding.tiny;
    }
    let exp = (-x).exp();
    let relative_exp = rounding.exp_at_zero + rounding.exp_per_unit * x.abs();
    rounding.bound((x.abs() + 1.0) * (exp - 1.0).abs() + relative_exp * exp + value) + 2.0 * rounding.tiny
}

/// `Σ k₃` over tokens, each at least 0: every addition rounds a partial sum, which is at most the sum.
pub fn k3_sum(rounding: Rounding, log_ratios: &[f64], value: impl Fn(f64) -> f64) -> f64 {
    let sum: f64 = log_ratios.iter().map(|&x| value(x)).sum();
    let tokens: f64 = log_ratios.iter().map(|&x| k3(rounding, x, value(x))).sum();
    tokens + rounding.bound(log_ratios.len() as f64 * sum)
}

/// 0 may not be off at all by a relative error, however large.
fn relative(value: f64, error: f64) -> f64 {
    if value == 0.0 { 0.0 } else { value.abs() * error }
}

/// One position's exact distribution: `p_v`, and `d_v = z_max − z_v ≥ 0`.
#[derive(Debug, Clone)]
pub struct Distribution {
    probs: Vec<f64>,
    depths: Vec<f64>,
}

impl Distribution {
    /// Of logits in f64. All NaN if there is no distribution.
    pub fn of(logits: &[f64]) -> Self {
        let nan = logits.iter().any(|z| z.is_nan());
        let max = if nan { f64::NAN } else { logits.iter().copied().fold(f64::NEG_INFINITY, f64::max) };
        let depths: Vec<f64> = logits.iter().map(|z| max - z).collect();
        let sum: f64 = depths.iter().map(|d| (-d).exp()).sum();
        Self { probs: depths.iter().map(|d| (-d).exp() / sum).collect(), depths }
    }

    /// `Σ w_v d_v^power / Σ w_v`. Where `d` is infinite `w` is 0.
    fn moment(&self, power: i32, weight: impl Fn(f64) -> f64) -> f64 {
        let term = |(&p, &d): (&f64, &f64)| if d == f64::INFINITY { 0.0 } else { weight(p) * d.powi(power) };
        let total: f64 = self.probs.iter().map(|&p| weight(p)).sum();
        self.probs.iter().zip(&self.depths).map(term).sum::<f64>() / total
    }

    fn vocab(&self) -> f64 {
        self.probs.len() as f64
    }

    /// `ln Σ exp(−d)`: the largest probability is `1/Σ`.
    fn log_sum(&self) -> f64 {
        -self.probs.iter().copied().fold(0.0, f64::max).ln()
    }

    /// `ln Σ exp(−2d) = ln (Σ p² / p_max²)`.
    fn log_sum_of_squares(&self) -> f64 {
        self.probs.iter().map(|p| p * p).sum::<f64>().ln() + 2.0 * self.log_sum()
    }
}

/// `ln(1 + R)`, relative: below `R = 1` the series, see [`dpo_value`], above it an addition and `ln`, which is at least `ln 2`.
fn log1p(rounding: Rounding) -> f64 {
    (1.09 * (rounding.division + 1.0) + 4.0).max(1.5 + rounding.log)
}

/// `ln S`, `S = 1 + R`, in units of rounding.
///
/// `e_v = exp(−d_v)` errs, relative, by `u·d_v`, which `exp` makes of the subtraction's rounding, and by `E(d_v)`. In `S`
/// these weigh `p_v`, the constant part and at most `V + 1` additions only `R/S ≤ ln S`: the largest `e` is an exact 1.
fn log_sum_units(rounding: Rounding, of: &Distribution) -> f64 {
    (1.0 + rounding.exp_per_unit) * of.moment(1, |p| p)
        + (rounding.row_exp_at_zero + of.vocab() + 1.0 + log1p(rounding)) * of.log_sum()
}

/// `Σ p_v d_v`, in units of rounding: each `e_v d_v` errs by what `e_v` does, `d_v` itself and a product; `V − 1`
/// additions; a division by `S`, which is rounded once more.
fn mean_depth_units(rounding: Rounding, of: &Distribution) -> f64 {
    (1.0 + rounding.exp_per_unit) * of.moment(2, |p| p)
        + (rounding.row_exp_at_zero + 2.0 + of.vocab() + rounding.division + log_sum_units(rounding, of))
            * of.moment(1, |p| p)
}

/// What is lost where `exp` is subnormal, in a sum over the vocabulary of `e_v d_v`: `d` is then about 100 in f32, 750 in f64.
fn lost(rounding: Rounding, of: &Distribution) -> f64 {
    1000.0 * of.vocab() * rounding.row_tiny
}

/// `H = ln S + Σ p_v d_v`: both parts, and their addition. All of it is relative to moments of `d` that vanish with `H`.
pub fn entropy(rounding: Rounding, of: &Distribution) -> f64 {
    let entropy = of.log_sum() + of.moment(1, |p| p);
    rounding.bound(log_sum_units(rounding, of) + mean_depth_units(rounding, of) + entropy) + lost(rounding, of)
}

/// `ln Σ e_v² − 2 ln S`: the squares err by twice what `e_v` does and a product, and weigh `p_v²`; one subtraction.
pub fn log_sum_sq_probs(rounding: Rounding, of: &Distribution) -> f64 {
    let squares = 2.0 * (1.0 + rounding.exp_per_unit) * of.moment(1, |p| p * p)
        + (2.0 * rounding.row_exp_at_zero + 1.0 + of.vocab() + 1.0 + log1p(rounding)) * of.log_sum_of_squares();
    let difference = 2.0 * of.log_sum() - of.log_sum_of_squares();
    rounding.bound(squares + 2.0 * log_sum_units(rounding, of) + difference) + lost(rounding, of)
}

/// `upstream · p_v (d_v − D)`, `D = Σ p d`: `p_v` errs as `e_v`, `S` and a division do; `d_v` and `D` by their own errors;
/// the difference and two products round.
pub fn entropy_gradient(rounding: Rounding, of: &Distribution, v: usize, upstream: f64) -> f64 {
    let (p, d) = (of.probs[v], of.depths[v]);
    if p == 0.0 {
        return upstream.abs() * lost(rounding, of) + rounding.tiny;
    }
    let difference = (d - of.moment(1, |p| p)).abs();
    let of_p = (1.0 + rounding.exp_per_unit) * d
        + rounding.row_exp_at_zero
        + rounding.division
        + log_sum_units(rounding, of)
        + 4.0;
    let units = p * (difference * of_p + d + mean_depth_units(rounding, of));
    upstream.abs() * (rounding.bound(units) + lost(rounding, of)) + rounding.tiny
}

/// `Σ z_v (1/V)`: `1/V`, the products and `V − 1` additions round.
pub fn mean_logit(rounding: Rounding, logits: &[f64]) -> f64 {
    let vocab = logits.len() as f64;
    let mean = logits.iter().map(|z| z.abs() / vocab).sum::<f64>();
    rounding.bound((vocab + 1.0) * mean) + vocab * rounding.tiny
}

/// `exp` of an exponent that is off by `inexact`.
pub fn wpo_weight(rounding: Rounding, weight: f64, inexact: f64) -> f64 {
    let own = rounding.exp_at_zero + rounding.exp_per_unit * weight.ln().abs().min(1100.0);
    relative(weight, inexact.exp_m1() + rounding.bound(own)) + rounding.tiny
}

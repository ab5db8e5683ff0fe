//! Functions of one number, right over the whole range of f64. NaN stays NaN.

/// `log(1 + e^x)`.
pub fn softplus(x: f64) -> f64 {
    // `f64::max` would drop a NaN, but the other term has it too
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1/(1 + e^−x)`.
pub fn sigmoid(x: f64) -> f64 {
    let small = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

/// `σ′(x) = σ(x)·σ(−x)`.
pub fn sigmoid_derivative(x: f64) -> f64 {
    sigmoid(x) * sigmoid(-x)
}

/// `log(1 − e^x)` for `x < 0`.
pub fn log1mexp(x: f64) -> f64 {
    if x > -std::f64::consts::LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}

/// `(1 − e^−x)/x` for `x ≥ 0`, 1 at 0.
pub fn decay(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { -(-x).exp_m1() / x }
}

/// `x·y`, but 0 where one of them is 0 and the other infinite: what is 0 here vanishes faster than the other grows.
pub fn product(x: f64, y: f64) -> f64 {
    let limit_is_zero = (x == 0.0 && y.is_infinite()) || (x.is_infinite() && y == 0.0);
    if limit_is_zero { 0.0 } else { x * y }
}

/// `factor · e^exponent`, for numbers of which both parts may be out of range and the product is not.
#[derive(Debug, Clone, Copy)]
pub struct Scaled {
    pub factor: f64,
    pub exponent: f64,
}

impl Scaled {
    pub fn new(factor: f64, exponent: f64) -> Self {
        Self { factor, exponent }
    }

    /// The number; ±∞ or 0 only where the whole product is out of range.
    pub fn value(self) -> f64 {
        let half = (self.exponent / 2.0).exp();
        if self.factor == 0.0 { 0.0 } else { self.factor * half * half }
    }

    pub fn times(self, other: Self) -> Self {
        Self::new(self.factor * other.factor, self.exponent + other.exponent)
    }

    /// Both over the larger exponential: `inf − inf` cannot come about.
    pub fn minus(self, other: Self) -> Self {
        if other.factor == 0.0 {
            return self;
        }
        if self.factor == 0.0 {
            return Self::new(-other.factor, other.exponent);
        }
        let exponent = self.exponent.max(other.exponent);
        let over = |of: Self| of.factor * (of.exponent - exponent).exp();
        Self::new(over(self) - over(other), exponent)
    }
}

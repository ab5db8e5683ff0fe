//! Forward-mode automatic differentiation: a number and its derivatives in two others.

use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::reference::{LossAndGradient, Pair, UnpairedLossAndGradient};

/// A number and its derivatives in the policy's two log-probs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dual {
    pub value: f64,
    pub d_chosen: f64,
    pub d_rejected: f64,
}

impl Dual {
    /// The log-prob of the chosen completion.
    pub fn chosen(value: f64) -> Self {
        Self { value, d_chosen: 1.0, d_rejected: 0.0 }
    }

    /// The log-prob of the rejected completion.
    pub fn rejected(value: f64) -> Self {
        Self { value, d_chosen: 0.0, d_rejected: 1.0 }
    }

    /// A function of it with that value and that derivative.
    fn chain(self, value: f64, derivative: f64) -> Self {
        Self { value, d_chosen: derivative * self.d_chosen, d_rejected: derivative * self.d_rejected }
    }

    pub fn exp(self) -> Self {
        self.chain(self.value.exp(), self.value.exp())
    }

    pub fn ln(self) -> Self {
        self.chain(self.value.ln(), 1.0 / self.value)
    }

    /// Where both are equal the derivative is 0.
    pub fn max(self, floor: f64) -> Self {
        if self.value <= floor { floor.into() } else { self }
    }

    pub fn squared(self) -> Self {
        self * self
    }
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Self { value, d_chosen: 0.0, d_rejected: 0.0 }
    }
}

impl Neg for Dual {
    type Output = Self;

    fn neg(self) -> Self {
        self.chain(-self.value, -1.0)
    }
}

/// `x ∘ y` for dual numbers from its value and its derivatives in `x` and in `y`, and with a plain number on either side.
macro_rules! operator {
    ($Trait:ident, $name:ident, |$x:ident, $y:ident| $value:expr, $by_x:expr, $by_y:expr) => {
        impl $Trait for Dual {
            type Output = Self;

            fn $name(self, other: Self) -> Self {
                let ($x, $y) = (self.value, other.value);
                let (by_x, by_y) = ($by_x, $by_y);
                Self {
                    value: $value,
                    d_chosen: by_x * self.d_chosen + by_y * other.d_chosen,
                    d_rejected: by_x * self.d_rejected + by_y * other.d_rejected,
                }
            }
        }

        impl $Trait<f64> for Dual {
            type Output = Self;

            fn $name(self, other: f64) -> Self {
                self.$name(Self::from(other))
            }
        }

        impl $Trait<Dual> for f64 {
            type Output = Dual;

            fn $name(self, other: Dual) -> Dual {
                Dual::from(self).$name(other)
            }
        }
    };
}

operator!(Add, add, |x, y| x + y, 1.0, 1.0);
operator!(Sub, sub, |x, y| x - y, 1.0, -1.0);
operator!(Mul, mul, |x, y| x * y, y, x);
operator!(Div, div, |x, y| x / y, 1.0 / y, -x / (y * y));

impl std::iter::Sum for Dual {
    fn sum<I: Iterator<Item = Self>>(numbers: I) -> Self {
        numbers.fold(0.0.into(), Add::add)
    }
}

impl From<Dual> for LossAndGradient {
    fn from(loss: Dual) -> Self {
        Self { value: loss.value, gradient: Pair { chosen: loss.d_chosen, rejected: loss.d_rejected } }
    }
}

impl From<Dual> for UnpairedLossAndGradient {
    /// Of a loss whose one completion was entered as the chosen one.
    fn from(loss: Dual) -> Self {
        Self { value: loss.value, gradient: loss.d_chosen }
    }
}

//! Parameters of losses: numbers that are checked once, where they are made.
//!
//! A parameter belongs to the losses that read it. Each type below is one domain; the same type where two losses mean the
//! same thing by it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, error::Short};

/// A checked f64: `$holds` says which numbers are in the domain, `$expected` says it in words.
macro_rules! parameter {
    ($(#[$doc:meta])* $Type:ident, $name:literal, $holds:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $Type(f64);

        impl $Type {
            /// Checks the number.
            ///
            /// # Errors
            #[doc = concat!("[`Error::Parameter`] unless it is ", $expected, ".")]
            pub fn new(number: f64) -> Result<Self> {
                let holds: fn(f64) -> bool = $holds;
                if holds(number) {
                    Ok(Self(number))
                } else {
                    Err(Error::Parameter { name: $name, value: number, expected: $expected })
                }
            }

            /// The number.
            pub const fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $Type {
            type Error = Error;

            fn try_from(number: f64) -> Result<Self> {
                Self::new(number)
            }
        }

        impl From<$Type> for f64 {
            fn from(parameter: $Type) -> f64 {
                parameter.0
            }
        }

        impl FromStr for $Type {
            type Err = String;

            fn from_str(text: &str) -> std::result::Result<Self, String> {
                let number: f64 = text.parse().map_err(|cause| format!("{} is {text:?}: {cause}", $name))?;
                Self::new(number).map_err(|cause| cause.to_string())
            }
        }

        impl fmt::Display for $Type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Short(self.0).fmt(f)
            }
        }
    };
}

parameter! {
    /// β: how strongly the policy is held to the reference; the scale of implicit rewards.
    ///
    /// Dimensionless, finite and positive. Usual values lie between 0.01 (loose) and 0.5 (tight); 0.1 is common. A number
    /// that f32 arithmetic would round to 0 or to infinity is refused as well.
    ///
    /// # Example
    /// ```
    /// use burn_dpo::Beta;
    ///
    /// assert_eq!(Beta::new(0.1)?.get(), 0.1);
    /// assert_eq!(Beta::new(0.0).unwrap_err().to_string(), "beta is 0, expected a finite number above 0, normal in f32");
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    Beta, "beta", positive, "a finite number above 0, normal in f32"
}

parameter! {
    /// ε: the probability that a label is wrong, as cDPO, CPO and AOT read it. 0 trusts every label; at ½ labels say nothing.
    LabelSmoothing, "label_smoothing", |epsilon| (0.0..=0.5).contains(&epsilon), "a number from 0 to 0.5"
}

parameter! {
    /// ε: the rate at which labels were flipped, as robust DPO reads it: it divides by `1 − 2ε`, so ½ is out.
    FlipRate, "label_smoothing", |epsilon| (0.0..0.5).contains(&epsilon), "a number from 0 to below 0.5"
}

parameter! {
    /// ε: the probability that EXO's target leaves to the rejected completion. At 0 its loss would be infinite.
    ExoSmoothing, "label_smoothing", |epsilon| positive(epsilon) && epsilon <= 0.5, "a number above 0, normal in f32, to 0.5"
}

parameter! {
    /// τ: how sharply DiscoPOP changes from one loss to the other; 0.05 in the paper.
    Temperature, "temperature", positive, "a finite number above 0, normal in f32"
}

parameter! {
    /// A target that a margin is held against: SimPO's and AlphaPO's `γ`, SLiC's `δ`, ODPO's offset. Any sign.
    TargetMargin, "target margin", finite, "a number that is finite in f32"
}

parameter! {
    /// A factor that may be 0: of a term in a mixture, of KTO's two sides, of DPO-Positive's penalty, of R-DPO's length.
    Weight, "weight", |weight| weight == 0.0 || positive(weight), "0 or a finite number above 0, normal in f32"
}

parameter! {
    /// α: which member of the α-divergences, or which shape of AlphaPO's reward. Any sign; 0 and 1 are ordinary numbers.
    Alpha, "alpha", finite, "a number that is finite in f32"
}

parameter! {
    /// α: what LD-DPO leaves of the tokens beyond the shorter completion's length: 1 all of them, 0 none.
    LdAlpha, "ld_alpha", |alpha| (0.0..=1.0).contains(&alpha), "a number from 0 to 1"
}

fn positive(number: f64) -> bool {
    number > 0.0 && (number as f32).is_normal()
}

fn finite(number: f64) -> bool {
    (number as f32).is_finite()
}

impl Beta {
    /// What most papers use.
    pub(super) const USUAL: Self = Self(0.1);
    /// For a margin per token.
    pub(super) const USUAL_PER_TOKEN: Self = Self(10.0);
    /// SimPO's.
    pub(super) const USUAL_WITHOUT_REFERENCE: Self = Self(2.0);
}

impl LabelSmoothing {
    /// Every label is trusted.
    pub const NONE: Self = Self(0.0);
    pub(super) const USUAL: Self = Self(0.1);
}

impl FlipRate {
    pub(super) const USUAL: Self = Self(0.1);
}

impl ExoSmoothing {
    pub(super) const USUAL: Self = Self(1e-3);
}

impl Temperature {
    pub(super) const USUAL: Self = Self(0.05);
}

impl TargetMargin {
    pub(super) const ONE: Self = Self(1.0);
}

impl Weight {
    /// 1.
    pub const ONE: Self = Self(1.0);
    pub(super) const USUAL_FOR_DPOP: Self = Self(5.0);
    pub(super) const USUAL_FOR_R_DPO: Self = Self(0.01);
}

impl LdAlpha {
    /// 1: plain sums.
    pub const ONE: Self = Self(1.0);
}

impl Alpha {
    /// 0: SimPO among AlphaPO's rewards, forward KL among the α-divergences.
    pub const ZERO: Self = Self(0.0);
    pub(super) const USUAL: Self = Self(0.25);
}

//! The strength of the pull towards the reference.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

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
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Beta(f64);

impl Beta {
    /// Checks the number.
    ///
    /// # Errors
    /// [`Error::Parameter`] unless `beta` is finite, above 0, and a normal number in f32.
    pub fn new(beta: f64) -> Result<Self> {
        if beta > 0.0 && (beta as f32).is_normal() {
            Ok(Self(beta))
        } else {
            Err(Error::Parameter { name: "beta", value: beta, expected: "a finite number above 0, normal in f32" })
        }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Beta {
    type Error = Error;

    fn try_from(beta: f64) -> Result<Self> {
        Self::new(beta)
    }
}

impl From<Beta> for f64 {
    fn from(beta: Beta) -> f64 {
        beta.0
    }
}

impl FromStr for Beta {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number: f64 = text.parse().map_err(|cause| format!("beta is {text:?}: {cause}"))?;
        Self::new(number).map_err(|cause| cause.to_string())
    }
}

impl fmt::Display for Beta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

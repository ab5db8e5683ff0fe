//! Preference losses: one value per pair, never reduced.
//!
//! Each loss is a free function of the policy's and the reference's log-probabilities, in a file of its own. Value and
//! gradient are closed forms; the body of the function is the equation.

mod dpo;
mod parameters;

pub use dpo::dpo_loss;
pub use parameters::{Alpha, Beta, ExoSmoothing, FlipRate, LabelSmoothing, LdAlpha, TargetMargin, Temperature, Weight};

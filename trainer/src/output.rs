//! What every program does with what it prints.

use std::io::{self, ErrorKind};

use burn_dpo::PreferenceMetrics;
use serde_json::{Map, Value, json};

/// Whoever reads our output has seen enough: no error to speak of.
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// A JSON number, with all its digits; NaN and infinities, which JSON lacks, by name.
pub fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

/// The metrics as a JSON object, under TRL's names.
pub fn entries(metrics: &PreferenceMetrics) -> Map<String, Value> {
    metrics.entries().into_iter().map(|(name, value)| (name.to_string(), number(value))).collect()
}

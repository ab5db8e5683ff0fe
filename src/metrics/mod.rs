//! What to watch while training, as sums and counts: parts merge to the whole (counts exactly, sums up to f64 rounding).

mod preference;
mod sum;

pub use preference::PreferenceMetrics;

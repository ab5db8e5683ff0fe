//! What to watch while training, as sums and counts that merge exactly as the batches do.

mod preference;
mod sum;

pub use preference::PreferenceMetrics;

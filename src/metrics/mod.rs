//! What to watch while training, as sums and counts: parts merge to the whole (counts exactly, sums up to f64 rounding).

mod batch;
mod columns;
mod entries;
mod histogram;
mod non_finite;
mod pair;
mod preference;
mod running_mean;
mod sum;

pub use batch::PreferenceBatch;
pub use histogram::{MarginBucket, MarginHistogram};
pub use non_finite::{MeasuredTensor, NonFinite, NonFiniteValue};
pub use preference::PreferenceMetrics;
pub use running_mean::RunningMean;

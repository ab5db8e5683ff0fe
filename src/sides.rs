//! Something of the chosen completion of each pair, and the same of the rejected one.

use serde::{Deserialize, Serialize};

/// The two sides of a pair.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sides<T> {
    pub chosen: T,
    pub rejected: T,
}

impl<T> Sides<T> {
    /// The same function of either side.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Sides<U> {
        Sides { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    /// A function of the same side of two pairs.
    pub fn zip<U, V>(self, other: Sides<U>, f: impl Fn(T, U) -> V) -> Sides<V> {
        Sides { chosen: f(self.chosen, other.chosen), rejected: f(self.rejected, other.rejected) }
    }
}

impl<T: std::ops::Sub> Sides<T> {
    /// Chosen − rejected.
    pub fn difference(self) -> T::Output {
        self.chosen - self.rejected
    }
}

impl<T> From<[T; 2]> for Sides<T> {
    fn from([chosen, rejected]: [T; 2]) -> Self {
        Self { chosen, rejected }
    }
}

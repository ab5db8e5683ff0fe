//! The soft cap of logits, `c tanh(z / c)`.

use pulp::Simd;

use super::{
    dtype::Compute,
    exp::exp_m1,
    map::{Map, overwrite},
};

/// Numbers that one task takes.
const SEGMENT: usize = 1 << 14;

/// Replaces each `z` by `c tanh(z / c)`, with its full relative accuracy near 0: 4 units in the last place.
///
/// ```text
/// tanh |u| = −k / (2 + k),    k = e^−2|u| − 1
/// ```
pub(crate) fn softcap<T: Compute>(z: &mut [T], softcap: f64) {
    overwrite(z, SEGMENT, SoftCap { softcap: T::of(softcap), per_cap: T::of(softcap.recip()) });
}

#[derive(Clone, Copy)]
struct SoftCap<T> {
    softcap: T,
    per_cap: T,
}

impl<T: Compute> Map<T> for SoftCap<T> {
    #[inline(always)]
    fn of<S: Simd>(&self, z: T) -> T {
        let u = (z * self.per_cap).abs();
        let k = exp_m1::<T, S>(-(u + u));
        (self.softcap * (-k / (T::TWO + k))).copysign(z)
    }
}

#[cfg(test)]
#[path = "../../../tests/kernels/softcap.rs"]
mod tests;

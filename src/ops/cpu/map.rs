//! One function of each number, in place or beside it.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    dtype::{Float, LANES},
    prefetch::prefetch,
};

/// A function of a number, as straight-line arithmetic.
pub(super) trait Map<T>: Copy + Send + Sync {
    fn of<S: Simd>(&self, number: T) -> T;
}

/// Numbers, and the buffer that the results go to.
pub(super) enum Destination<'a, F> {
    /// The same buffer.
    InPlace(&'a mut [F]),
    /// The numbers, and another buffer of the same length.
    Beside(&'a [F], &'a mut [F]),
}

impl<F: Float> Destination<'_, F> {
    /// The buffer of the results.
    pub(super) fn results(&mut self) -> &mut [F] {
        match self {
            Self::InPlace(numbers) => numbers,
            Self::Beside(_, results) => results,
        }
    }

    /// Writes `map` of each number. Each task takes `segment` of them.
    pub(super) fn fill(&mut self, segment: usize, map: impl Map<F::Compute>) {
        match self {
            Self::InPlace(numbers) => overwrite(numbers, segment, map),
            Self::Beside(from, to) => write(from, to, segment, map),
        }
    }
}

/// Replaces each number by `map` of it. Each task takes `segment` of them.
pub(super) fn overwrite<F: Float>(numbers: &mut [F], segment: usize, map: impl Map<F::Compute>) {
    let arch = Arch::new();
    numbers.par_chunks_mut(segment).for_each(|numbers| arch.dispatch(Overwrite { numbers, map }));
}

/// Writes `map` of each number of `from` into `to`. Each task takes `segment` of them.
fn write<F: Float>(from: &[F], to: &mut [F], segment: usize, map: impl Map<F::Compute>) {
    let arch = Arch::new();
    let parts = from.par_chunks(segment).zip(to.par_chunks_mut(segment));
    parts.for_each(|(from, to)| arch.dispatch(Write { from, to, map }));
}

struct Overwrite<'a, F, M> {
    numbers: &'a mut [F],
    map: M,
}

impl<F: Float, M: Map<F::Compute>> WithSimd for Overwrite<'_, F, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (chunks, tail) = self.numbers.as_chunks_mut::<LANES>();
        for chunk in chunks {
            prefetch(chunk);
            *chunk = of_chunk::<F, S>(chunk, self.map);
        }
        for number in tail {
            *number = F::narrow(self.map.of::<S>(number.widen()));
        }
    }
}

struct Write<'a, F, M> {
    from: &'a [F],
    to: &'a mut [F],
    map: M,
}

impl<F: Float, M: Map<F::Compute>> WithSimd for Write<'_, F, M> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let (chunks, tail) = self.from.as_chunks::<LANES>();
        let (to_chunks, to_tail) = self.to.as_chunks_mut::<LANES>();
        for (from, to) in chunks.iter().zip(to_chunks) {
            prefetch(from);
            *to = of_chunk::<F, S>(from, self.map);
        }
        for (from, to) in tail.iter().zip(to_tail) {
            *to = F::narrow(self.map.of::<S>(from.widen()));
        }
    }
}

#[inline(always)]
fn of_chunk<F: Float, S: Simd>(chunk: &[F; LANES], map: impl Map<F::Compute>) -> [F; LANES] {
    let mut numbers = F::widen_all(chunk);
    for number in &mut numbers {
        *number = map.of::<S>(*number);
    }
    F::narrow_all(numbers)
}

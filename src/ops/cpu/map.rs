//! One function of each number, in place or beside it.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    format::{Format, LANES},
    prefetch::prefetch,
};

/// A function of a number, as straight-line arithmetic.
pub(super) trait Map<T>: Copy + Send + Sync {
    fn of<S: Simd>(&self, number: T) -> T;
}

/// Numbers, and where what is made of them goes.
pub(super) enum Place<'a, F> {
    /// Where they are.
    Here(&'a mut [F]),
    /// The numbers, and other memory, as long.
    Beside(&'a [F], &'a mut [F]),
}

impl<F: Format> Place<'_, F> {
    /// What there is of results.
    pub(super) fn results(&mut self) -> &mut [F] {
        match self {
            Self::Here(numbers) => numbers,
            Self::Beside(_, results) => results,
        }
    }

    /// What `map` makes of each number. Each task takes `segment` of them.
    pub(super) fn fill_by(&mut self, segment: usize, map: impl Map<F::Real>) {
        match self {
            Self::Here(numbers) => overwrite(numbers, segment, map),
            Self::Beside(from, to) => write(from, to, segment, map),
        }
    }
}

/// Replaces each number by what `map` makes of it. Each task takes `segment` of them.
pub(super) fn overwrite<F: Format>(numbers: &mut [F], segment: usize, map: impl Map<F::Real>) {
    let arch = Arch::new();
    numbers.par_chunks_mut(segment).for_each(|numbers| arch.dispatch(Overwrite { numbers, map }));
}

/// Writes what `map` makes of each number of `from` into `to`. Each task takes `segment` of them.
fn write<F: Format>(from: &[F], to: &mut [F], segment: usize, map: impl Map<F::Real>) {
    let arch = Arch::new();
    let parts = from.par_chunks(segment).zip(to.par_chunks_mut(segment));
    parts.for_each(|(from, to)| arch.dispatch(Write { from, to, map }));
}

struct Overwrite<'a, F, M> {
    numbers: &'a mut [F],
    map: M,
}

impl<F: Format, M: Map<F::Real>> WithSimd for Overwrite<'_, F, M> {
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

impl<F: Format, M: Map<F::Real>> WithSimd for Write<'_, F, M> {
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
fn of_chunk<F: Format, S: Simd>(chunk: &[F; LANES], map: impl Map<F::Real>) -> [F; LANES] {
    let mut numbers = F::widen_all(chunk);
    for number in &mut numbers {
        *number = map.of::<S>(*number);
    }
    F::narrow_all(numbers)
}

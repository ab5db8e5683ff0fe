//! The number formats of logits, the one that each is computed in, and the loops that both go through.
//!
//! f32, bf16 and f16 are computed in f32, f64 in f64. Numbers are converted in registers, [`LANES`] at a time: every kernel
//! is a plain loop over chunks of that many, which the compiler turns into vector instructions inside
//! [`pulp::Arch::dispatch`]. That is why everything on the way is `#[inline(always)]`, and takes the instruction set `S`:
//! it is not known before the program runs whether a multiplication and an addition can be had as one instruction.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use pulp::Simd;

use super::exp::Exponential;

/// Numbers that a kernel takes at a time: two AVX-512 or four AVX2 registers of f32, so that no addition waits for the
/// one before.
pub(crate) const LANES: usize = 32;

/// A format that logits come in.
pub(crate) trait Format: Copy + Default + Send + Sync + 'static {
    /// What it is computed in.
    type Real: Real;

    /// Exact.
    fn widen(self) -> Self::Real;

    /// To the nearest number of this format, of two the even one.
    fn narrow(number: Self::Real) -> Self;

    /// [`widen`](Self::widen) for a whole chunk.
    #[inline(always)]
    fn widen_all(chunk: &[Self; LANES]) -> [Self::Real; LANES] {
        let mut wide = [Self::Real::ZERO; LANES];
        for (wide, number) in wide.iter_mut().zip(chunk) {
            *wide = number.widen();
        }
        wide
    }

    /// [`narrow`](Self::narrow) for a whole chunk.
    #[inline(always)]
    fn narrow_all(chunk: [Self::Real; LANES]) -> [Self; LANES] {
        let mut narrow = [Self::default(); LANES];
        for (narrow, number) in narrow.iter_mut().zip(chunk) {
            *narrow = Self::narrow(number);
        }
        narrow
    }
}

/// A format that is computed in.
pub(crate) trait Real:
    Format<Real = Self>
    + Exponential
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    const ZERO: Self;
    const ONE: Self;
    const NAN: Self;
    const NEG_INFINITY: Self;
    /// A power of two whose product with the square of almost any `eˣ` is a normal number, and 32 of them no overflow:
    /// arithmetic with subnormal numbers is a hundred times slower.
    const SQUARE_SCALE: Self;

    fn of(number: f64) -> Self;
    fn to_f64(self) -> f64;
    fn abs(self) -> Self;
    fn copysign(self, sign: Self) -> Self;

    /// `self · factor + term`, rounded once where there is an instruction for it, and else twice: calling a function for
    /// each number would cost more than all the rest.
    fn mul_add<S: Simd>(self, factor: Self, term: Self) -> Self;
}

/// `a` if it is the larger, and else `b`: also if either is NaN. One instruction on x86.
#[inline(always)]
pub(super) fn larger<T: PartialOrd>(a: T, b: T) -> T {
    if a > b { a } else { b }
}

/// Whether `S` has an instruction for `a · b + c`.
const fn fuses<S: Simd>() -> bool {
    !S::IS_SCALAR && cfg!(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64"))
}

macro_rules! real {
    ($real:ty, $square_scale:expr) => {
        impl Format for $real {
            type Real = $real;

            #[inline(always)]
            fn widen(self) -> $real {
                self
            }

            #[inline(always)]
            fn narrow(number: $real) -> $real {
                number
            }
        }

        impl Real for $real {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAN: Self = Self::NAN;
            const NEG_INFINITY: Self = Self::NEG_INFINITY;
            const SQUARE_SCALE: Self = $square_scale;

            #[inline(always)]
            fn of(number: f64) -> Self {
                number as Self
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                self.into()
            }

            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }

            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                self.copysign(sign)
            }

            #[inline(always)]
            fn mul_add<S: Simd>(self, factor: Self, term: Self) -> Self {
                if fuses::<S>() { self.mul_add(factor, term) } else { self * factor + term }
            }
        }
    };
}

real!(f32, f32::from_bits((127 + 120) << 23));
real!(f64, f64::from_bits((1023 + 1000) << 52));

impl Format for bf16 {
    type Real = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// The upper half of the bits, after half of what they count has been added; a NaN stays one.
    #[inline(always)]
    fn narrow(number: f32) -> bf16 {
        let bits = number.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        let quiet = bits >> 16 | 0x40;
        bf16::from_bits(if number.is_nan() { quiet } else { rounded } as u16)
    }
}

impl Format for f16 {
    type Real = f32;

    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn narrow(number: f32) -> f16 {
        f16::from_f32(number)
    }

    #[inline(always)]
    fn widen_all(chunk: &[f16; LANES]) -> [f32; LANES] {
        let mut wide = [0.0; LANES];
        chunk.convert_to_f32_slice(&mut wide);
        wide
    }

    #[inline(always)]
    fn narrow_all(chunk: [f32; LANES]) -> [f16; LANES] {
        let mut narrow = [f16::ZERO; LANES];
        narrow.convert_from_f32_slice(&chunk);
        narrow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `half` is another implementation of the same rounding.
    #[test]
    fn bf16_is_widened_and_narrowed_as_by_half() {
        for bits in 0..=u16::MAX {
            let (number, half) = (Format::widen(bf16::from_bits(bits)), bf16::from_bits(bits).to_f32());
            assert!(number == half || number.is_nan() && half.is_nan(), "{bits:#x}");
        }
        for bits in
            (0..=u32::MAX).step_by(9973).chain([0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0001, 0xffff_ffff])
        {
            let number = f32::from_bits(bits);
            let (narrow, half) = (<bf16 as Format>::narrow(number), bf16::from_f32(number));
            assert!(narrow == half || narrow.is_nan() && half.is_nan(), "{number:e}: {narrow:e}, {half:e}");
        }
    }

    #[test]
    fn a_chunk_of_f16_is_what_its_numbers_are() {
        for first in (0..=u16::MAX).step_by(LANES) {
            let chunk: [f16; LANES] = std::array::from_fn(|lane| f16::from_bits(first + lane as u16));
            let wide = f16::widen_all(&chunk);
            for (wide, number) in wide.iter().zip(chunk) {
                assert!(*wide == number.to_f32() || wide.is_nan() && number.is_nan());
            }
            for (back, number) in f16::narrow_all(wide).iter().zip(chunk) {
                assert!(*back == number || back.is_nan() && number.is_nan());
            }
        }
    }

    #[test]
    fn larger_takes_the_second_where_there_is_nan() {
        assert_eq!((larger(1.0, 2.0), larger(2.0, 1.0), larger(f32::NAN, 1.0)), (2.0, 2.0, 1.0));
        assert!(larger(1.0, f32::NAN).is_nan());
    }
}

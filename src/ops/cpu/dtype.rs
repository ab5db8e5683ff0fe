//! The dtypes of logits, and the dtype that each is computed in.
//!
//! f32, bf16 and f16 are computed in f32, f64 in f64. Numbers are converted in registers, [`LANES`] at a time: every kernel
//! is a plain loop over chunks of that many, which the compiler turns into vector instructions inside
//! [`pulp::Arch::dispatch`]. That is why every function on the way is `#[inline(always)]` and takes the instruction set `S`:
//! whether the machine has a fused multiply-add is known only at run time.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use half::{bf16, f16, slice::HalfFloatSliceExt};
use pulp::Simd;

use super::exp_constants::ExpConstants;

/// Numbers that a kernel takes at a time: two AVX-512 or four AVX2 registers of f32, so that no addition waits for the
/// one before.
pub(crate) const LANES: usize = 32;

/// A dtype of logits.
pub(crate) trait Float: Copy + Default + Send + Sync + 'static {
    /// The dtype that it is computed in.
    type Compute: Compute;

    /// Exact.
    fn widen(self) -> Self::Compute;

    /// To the nearest number of this dtype; of two, the even one.
    fn narrow(number: Self::Compute) -> Self;

    /// [`widen`](Self::widen) for a whole chunk.
    #[inline(always)]
    fn widen_all(chunk: &[Self; LANES]) -> [Self::Compute; LANES] {
        let mut wide = [Self::Compute::ZERO; LANES];
        for (wide, number) in wide.iter_mut().zip(chunk) {
            *wide = number.widen();
        }
        wide
    }

    /// [`narrow`](Self::narrow) for a whole chunk.
    #[inline(always)]
    fn narrow_all(chunk: [Self::Compute; LANES]) -> [Self; LANES] {
        let mut narrow = [Self::default(); LANES];
        for (narrow, number) in narrow.iter_mut().zip(chunk) {
            *narrow = Self::narrow(number);
        }
        narrow
    }
}

/// A dtype that is computed in.
pub(crate) trait Compute:
    Float<Compute = Self>
    + ExpConstants
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
    const MAX: Self;
    /// A power of two whose product with the square of almost any `eˣ` is a normal number, and 32 of them no overflow:
    /// arithmetic with subnormal numbers is a hundred times slower.
    const SQUARE_SCALE: Self;

    fn of(number: f64) -> Self;
    fn to_f64(self) -> f64;
    fn abs(self) -> Self;
    fn ln(self) -> Self;
    fn is_infinite(self) -> bool;
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
        impl Float for $real {
            type Compute = $real;

            #[inline(always)]
            fn widen(self) -> $real {
                self
            }

            #[inline(always)]
            fn narrow(number: $real) -> $real {
                number
            }
        }

        impl Compute for $real {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const NAN: Self = Self::NAN;
            const NEG_INFINITY: Self = Self::NEG_INFINITY;
            const MAX: Self = Self::MAX;
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
            fn ln(self) -> Self {
                self.ln()
            }

            #[inline(always)]
            fn is_infinite(self) -> bool {
                self.is_infinite()
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

impl Float for bf16 {
    type Compute = f32;

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

impl Float for f16 {
    type Compute = f32;

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
#[path = "../../../tests/kernels/dtype.rs"]
mod tests;

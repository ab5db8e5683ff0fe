//! The constants of [`exp`](super::exp) for each dtype: how they come about is said there.

/// What `exp` needs to know of a dtype.
pub(crate) trait ExpConstants: Sized + 'static {
    const TWO: Self;
    const LOG2_E: Self;
    /// `ln 2`, without the bits that make its product with `n` inexact.
    const LN_2_HIGH: Self;
    /// The rest of it.
    const LN_2_LOW: Self;
    /// `eˣ` is 0 here and below. Any `x` that gives the lowest `n` would do.
    const LOWEST: Self;
    /// `1.5 · 2^m`, where `m` is the length of the mantissa, plus the exponent field of 2⁻¹.
    const ROUNDER: Self;
    /// The coefficients of `P`, from the highest degree down.
    const POLYNOMIAL: &'static [Self];
    const HALF: Self;
    const LN_2: Self;
    /// `eˣ` rounds to 0 here and below.
    const EXP_UNDERFLOWS: Self;
    /// `eˣ` is infinite here and above.
    const EXP_OVERFLOWS: Self;
    /// The largest `x` of [`exp_half`](super::functions::exp_half): its square is `e^2x`, beyond the range of the dtype.
    const MOST_EXP_HALF: Self;
    /// `1/(2k + 1)`, from the highest `k` down to 0.
    const ODD_RECIPROCALS: &'static [Self];

    /// The last bits of this number in the place of its exponent.
    fn last_bits_as_exponent(self) -> Self;
}

impl ExpConstants for f32 {
    const TWO: f32 = 2.0;
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 0.693_115_23;
    const LN_2_LOW: f32 = 3.194_618_3e-5;
    const LOWEST: f32 = -87.3;
    const ROUNDER: f32 = 12_582_912.0 + 126.0;
    const POLYNOMIAL: &'static [f32] = &[0.001_381_446_5, 0.008_368_781, 0.041_668_393, 0.166_665_2, 0.499_999_94];
    const HALF: f32 = 0.5;
    const LN_2: f32 = std::f32::consts::LN_2;
    const EXP_UNDERFLOWS: f32 = -104.5;
    const EXP_OVERFLOWS: f32 = 89.5;
    const MOST_EXP_HALF: f32 = 87.0;
    const ODD_RECIPROCALS: &'static [f32] =
        &[1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];

    #[inline(always)]
    fn last_bits_as_exponent(self) -> f32 {
        f32::from_bits(self.to_bits() << 23)
    }
}

impl ExpConstants for f64 {
    const TWO: f64 = 2.0;
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN_2_HIGH: f64 = 0.693_147_180_559_663;
    const LN_2_LOW: f64 = 2.823_529_056_303_157_7e-13;
    const LOWEST: f64 = -708.3;
    const ROUNDER: f64 = 6_755_399_441_055_744.0 + 1022.0;
    const POLYNOMIAL: &'static [f64] = &[
        2.499_992_043_351_016_5e-8,
        2.763_037_773_377_678_3e-7,
        2.755_758_748_338_514e-6,
        2.480_149_276_512_832e-5,
        1.984_126_950_460_945_1e-4,
        1.388_888_894_392_059e-3,
        8.333_333_333_495_693e-3,
        4.166_666_666_652_92e-2,
        0.166_666_666_666_664_1,
        0.500_000_000_000_001_1,
    ];
    const HALF: f64 = 0.5;
    const LN_2: f64 = std::f64::consts::LN_2;
    const EXP_UNDERFLOWS: f64 = -746.0;
    const EXP_OVERFLOWS: f64 = 710.5;
    const MOST_EXP_HALF: f64 = 700.0;
    const ODD_RECIPROCALS: &'static [f64] = &[
        1.0 / 33.0,
        1.0 / 31.0,
        1.0 / 29.0,
        1.0 / 27.0,
        1.0 / 25.0,
        1.0 / 23.0,
        1.0 / 21.0,
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ];

    #[inline(always)]
    fn last_bits_as_exponent(self) -> f64 {
        f64::from_bits(self.to_bits() << 52)
    }
}

use super::*;

/// `half` is another implementation of the same rounding.
#[test]
fn bf16_is_widened_and_narrowed_as_by_half() {
    for bits in 0..=u16::MAX {
        let (number, half) = (Float::widen(bf16::from_bits(bits)), bf16::from_bits(bits).to_f32());
        assert!(number == half || number.is_nan() && half.is_nan(), "{bits:#x}");
    }
    for bits in (0..=u32::MAX).step_by(9973).chain([0x3f80_8000, 0x3f81_8000, 0x7f7f_ffff, 0x7f80_0001, 0xffff_ffff]) {
        let number = f32::from_bits(bits);
        let (narrow, half) = (<bf16 as Float>::narrow(number), bf16::from_f32(number));
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

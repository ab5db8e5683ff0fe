//! Where cubes and units are in rows of logits.

use cubecl::prelude::*;

/// Which row a cube works on.
#[cube]
pub(super) fn row_of(cube: usize, segments: usize) -> usize {
    cube / segments
}

/// Where a number of a matrix with rows one after the other is. The product does not fit 32 bits where logits do not.
#[cube]
pub(super) fn place_of(row: usize, width: usize, column: usize) -> usize {
    row * width + column
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16384 rows of 131072 are 2³¹ numbers, three times as many more than 32 bits count.
    #[test]
    fn places_go_beyond_32_bits() {
        assert_eq!(place_of(16_384, 131_072, 5), (1 << 31) + 5);
        assert_eq!(place_of(49_151, 131_072, 131_071), 6_442_450_943);
        assert_eq!(row_of(6_000_000_000, 3), 2_000_000_000);
    }
}

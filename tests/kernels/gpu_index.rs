use super::*;

/// 16384 rows of 131072 are 2³¹ numbers, three times as many more than 32 bits count.
#[test]
fn indices_go_beyond_32_bits() {
    assert_eq!(linear_index(16_384, 131_072, 5), (1 << 31) + 5);
    assert_eq!(linear_index(49_151, 131_072, 131_071), 6_442_450_943);
    assert_eq!(row_of(6_000_000_000, 3), 2_000_000_000);
}

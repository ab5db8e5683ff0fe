use super::*;

#[test]
fn no_tile_is_larger_than_what_a_device_gives_in_one_piece() {
    for largest in [4, 1000, 1 << 20, 128 << 20] {
        for (rows, vocab, in_place) in [(1, 5, true), (8192, 32_000, false), (100_000, 128_256, false)] {
            let (bytes, dtype) = (512 << 20, DType::F32);
            let limits = TileLimits { bytes, largest, dtype, rows, hidden: 512, vocab, converted: false, in_place };
            for implementation in [Implementation::Kernels, Implementation::Portable] {
                let Tiling { rows, columns } = Tiling::fit(&limits, implementation);
                assert!(4 * rows * columns <= largest, "{rows} × {columns}, {largest} bytes");
            }
        }
    }
}

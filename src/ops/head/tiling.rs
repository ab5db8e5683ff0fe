//! Which part of the logits is held at a time.

use std::ops::Range;

use burn_tensor::DType;

use super::Road;

/// Which part of the logits `[rows, vocab]` is held at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
}

/// What tiles have to fit into.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) bytes: usize,
    /// What no tile may exceed, whatever the budget: the largest piece of memory that the device gives.
    pub(crate) largest: usize,
    /// The format that is computed in.
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    /// Whether the weight comes in another format: a tile of it and of its gradient are then held in this one.
    pub(crate) converted: bool,
    /// Whether products stay in the memory of their destination, and a tile of the weight is not a copy.
    pub(crate) in_place: bool,
}

impl Tiling {
    /// A tile is not made wider than this many bytes even if it may be: what is written and read again should stay near the
    /// processor.
    const NEAR: usize = 16 << 20;
    /// Narrower products are slow.
    const NARROW: usize = 256;
    /// Tiles begin at such columns, if they are as wide: where rows of 16 bits can be read in lines of 128 bytes.
    const ALIGNED: usize = 64;
    /// So many tiles burn's operations hold at a time where kernels hold one.
    const PORTABLE_COPIES: usize = 8;

    /// As wide as all rows allow, so that every tile of the weight is read once; where not even a narrow tile of all rows fits,
    /// of some rows. At least one logit, however small the room.
    pub(crate) fn within(room: &Room, road: Road) -> Self {
        let &Room { rows, hidden, vocab, .. } = room;
        let numbers = (room.bytes / room.dtype.size()).max(1);
        let largest = (room.largest / room.dtype.size()).max(1);
        let (copies, near) = match road {
            Road::Kernels if room.in_place => (1, numbers.min(Self::NEAR / room.dtype.size())),
            Road::Kernels => (1, numbers),
            Road::Portable => (Self::PORTABLE_COPIES, numbers),
        };
        let beside = match (room.in_place, room.converted) {
            (true, false) => 0,
            (true, true) => 2 * hidden,
            (false, _) => 4 * hidden,
        };
        let widest = (numbers / (beside + copies)).min(largest).clamp(1, vocab);
        let columns = (near / (copies * rows + beside)).min(largest / rows).max(Self::NARROW).min(widest);
        let columns = vocab.div_ceil(vocab.div_ceil(columns)); // of equal width
        let aligned = columns.next_multiple_of(Self::ALIGNED);
        let columns = if columns >= Self::ALIGNED && aligned <= widest { aligned } else { columns };
        let left = numbers.saturating_sub(beside * columns);
        Self { rows: (left / (copies * columns)).min(largest / columns).clamp(1, rows), columns }
    }
}

/// The columns of a vocabulary, in tiles.
pub(super) fn columns_of(vocab: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..vocab).step_by(tile).map(move |start| start..vocab.min(start + tile))
}

/// Rows in parts of at most `part`, none of which has both rows that are kept and rows that are not.
pub(super) fn row_parts(rows: usize, part: usize, kept: usize) -> Vec<Range<usize>> {
    let parts = |all: Range<usize>| all.clone().step_by(part).map(move |start| start..all.end.min(start + part));
    parts(0..kept).chain(parts(kept..rows)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tile_is_larger_than_what_a_device_gives_in_one_piece() {
        for largest in [4, 1000, 1 << 20, 128 << 20] {
            for (rows, vocab, in_place) in [(1, 5, true), (8192, 32_000, false), (100_000, 128_256, false)] {
                let (bytes, dtype) = (512 << 20, DType::F32);
                let room = Room { bytes, largest, dtype, rows, hidden: 512, vocab, converted: false, in_place };
                for road in [Road::Kernels, Road::Portable] {
                    let Tiling { rows, columns } = Tiling::within(&room, road);
                    assert!(4 * rows * columns <= largest, "{rows} × {columns}, {largest} bytes");
                }
            }
        }
    }
}

//! The size of the tiles in which logits are computed.

use std::ops::Range;

use burn_tensor::DType;

use super::Implementation;

/// The tiles in which the logits `[rows, vocab]` are computed, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
}

/// What limits the size of tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct TileLimits {
    /// The budget for all that is held at a time.
    pub(crate) bytes: usize,
    /// The largest buffer that the device allocates: no tile may exceed it, whatever the budget.
    pub(crate) largest: usize,
    /// The dtype that is computed in.
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) hidden: usize,
    pub(crate) vocab: usize,
    /// Whether the weight has another dtype: a tile of it and of its gradient are then held in this one.
    pub(crate) converted: bool,
    /// Whether products stay in the buffer of their destination, and a tile of the weight is not a copy.
    pub(crate) in_place: bool,
}

impl Tiling {
    /// A tile is not larger than this many bytes even if the budget allows it: what is written and read again should stay in the
    /// cache.
    const NEAR: usize = 16 << 20;
    /// Narrower products are slow.
    const NARROW: usize = 256;
    /// Tiles begin at multiples of this, if they are as wide: there rows of 16-bit numbers can be read in lines of 128 bytes.
    const ALIGNED: usize = 64;
    /// How many tiles burn's operations hold at a time where kernels hold one.
    const PORTABLE_COPIES: usize = 8;

    /// As wide as all rows allow, so that every tile of the weight is read once. Where not even a narrow tile of all rows fits,
    /// tiles of some rows. At least one logit, however small the limits.
    pub(super) fn fit(limits: &TileLimits, implementation: Implementation) -> Self {
        let &TileLimits { rows, hidden, vocab, .. } = limits;
        let numbers = (limits.bytes / limits.dtype.size()).max(1);
        let largest = (limits.largest / limits.dtype.size()).max(1);
        let (copies, near) = match implementation {
            Implementation::Kernels if limits.in_place => (1, numbers.min(Self::NEAR / limits.dtype.size())),
            Implementation::Kernels => (1, numbers),
            Implementation::Portable => (Self::PORTABLE_COPIES, numbers),
        };
        let beside = match (limits.in_place, limits.converted) {
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

/// Rows in parts of at most `part`, none of which has both rows whose logits are cached and rows whose are not.
pub(super) fn row_parts(rows: usize, part: usize, cached: usize) -> Vec<Range<usize>> {
    let parts = |all: Range<usize>| all.clone().step_by(part).map(move |start| start..all.end.min(start + part));
    parts(0..cached).chain(parts(cached..rows)).collect()
}

#[cfg(test)]
#[path = "../../../tests/kernels/tiling.rs"]
mod tests;

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

impl Tiling {
    /// A tile is not made larger than this even if it may be: what is written and read again should stay near the processor.
    const NEAR: usize = 16 << 20;
    /// So many tiles burn's operations hold at a time where kernels hold one.
    const PORTABLE_COPIES: usize = 8;
    /// Narrower products are slow.
    const NARROW: usize = 256;

    /// Tiles of at most `budget` bytes of logits, and of as many columns of `beside` numbers each, as wide as rows allow.
    ///
    /// All rows at once, so that every tile of the weight is read once; where not even a narrow tile of all rows fits, in
    /// parts. A tile has at least one logit, however small the budget.
    pub(crate) fn within(budget: usize, rows: usize, beside: usize, vocab: usize, dtype: DType, road: Road) -> Self {
        let numbers = (budget / dtype.size()).max(1);
        let near = match road {
            Road::Kernels => numbers.min(Self::NEAR / dtype.size()),
            Road::Portable => numbers / Self::PORTABLE_COPIES,
        };
        let rows = rows.max(1);
        let widest = (numbers / (beside + 1)).clamp(1, vocab);
        let columns = (near / (rows + beside)).max(Self::NARROW).min(widest);
        let columns = vocab.div_ceil(vocab.div_ceil(columns)); // of equal width
        let left = match road {
            Road::Kernels => numbers.saturating_sub(beside * columns),
            Road::Portable => near.saturating_sub(beside * columns),
        };
        Self { rows: (left / columns).clamp(1, rows), columns }
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

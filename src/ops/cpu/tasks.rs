//! How rows of logits are divided among threads.

use super::super::logits::IGNORED;

/// Numbers that are summed before the sum is carried in f64.
pub(super) const BLOCK: usize = 1024;

/// Fewest columns that are worth a task of their own.
const SHORTEST_SEGMENT: usize = 8 * BLOCK;

/// The index of a target among the columns `offset..offset + width`.
pub(super) fn local_column(target: i32, offset: usize, width: usize) -> Option<usize> {
    usize::try_from(target).ok()?.checked_sub(offset).filter(|column| *column < width)
}

/// How many columns one task takes: all, unless there are too few counted rows to keep every thread busy.
///
/// It depends on the shape and the number of threads alone, and so does the rounding.
pub(super) fn segment_width(width: usize, targets: &[i32]) -> usize {
    let threads = rayon::current_num_threads();
    let tasks = if threads == 1 { 1 } else { 4 * threads };
    let counted = targets.iter().filter(|target| **target != IGNORED).take(tasks).count();
    let segments = tasks.div_ceil(counted.max(1)).min(width.div_ceil(SHORTEST_SEGMENT));
    width.div_ceil(segments).next_multiple_of(BLOCK)
}

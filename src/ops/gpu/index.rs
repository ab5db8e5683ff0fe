//! Indices into rows of logits.

use cubecl::prelude::*;

/// Which row a cube works on.
#[cube]
pub(super) fn row_of(cube: usize, segments: usize) -> usize {
    cube / segments
}

/// The index of an entry of a row-major matrix. It does not fit 32 bits if the logits do not.
#[cube]
pub(super) fn linear_index(row: usize, width: usize, column: usize) -> usize {
    row * width + column
}

#[cfg(test)]
#[path = "../../../tests/kernels/gpu_index.rs"]
mod tests;

//! Products of dense matrices, written into a block of a buffer.
//!
//! ```text
//! destination  =  alpha · lhs · rhs                 (overwriting)
//! destination +=  alpha · lhs · rhs                 (accumulating)
//! ```
//!
//! The arithmetic is the `gemm` crate's, which picks the instruction set at run time. The threads are ours: the longer side
//! of the destination is cut into strips, and each strip is one thread's. The cuts depend on the shapes and on the number of
//! threads alone, and so does the order in which an entry is summed: a product repeats bit by bit.

use std::sync::atomic::{AtomicPtr, Ordering};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::{
    dtype::Compute,
    matrix::{Matrix, MatrixMut},
};

/// `destination = alpha · lhs · rhs`, or `destination += alpha · lhs · rhs` if it accumulates.
///
/// Unless it accumulates, what the destination held before does not matter, NaN included. A product over nothing is 0.
///
/// # Panics
/// If the shapes are not `[m, n]`, `[m, k]` and `[k, n]`.
pub(crate) fn matmul<T: Compute>(
    destination: MatrixMut<T>,
    accumulate: bool,
    alpha: T,
    lhs: Matrix<T>,
    rhs: Matrix<T>,
) {
    let (to, left, right) = (destination.layout, lhs.layout, rhs.layout);
    assert!(
        (to.rows, to.columns, left.columns) == (left.rows, right.columns, right.rows),
        "[{}, {}] is not the shape of [{}, {}] · [{}, {}]",
        to.rows,
        to.columns,
        left.rows,
        left.columns,
        right.rows,
        right.columns
    );
    if to.rows > to.columns {
        matmul_by_columns(destination.transposed(), accumulate, alpha, rhs.transposed(), lhs.transposed());
    } else {
        matmul_by_columns(destination, accumulate, alpha, lhs, rhs);
    }
}

/// The product, a strip of columns at a time; the next free thread takes the next strip.
fn matmul_by_columns<T: Compute>(
    destination: MatrixMut<T>,
    accumulate: bool,
    alpha: T,
    lhs: Matrix<T>,
    rhs: Matrix<T>,
) {
    let (to, inner) = (destination.layout, lhs.layout.columns);
    let width = strip_width(to.rows, to.columns, inner);
    // In a row-major matrix strips of columns interleave. They are no slices, so the threads share a pointer.
    let first = AtomicPtr::new(destination.data.as_mut_ptr());
    (0..to.columns.div_ceil(width)).into_par_iter().with_max_len(1).for_each(|strip| {
        let columns = strip * width..to.columns.min((strip + 1) * width);
        let (start, to) = to.columns(&columns);
        let (left, right) = (lhs.layout, rhs.columns(columns));
        // SAFETY: the constructors checked that every entry of the three matrices lies in its slice, and that no two of
        // the destination overlap, so that strips, having no column in common, write to different numbers; the
        // shapes agree; the slices stay borrowed until all strips are done, and the destination's, being exclusive,
        // shares nothing with the others. `Compute` is f32 or f64, which gemm knows.
        unsafe {
            gemm::gemm(
                to.rows,
                to.columns,
                inner,
                first.load(Ordering::Relaxed).add(start),
                to.column_stride as isize,
                to.row_stride as isize,
                accumulate,
                lhs.data.as_ptr(),
                left.column_stride as isize,
                left.row_stride as isize,
                right.data.as_ptr(),
                right.layout.column_stride as isize,
                right.layout.row_stride as isize,
                T::ONE,
                alpha,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

/// How many columns a thread takes at a time.
///
/// gemm packs the factors, a slice of the inner axis at a time, into the order in which it reads them. Narrow strips keep these
/// copies to a few MiB per thread; hundreds of columns make up for packing `lhs` once for each strip. More strips than threads
/// balance the load if a thread is held up.
fn strip_width(rows: usize, columns: usize, inner: usize) -> usize {
    /// Multiply-adds from which on two threads are faster than one, for all that it takes to wake the second.
    const WORTH_THREADS: usize = 1 << 20;
    /// A multiple of what fits into registers, in any instruction set.
    const STEP: usize = 64;
    const WIDE: usize = 2048;

    let small = rows.saturating_mul(columns).saturating_mul(inner) < WORTH_THREADS;
    let threads = if small { 1 } else { rayon::current_num_threads() };
    let strips = threads * columns.div_ceil(threads * WIDE).max(1);
    columns.div_ceil(strips).max(1).next_multiple_of(STEP)
}

#[cfg(test)]
#[path = "../../../tests/kernels/matmul.rs"]
mod tests;

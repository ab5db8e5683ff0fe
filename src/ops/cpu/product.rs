//! Products of dense matrices, read and written in place: any strides, any part of a larger buffer.
//!
//! ```text
//! destination  =  alpha · lhs · rhs                 (overwriting)
//! destination +=  alpha · lhs · rhs                 (accumulating)
//! ```
//!
//! The arithmetic is the `gemm` crate's, which picks the instruction set at run time. Threads are ours: the longer side
//! of the destination is cut into strips, and each strip is one thread's. Where the cuts are depends on the shapes and on
//! the number of threads alone, and so does the order in which an entry is summed: a product repeats bit by bit.

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::ops::Range;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A number that matrices are made of.
pub(crate) trait Real: Copy + Send + Sync + 'static {
    const ONE: Self;
}

impl Real for f32 {
    const ONE: Self = 1.0;
}

impl Real for f64 {
    const ONE: Self = 1.0;
}

/// Where the entries of a matrix are: entry `(i, j)` lies `i · row_stride + j · column_stride` after the first.
#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Layout {
    /// How long a slice must be to hold every entry.
    fn reach(self) -> Option<usize> {
        if self.rows == 0 || self.columns == 0 {
            return Some(0);
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride)?;
        let last_column = (self.columns - 1).checked_mul(self.column_stride)?;
        last_row.checked_add(last_column)?.checked_add(1)
    }

    fn check(self, available: usize, name: &str) {
        assert!(
            self.reach().is_some_and(|needed| needed <= available),
            "{name}: {self:?} does not fit into {available} numbers"
        );
    }

    /// Whether no two entries share a place: one step along one axis leads past all of the other.
    fn is_distinct(self) -> bool {
        let steps_over = |outer: usize, outer_stride: usize, inner: usize, inner_stride: usize| {
            (inner <= 1 || inner_stride > 0) && (outer <= 1 || outer_stride > (inner - 1) * inner_stride)
        };
        self.rows == 0
            || self.columns == 0
            || steps_over(self.rows, self.row_stride, self.columns, self.column_stride)
            || steps_over(self.columns, self.column_stride, self.rows, self.row_stride)
    }

    fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, row_stride: self.column_stride, column_stride: self.row_stride }
    }

    /// The layout of some columns, and where the first of them begins.
    fn columns(self, range: &Range<usize>) -> (usize, Self) {
        assert!(range.start <= range.end && range.end <= self.columns, "columns {range:?} of {self:?}");
        let part = Self { columns: range.len(), ..self };
        // Nothing is read of an empty part: it may begin anywhere, so at the start, which is always there.
        let start = if part.reach() == Some(0) { 0 } else { range.start * self.column_stride };
        (start, part)
    }
}

/// A matrix to read: a view of numbers that lie in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    data: &'a [T],
    layout: Layout,
}

impl<'a, T> Matrix<'a, T> {
    /// Entry `(i, j)` is `data[i · row_stride + j · column_stride]`.
    ///
    /// # Panics
    /// If an entry lies outside of `data`.
    pub(crate) fn new(data: &'a [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let layout = Layout { rows, columns, row_stride, column_stride };
        layout.check(data.len(), "matrix");
        Self { data, layout }
    }

    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        let (start, layout) = self.layout.columns(&range);
        Self { data: &self.data[start..], layout }
    }

    #[cfg(test)]
    pub(crate) fn rows(self, range: Range<usize>) -> Self {
        self.transposed().columns(range).transposed()
    }

    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, layout: self.layout.transposed() }
    }
}

/// A matrix to write, each entry in a place of its own. What lies between its entries is left alone.
pub(crate) struct MatrixMut<'a, T> {
    data: &'a mut [T],
    layout: Layout,
}

impl<'a, T> MatrixMut<'a, T> {
    /// Entry `(i, j)` is `data[i · row_stride + j · column_stride]`.
    ///
    /// # Panics
    /// If an entry lies outside of `data`, or two in one place.
    pub(crate) fn new(data: &'a mut [T], rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> Self {
        let layout = Layout { rows, columns, row_stride, column_stride };
        layout.check(data.len(), "matrix to write");
        assert!(layout.is_distinct(), "matrix to write: entries of {layout:?} overlap");
        Self { data, layout }
    }

    pub(crate) fn columns(self, range: Range<usize>) -> Self {
        let (start, layout) = self.layout.columns(&range);
        Self { data: &mut self.data[start..], layout }
    }

    pub(crate) fn rows(self, range: Range<usize>) -> Self {
        self.transposed().columns(range).transposed()
    }

    pub(crate) fn transposed(self) -> Self {
        Self { data: self.data, layout: self.layout.transposed() }
    }
}

/// `destination = alpha · lhs · rhs`, or `destination += alpha · lhs · rhs` if it accumulates.
///
/// Unless it accumulates, what the destination held before does not matter, NaN included. A product over nothing is 0.
///
/// # Panics
/// If the shapes are not `[m, n]`, `[m, k]` and `[k, n]`.
pub(crate) fn product<T: Real>(destination: MatrixMut<T>, accumulate: bool, alpha: T, lhs: Matrix<T>, rhs: Matrix<T>) {
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
        product_by_columns(destination.transposed(), accumulate, alpha, rhs.transposed(), lhs.transposed());
    } else {
        product_by_columns(destination, accumulate, alpha, lhs, rhs);
    }
}

/// The product, a strip of columns at a time, whichever thread is free taking the next one.
fn product_by_columns<T: Real>(destination: MatrixMut<T>, accumulate: bool, alpha: T, lhs: Matrix<T>, rhs: Matrix<T>) {
    let (to, inner) = (destination.layout, lhs.layout.columns);
    let width = strip_width(to.rows, to.columns, inner);
    // Where rows lie one after the other, strips of columns interleave: they are no slices, and a pointer is shared.
    let first = AtomicPtr::new(destination.data.as_mut_ptr());
    (0..to.columns.div_ceil(width)).into_par_iter().with_max_len(1).for_each(|strip| {
        let columns = strip * width..to.columns.min((strip + 1) * width);
        let (start, to) = to.columns(&columns);
        let (left, right) = (lhs.layout, rhs.columns(columns));
        // SAFETY: the constructors checked that every entry of the three matrices lies in its slice, and that no two of
        // the destination share a place, so that strips, having no column in common, write to different ones; the
        // shapes agree; the slices stay borrowed until all strips are done, and the destination's, being exclusive,
        // shares nothing with the others. `Real` is f32 or f64, which gemm knows.
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
/// gemm copies the factors, a slice of the inner axis at a time, into the order in which it reads them. Narrow strips keep
/// these copies to a few MiB per thread; hundreds of columns make up for copying `lhs` once for each strip. Strips that
/// are left for whoever is done first make up for a thread that is held up.
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
mod tests {
    use super::*;

    /// Small whole numbers: their products and sums are exact in f32 up to 2²⁴, so that results are equal, not close.
    fn whole_numbers(count: usize, seed: u64) -> Vec<f64> {
        random(count, seed).into_iter().map(|unit| (unit * 17.0).floor() - 8.0).collect()
    }

    /// Numbers in [0, 1), by a linear congruence.
    fn random(count: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / (1u64 << 24) as f64
        };
        (0..count).map(|_| next()).collect()
    }

    trait Number: Real + PartialEq + std::fmt::Debug {
        fn from_f64(value: f64) -> Self;
        fn to_f64(self) -> f64;
    }

    impl Number for f32 {
        fn from_f64(value: f64) -> Self {
            value as f32
        }
        fn to_f64(self) -> f64 {
            self.into()
        }
    }

    impl Number for f64 {
        fn from_f64(value: f64) -> Self {
            value
        }
        fn to_f64(self) -> f64 {
            self
        }
    }

    /// Where a matrix may lie: `offset` numbers into a buffer, in it with gaps or without, by rows or by columns.
    #[derive(Clone, Copy, Debug)]
    enum Place {
        Rows,
        Columns,
        TileOfColumns,
        TileOfRows,
        Scattered,
    }

    const PLACES: [Place; 5] = [Place::Rows, Place::Columns, Place::TileOfColumns, Place::TileOfRows, Place::Scattered];

    impl Place {
        /// Offset, row stride and column stride.
        fn strides(self, [rows, columns]: [usize; 2]) -> [usize; 3] {
            match self {
                Place::Rows => [0, columns, 1],
                Place::Columns => [0, 1, rows],
                Place::TileOfColumns => [5, columns + 7, 1],
                Place::TileOfRows => [3, 1, rows + 6],
                Place::Scattered => [2, 3 * columns + 4, 3],
            }
        }
    }

    /// A matrix laid into a buffer, whose other numbers are `elsewhere`.
    struct Buffer<T> {
        data: Vec<T>,
        shape: [usize; 2],
        strides: [usize; 3],
    }

    impl<T: Number> Buffer<T> {
        fn new(values: &[f64], shape: [usize; 2], place: Place, elsewhere: f64) -> Self {
            let strides = place.strides(shape);
            let [offset, row_stride, column_stride] = strides;
            let length = offset + shape[0] * row_stride + shape[1] * column_stride + 9;
            let mut buffer = Self { data: vec![T::from_f64(elsewhere); length], shape, strides };
            for (index, &value) in values.iter().enumerate() {
                let at = buffer.place(index);
                buffer.data[at] = T::from_f64(value);
            }
            buffer
        }

        /// Of the entry that comes `index`th by rows.
        fn place(&self, index: usize) -> usize {
            let [offset, row_stride, column_stride] = self.strides;
            offset + index / self.shape[1] * row_stride + index % self.shape[1] * column_stride
        }

        fn matrix(&self) -> Matrix<'_, T> {
            let [offset, row_stride, column_stride] = self.strides;
            Matrix::new(&self.data[offset..], self.shape[0], self.shape[1], row_stride, column_stride)
        }

        fn matrix_mut(&mut self) -> MatrixMut<'_, T> {
            let [offset, row_stride, column_stride] = self.strides;
            MatrixMut::new(&mut self.data[offset..], self.shape[0], self.shape[1], row_stride, column_stride)
        }

        fn values(&self) -> Vec<f64> {
            (0..self.shape[0] * self.shape[1]).map(|index| self.data[self.place(index)].to_f64()).collect()
        }
    }

    /// `f(Σ lhs · rhs)` of each entry, by rows.
    fn naive([m, n, k]: [usize; 3], lhs: &[f64], rhs: &[f64], term: fn(f64) -> f64) -> Vec<f64> {
        let entry = |i: usize, j: usize| (0..k).map(|l| term(lhs[i * k + l] * rhs[l * n + j])).sum();
        (0..m * n).map(|index| entry(index / n, index % n)).collect()
    }

    /// Every road through the product: dot products, vectors, outer products, small, odd, and on several threads.
    const SHAPES: [[usize; 3]; 12] = [
        [1, 1, 1],
        [1, 1, 70],
        [1, 33, 40],
        [33, 1, 40],
        [5, 7, 1],
        [5, 7, 2],
        [3, 4, 5],
        [6, 5, 1100],
        [17, 97, 19],
        [64, 96, 8],
        [97, 131, 90],
        [3, 2300, 10],
    ];

    /// Whatever the layouts, the entries are the exact ones, and nothing else in the buffer is written.
    fn product_is_exact_in_every_layout<T: Number>() {
        for shape @ [m, n, k] in SHAPES {
            let (lhs, rhs) = (whole_numbers(m * k, 1), whole_numbers(k * n, 2));
            let former = whole_numbers(m * n, 3);
            let exact = naive(shape, &lhs, &rhs, |term| term);
            for (case, (to, left, right)) in triples().enumerate() {
                let (accumulate, alpha) = [(false, 1.0), (false, -0.5), (true, 1.0), (true, 2.0)][case % 4];
                let lhs = Buffer::<T>::new(&lhs, [m, k], left, f64::NAN);
                let rhs = Buffer::<T>::new(&rhs, [k, n], right, f64::NAN);
                let mut destination = Buffer::<T>::new(&former, [m, n], to, -77.0);
                product(destination.matrix_mut(), accumulate, T::from_f64(alpha), lhs.matrix(), rhs.matrix());
                let kept = if accumulate { 1.0 } else { 0.0 };
                let expected: Vec<f64> =
                    exact.iter().zip(&former).map(|(sum, former)| alpha * sum + kept * former).collect();
                let expected = Buffer::<T>::new(&expected, [m, n], to, -77.0);
                assert!(
                    destination.data == expected.data,
                    "{shape:?} {to:?} = {left:?} · {right:?}, accumulate {accumulate}, alpha {alpha}"
                );
            }
        }
    }

    fn triples() -> impl Iterator<Item = (Place, Place, Place)> {
        let pairs = || PLACES.into_iter().flat_map(|left| PLACES.map(|right| (left, right)));
        PLACES.into_iter().flat_map(move |to| pairs().map(move |(left, right)| (to, left, right)))
    }

    #[test]
    fn product_is_exact_in_every_layout_f32() {
        product_is_exact_in_every_layout::<f32>();
    }

    #[test]
    fn product_is_exact_in_every_layout_f64() {
        product_is_exact_in_every_layout::<f64>();
    }

    /// A term passes through its own rounding, at most `k − 1` additions to others, alpha and one addition to what was
    /// there: `k + 2` roundings of half an epsilon each, however the sum is ordered. The naive sum in f64 is exact
    /// beside that.
    #[test]
    fn rounding_stays_within_its_bound() {
        let shape @ [m, n, k] = [60, 30, 1500];
        let [lhs, rhs, former] = [(m * k, 4), (k * n, 5), (m * n, 6)].map(|(count, seed)| {
            random(count, seed).into_iter().map(|x| f64::from(x as f32 - 0.5)).collect::<Vec<_>>()
        });
        let alpha = f64::from(0.3_f32);
        let exact = naive(shape, &lhs, &rhs, |term| term);
        let magnitudes = naive(shape, &lhs, &rhs, f64::abs);
        let mut destination = Buffer::<f32>::new(&former, [m, n], Place::TileOfColumns, 0.0);
        let [lhs, rhs] =
            [(&lhs, [m, k]), (&rhs, [k, n])].map(|(values, shape)| Buffer::<f32>::new(values, shape, Place::Rows, 0.0));
        product(destination.matrix_mut(), true, alpha as f32, lhs.matrix(), rhs.matrix());
        let unit = f64::from(f32::EPSILON) / 2.0;
        let roundings = (k + 2) as f64 * unit / (1.0 - (k + 2) as f64 * unit);
        for (index, &computed) in destination.values().iter().enumerate() {
            let error = (computed - (former[index] + alpha * exact[index])).abs();
            let bound = roundings * (former[index].abs() + alpha * magnitudes[index]);
            assert!(error <= bound, "entry {index}: off by {error:e}, bound {bound:e}");
        }
    }

    /// What is overwritten is not read: NaN does not survive.
    #[test]
    fn overwritten_content_does_not_matter() {
        for shape @ [m, n, k] in SHAPES.into_iter().chain([[4, 5, 0], [200, 300, 0]]) {
            let (lhs, rhs) = (whole_numbers(m * k, 7), whole_numbers(k * n, 8));
            let expected = naive(shape, &lhs, &rhs, |term| term);
            for to in PLACES {
                let mut destination = Buffer::<f32>::new(&vec![f64::NAN; m * n], [m, n], to, 0.0);
                let lhs = Buffer::<f32>::new(&lhs, [m, k], Place::Rows, 0.0);
                let rhs = Buffer::<f32>::new(&rhs, [k, n], Place::Rows, 0.0);
                product(destination.matrix_mut(), false, 1.0, lhs.matrix(), rhs.matrix());
                assert_eq!(destination.values(), expected, "{shape:?} {to:?}");
            }
        }
    }

    /// NaN in a factor reaches the entries that it is part of, and no others: alpha = 0 does not hide it.
    #[test]
    fn nan_in_a_factor_stays_in_its_row() {
        let [m, n, k] = [60, 70, 80];
        let mut lhs = vec![1.0_f32; m * k];
        lhs[7 * k + 11] = f32::NAN;
        let rhs = vec![1.0; k * n];
        for alpha in [0.0, 1.0] {
            let mut destination = vec![0.0; m * n];
            let (left, right) = (Matrix::new(&lhs, m, k, k, 1), Matrix::new(&rhs, k, n, n, 1));
            product(MatrixMut::new(&mut destination, m, n, n, 1), true, alpha, left, right);
            for (row, entries) in destination.chunks(n).enumerate() {
                assert!(entries.iter().all(|entry| entry.is_nan() == (row == 7)), "alpha {alpha}, row {row}");
            }
        }
    }

    #[test]
    fn nothing_to_sum_gives_zero_or_what_was_there() {
        let mut destination = vec![3.0_f32; 12];
        let nothing = Matrix::new(&[], 3, 0, 0, 1);
        product(MatrixMut::new(&mut destination, 3, 2, 4, 1), true, 1.0, nothing, nothing.transposed().columns(0..2));
        assert_eq!(destination, [3.0; 12]);
        product(MatrixMut::new(&mut destination, 3, 2, 4, 1), false, 1.0, nothing, nothing.transposed().columns(1..3));
        assert_eq!(destination, [0.0, 0.0, 3.0, 3.0, 0.0, 0.0, 3.0, 3.0, 0.0, 0.0, 3.0, 3.0]);
    }

    #[test]
    fn no_rows_or_no_columns_write_nothing() {
        let numbers = [1.0_f64; 6];
        let mut destination = [5.0; 6];
        let factor = Matrix::new(&numbers, 2, 3, 3, 1);
        let to = MatrixMut::new(&mut destination, 2, 0, 3, 1);
        product(to, false, 1.0, factor, factor.transposed().columns(2..2));
        let to = MatrixMut::new(&mut destination, 0, 2, 3, 1);
        product(to, false, 1.0, factor.rows(2..2), factor.transposed());
        product(MatrixMut::new(&mut [], 0, 0, 0, 1), false, 1.0, factor.rows(2..2), factor.transposed().columns(0..0));
        // Where a next row would begin, there is no number.
        let gapped = Matrix::new(&numbers, 2, 2, 4, 1);
        let to = MatrixMut::new(&mut destination, 2, 2, 4, 1).rows(2..2);
        product(to, false, 1.0, gapped.rows(2..2), gapped);
        assert_eq!(destination, [5.0; 6]);
    }

    /// The same bits each time, on one thread, two and three.
    #[test]
    fn products_repeat_bit_by_bit() {
        let [m, n, k] = [150, 330, 700];
        let [lhs, rhs] = [(m * k, 9), (k * n, 10)]
            .map(|(count, seed)| random(count, seed).into_iter().map(|x| x as f32 - 0.5).collect::<Vec<_>>());
        let once = || {
            let mut destination = vec![0.0; m * n];
            let (lhs, rhs) = (Matrix::new(&lhs, m, k, k, 1), Matrix::new(&rhs, k, n, n, 1));
            product(MatrixMut::new(&mut destination, m, n, n, 1), false, 0.7, lhs, rhs);
            destination.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        for threads in 1..=3 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let first = pool.install(once);
            for _ in 0..5 {
                assert!(pool.install(once) == first, "{threads} threads");
            }
        }
    }

    /// A product of parts is the part of the product.
    #[test]
    fn parts_are_the_entries_they_name() {
        let [m, n, k] = [9, 11, 6];
        let (lhs, rhs) = (whole_numbers(m * k, 11), whole_numbers(k * n, 12));
        let whole = naive([m, n, k], &lhs, &rhs, |term| term);
        let mut destination = vec![-1.0; m * n];
        let to = MatrixMut::new(&mut destination, m, n, n, 1).rows(2..7).columns(3..11);
        let left = Matrix::new(&lhs, m, k, k, 1).rows(2..7);
        let right = Matrix::new(&rhs, k, n, n, 1).columns(3..11);
        product(to.transposed(), false, 1.0, right.transposed(), left.transposed());
        for (index, &entry) in destination.iter().enumerate() {
            let inside = (2..7).contains(&(index / n)) && (3..11).contains(&(index % n));
            assert_eq!(entry, if inside { whole[index] } else { -1.0 }, "entry {index}");
        }
    }

    #[test]
    #[should_panic(expected = "does not fit into 11 numbers")]
    fn a_matrix_stays_inside_its_slice() {
        Matrix::new(&[0.0_f32; 11], 3, 4, 4, 1);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_reach_beyond_all_numbers_is_outside() {
        Matrix::new(&[0.0_f32; 11], 3, 4, 1 << (usize::BITS - 1), 1);
    }

    #[test]
    #[should_panic(expected = "overlap")]
    fn no_place_is_written_twice() {
        MatrixMut::new(&mut [0.0_f32; 12], 3, 4, 3, 1);
    }

    #[test]
    #[should_panic(expected = "columns 2..5")]
    fn parts_stay_inside_their_matrix() {
        Matrix::new(&[0.0_f32; 12], 3, 4, 4, 1).columns(2..5);
    }

    #[test]
    #[should_panic(expected = "[2, 2] is not the shape of [2, 3] · [2, 3]")]
    fn shapes_must_agree() {
        let (numbers, mut destination) = ([0.0_f64; 6], [0.0; 4]);
        let factor = Matrix::new(&numbers, 2, 3, 3, 1);
        product(MatrixMut::new(&mut destination, 2, 2, 2, 1), false, 1.0, factor, factor);
    }
}

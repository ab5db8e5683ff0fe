//! Dense matrices as views of slices: any strides, any block of a larger buffer.

use std::ops::Range;

/// The shape and strides of a matrix: entry `(i, j)` lies `i · row_stride + j · column_stride` after the first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
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

    /// Whether no two entries share an index: one step along one axis leads past all of the other.
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

    /// The layout of some columns, and the offset of the first of them.
    pub(super) fn columns(self, range: &Range<usize>) -> (usize, Self) {
        assert!(range.start <= range.end && range.end <= self.columns, "columns {range:?} of {self:?}");
        let part = Self { columns: range.len(), ..self };
        // An empty part is not read and may begin anywhere, so it begins at 0, which always exists.
        let start = if part.reach() == Some(0) { 0 } else { range.start * self.column_stride };
        (start, part)
    }
}

/// A matrix to read: a view of numbers that lie in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(super) data: &'a [T],
    pub(super) layout: Layout,
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

/// A matrix to write, whose entries do not overlap. Numbers between its entries are left alone.
pub(crate) struct MatrixMut<'a, T> {
    pub(super) data: &'a mut [T],
    pub(super) layout: Layout,
}

impl<'a, T> MatrixMut<'a, T> {
    /// Entry `(i, j)` is `data[i · row_stride + j · column_stride]`.
    ///
    /// # Panics
    /// If an entry lies outside of `data`, or two entries overlap.
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

#[cfg(test)]
#[path = "../../../tests/kernels/matrix.rs"]
mod tests;

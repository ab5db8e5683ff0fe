use super::*;

/// Small whole numbers: their products and sums are exact in f32 up to 2²⁴, so that results are equal, not close.
fn whole_numbers(count: usize, seed: u64) -> Vec<f64> {
    random(count, seed).into_iter().map(|unit| (unit * 17.0).floor() - 8.0).collect()
}

/// Computes in [0, 1), by a linear congruence.
fn random(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// How a matrix lies in a buffer: row-major or column-major, with gaps or without, from an offset on.
#[derive(Clone, Copy, Debug)]
enum Storage {
    Rows,
    Columns,
    TileOfColumns,
    TileOfRows,
    Scattered,
}

const STORAGES: [Storage; 5] =
    [Storage::Rows, Storage::Columns, Storage::TileOfColumns, Storage::TileOfRows, Storage::Scattered];

impl Storage {
    /// Offset, row stride and column stride.
    fn strides(self, [rows, columns]: [usize; 2]) -> [usize; 3] {
        match self {
            Storage::Rows => [0, columns, 1],
            Storage::Columns => [0, 1, rows],
            Storage::TileOfColumns => [5, columns + 7, 1],
            Storage::TileOfRows => [3, 1, rows + 6],
            Storage::Scattered => [2, 3 * columns + 4, 3],
        }
    }
}

/// A matrix laid into a buffer, whose other numbers are `elsewhere`.
struct Buffer<T> {
    data: Vec<T>,
    shape: [usize; 2],
    strides: [usize; 3],
}

impl<T: Compute> Buffer<T> {
    fn new(values: &[f64], shape: [usize; 2], storage: Storage, elsewhere: f64) -> Self {
        let strides = storage.strides(shape);
        let [offset, row_stride, column_stride] = strides;
        let length = offset + shape[0] * row_stride + shape[1] * column_stride + 9;
        let mut buffer = Self { data: vec![T::of(elsewhere); length], shape, strides };
        for (index, &value) in values.iter().enumerate() {
            let at = buffer.index(index);
            buffer.data[at] = T::of(value);
        }
        buffer
    }

    /// The index in the buffer of the entry that comes `index`th by rows.
    fn index(&self, index: usize) -> usize {
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
        (0..self.shape[0] * self.shape[1]).map(|index| self.data[self.index(index)].to_f64()).collect()
    }
}

/// `f(Σ lhs · rhs)` of each entry, by rows.
fn naive([m, n, k]: [usize; 3], lhs: &[f64], rhs: &[f64], term: fn(f64) -> f64) -> Vec<f64> {
    let entry = |i: usize, j: usize| (0..k).map(|l| term(lhs[i * k + l] * rhs[l * n + j])).sum();
    (0..m * n).map(|index| entry(index / n, index % n)).collect()
}

/// Every code path of the product: dot products, vectors, outer products, small, odd, and on several threads.
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
fn product_is_exact_in_every_layout<T: Compute>() {
    for shape @ [m, n, k] in SHAPES {
        let (lhs, rhs) = (whole_numbers(m * k, 1), whole_numbers(k * n, 2));
        let former = whole_numbers(m * n, 3);
        let exact = naive(shape, &lhs, &rhs, |term| term);
        for (case, (to, left, right)) in triples().enumerate() {
            let (accumulate, alpha) = [(false, 1.0), (false, -0.5), (true, 1.0), (true, 2.0)][case % 4];
            let lhs = Buffer::<T>::new(&lhs, [m, k], left, f64::NAN);
            let rhs = Buffer::<T>::new(&rhs, [k, n], right, f64::NAN);
            let mut destination = Buffer::<T>::new(&former, [m, n], to, -77.0);
            matmul(destination.matrix_mut(), accumulate, T::of(alpha), lhs.matrix(), rhs.matrix());
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

fn triples() -> impl Iterator<Item = (Storage, Storage, Storage)> {
    let pairs = || STORAGES.into_iter().flat_map(|left| STORAGES.map(|right| (left, right)));
    STORAGES.into_iter().flat_map(move |to| pairs().map(move |(left, right)| (to, left, right)))
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
    let [lhs, rhs, former] = [(m * k, 4), (k * n, 5), (m * n, 6)]
        .map(|(count, seed)| random(count, seed).into_iter().map(|x| f64::from(x as f32 - 0.5)).collect::<Vec<_>>());
    let alpha = f64::from(0.3_f32);
    let exact = naive(shape, &lhs, &rhs, |term| term);
    let magnitudes = naive(shape, &lhs, &rhs, f64::abs);
    let mut destination = Buffer::<f32>::new(&former, [m, n], Storage::TileOfColumns, 0.0);
    let [lhs, rhs] =
        [(&lhs, [m, k]), (&rhs, [k, n])].map(|(values, shape)| Buffer::<f32>::new(values, shape, Storage::Rows, 0.0));
    matmul(destination.matrix_mut(), true, alpha as f32, lhs.matrix(), rhs.matrix());
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
        for to in STORAGES {
            let mut destination = Buffer::<f32>::new(&vec![f64::NAN; m * n], [m, n], to, 0.0);
            let lhs = Buffer::<f32>::new(&lhs, [m, k], Storage::Rows, 0.0);
            let rhs = Buffer::<f32>::new(&rhs, [k, n], Storage::Rows, 0.0);
            matmul(destination.matrix_mut(), false, 1.0, lhs.matrix(), rhs.matrix());
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
        matmul(MatrixMut::new(&mut destination, m, n, n, 1), true, alpha, left, right);
        for (row, entries) in destination.chunks(n).enumerate() {
            assert!(entries.iter().all(|entry| entry.is_nan() == (row == 7)), "alpha {alpha}, row {row}");
        }
    }
}

#[test]
fn nothing_to_sum_gives_zero_or_what_was_there() {
    let mut destination = vec![3.0_f32; 12];
    let nothing = Matrix::new(&[], 3, 0, 0, 1);
    matmul(MatrixMut::new(&mut destination, 3, 2, 4, 1), true, 1.0, nothing, nothing.transposed().columns(0..2));
    assert_eq!(destination, [3.0; 12]);
    matmul(MatrixMut::new(&mut destination, 3, 2, 4, 1), false, 1.0, nothing, nothing.transposed().columns(1..3));
    assert_eq!(destination, [0.0, 0.0, 3.0, 3.0, 0.0, 0.0, 3.0, 3.0, 0.0, 0.0, 3.0, 3.0]);
}

#[test]
fn no_rows_or_no_columns_write_nothing() {
    let numbers = [1.0_f64; 6];
    let mut destination = [5.0; 6];
    let factor = Matrix::new(&numbers, 2, 3, 3, 1);
    let to = MatrixMut::new(&mut destination, 2, 0, 3, 1);
    matmul(to, false, 1.0, factor, factor.transposed().columns(2..2));
    let to = MatrixMut::new(&mut destination, 0, 2, 3, 1);
    matmul(to, false, 1.0, factor.rows(2..2), factor.transposed());
    matmul(MatrixMut::new(&mut [], 0, 0, 0, 1), false, 1.0, factor.rows(2..2), factor.transposed().columns(0..0));
    // Where a next row would begin, there is no number.
    let gapped = Matrix::new(&numbers, 2, 2, 4, 1);
    let to = MatrixMut::new(&mut destination, 2, 2, 4, 1).rows(2..2);
    matmul(to, false, 1.0, gapped.rows(2..2), gapped);
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
        matmul(MatrixMut::new(&mut destination, m, n, n, 1), false, 0.7, lhs, rhs);
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
    matmul(to.transposed(), false, 1.0, right.transposed(), left.transposed());
    for (index, &entry) in destination.iter().enumerate() {
        let inside = (2..7).contains(&(index / n)) && (3..11).contains(&(index % n));
        assert_eq!(entry, if inside { whole[index] } else { -1.0 }, "entry {index}");
    }
}

#[test]
#[should_panic(expected = "[2, 2] is not the shape of [2, 3] · [2, 3]")]
fn shapes_must_agree() {
    let (numbers, mut destination) = ([0.0_f64; 6], [0.0; 4]);
    let factor = Matrix::new(&numbers, 2, 3, 3, 1);
    matmul(MatrixMut::new(&mut destination, 2, 2, 2, 1), false, 1.0, factor, factor);
}

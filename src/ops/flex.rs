//! burn's CPU backend: its tensors as slices, for the kernels in `cpu`.

use std::ops::Range;

use burn::backend::{
    Flex,
    flex::{FlexTensor, Layout},
    ops::FloatTensorOps,
};
use burn_tensor::{Bytes, DType, Element, FloatDType, Shape, bf16, f16};
use bytemuck::Pod;
use rayon::prelude::*;

use super::{
    Chain, PreferenceOps, Product, RowKernels, RowSums,
    cpu::{
        self, Format, Matrix, MatrixMut, Real, RowSum, Upstream, gradient_rows, gradient_rows_into, product, sums_of,
    },
};

/// Runs a block of code with a type alias for the float format of a tensor.
macro_rules! with_format {
    ($dtype:expr, $F:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $F = f64;
                $body
            }
            DType::F16 => {
                type $F = f16;
                $body
            }
            DType::BF16 => {
                type $F = bf16;
                $body
            }
            _ => {
                type $F = f32;
                $body
            }
        }
    };
}

/// [`with_format`] for the two formats that are computed in.
macro_rules! with_arithmetic {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

impl PreferenceOps for Flex {
    fn row_gradient(
        z: FlexTensor,
        targets: FlexTensor,
        sums: FlexTensor,
        upstream: FlexTensor,
        offset: usize,
        chain: Chain,
    ) -> FlexTensor {
        let upstream = upstreams(&upstream);
        let chain = cpu::Chain { scale: chain.scale, cap: chain.cap };
        let width = columns(&z);
        let (targets, sums) = (targets.to_contiguous(), wide(sums));
        let (targets, sums) = (slice::<i32>(&targets), row_sums(&sums));
        with_format!(z.dtype(), F => in_place_or_beside::<F>(
            z,
            |z| gradient_rows(z, width, targets, offset, sums, &upstream, chain),
            |z, gradient| gradient_rows_into(z, gradient, width, targets, offset, sums, &upstream, chain),
        ))
    }

    fn soft_cap(z: FlexTensor, cap: f64) -> FlexTensor {
        with_arithmetic!(z.dtype(), T => in_place::<T>(z, |z| cpu::soft_cap(z, cap)))
    }

    fn zeros(_: FlexTensor, shape: [usize; 2], dtype: DType) -> FlexTensor {
        with_format!(dtype, F => zeros::<F>(shape))
    }

    fn block(x: FlexTensor, rows: Range<usize>, columns: Range<usize>) -> FlexTensor {
        with_format!(x.dtype(), F => block::<F>(&x.to_contiguous(), rows, columns))
    }

    fn with_block(x: FlexTensor, block: FlexTensor, rows: Range<usize>, columns: Range<usize>) -> FlexTensor {
        let (width, block) = (self::columns(&x), block.to_contiguous());
        with_format!(x.dtype(), F => in_place::<F>(x, |x| {
            let rows = x.par_chunks_mut(width).skip(rows.start).take(rows.len());
            let block = slice::<F>(&block).par_chunks(columns.len().max(1));
            rows.zip(block).for_each(|(row, block)| row[columns.clone()].copy_from_slice(block));
        }))
    }

    fn product_into(destination: FlexTensor, lhs: FlexTensor, rhs: FlexTensor, how: Product) -> FlexTensor {
        with_arithmetic!(destination.dtype(), T => {
            let scale = how.scale as T;
            let [_, width]: [usize; 2] = destination.layout().shape().dims();
            let rows = destination.layout().shape().dims::<2>()[0];
            let (lhs, rhs) = (unflipped(lhs), unflipped(rhs));
            in_place::<T>(destination, |numbers| {
                let part = MatrixMut::new(numbers, rows, width, width, 1).rows(how.rows).columns(how.columns);
                product(part, how.accumulate, scale, matrix::<T>(&lhs), matrix::<T>(&rhs));
            })
        })
    }

    fn target_columns(weight: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let targets = targets.to_contiguous();
        let targets = slice::<i32>(&targets);
        with_format!(weight.dtype(), F => target_columns::<F>(&weight, targets))
    }

    fn times(x: FlexTensor, factor: FlexTensor) -> FlexTensor {
        let factor = number(&factor, factor.layout().start_offset());
        if factor == 1.0 {
            return x;
        }
        with_format!(x.dtype(), F => in_place::<F>(x, |x| times(x, factor)))
    }
}

impl RowKernels for Flex {
    fn row_sums(z: FlexTensor, targets: FlexTensor, offset: usize, statistics: Option<usize>) -> FlexTensor {
        let (z, targets) = (z.to_contiguous(), targets.to_contiguous());
        let targets = slice::<i32>(&targets);
        let numbers = with_format!(z.dtype(), F => sums_of(slice::<F>(&z), columns(&z), targets, offset, statistics));
        new(numbers, [targets.len(), RowSums::COLUMNS])
    }

    fn merge(one: FlexTensor, two: FlexTensor) -> FlexTensor {
        let (one, two) = (wide(one), wide(two));
        let rows = one.layout().shape().dims::<2>()[0];
        new(cpu::merged(row_sums(&one), row_sums(&two)), [rows, RowSums::COLUMNS])
    }

    fn outputs(sums: FlexTensor, entropy: bool) -> FlexTensor {
        let sums = wide(sums);
        let rows = sums.layout().shape().dims::<2>()[0];
        new(cpu::outputs(row_sums(&sums), entropy), [rows, if entropy { 2 } else { 1 }])
    }

    fn exp_rows(z: FlexTensor, sums: FlexTensor, cap: Option<f64>) -> FlexTensor {
        let sums = wide(sums);
        let sums = row_sums(&sums);
        let (width, counted) = (columns(&z), vec![0; sums.len()]);
        with_arithmetic!(z.dtype(), T => in_place::<T>(z, |z| cpu::exp_rows(z, width, &counted, sums, cap)))
    }
}

fn columns(z: &FlexTensor) -> usize {
    z.layout().shape().dims::<2>()[1]
}

fn block<E: Element + Pod + Send + Sync>(x: &FlexTensor, rows: Range<usize>, columns: Range<usize>) -> FlexTensor {
    let mut block: Vec<E> = bytemuck::zeroed_vec(rows.len() * columns.len());
    let shape = [rows.len(), columns.len()];
    let rows = slice::<E>(x).par_chunks(self::columns(x).max(1)).skip(rows.start).take(rows.len());
    let copied = block.par_chunks_mut(columns.len().max(1)).zip(rows);
    copied.for_each(|(to, from)| to.copy_from_slice(&from[columns.clone()]));
    new(block, shape)
}

/// The numbers of a contiguous tensor.
fn slice<E: Element + Pod>(tensor: &FlexTensor) -> &[E] {
    tensor.as_slice().expect("a contiguous tensor of this format")
}

fn new<E: Element + Pod + Send + Sync>(numbers: Vec<E>, shape: [usize; 2]) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(Shape::new(shape)), E::dtype())
}

/// Memory that comes zeroed and is not touched. burn's own zeros are copied once to be aligned.
fn zeros<E: Element + Pod + Send + Sync>(shape: [usize; 2]) -> FlexTensor {
    new::<E>(bytemuck::zeroed_vec(shape[0] * shape[1]), shape)
}

/// Sums in f64, also if they were made elsewhere.
fn wide(sums: FlexTensor) -> FlexTensor {
    Flex::float_cast(sums, FloatDType::F64).to_contiguous()
}

fn row_sums(sums: &FlexTensor) -> &[RowSum] {
    bytemuck::cast_slice(slice::<f64>(sums))
}

/// A number of a tensor of a format that is computed in, by its place in memory.
fn number(tensor: &FlexTensor, place: usize) -> f64 {
    match tensor.dtype() {
        DType::F64 => tensor.storage::<f64>()[place],
        _ => f64::from(tensor.storage::<f32>()[place]),
    }
}

/// `[rows, 1]` or `[rows, 2]`, often one number seen from every row.
fn upstreams(upstream: &FlexTensor) -> Vec<Upstream> {
    let layout = upstream.layout();
    let [rows, outputs]: [usize; 2] = layout.shape().dims();
    let (start, strides) = (layout.start_offset() as isize, layout.strides());
    let at = |row: usize, output: usize| {
        number(upstream, (start + row as isize * strides[0] + output as isize * strides[1]) as usize)
    };
    (0..rows)
        .map(|row| Upstream { log_prob: at(row, 0), entropy: if outputs > 1 { at(row, 1) } else { 0.0 } })
        .collect()
}

/// The same matrix in memory of its own if it is read backwards.
fn unflipped(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().any(|stride| *stride < 0) { tensor.to_contiguous() } else { tensor }
}

/// A view of a matrix, whatever its strides.
fn matrix<T: Element + Pod + Real>(tensor: &FlexTensor) -> Matrix<'_, T> {
    let layout = tensor.layout();
    let [rows, columns]: [usize; 2] = layout.shape().dims();
    let strides = layout.strides();
    let [row_stride, column_stride] =
        [0, 1].map(|axis: usize| usize::try_from(strides[axis]).expect("a matrix that is not flipped"));
    let numbers = &tensor.storage::<T>()[layout.start_offset().min(tensor.storage::<T>().len())..];
    Matrix::new(numbers, rows, columns, row_stride, column_stride)
}

/// Overwrites a tensor: in its own buffer if nobody else holds it, else in a copy.
fn in_place<E: Element + Pod>(tensor: FlexTensor, overwrite: impl FnOnce(&mut [E])) -> FlexTensor {
    let mut tensor = if is_whole(&tensor) { tensor } else { tensor.to_contiguous() };
    let length = tensor.layout().num_elements();
    overwrite(&mut tensor.storage_mut::<E>()[..length]);
    tensor
}

/// Overwrites a tensor in its own buffer if nobody else holds it; else writes into zeros beside it.
fn in_place_or_beside<E: Element + Pod + Send + Sync + Format>(
    tensor: FlexTensor,
    overwrite: impl FnOnce(&mut [E]),
    write: impl FnOnce(&[E], &mut [E]),
) -> FlexTensor {
    let tensor = if is_whole(&tensor) { tensor } else { tensor.to_contiguous() };
    if is_whole(&tensor) && tensor.is_unique() {
        return in_place(tensor, overwrite);
    }
    let mut beside = zeros::<E>(tensor.layout().shape().dims());
    write(slice(&tensor), beside.storage_mut::<E>());
    beside
}

/// Whether the tensor's numbers are the first ones of its buffer, in order.
fn is_whole(tensor: &FlexTensor) -> bool {
    tensor.is_contiguous() && tensor.layout().start_offset() == 0
}

fn target_columns<F: Element + Pod + Format>(weight: &FlexTensor, targets: &[i32]) -> FlexTensor
where
    F::Real: Element + Pod,
{
    let layout = weight.layout();
    let [width, vocab]: [usize; 2] = layout.shape().dims();
    let (start, strides) = (layout.start_offset() as isize, layout.strides());
    let numbers = weight.storage::<F>();
    let mut columns = Vec::with_capacity(targets.len() * width);
    for &target in targets {
        match usize::try_from(target).ok().filter(|&target| target < vocab) {
            None => columns.resize(columns.len() + width, F::Real::default()),
            Some(target) => columns.extend((0..width).map(|row| {
                numbers[(start + row as isize * strides[0] + target as isize * strides[1]) as usize].widen()
            })),
        }
    }
    new(columns, [targets.len(), width])
}

/// `x` times `factor`, 0 where that is 0.
fn times<F: Format>(x: &mut [F], factor: f64) {
    const PART: usize = 1 << 15;
    if factor == 0.0 {
        return x.fill(F::default());
    }
    let factor = F::Real::of(factor);
    x.par_chunks_mut(PART).for_each(|part| part.iter_mut().for_each(|x| *x = F::narrow(x.widen() * factor)));
}

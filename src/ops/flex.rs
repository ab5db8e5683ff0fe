//! burn's Flex backend: its tensors as slices, and matrix products.

use std::{borrow::Cow, ops::Range};

use burn::backend::{
    Flex,
    flex::{FlexTensor, Layout},
};
use burn_tensor::{Bytes, DType, Element, Shape, bf16, f16};
use bytemuck::Pod;
use rayon::prelude::*;

use super::{
    LogitTransform, MatmulInto, PreferenceOps, RowKernels,
    cpu::{Compute, Float, Matrix, MatrixMut, matmul},
    fused::{FusedKernels, FusedOps, Operands, Program, Reach},
    host::{self, Host, host_kernels, with_arithmetic, with_dtype},
};

host_kernels!(Flex, FlexTensor, FlexTensor, FlexTensor);

impl PreferenceOps for Flex {
    fn row_gradient(
        z: FlexTensor,
        targets: FlexTensor,
        state: FlexTensor,
        upstream: FlexTensor,
        offset: usize,
        transform: LogitTransform,
    ) -> FlexTensor {
        host::row_gradient::<Self>(z, targets, state, upstream, offset, transform)
    }

    fn softcap(z: FlexTensor, softcap: f64) -> FlexTensor {
        host::softcap::<Self>(z, softcap)
    }

    fn zeros(_: FlexTensor, shape: [usize; 2], dtype: DType) -> FlexTensor {
        with_dtype!(dtype, F => zeros::<F>(shape))
    }

    fn block(x: FlexTensor, rows: Range<usize>, columns: Range<usize>) -> FlexTensor {
        with_dtype!(x.dtype(), F => block::<F>(&x.to_contiguous(), rows, columns))
    }

    fn with_block(x: FlexTensor, block: FlexTensor, rows: Range<usize>, columns: Range<usize>) -> FlexTensor {
        let (width, block) = (self::columns(&x), block.to_contiguous());
        with_dtype!(x.dtype(), F => Self::overwrite::<F>(x, |x| {
            let rows = x.par_chunks_mut(width).skip(rows.start).take(rows.len());
            let block = slice::<F>(&block).par_chunks(columns.len().max(1));
            rows.zip(block).for_each(|(row, block)| row[columns.clone()].copy_from_slice(block));
        }))
    }

    fn matmul_into(destination: FlexTensor, lhs: FlexTensor, rhs: FlexTensor, into: MatmulInto) -> FlexTensor {
        with_arithmetic!(destination.dtype(), T => {
            let scale = into.scale as T;
            let [rows, width]: [usize; 2] = destination.layout().shape().dims();
            let (lhs, rhs) = (unflipped(lhs), unflipped(rhs));
            Self::overwrite::<T>(destination, |numbers| {
                let block = MatrixMut::new(numbers, rows, width, width, 1).rows(into.rows).columns(into.columns);
                matmul(block, into.accumulate, scale, matrix::<T>(&lhs), matrix::<T>(&rhs));
            })
        })
    }

    fn target_columns(weight: FlexTensor, targets: FlexTensor) -> FlexTensor {
        let targets = targets.to_contiguous();
        let targets = slice::<i32>(&targets);
        with_dtype!(weight.dtype(), F => target_columns::<F>(&weight, targets))
    }

    fn times(x: FlexTensor, factor: FlexTensor) -> FlexTensor {
        let factor = number(&factor, factor.layout().start_offset());
        if factor == 1.0 {
            return x;
        }
        with_dtype!(x.dtype(), F => Self::overwrite::<F>(x, |x| times(x, factor)))
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
    Flex::from_floats(block, shape)
}

impl Host for Flex {
    fn slice<T: Element + Pod>(tensor: &FlexTensor) -> Cow<'_, [T]> {
        match tensor.as_slice::<T>() {
            Some(numbers) => Cow::Borrowed(numbers),
            None => Cow::Owned(slice(&tensor.to_contiguous()).to_vec()),
        }
    }

    fn repeated<T: Element + Pod>(tensor: &FlexTensor) -> Option<T> {
        let layout = tensor.layout();
        let is_repeated = layout.num_elements() > 0 && layout.strides().iter().all(|stride| *stride == 0);
        is_repeated.then(|| tensor.storage::<T>()[layout.start_offset()])
    }

    fn integers(tensor: &FlexTensor) -> Cow<'_, [i32]> {
        Self::slice(tensor)
    }

    fn ids(tensor: &FlexTensor) -> Vec<i64> {
        match tensor.dtype() {
            DType::I64 => Self::slice(tensor).to_vec(),
            DType::U64 => Self::slice::<u64>(tensor).iter().map(|id| i64::try_from(*id).unwrap_or(i64::MAX)).collect(),
            DType::U32 => Self::slice::<u32>(tensor).iter().map(|id| i64::from(*id)).collect(),
            _ => Self::integers(tensor).iter().map(|id| i64::from(*id)).collect(),
        }
    }

    fn flags(tensor: &FlexTensor) -> Vec<bool> {
        let tensor = tensor.to_contiguous();
        let start = tensor.layout().start_offset();
        tensor.storage::<u8>()[start..start + tensor.layout().num_elements()].iter().map(|flag| *flag != 0).collect()
    }

    fn from_floats<T: Element + Pod + Send + Sync, const D: usize>(numbers: Vec<T>, shape: [usize; D]) -> FlexTensor {
        FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(Shape::new(shape)), T::dtype())
    }

    fn from_integers<const D: usize>(numbers: Vec<i32>, shape: [usize; D]) -> FlexTensor {
        Self::from_floats(numbers, shape)
    }

    fn from_flags<const D: usize>(flags: Vec<bool>, shape: [usize; D], like: &FlexTensor) -> FlexTensor {
        let flags: Vec<u8> = flags.into_iter().map(u8::from).collect();
        FlexTensor::new(Bytes::from_elems(flags), Layout::contiguous(Shape::new(shape)), like.dtype())
    }

    fn overwrite<T: Element + Pod + Send + Sync>(tensor: FlexTensor, overwrite: impl FnOnce(&mut [T])) -> FlexTensor {
        let mut tensor = if is_whole(&tensor) { tensor } else { tensor.to_contiguous() };
        let length = tensor.layout().num_elements();
        overwrite(&mut tensor.storage_mut::<T>()[..length]);
        tensor
    }

    fn overwrite_or_write<T: Element + Pod + Send + Sync>(
        tensor: FlexTensor,
        overwrite: impl FnOnce(&mut [T]),
        write: impl FnOnce(&[T], &mut [T]),
    ) -> FlexTensor {
        let tensor = if is_whole(&tensor) { tensor } else { tensor.to_contiguous() };
        if is_whole(&tensor) && tensor.is_unique() {
            return Self::overwrite(tensor, overwrite);
        }
        let mut beside = zeros::<T>(tensor.layout().shape().dims());
        write(slice(&tensor), beside.storage_mut::<T>());
        beside
    }
}

/// The numbers of a contiguous tensor.
fn slice<E: Element + Pod>(tensor: &FlexTensor) -> &[E] {
    tensor.as_slice().expect("a contiguous tensor of this dtype")
}

/// Zeroed memory that is not touched. burn's own zeros are copied once to be aligned.
fn zeros<E: Element + Pod + Send + Sync>(shape: [usize; 2]) -> FlexTensor {
    Flex::from_floats(bytemuck::zeroed_vec::<E>(shape[0] * shape[1]), shape)
}

/// A number of a tensor of a dtype that is computed in, by its index in the buffer.
fn number(tensor: &FlexTensor, index: usize) -> f64 {
    match tensor.dtype() {
        DType::F64 => tensor.storage::<f64>()[index],
        _ => f64::from(tensor.storage::<f32>()[index]),
    }
}

/// The same matrix in memory of its own if it is read backwards.
fn unflipped(tensor: FlexTensor) -> FlexTensor {
    if tensor.layout().strides().iter().any(|stride| *stride < 0) { tensor.to_contiguous() } else { tensor }
}

/// A view of a matrix, whatever its strides.
fn matrix<T: Element + Pod + Compute>(tensor: &FlexTensor) -> Matrix<'_, T> {
    let layout = tensor.layout();
    let [rows, columns]: [usize; 2] = layout.shape().dims();
    let strides = layout.strides();
    let [row_stride, column_stride] =
        [0, 1].map(|axis: usize| usize::try_from(strides[axis]).expect("a matrix that is not flipped"));
    let numbers = &tensor.storage::<T>()[layout.start_offset().min(tensor.storage::<T>().len())..];
    Matrix::new(numbers, rows, columns, row_stride, column_stride)
}

/// Whether the tensor's numbers are the first ones of its buffer, in order.
fn is_whole(tensor: &FlexTensor) -> bool {
    tensor.is_contiguous() && tensor.layout().start_offset() == 0
}

fn target_columns<F: Element + Pod + Float>(weight: &FlexTensor, targets: &[i32]) -> FlexTensor
where
    F::Compute: Element + Pod,
{
    let layout = weight.layout();
    let [width, vocab]: [usize; 2] = layout.shape().dims();
    let (start, strides) = (layout.start_offset() as isize, layout.strides());
    let numbers = weight.storage::<F>();
    let mut columns = Vec::with_capacity(targets.len() * width);
    for &target in targets {
        match usize::try_from(target).ok().filter(|&target| target < vocab) {
            None => columns.resize(columns.len() + width, F::Compute::default()),
            Some(target) => columns.extend((0..width).map(|row| {
                numbers[(start + row as isize * strides[0] + target as isize * strides[1]) as usize].widen()
            })),
        }
    }
    Flex::from_floats(columns, [targets.len(), width])
}

/// `x` times `factor`, 0 where that is 0.
fn times<F: Float>(x: &mut [F], factor: f64) {
    const PART: usize = 1 << 15;
    if factor == 0.0 {
        return x.fill(F::default());
    }
    let factor = F::Compute::of(factor);
    x.par_chunks_mut(PART).for_each(|part| part.iter_mut().for_each(|x| *x = F::narrow(x.widen() * factor)));
}

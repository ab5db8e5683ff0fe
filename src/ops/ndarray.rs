//! burn's ndarray backend: its arrays as slices. Its matrix products stay its own.

use std::borrow::Cow;

use burn::backend::{
    NdArray,
    ndarray::{NdArrayTensor, SharedArray},
};
use burn_tensor::{Element, TensorData};
use bytemuck::Pod;

use super::{
    LogitTransform, PreferenceOps, RowKernels,
    fused::{FusedKernels, FusedOps, Operands, Program, Reach},
    host::{self, Host, host_kernels},
};

host_kernels!(NdArray, NdArrayTensor, NdArrayTensor, NdArrayTensor);

impl PreferenceOps for NdArray {
    fn row_gradient(
        z: NdArrayTensor,
        targets: NdArrayTensor,
        state: NdArrayTensor,
        upstream: NdArrayTensor,
        offset: usize,
        transform: LogitTransform,
    ) -> NdArrayTensor {
        host::row_gradient::<Self>(z, targets, state, upstream, offset, transform)
    }

    fn softcap(z: NdArrayTensor, softcap: f64) -> NdArrayTensor {
        host::softcap::<Self>(z, softcap)
    }
}

/// Runs a block of code with the storage of a tensor, f32 or f64.
macro_rules! with_floats {
    ($tensor:expr, $storage:ident => $body:expr) => {
        match $tensor {
            NdArrayTensor::F64($storage) => $body,
            NdArrayTensor::F32($storage) => $body,
            other => unreachable!("burn's ndarray backend has no floats of {other:?}"),
        }
    };
}

/// The numbers of a storage, row-major.
macro_rules! row_major {
    ($storage:expr) => {{
        let view = $storage.view();
        match view.to_slice() {
            Some(numbers) => Cow::Borrowed(numbers),
            None => view.iter().copied().collect(),
        }
    }};
}

impl Host for NdArray {
    fn slice<T: Element + Pod>(tensor: &NdArrayTensor) -> Cow<'_, [T]> {
        with_floats!(tensor, storage => cast(row_major!(storage)))
    }

    fn repeated<T: Element + Pod>(_: &NdArrayTensor) -> Option<T> {
        None
    }

    fn integers(tensor: &NdArrayTensor) -> Cow<'_, [i32]> {
        match tensor {
            NdArrayTensor::I32(storage) => row_major!(storage),
            other => unreachable!("integers of 32 bits, not {other:?}"),
        }
    }

    fn ids(tensor: &NdArrayTensor) -> Vec<i64> {
        match tensor {
            NdArrayTensor::I64(ids) => ids.view().iter().copied().collect(),
            NdArrayTensor::U64(ids) => ids.view().iter().map(|id| i64::try_from(*id).unwrap_or(i64::MAX)).collect(),
            NdArrayTensor::U32(ids) => ids.view().iter().map(|id| i64::from(*id)).collect(),
            ids => Self::integers(ids).iter().map(|id| i64::from(*id)).collect(),
        }
    }

    fn flags(tensor: &NdArrayTensor) -> Vec<bool> {
        match tensor {
            NdArrayTensor::Bool(flags) => flags.view().iter().copied().collect(),
            other => unreachable!("flags, not {other:?}"),
        }
    }

    fn from_floats<T: Element + Pod + Send + Sync, const D: usize>(
        numbers: Vec<T>,
        shape: [usize; D],
    ) -> NdArrayTensor {
        NdArrayTensor::from_data(TensorData::new(numbers, shape))
    }

    fn from_integers<const D: usize>(numbers: Vec<i32>, shape: [usize; D]) -> NdArrayTensor {
        Self::from_floats(numbers, shape)
    }

    fn from_flags<const D: usize>(flags: Vec<bool>, shape: [usize; D], _: &NdArrayTensor) -> NdArrayTensor {
        NdArrayTensor::from_data(TensorData::new(flags, shape))
    }

    fn overwrite<T: Element + Pod + Send + Sync>(
        tensor: NdArrayTensor,
        overwrite: impl FnOnce(&mut [T]),
    ) -> NdArrayTensor {
        with_floats!(tensor, storage => {
            let mut array = in_order(storage.into_shared());
            overwrite(bytemuck::cast_slice_mut(array.as_slice_mut().expect("a row-major array")));
            array.into()
        })
    }

    fn overwrite_or_write<T: Element + Pod + Send + Sync>(
        tensor: NdArrayTensor,
        overwrite: impl FnOnce(&mut [T]),
        write: impl FnOnce(&[T], &mut [T]),
    ) -> NdArrayTensor {
        let is_unique = with_floats!(&tensor, storage => storage.is_unique());
        if is_unique {
            return Self::overwrite(tensor, overwrite);
        }
        let z = Self::slice::<T>(&tensor);
        let mut beside: Vec<T> = bytemuck::zeroed_vec(z.len());
        write(&z, &mut beside);
        let shape = with_floats!(&tensor, storage => storage.shape().to_vec());
        NdArrayTensor::from_data(TensorData::new(beside, shape))
    }
}

/// The same numbers under their other name.
fn cast<E: Pod, T: Pod>(numbers: Cow<'_, [E]>) -> Cow<'_, [T]> {
    match numbers {
        Cow::Borrowed(numbers) => Cow::Borrowed(bytemuck::cast_slice(numbers)),
        Cow::Owned(numbers) => Cow::Owned(bytemuck::cast_vec(numbers)),
    }
}

/// The same array, row-major.
fn in_order<E: Element>(array: SharedArray<E>) -> SharedArray<E> {
    if array.is_standard_layout() { array } else { array.as_standard_layout().into_owned().into_shared() }
}

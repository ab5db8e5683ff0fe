//! New tensors, without autodiff, where burn's own would be wrong or slow.

use burn::backend::Dispatch;
use burn_tensor::{DType, Device, Int, Tensor, TensorData};

use super::PreferenceOps;

/// 0, `[1]`, on the device of `like` and in its dtype: the sum of nothing.
///
/// Written on the host: on wgpu, burn's reduction to nothing gives uninitialised memory, and so may its `zeros` beside other
/// operations on nothing.
pub(crate) fn zero<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![0.0f64], [1]), (&like.device().without_autodiff(), like.dtype()))
}

/// Zeros on the device of `like`. Memory that is overwritten before it is read costs no more than its allocation.
pub(crate) fn zeros<const D: usize>(like: &Tensor<D>, shape: [usize; 2], dtype: DType) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::zeros(like.clone().without_autodiff().into_dispatch(), shape, dtype))
}

/// 0, 1, 2, … in 32 bits, whatever the device's default integer is.
///
/// Written on the host: on wgpu, burn's `arange` is wrong beyond 65 535.
pub(crate) fn indices(count: usize, device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = (0..count as i32).collect();
    Tensor::from_data(TensorData::new(indices, [count]), (&device.clone().without_autodiff(), DType::I32))
}

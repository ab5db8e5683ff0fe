//! Which number formats are computed in: f16 and bf16 arrive, f32 is computed and returned; f64 stays f64.

use burn_tensor::{DType, Device, FloatDType, Tensor};

use crate::{Error, Result};

/// Refuses a quantized tensor, and a format that the device stores but cannot compute in.
pub(crate) fn check_float<const D: usize>(what: &'static str, tensor: &Tensor<D>) -> Result<()> {
    let (dtype, device) = (tensor.dtype(), tensor.device());
    if dtype.is_float() && !matches!(dtype, DType::QFloat(_)) && device.supports_dtype(dtype) {
        Ok(())
    } else {
        Err(Error::DType { what, dtype: format!("{dtype:?}"), device: name(&device) })
    }
}

/// Refuses tensors on different devices. Autodiff state does not make a device another one.
pub(crate) fn check_same_device(left: &'static str, a: &Device, right: &'static str, b: &Device) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::Device { left, left_device: name(a), right, right_device: name(b) }) }
}

fn name(device: &Device) -> String {
    format!("{device:?}")
}

/// f64 stays; everything else becomes f32. Differentiable: the gradient comes back in the tensor's own format.
pub(crate) fn to_arithmetic_dtype<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::F64 | DType::F32 => tensor,
        _ => tensor.cast(FloatDType::F32),
    }
}

//! Which dtypes are computed in: f16 and bf16 come in, f32 is computed and returned; f64 stays f64.

use burn_tensor::{DType, Device, FloatDType, Int, Tensor};

use super::device::{computes_in, name};
use crate::{Error, Result};

/// The dtype that numbers of a float dtype are computed in.
pub(crate) fn arithmetic_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// The dtype that numbers of several dtypes are computed in together: f64 if any is f64, else f32.
pub(crate) fn common_dtype(dtypes: impl IntoIterator<Item = DType>) -> DType {
    if dtypes.into_iter().any(|dtype| dtype == DType::F64) { DType::F64 } else { DType::F32 }
}

/// f64 stays; everything else becomes f32. Differentiable: the gradient comes back in the tensor's own dtype.
pub(crate) fn to_arithmetic_dtype<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let dtype = arithmetic_dtype(tensor.dtype());
    if tensor.dtype() == dtype { tensor } else { tensor.cast(FloatDType::from(dtype)) }
}

/// Refuses a quantized tensor, and a dtype that the device stores but cannot compute in.
pub(crate) fn check_float<const D: usize>(what: &'static str, tensor: &Tensor<D>) -> Result<()> {
    let (dtype, device) = (tensor.dtype(), tensor.device());
    let plain = dtype.is_float() && !matches!(dtype, DType::QFloat(_));
    expect_dtype(what, dtype, &device, plain && computes_in(&device, dtype))
}

/// Refuses integers of a type that the device does not have.
pub(crate) fn check_int<const D: usize>(what: &'static str, tensor: &Tensor<D, Int>) -> Result<()> {
    let (dtype, device) = (tensor.dtype(), tensor.device());
    expect_dtype(what, dtype, &device, device.supports_dtype(dtype))
}

fn expect_dtype(what: &'static str, dtype: DType, device: &Device, usable: bool) -> Result<()> {
    if usable { Ok(()) } else { Err(Error::DType { what, dtype: format!("{dtype:?}"), device: name(device) }) }
}

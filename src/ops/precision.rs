//! Which number formats are computed in: f16 and bf16 arrive, f32 is computed and returned; f64 stays f64.

#[cfg(feature = "cube")]
use burn::backend::DispatchDevice;
use burn_tensor::{DType, Device, FloatDType, GradientCheckpointingStrategy, Int, Tensor};

use crate::{Error, Result};

/// Refuses a quantized tensor, and a format that the device stores but cannot compute in.
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

/// Refuses tensors on different devices. Autodiff state does not make a device another one.
pub(crate) fn check_same_device(left: &'static str, a: &Device, right: &'static str, b: &Device) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::Device { left, left_device: name(a), right, right_device: name(b) }) }
}

/// Refuses tensors that are recorded under different strategies, which burn cannot join in one graph; one that is not recorded
/// goes with any.
pub(crate) fn check_same_strategy(tensors: &[(&'static str, Option<GradientCheckpointingStrategy>)]) -> Result<()> {
    let mut recorded = tensors.iter().filter(|(_, strategy)| strategy.is_some());
    let Some((left, first)) = recorded.next() else { return Ok(()) };
    match recorded.find(|(_, strategy)| strategy != first) {
        Some((right, _)) => Err(Error::Checkpointing { left, right }),
        None => Ok(()),
    }
}

fn name(device: &Device) -> String {
    format!("{device:?}")
}

/// f64 stays; everything else becomes f32. Differentiable: the gradient comes back in the tensor's own format.
pub(crate) fn to_arithmetic_dtype<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let dtype = arithmetic_dtype(tensor.dtype());
    if tensor.dtype() == dtype { tensor } else { tensor.cast(FloatDType::from(dtype)) }
}

/// The format that a float format is computed in.
pub(crate) fn arithmetic_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Whether the device computes in a format. It says so itself, but on wgpu it is wrong about f64: there `exp` and `ln` of
/// f64 give arbitrary numbers (neither WGSL nor SPIR-V has them).
pub(crate) fn computes_in(device: &Device, dtype: DType) -> bool {
    device.supports_dtype(dtype) && !(dtype == DType::F64 && is_wgpu(device))
}

/// Whether the device's `exp` is within a few units in the last place wherever its result is a number. WGSL's need not be.
pub(crate) fn exp_is_accurate<const D: usize>(tensor: &Tensor<D>) -> bool {
    !is_wgpu(&tensor.device())
}

fn is_wgpu(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => device.runtime() == burn::backend::cubecl::RuntimeId::Wgpu,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

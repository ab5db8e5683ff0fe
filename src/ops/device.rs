//! What is asked of a device, and whether tensors go together.

#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
use burn::backend::DispatchDevice;
use burn_tensor::{DType, Device, GradientCheckpointingStrategy};

use super::Implementation;
use crate::{Error, Result};

/// Whether the device is a GPU. burn's cube backend runs on CPUs too, for which the kernels are not made.
pub(super) fn is_gpu(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => device.runtime() != burn::backend::cubecl::RuntimeId::Cpu,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

fn is_wgpu(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => device.runtime() == burn::backend::cubecl::RuntimeId::Wgpu,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

/// Whether the device's backend has kernels of this crate for numbers of a dtype. GPUs compute in f32.
pub(super) fn has_kernels(device: &Device, dtype: DType) -> bool {
    if is_gpu(device) {
        return dtype == DType::F32;
    }
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

/// Whether products stay in the buffer of their destination, and a block of a weight is a view, not a copy.
pub(super) fn multiplies_in_place(device: &Device, implementation: Implementation) -> bool {
    match (device.clone().without_autodiff().as_dispatch(), implementation) {
        #[cfg(feature = "flex")]
        (DispatchDevice::Flex(_), Implementation::Kernels) => true,
        _ => false,
    }
}

/// The largest buffer that the device allocates, in bytes.
pub(super) fn largest_allocation(device: &Device) -> usize {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => {
            usize::try_from(device.client().properties().memory.max_page_size).unwrap_or(usize::MAX)
        }
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => usize::MAX,
    }
}

/// Whether the device computes in a dtype. It says so itself, but on wgpu it is wrong about f64: there `exp` and `ln` of f64 give
/// arbitrary numbers, as neither WGSL nor SPIR-V has them.
pub(crate) fn computes_in(device: &Device, dtype: DType) -> bool {
    device.supports_dtype(dtype) && !(dtype == DType::F64 && is_wgpu(device))
}

/// Refuses tensors on different devices. Autodiff state does not make a device another one.
pub(crate) fn check_same_device(left: &'static str, a: &Device, right: &'static str, b: &Device) -> Result<()> {
    if a == b { Ok(()) } else { Err(Error::Device { left, left_device: name(a), right, right_device: name(b) }) }
}

/// Refuses tensors that are recorded under different strategies, which burn cannot join in one graph. A tensor that is not recorded
/// goes with any.
pub(crate) fn check_same_strategy(tensors: &[(&'static str, Option<GradientCheckpointingStrategy>)]) -> Result<()> {
    let mut recorded = tensors.iter().filter(|(_, strategy)| strategy.is_some());
    let Some((left, first)) = recorded.next() else { return Ok(()) };
    match recorded.find(|(_, strategy)| strategy != first) {
        Some((right, _)) => Err(Error::Checkpointing { left, right }),
        None => Ok(()),
    }
}

pub(super) fn name(device: &Device) -> String {
    format!("{device:?}")
}

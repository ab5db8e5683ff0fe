//! `--device NAME`: burn's devices by name, for every program.

use burn::tensor::Device;
#[cfg(feature = "cube")]
use burn::tensor::DeviceType;

/// The names that [`by_name`] knows, whichever are in this build.
pub const NAMES: [&str; 8] = ["flex", "ndarray", "wgpu", "vulkan", "metal", "webgpu", "cuda", "rocm"];

/// The device of that name, or one line that says why there is none.
pub fn by_name(name: &str) -> Result<Device, String> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        // burn calls its ndarray backend deprecated; this crate supports it while burn does.
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu-unfused")]
        "wgpu" => present(name, DeviceType::Wgpu, || Device::wgpu(Default::default())),
        #[cfg(feature = "vulkan")]
        "vulkan" => present(name, DeviceType::Vulkan, || Device::vulkan(Default::default())),
        #[cfg(feature = "metal")]
        "metal" => present(name, DeviceType::Metal, || Device::metal(Default::default())),
        #[cfg(feature = "webgpu")]
        "webgpu" => present(name, DeviceType::WebGpu, || Device::webgpu(Default::default())),
        #[cfg(feature = "cuda-unfused")]
        "cuda" => present(name, DeviceType::Cuda, || Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" => present(name, DeviceType::Rocm, || Device::rocm(0)),
        known if NAMES.contains(&known) => {
            Err(format!("device `{known}` is not in this build; rebuild with --features {known}"))
        }
        unknown => Err(format!("unknown device `{unknown}`; known are {}", NAMES.join(", "))),
    }
}

/// Opening a device that is not there would panic; listing does not.
#[cfg(feature = "cube")]
fn present(name: &str, kind: DeviceType, open: impl Fn() -> Device) -> Result<Device, String> {
    match Device::enumerate(kind).is_empty() {
        true => Err(format!("this machine has no `{name}` device")),
        false => Ok(open()),
    }
}

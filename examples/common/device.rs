//! `--device NAME`: burn's devices by name, for every example.

use burn::tensor::Device;

/// The names that [`by_name`] knows, whichever are in this build.
pub const NAMES: [&str; 7] = ["flex", "ndarray", "wgpu", "vulkan", "metal", "cuda", "rocm"];

/// The device of that name, or one line that says why there is none.
pub fn by_name(name: &str) -> Result<Device, String> {
    match name {
        #[cfg(feature = "flex")]
        "flex" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        #[allow(deprecated)]
        // burn calls its ndarray backend deprecated; this crate supports it while burn does
        "ndarray" => Ok(Device::ndarray()),
        #[cfg(feature = "wgpu")]
        "wgpu" => Ok(Device::wgpu(Default::default())),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(Default::default())),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(Default::default())),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(0)),
        known if NAMES.contains(&known) => {
            Err(format!("device `{known}` is not in this build; rebuild with --features {known}"))
        }
        unknown => Err(format!("unknown device `{unknown}`; known are {}", NAMES.join(", "))),
    }
}

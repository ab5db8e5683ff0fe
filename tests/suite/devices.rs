//! The devices that every law is run on, and the two ways to run one.

use std::{
    fmt::Debug,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use burn::tensor::{DType, Device};
use proptest::{
    strategy::Strategy,
    test_runner::{Config, RngSeed, TestCaseError, TestCaseResult, TestRunner},
};

/// A device under test.
#[derive(Debug)]
pub struct Tested {
    pub name: &'static str,
    /// Plain: without autodiff.
    pub device: Device,
}

impl Tested {
    /// The same device, recording what is done on it.
    pub fn autodiff(&self) -> Device {
        self.device.clone().autodiff()
    }

    /// The float dtypes that the device computes in.
    pub fn float_dtypes(&self) -> impl Iterator<Item = DType> {
        FLOATS.into_iter().filter(|&dtype| self.computes_in(dtype))
    }

    /// The float dtypes that it does not.
    pub fn refused_float_dtypes(&self) -> impl Iterator<Item = DType> {
        FLOATS.into_iter().filter(|&dtype| !self.computes_in(dtype))
    }

    /// wgpu says that it supports f64, but gives arbitrary numbers for its `exp` and `ln`.
    pub fn computes_in(&self, dtype: DType) -> bool {
        self.device.supports_dtype(dtype) && (self.name, dtype) != ("wgpu", DType::F64)
    }

    /// f32, and f64 where the device has it: the formats that results come in.
    pub fn arithmetic_dtypes(&self) -> impl Iterator<Item = DType> {
        self.float_dtypes().filter(|dtype| matches!(dtype, DType::F32 | DType::F64))
    }
}

const FLOATS: [DType; 4] = [DType::F16, DType::BF16, DType::F32, DType::F64];

/// Whether the crate has kernels of its own for the device. Where it has not, a law takes many times as long.
pub fn has_kernels(on: &Tested) -> bool {
    ["flex", "ndarray", "wgpu", "cuda", "rocm"].contains(&on.name)
}

/// Every device of this build that is present. Absence of a compiled-in one is a failure where `CI=true`.
pub fn devices() -> &'static [Tested] {
    static DEVICES: OnceLock<Vec<Tested>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        #[allow(deprecated)] // burn calls its ndarray backend deprecated; this crate supports it while burn does
        let found = [
            Some(Tested { name: "flex", device: Device::flex() }),
            #[cfg(feature = "ndarray")]
            Some(Tested { name: "ndarray", device: Device::ndarray() }),
            #[cfg(feature = "wgpu-unfused")]
            present("wgpu", burn::tensor::DeviceType::Wgpu, || Device::wgpu(Default::default())),
            #[cfg(feature = "cuda-unfused")]
            present("cuda", burn::tensor::DeviceType::Cuda, || Device::cuda(0)),
            #[cfg(feature = "rocm")]
            present("rocm", burn::tensor::DeviceType::Rocm, || Device::rocm(0)),
        ];
        found.into_iter().flatten().collect()
    })
}

/// Whether CI is running: there nothing may be skipped.
pub fn nothing_may_be_skipped() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Opening a device that is not there would panic; listing does not.
#[cfg(any(feature = "wgpu-unfused", feature = "cuda-unfused", feature = "rocm"))]
fn present(name: &'static str, kind: burn::tensor::DeviceType, open: impl Fn() -> Device) -> Option<Tested> {
    if !Device::enumerate(kind).is_empty() {
        return Some(Tested { name, device: open() });
    }
    assert!(!nothing_may_be_skipped(), "{name} is compiled in, but this machine has no such device");
    eprintln!("skipping {name}: this machine has no such device");
    None
}

/// Runs `law` on every device. A failure names the device.
pub fn on_every_device(law: impl Fn(&Tested) -> TestCaseResult) {
    if let Err(failure) = every_device(law) {
        panic!("{failure}");
    }
}

/// Runs `law` on every device for many inputs. A failure names the device and the smallest input found to fail.
///
/// A few inputs, always the same, unless `BURN_DPO_CASES` asks for that many fresh ones (`PROPTEST_RNG_SEED` fixes them).
pub fn for_all<S: Strategy>(inputs: S, law: impl Fn(&Tested, &S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    for_all_numbers(inputs, |input| every_device(|on| law(on, input)));
}

/// [`for_all`] for laws of many kernels over inputs of many pairs: an eighth of the cases.
pub fn for_several<S: Strategy>(inputs: S, law: impl Fn(&Tested, &S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    for_cases(8, inputs, |input| every_device(|on| law(on, input)));
}

/// [`for_all`] for laws of plain numbers, which need no device.
pub fn for_all_numbers<S: Strategy>(inputs: S, law: impl Fn(&S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    for_cases(1, inputs, law);
}

fn for_cases<S: Strategy>(fewer: u32, inputs: S, law: impl Fn(&S::Value) -> TestCaseResult)
where
    S::Value: Debug,
{
    let asked = std::env::var("BURN_DPO_CASES").ok().map(|cases| cases.parse().expect("BURN_DPO_CASES is a number"));
    let defaults = Config::default();
    let config = Config {
        cases: asked.unwrap_or(CASES).div_ceil(fewer),
        rng_seed: if asked.is_some() { defaults.rng_seed } else { RngSeed::Fixed(SEED) },
        max_shrink_iters: 400,
        failure_persistence: None,
        ..defaults
    };
    if let Err(failure) = TestRunner::new(config).run(&inputs, |input| law(&input)) {
        panic!("{failure}");
    }
}

const CASES: u32 = 32;
const SEED: u64 = 2305_18290; // of the DPO paper

/// All devices are run, so that a failure tells whether the others fail as well.
fn every_device(law: impl Fn(&Tested) -> TestCaseResult) -> TestCaseResult {
    let failure = |on: &Tested| match catch_unwind(AssertUnwindSafe(|| law(on))) {
        Ok(result) => result.err().map(|failure| format!("on {}: {failure}", on.name)),
        Err(panic) => Some(format!("on {}: panicked: {}", on.name, panic_message(&*panic))),
    };
    let failures: Vec<String> = devices().iter().filter_map(failure).collect();
    if failures.is_empty() { Ok(()) } else { Err(TestCaseError::fail(failures.join("\n"))) }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

//! Time and memory of a piece of work.

use std::time::Instant;

use burn::tensor::Device;

use super::{
    allocator::peak_of,
    work::{Results, Work},
};

pub struct Measured {
    /// Seconds.
    pub forward: Vec<f64>,
    /// Seconds.
    pub forward_backward: Vec<f64>,
    /// `None` where nobody counts.
    pub peak_extra_bytes: Option<usize>,
    pub results: Results,
}

/// After computing everything once: forward, and forward with backward, by turns. `on_host` says whether tensors are where the
/// allocator counts.
pub fn measure<W: Work>(work: &W, device: &Device, on_host: bool, repeat: usize) -> anyhow::Result<Measured> {
    drop(work.forward()?);
    let results = work.results(work.forward_backward(work.start())?)?;
    let (mut forward, mut forward_backward) = (Vec::new(), Vec::new());
    let mut peak_on_host = 0;
    for _ in 0..repeat {
        forward.push(seconds(device, || work.forward())?);
        let start = work.start();
        let (taken, peak) = peak_of(|| seconds(device, || work.forward_backward(start)));
        forward_backward.push(taken?);
        peak_on_host = peak_on_host.max(peak);
    }
    let peak_extra_bytes = if on_host { Some(peak_on_host) } else { peak_on_device(work, device)? };
    Ok(Measured { forward, forward_backward, peak_extra_bytes, results })
}

/// The most that forward and backward held at a time, in a pass of its own that nobody times.
///
/// As a rule buffers share pages, and only the size of whole pages is known. In this pass each buffer has memory of its own
/// size, which is kept and reused by buffers of that size alone: what is there afterwards is how much was needed at a time,
/// or more where buffers of two sizes could have shared.
fn peak_on_device<W: Work>(work: &W, device: &Device) -> anyhow::Result<Option<usize>> {
    let start = work.start();
    device.sync()?;
    device.memory_cleanup();
    let before = device.memory_pool_usage();
    let step = device.memory_persistent_allocations(start, |start| {
        let step = work.forward_backward(start)?;
        device.sync()?;
        Ok::<_, anyhow::Error>(step)
    });
    let after = device.memory_pool_usage();
    drop(step?);
    Ok(before.zip(after).map(|(before, after)| after.bytes_reserved.saturating_sub(before.bytes_reserved) as usize))
}

/// How long `f` takes until the device has done all that it was asked for. What it returns is dropped afterwards.
fn seconds<T>(device: &Device, f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    device.sync()?;
    let begun = Instant::now();
    let result = f()?;
    device.sync()?;
    let taken = begun.elapsed().as_secs_f64();
    drop(result);
    Ok(taken)
}

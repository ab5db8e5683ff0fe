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
    pub peak_extra_bytes: usize,
    pub results: Results,
}

/// After computing everything once: forward, and forward with backward, by turns.
pub fn measure<W: Work>(work: &W, device: &Device, repeat: usize) -> anyhow::Result<Measured> {
    drop(work.forward()?);
    let results = work.results(work.forward_backward(work.start())?)?;
    let (mut forward, mut forward_backward) = (Vec::new(), Vec::new());
    let mut peak_extra_bytes = 0;
    for _ in 0..repeat {
        forward.push(seconds(device, || work.forward())?);
        let start = work.start();
        let (taken, peak) = peak_of(|| seconds(device, || work.forward_backward(start)));
        forward_backward.push(taken?);
        peak_extra_bytes = peak_extra_bytes.max(peak);
    }
    Ok(Measured { forward, forward_backward, peak_extra_bytes, results })
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

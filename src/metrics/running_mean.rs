//! A mean over everything seen so far.

use burn_tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{columns::unreadable, sum::Sum};
use crate::{Result, ops::check_float};

/// A mean over everything added so far, as a sum and a count: parts [`merge`](Self::merge) to the whole, whatever their
/// sizes and order, up to f64 rounding.
///
/// What some losses are given as a number beside the batch: BCO's δ is the running mean of the rewards of both sides
/// (and 0 before there are any), KTO's KL the mean log-ratio of mismatched completions over all ranks.
///
/// # Example
/// ```
/// use burn_dpo::RunningMean;
/// use burn::tensor::{Device, Tensor};
///
/// let mut delta = RunningMean::default();
/// assert_eq!(delta.mean_or(0.0), 0.0);
/// delta.add(&Tensor::from_floats([0.5, 1.0], &Device::default()))?;
/// delta.add_numbers(&[3.0]);
/// assert_eq!(delta.mean(), Some(1.5));
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Edge cases
/// NaN and infinities are added as they are, and stay. It serialises with them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunningMean {
    sum: Sum,
    count: u64,
}

impl RunningMean {
    /// Adds every number of a tensor, which is read back from the device.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) for a dtype that the device cannot compute in,
    /// [`Error::Read`](crate::Error::Read) if the device does not hand its numbers over.
    pub fn add(&mut self, numbers: &Tensor<1>) -> Result<()> {
        check_float("numbers", numbers)?;
        self.add_data(
            numbers.clone().without_autodiff().try_into_data().map_err(|cause| unreadable("numbers", cause))?,
        );
        Ok(())
    }

    /// [`add`](Self::add) where reading must not block, as on WebGPU in a browser.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub async fn add_async(&mut self, numbers: &Tensor<1>) -> Result<()> {
        check_float("numbers", numbers)?;
        let data = numbers.clone().without_autodiff().into_data_async().await;
        self.add_data(data.map_err(|cause| unreadable("numbers", cause))?);
        Ok(())
    }

    /// Adds numbers that are on the host.
    pub fn add_numbers(&mut self, numbers: &[f64]) {
        numbers.iter().for_each(|&number| self.sum += number);
        self.count += numbers.len() as u64;
    }

    fn add_data(&mut self, data: TensorData) {
        self.add_numbers(&data.iter::<f64>().collect::<Vec<_>>());
    }

    /// Adds another part of the same whole: of another rank, or of a run that was interrupted.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.count += other.count;
    }

    /// How many numbers were added.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean, if there are any.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum.0 / self.count as f64)
    }

    /// Their mean, or what counts as the mean of none.
    pub fn mean_or(&self, of_none: f64) -> f64 {
        self.mean().unwrap_or(of_none)
    }
}

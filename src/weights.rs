//! How much each pair counts.

use burn_tensor::{Bool, FloatDType, Tensor};

use crate::{
    Result,
    error::expect_pairs,
    ops::{arithmetic_dtype, check_float, check_same_device, independent_of, zero},
};

/// A weight for each pair, `[pairs]`, without gradient: importance weights, WPO's, or 0 for the padded duplicates of a last batch.
///
/// A pair of weight 0 counts for nothing: whatever its loss is, NaN included, it adds 0 to value and gradient.
///
/// # Example
/// ```
/// use burn_dpo::PairWeights;
/// use burn::tensor::{Bool, Device, Tensor, TensorData};
///
/// let device = Device::default();
/// let losses = Tensor::<1>::from_floats([0.25, 0.75, f32::NAN], &device);
/// let valid = Tensor::<1, Bool>::from_data(TensorData::from([true, true, false]), &device);
///
/// let weights = PairWeights::from_valid(valid)?;
/// assert_eq!(weights.mean(losses.clone())?.into_scalar::<f32>(), 0.5); // over the valid pairs
/// assert_eq!(weights.apply(losses)?.into_data().try_to_vec::<f32>().unwrap(), [0.25, 0.75, 0.0]);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PairWeights {
    weights: Tensor<1>,
}

impl PairWeights {
    /// From numbers, which should not be negative. They are not read back: NaN makes its pair NaN.
    ///
    /// # Errors
    /// [`Error::DType`](crate::Error::DType) for a dtype that the device cannot compute in.
    pub fn new(weights: Tensor<1>) -> Result<Self> {
        check_float("weights", &weights)?;
        Ok(Self { weights: weights.without_autodiff() })
    }

    /// 1 where `valid`, 0 elsewhere.
    ///
    /// # Errors
    /// None: fallible only so that both constructors are called alike.
    pub fn from_valid(valid: Tensor<1, Bool>) -> Result<Self> {
        Ok(Self { weights: valid.without_autodiff().float() })
    }

    /// The weights, `[pairs]`.
    pub fn values(&self) -> Tensor<1> {
        self.weights.clone()
    }

    /// `w ℓ`, one value per pair. Gradient flows.
    ///
    /// # Errors
    /// [`Error::PairCount`](crate::Error::PairCount) if there are not as many losses as weights, [`Error::Device`](crate::Error::Device) if they are on different devices.
    pub fn apply(&self, losses: Tensor<1>) -> Result<Tensor<1>> {
        let weights = self.like(&losses)?;
        let unused = weights.clone().equal_elem(0.0);
        Ok(losses.mask_fill(unused, 0.0) * weights)
    }

    /// `Σ w ℓ / Σ w`, `[1]`; 0 where no pair counts. Gradient flows.
    ///
    /// Over micro-batches, add up [`apply`](Self::apply)`(…).sum()` instead and divide by the whole batch's
    /// [`total`](Self::total): the mean of means is not the mean.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn mean(&self, losses: Tensor<1>) -> Result<Tensor<1>> {
        let weights = self.like(&losses)?;
        if losses.dims() == [0] {
            return Ok(independent_of(zero(&losses), &losses));
        }
        let total = weights.sum();
        let nothing = total.clone().equal_elem(0.0);
        Ok(self.apply(losses)?.sum() / total.mask_fill(nothing, 1.0))
    }

    /// `Σ w`, `[1]`.
    pub fn total(&self) -> Tensor<1> {
        let weights = self.weights.clone().cast(FloatDType::from(arithmetic_dtype(self.weights.dtype())));
        if weights.dims() == [0] { zero(&weights) } else { weights.sum() }
    }

    /// The weights in the dtype of the losses.
    fn like(&self, losses: &Tensor<1>) -> Result<Tensor<1>> {
        expect_pairs("losses", losses.dims()[0], "weights", self.weights.dims()[0])?;
        check_same_device("losses", &losses.device(), "weights", &self.weights.device())?;
        Ok(self.weights.clone().cast(FloatDType::from(losses.dtype())))
    }
}

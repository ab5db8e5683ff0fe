//! The same functions by burn's operations alone, on any device.
//!
//! They are what [`token_log_probs`](crate::token_log_probs) and [`token_statistics`](crate::token_statistics) do on devices
//! without kernels of this crate's own, and what those kernels are tested and measured against. On other devices they give
//! the same numbers, up to rounding, in more passes over the logits and more memory. [`LmHead`](crate::LmHead) has a switch
//! for the same purpose: [`with_portable_operations`](crate::LmHead::with_portable_operations).

use burn_tensor::Tensor;

use super::{TokenLogProbs, TokenStatistics, statistics, token};
use crate::{Completions, Result, ops::Implementation};

/// [`token_log_probs`](crate::token_log_probs) by burn's operations.
///
/// # Example
/// ```
/// use burn_dpo::{Completions, portable, token_log_probs};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let completions = Completions::from_sequences(&[[0, 1, 1]], &[1], 2, &device)?;
/// let logits = Tensor::<3>::from_floats([[[0.0, 0.0], [0.0, 3.0], [0.0, 0.0]]], &device);
///
/// let here = portable::token_log_probs(logits.clone(), &completions)?.values();
/// let there = token_log_probs(logits, &completions)?.values();
/// assert!((here - there).abs().max().into_scalar::<f32>() < 1e-6);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Errors
/// Those of [`token_log_probs`](crate::token_log_probs).
pub fn token_log_probs(logits: Tensor<3>, completions: &Completions) -> Result<TokenLogProbs> {
    match token::nothing_to_predict(&logits, completions)? {
        Some(nothing) => Ok(nothing),
        None => Ok(token::of_logits(logits, completions, Implementation::Portable)),
    }
}

/// [`token_statistics`](crate::token_statistics) by burn's operations.
///
/// # Errors
/// Those of [`token_log_probs`](crate::token_log_probs).
pub fn token_statistics(logits: Tensor<3>, completions: &Completions) -> Result<TokenStatistics> {
    match token::nothing_to_predict(&logits, completions)? {
        Some(nothing) => Ok(TokenStatistics::of_nothing(nothing)),
        None => Ok(statistics::of_logits(logits, completions, Implementation::Portable)),
    }
}

//! Preference optimization for [burn](https://burn.dev): what trainers need between a language model's output and a
//! preference gradient.
//!
//! It turns logits into log-probabilities of completions, two models' log-probabilities into the DPO loss, and both
//! into implicit-reward metrics, on burn's backends for CPU, wgpu, CUDA and ROCm. It is no trainer and holds no model.
//!
//! # A training step
//!
//! Two completions of each prompt, the better one first; two models, of which one learns:
//!
//! ```
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_dpo::{Beta, Completions, PreferenceMetrics, dpo_loss, token_log_probs};
//! # fn policy_model(tokens: Tensor<2, Int>) -> Tensor<3> {
//! #     let [sequences, time] = tokens.dims();
//! #     Tensor::<3>::ones([sequences, time, 16], &Device::default().autodiff()).require_grad()
//! # }
//! # fn reference_model(tokens: Tensor<2, Int>) -> Tensor<3> {
//! #     let [sequences, time] = tokens.dims();
//! #     Tensor::<3>::ones([sequences, time, 16], &Device::default())
//! # }
//!
//! // One prompt of two tokens; the chosen completions come first, then the rejected ones, in the same order.
//! let sequences = [vec![3, 1, 4, 1, 5], vec![3, 1, 9, 2]];
//! let completions = Completions::from_sequences(&sequences, &[2, 2], 16, &Device::default())?;
//!
//! let policy = token_log_probs(policy_model(completions.tokens()), &completions)?.sequences().into_pairs()?;
//! let reference = token_log_probs(reference_model(completions.tokens()), &completions)?.sequences().into_pairs()?;
//!
//! let beta = Beta::new(0.1)?;
//! let losses = dpo_loss(&policy, &reference, beta)?; // one per pair
//! let metrics = PreferenceMetrics::from_batch(&losses, &policy, &reference, beta)?;
//! assert_eq!(metrics.ties(), 1); // policy and reference still agree
//!
//! let gradients = losses.mean().backward(); // into the policy; the reference gets none
//! # Ok::<(), burn_dpo::Error>(())
//! ```
//!
//! # The map
//!
//! ```text
//! tokens + mask ─► Completions ─┐
//! logits ─────────► token_log_probs ─► TokenLogProbs ─► SequenceLogProbs ─► PairLogProbs
//!                                                                             │ policy, reference
//!                                            one loss per pair ◄── dpo_loss ◄─┤
//!                                            PreferenceMetrics ◄─ implicit_rewards
//! ```
//!
//! Left of [`PairLogProbs`] there are tokens and masks; right of it, numbers per pair. No loss knows what a token is, no
//! log-prob code knows what a preference is. [`mod@reference`] defines every quantity once more in f64, without burn.
//!
//! # Vocabulary
//!
//! | word | meaning | elsewhere |
//! |---|---|---|
//! | log-prob | natural logarithm of a probability, in nats, ≤ 0 | `logps` |
//! | policy | the model that learns | π, π_θ |
//! | reference | the frozen model that it is held to | π_ref |
//! | prompt, completion | what is given, and what is judged | `x`, `y` |
//! | chosen, rejected | the better and the worse completion of one prompt | `y_w`, `y_l` |
//! | mask | true = a completion token, counted; in *token* coordinates | `completion_mask`, `labels != -100` |
//! | log-ratio, drift | `log π − log π_ref` of a completion | `logratios` |
//! | reward | `β ·` log-ratio: what the policy implicitly pays for a completion | `rewards/chosen` |
//! | margin | reward of the chosen minus reward of the rejected | `rewards/margins` |
//! | `β` ([`Beta`]) | how tightly the policy is held to the reference | `beta` |
//!
//! # What always holds
//!
//! - **What the mask leaves out cannot be seen**: NaN, ±inf or any id there changes no value and no gradient.
//! - **A completion without counted tokens** has log-prob 0 and gradient 0, and [`PreferenceMetrics`] counts it.
//! - **Bad shapes, lengths and parameters are an [`Error`]**, which names what, where and both numbers. Nothing panics.
//! - **Data is not read back** from the device, but where metrics, a [`RunningMean`] or [`ReferenceDrift`] are asked for.
//!   NaN in one pair stays in that pair.
//! - **The reference has no gradient**, whatever its tensors come with.
//! - **f16 and bf16 in, f32 arithmetic, f32 out**; f64 stays f64.
//! - **Where policy and reference agree**, the loss is `ln 2` and its gradient exactly `∓β/2`.
//!
//! What cannot be checked without reading back: that policy and reference saw the same tokens under the same mask, without
//! dropout. [`ReferenceDrift`] reads back and checks it, before the first step.
//!
//! # Features
//!
//! Backends are burn's, passed through: `flex` (default, CPU), `ndarray`, `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`,
//! `rocm`, `cpu`, `tch`. A trainer that wants one GPU backend only:
//!
//! ```toml
//! burn-dpo = { version = "0.1", default-features = false, features = ["cuda"] }
//! ```
//!
//! Enable a backend *here*, not only on burn: gradients written by hand are registered per backend, and one that this
//! crate was not told of panics inside burn when a loss is differentiated on it. Which device is used is decided at run
//! time, by the tensors passed in.
#![deny(missing_docs)]

mod completions;
mod error;
mod integrity;
mod log_probs;
mod loss;
mod metrics;
mod numerics;
mod ops;
mod pairs;
mod rankings;
pub mod reference;
mod rewards;
mod weights;

pub use completions::Completions;
pub use error::{Error, Result};
pub use integrity::{ReferenceDrift, TokenCountMismatch};
pub use log_probs::{
    SequenceLogProbs, SequenceStatistics, TokenLogProbs, TokenStatistics, token_log_probs, token_statistics,
};
pub use loss::*;
pub use metrics::{
    MarginBucket, MarginHistogram, MeasuredTensor, NonFinite, NonFiniteValue, PreferenceBatch, PreferenceMetrics,
    RunningMean,
};
pub use pairs::PairLogProbs;
pub use rankings::RankedLogProbs;
pub use rewards::{ImplicitRewards, implicit_rewards};
pub use weights::PairWeights;

/// The README's loop, compiled and run.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

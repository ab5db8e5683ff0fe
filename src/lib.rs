//! Preference optimization for [burn](https://burn.dev): everything between a language model's output and the gradient of a
//! preference loss.
//!
//! The crate computes log-probabilities of completions from logits, or from hidden states and a head. It computes DPO's loss, or one of
//! its many relatives, from the log-probabilities of two models, and it computes implicit-reward metrics. It runs on burn's backends
//! for CPU, wgpu, CUDA and ROCm. It contains no trainer and no model.
//!
//! # A training step
//!
//! There are two completions of each prompt, a chosen and a rejected one, and two models, of which one learns:
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
//! // One prompt of two tokens. The chosen completions come first, then the rejected ones, in the same order.
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
//! Every other loss is called in the same way: as a function, as a [`PreferenceLoss`] from a configuration file, or as what TRL's
//! `DPOConfig` says ([`TrlConfig`]).
//!
//! ```
//! use burn_dpo::PreferenceLoss;
//!
//! let loss: PreferenceLoss = serde_json::from_str(r#"{"loss": "cdpo", "beta": 0.1, "label_smoothing": 0.05}"#).unwrap();
//! // losses = loss.losses(&policy, &reference)?
//! assert!(loss.needs_reference() && loss.keeps_pairs_apart());
//! ```
//!
//! # From hidden states
//!
//! Where the logits of a batch do not fit, or most tokens are not counted, start from the hidden states and the head. Only counted
//! tokens are multiplied, and one tile of logits is held at a time. [`LmHead::preference_step`] computes loss and gradient together, for
//! a quarter less work where the head is trained.
//!
//! ```
//! use burn::{nn, tensor::{Device, Tensor}};
//! use burn_dpo::{Beta, Completions, FDivergence, LmHead, LossMixture, PreferenceLoss};
//!
//! let device = Device::default().autodiff();
//! let head = nn::LinearConfig::new(8, 100).with_bias(false).init(&device); // or a tied nn::Embedding: from_embedding
//! let hidden = Tensor::<3>::ones([2, 4, 8], &device).require_grad(); // what your model returns before its head
//! let completions = Completions::from_sequences(&[[11, 12, 7, 8], [11, 12, 40, 41]], &[2, 2], 100, &device)?;
//!
//! let lm_head = LmHead::from_linear(&head).with_memory_budget(16 << 20);
//! let reference = lm_head.token_log_probs(hidden.clone().detach(), &completions)?.sequences().into_pairs()?;
//! // log-probs for any loss …
//! let policy = lm_head.token_log_probs(hidden.clone(), &completions)?.sequences().into_pairs()?;
//! assert_eq!(policy.pairs(), 1);
//! // … or loss and gradient together
//! let loss: LossMixture = PreferenceLoss::Dpo { beta: Beta::new(0.1)?, divergence: FDivergence::ReverseKl }.into();
//! let step = lm_head.preference_step(hidden.clone(), &completions, &reference, &loss)?;
//! assert!(hidden.grad(&step.loss.backward()).is_some());
//! # Ok::<(), burn_dpo::Error>(())
//! ```
//!
//! # The map
//!
//! ```text
//! tokens + mask ─► Completions ─┐
//! logits ─► token_log_probs, token_statistics ─┐
//! hidden ─► LmHead, the same ──────────────────┴► TokenLogProbs ─► SequenceLogProbs ─► PairLogProbs
//!                                                                    │                  │ policy, reference
//!                        kto_loss, bco_loss, plackett_luce_loss ◄────┤                  │
//!                        one loss per pair ◄── PreferenceLoss, dpo_loss, … ◄────────────┤
//!                        PreferenceMetrics ◄── PreferenceBatch ◄────────────────────────┤
//!                        before the first step: do the two agree? ◄── ReferenceDrift ◄──┘
//! ```
//!
//! Left of [`PairLogProbs`] there are tokens and masks; right of it, numbers per pair. No loss knows what a token is, and no
//! log-prob code knows what a preference is. [`mod@reference`] defines every quantity again in f64, without burn.
//!
//! # Losses
//!
//! | family | members |
//! |---|---|
//! | of the margin, under any [`FDivergence`] | [`dpo_loss`], [`f_dpo_loss`], [`cdpo_loss`], [`robust_loss`], [`hinge_loss`], [`ipo_loss`], [`exo_pair_loss`], [`discopop_loss`], [`sigmoid_norm_loss`] |
//! | of the margin and something more | [`odpo_loss`], [`r_dpo_loss`], [`dpop_loss`], [`annotated_dpo_loss`] (β, offset, soft label per pair) |
//! | of each completion's reward | [`nca_pair_loss`], [`bco_pair_loss`], [`sppo_hard_loss`], [`apo_zero_loss`], [`apo_down_loss`] |
//! | of a batch's distribution | [`aot_loss`], [`aot_unpaired_loss`] |
//! | without a reference | [`simpo_loss`], [`alphapo_loss`], [`cpo_loss`], [`slic_loss`], [`orpo_loss`] |
//! | likelihood, to mix in | [`sft_loss`], [`nll_loss`] |
//! | not paired | [`kto_loss`] with [`kl_estimate`], [`bco_loss`] with a [`RunningMean`] |
//! | rankings | [`plackett_luce_loss`] of [`RankedLogProbs`] |
//!
//! The losses of pairs are the variants of [`PreferenceLoss`]; [`LossMixture`] adds several of them. [`docs::choosing_a_loss`] says which
//! one to choose and what TRL calls it; [`docs::migration`] has TRL's and torchtune's calls beside ours.
//!
//! # Beside the losses
//!
//! | what | where |
//! |---|---|
//! | log-probs without logits, loss and gradient at once | [`LmHead`], [`LmHead::preference_step`] |
//! | a vocabulary split over devices or processes | [`VocabularyPart`] |
//! | the same with burn's operations alone, to compare with | [`mod@portable`] |
//! | entropy, `log Σ p²`, mean logit and hits of each token | [`token_statistics`], [`TokenStatistics`], [`SequenceStatistics`] |
//! | LD-DPO, WPO | [`TokenLogProbs::length_desensitized_pairs`], [`TokenStatistics::wpo_weights`]; [`Objective`] has both |
//! | weights of pairs, padded duplicates | [`PairWeights`], [`PreferenceBatch::with_valid`] |
//! | metrics | [`PreferenceMetrics`] and its table; [`PreferenceBatch`] for those that need more than losses; [`MarginHistogram`], [`NonFinite`] |
//! | rewards as tensors | [`implicit_rewards`] |
//! | do policy and reference agree, before training | [`ReferenceDrift`] |
//! | parameters, each checked where it is made | [`Beta`], [`LabelSmoothing`], [`FlipRate`], [`ExoSmoothing`], [`Temperature`], [`TargetMargin`], [`Weight`], [`Alpha`], [`LdAlpha`] |
//!
//! # Vocabulary
//!
//! | word | meaning | elsewhere |
//! |---|---|---|
//! | log-prob | natural logarithm of a probability, in nats, ≤ 0 | `logps` |
//! | policy | the model that learns | π, π_θ |
//! | reference | the frozen model that it is compared with | π_ref |
//! | prompt, completion | the given text, and the text that is judged | `x`, `y` |
//! | chosen, rejected | the better and the worse completion of one prompt | `y_w`, `y_l` |
//! | desirable | good, of a completion that is not paired | `label`, `completion_label` |
//! | ranking | several completions of one prompt, best first | |
//! | hidden states, head | the input of a model's last layer, and that layer | `hidden_states`, `lm_head` |
//! | mask | true = a completion token, counted; in *token* coordinates | `completion_mask`, `labels != -100` |
//! | token count | how many tokens of a completion were counted: `n` of the chosen, `m` of the rejected | |
//! | log-ratio, drift | `log π − log π_ref` of a completion: `a` of the chosen, `b` of the rejected | `logratios` |
//! | score | the reward of a log-ratio under an f-divergence, at β = 1: `s` | `f'` |
//! | reward | `β ·` log-ratio: the implicit reward of a completion | `rewards/chosen` |
//! | margin | reward of the chosen minus reward of the rejected; in losses `z`, of scores | `rewards/margins`, `logits` |
//! | `β` ([`Beta`]) | how strongly the policy is held to the reference | `beta`, IPO's `τ` |
//! | label smoothing `ε` | the probability that a label is wrong | `label_smoothing` |
//! | offset, target `γ`, `δ` ([`TargetMargin`]) | the margin that a pair should have | `simpo_gamma` |
//! | displacement | the chosen completion became less likely than under the reference | |
//!
//! # What always holds
//!
//! - **What the mask leaves out cannot be seen**: NaN, ±inf or any id there changes no value and no gradient.
//! - **A completion without counted tokens** has log-prob 0 and gradient 0, and [`PreferenceMetrics`] counts it.
//! - **Bad shapes, lengths and parameters are an [`Error`]**, which names what, where and both numbers. Nothing panics.
//! - **A parameter that a loss would ignore cannot be written down**: each [`PreferenceLoss`] has exactly the ones that it reads.
//! - **Value and gradient are closed forms**, never NaN for finite f32 log-probs; beyond the dtype's range they saturate.
//! - **Data is not read back** from the device, except by metrics, [`ReferenceDrift`] and [`RunningMean`], and once for a mask that came
//!   from the device and is used by [`LmHead`] ([`Completions::locate`]). NaN in one pair stays in that pair, except in losses of a
//!   batch (`aot`, `aot_unpaired`, `sft`).
//! - **The reference has no gradient**, whatever device and autodiff state its tensors have.
//! - **f16 and bf16 in, f32 arithmetic, f32 out**; f64 stays f64.
//! - **Where policy and reference agree**, DPO's loss is `ln 2` and its gradient exactly `∓β/2`.
//!
//! One thing cannot be checked without reading back: that policy and reference saw the same tokens under the same mask, without
//! dropout. [`ReferenceDrift`] reads back and checks it, before the first step. [`docs::bugs_made_impossible`] lists mistakes of other
//! libraries, and which of them can still be made here.
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
//! Enable a backend *here*, not only on burn: this crate writes its gradients by hand and registers them for each backend. On a backend
//! that is not enabled here, burn panics when a loss is differentiated. The tensors that you pass decide at run time which device is
//! used.
#![deny(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod compare;
mod completions;
mod error;
mod expr;
mod integrity;
mod log_probs;
mod loss;
mod metrics;
mod ops;
mod pairs;
mod preference_step;
mod rankings;
pub mod reference;
mod rewards;
mod sides;
mod targets;
mod weights;

pub use completions::Completions;
pub use error::{Error, Result};
pub use integrity::{ReferenceDrift, TokenCountMismatch};
pub use log_probs::{
    LmHead, SequenceLogProbs, SequenceStatistics, TokenLogProbs, TokenStatistics, VocabularyPart, portable,
    token_log_probs, token_statistics,
};
pub use loss::*;
pub use metrics::{
    MarginBucket, MarginHistogram, MeasuredTensor, NonFinite, NonFiniteValue, PreferenceBatch, PreferenceMetrics,
    RunningMean,
};
pub use pairs::PairLogProbs;
pub use preference_step::PreferenceStep;
pub use rankings::RankedLogProbs;
pub use rewards::{ImplicitRewards, implicit_rewards};
pub use weights::PairWeights;

#[cfg(any(doc, doctest))]
pub mod docs;

/// The README's loop, compiled and run.
#[doc = include_str!("../README.md")]
#[cfg(doctest)]
struct Readme;

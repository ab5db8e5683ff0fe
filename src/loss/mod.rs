//! Preference losses: one value per pair, never reduced.
//!
//! Each loss is a free function of the policy's and the reference's log-probabilities, in a file of its own or with its
//! closest relatives. Value and gradient are closed forms; the body of the function is the equation. What is shared has a
//! name: the reward [`margin`], the score of a [`divergence`], the functions in `numerics`.

mod annotated;
mod aot;
mod apo;
mod bco_pair;
mod cdpo;
mod cpo;
mod discopop;
mod divergence;
mod dpo;
mod dpop;
mod exo;
mod hinge;
mod ipo;
mod margin;
mod mixture;
mod nca;
mod objective;
mod offset;
mod orpo;
mod parameters;
mod plackett_luce;
mod preference;
mod robust;
mod sft;
mod sigmoid_norm;
mod simpo;
mod sppo;
mod trl;
mod unpaired;

pub use annotated::{PairAnnotations, annotated_dpo_loss};
pub use aot::{aot_loss, aot_unpaired_loss};
pub use apo::{apo_down_loss, apo_zero_loss};
pub use bco_pair::bco_pair_loss;
pub use cdpo::cdpo_loss;
pub use cpo::cpo_loss;
pub use discopop::discopop_loss;
pub use divergence::FDivergence;
pub use dpo::{dpo_loss, f_dpo_loss};
pub use dpop::dpop_loss;
pub use exo::exo_pair_loss;
pub use hinge::{hinge_loss, slic_loss};
pub use ipo::ipo_loss;
pub use mixture::{LossMixture, WeightedLoss};
pub use nca::nca_pair_loss;
pub use objective::Objective;
pub use offset::{odpo_loss, r_dpo_loss};
pub use orpo::orpo_loss;
pub use parameters::{Alpha, Beta, ExoSmoothing, FlipRate, LabelSmoothing, LdAlpha, TargetMargin, Temperature, Weight};
pub use plackett_luce::{RankedItems, plackett_luce_loss};
pub use preference::PreferenceLoss;
pub use robust::robust_loss;
pub use sft::{nll_loss, sft_loss};
pub use sigmoid_norm::sigmoid_norm_loss;
pub use simpo::{alphapo_loss, simpo_loss};
pub use sppo::sppo_hard_loss;
pub use trl::{OneOrMany, TrlConfig};
pub use unpaired::{bco_loss, kl_estimate, kto_loss};

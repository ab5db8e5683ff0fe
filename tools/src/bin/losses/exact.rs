//! The f64 definition of every member.

use burn_dpo::{
    FDivergence, PreferenceLoss,
    reference::{self, BatchLossAndGradient, LossAndGradient, Pair, SequencePair},
};

/// The member's value and gradient for a pair; for a loss of the whole batch, for a batch of that pair alone. `None` for a
/// member that has no row here.
pub fn exact(loss: &PreferenceLoss, policy: SequencePair, reference: Pair) -> Option<LossAndGradient> {
    use PreferenceLoss::*;
    let sums = policy.sums();
    let f = |divergence| match divergence {
        FDivergence::ReverseKl => reference::FDivergence::ReverseKl,
        FDivergence::ForwardKl => reference::FDivergence::ForwardKl,
        FDivergence::JsDivergence => reference::FDivergence::JsDivergence,
        FDivergence::AlphaDivergence { alpha } => reference::FDivergence::AlphaDivergence { alpha: alpha.get() },
    };
    Some(match *loss {
        Dpo { beta, divergence } => reference::f_dpo_loss(sums, reference, beta.get(), f(divergence)),
        Cdpo { beta, label_smoothing, divergence } => {
            reference::cdpo_loss(sums, reference, beta.get(), label_smoothing.get(), f(divergence))
        }
        Robust { beta, label_smoothing, divergence } => {
            reference::robust_loss(sums, reference, beta.get(), label_smoothing.get(), f(divergence))
        }
        Hinge { beta, divergence } => reference::hinge_loss(sums, reference, beta.get(), f(divergence)),
        Ipo { beta, divergence } => reference::ipo_loss(policy, reference, beta.get(), f(divergence)),
        SigmoidNorm { beta, divergence } => reference::sigmoid_norm_loss(policy, reference, beta.get(), f(divergence)),
        ExoPair { beta, label_smoothing, divergence } => {
            reference::exo_pair_loss(sums, reference, beta.get(), label_smoothing.get(), f(divergence))
        }
        Discopop { beta, temperature, divergence } => {
            reference::discopop_loss(sums, reference, beta.get(), temperature.get(), f(divergence))
        }
        NcaPair { beta } => reference::nca_pair_loss(sums, reference, beta.get()),
        BcoPair { beta } => reference::bco_pair_loss(sums, reference, beta.get()),
        SppoHard { beta } => reference::sppo_hard_loss(sums, reference, beta.get()),
        Aot { beta, label_smoothing } => {
            of_one_pair(reference::aot_loss(&[sums], &[reference], beta.get(), label_smoothing.get()))
        }
        AotUnpaired { beta, label_smoothing } => {
            of_one_pair(reference::aot_unpaired_loss(&[sums], &[reference], beta.get(), label_smoothing.get()))
        }
        ApoZero { beta } => reference::apo_zero_loss(sums, reference, beta.get()),
        ApoDown { beta } => reference::apo_down_loss(sums, reference, beta.get()),
        Dpop { beta, lambda } => reference::dpop_loss(sums, reference, beta.get(), lambda.get()),
        Odpo { beta, offset } => reference::odpo_loss(sums, reference, beta.get(), offset.get()),
        RDpo { beta, length_weight } => reference::r_dpo_loss(policy, reference, beta.get(), length_weight.get()),
        Simpo { beta, gamma } => reference::simpo_loss(policy, beta.get(), gamma.get()),
        Alphapo { beta, alpha, gamma } => reference::alphapo_loss(policy, beta.get(), alpha.get(), gamma.get()),
        Cpo { beta, label_smoothing } => reference::cpo_loss(sums, beta.get(), label_smoothing.get()),
        Slic { delta } => reference::slic_loss(sums, delta.get()),
        Orpo {} => reference::orpo_loss(policy),
        Sft {} => of_one_pair(reference::sft_loss(&[policy.chosen])),
        Nll {} => {
            let of_chosen = reference::nll_loss(policy.chosen);
            LossAndGradient { value: of_chosen.value, gradient: Pair { chosen: of_chosen.gradient, rejected: 0.0 } }
        }
        _ => return None, // a member of a later version
    })
}

fn of_one_pair(batch: BatchLossAndGradient) -> LossAndGradient {
    LossAndGradient { value: batch.values[0], gradient: batch.gradients[0] }
}

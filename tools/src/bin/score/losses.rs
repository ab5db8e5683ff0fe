//! From a configuration to the losses that the library computes for it.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use burn_dpo::{
    PairAnnotations, PairLogProbs, PairWeights, RankedItems, RankedLogProbs, SequenceLogProbs, TokenStatistics,
    annotated_dpo_loss, bco_loss, kto_loss, plackett_luce_loss,
};

use super::config::{Config, Loss, PerPair};

/// Where numbers that come with the configuration go, and in which format.
pub type Constants<'a> = (&'a Device, DType);

/// A batch's log-probs under two models, as pairs and as the stack that these are halves of.
pub struct Scored {
    pub policy: PairLogProbs,
    pub reference: PairLogProbs,
    pub policy_sequences: SequenceLogProbs,
    pub reference_sequences: SequenceLogProbs,
    /// The policy's.
    pub statistics: TokenStatistics,
}

impl Config {
    /// One loss for each pair, completion (chosen half first) or ranking.
    pub fn losses(&self, scored: &Scored, on: Constants) -> anyhow::Result<Tensor<1>> {
        let Scored { policy, reference, policy_sequences, reference_sequences, statistics } = scored;
        let pairs = policy.pairs();
        let weights = if self.use_weighting { Some(PairWeights::new(statistics.wpo_weights()?)?) } else { None };
        let losses = match &self.loss {
            Loss::Pairs(mixture) => match weights {
                Some(weights) => mixture.weighted_losses(policy, reference, &weights),
                None => mixture.losses(policy, reference),
            },
            Loss::Annotated { offset, label_probability } => {
                let mut annotations = PairAnnotations::new(self.beta.first()?);
                if let Some(betas) = self.beta.each(on) {
                    annotations = annotations.with_betas(betas);
                }
                if let Some(offset) = offset {
                    annotations = annotations.with_offsets(offset.tensor(pairs, on));
                }
                if let Some(label_probability) = label_probability {
                    annotations = annotations.with_label_probabilities(label_probability.tensor(pairs, on));
                }
                let losses = annotated_dpo_loss(policy, reference, &annotations)?;
                match weights {
                    Some(weights) => weights.apply(losses),
                    None => Ok(losses),
                }
            }
            Loss::Kto { kl, desirable_weight, undesirable_weight } => kto_loss(
                policy_sequences,
                reference_sequences,
                &chosen_half(pairs, on.0),
                &constants(vec![kl.get()], on),
                self.beta.one()?,
                *desirable_weight,
                *undesirable_weight,
            ),
            Loss::Bco { delta } => bco_loss(
                policy_sequences,
                reference_sequences,
                &chosen_half(pairs, on.0),
                &constants(vec![delta.get()], on),
                self.beta.one()?,
            ),
            Loss::PlackettLuce { group } => plackett_luce_loss(
                &RankedLogProbs::from_sequences(policy_sequences, *group)?,
                &RankedLogProbs::from_sequences(reference_sequences, *group)?,
                self.beta.one()?,
                RankedItems::All,
            ),
        };
        Ok(losses?)
    }
}

impl<T: Copy + Into<f64>> PerPair<T> {
    /// As many as pairs, or the list as it is.
    fn tensor(&self, pairs: usize, on: Constants) -> Tensor<1> {
        match self {
            PerPair::All(one) => constants(vec![(*one).into(); pairs], on),
            PerPair::Each(list) => constants(list.iter().map(|&one| one.into()).collect(), on),
        }
    }

    /// The list, if it is one.
    pub fn each(&self, on: Constants) -> Option<Tensor<1>> {
        matches!(self, PerPair::Each(_)).then(|| self.tensor(0, on))
    }
}

fn constants(numbers: Vec<f64>, on: Constants) -> Tensor<1> {
    let shape = [numbers.len()];
    Tensor::from_data(TensorData::new(numbers, shape), on)
}

/// True for the chosen half of a stack of pairs.
fn chosen_half(pairs: usize, device: &Device) -> Tensor<1, Bool> {
    let flags: Vec<bool> = (0..2 * pairs).map(|sequence| sequence < pairs).collect();
    Tensor::from_data(TensorData::new(flags, [2 * pairs]), device)
}

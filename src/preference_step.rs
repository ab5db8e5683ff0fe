//! Loss and gradient of a trained head in one pass: the one place where tokens and preferences meet.

use std::ops::Range;

use burn_tensor::{DType, Device, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, kind::Basic, s};

use crate::{
    Completions, Error, LmHead, LossMixture, PairLogProbs, Result, TokenLogProbs,
    log_probs::Rows,
    ops::{Product, RowSums, with_scaled_gradient},
    pairs::expect_pairs,
};

/// What [`LmHead::preference_step`] gives.
///
/// | field    | shape            | unit                                   | gradient                               |
/// |----------|------------------|----------------------------------------|----------------------------------------|
/// | `loss`   | `[1]`            | nats, **mean** over pairs              | into hidden states, weight and bias    |
/// | `losses` | `[pairs]`        | nats                                   | none                                   |
/// | `policy` | two of `[pairs]` | nats, **summed** over counted tokens   | none                                   |
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PreferenceStep {
    /// The mean of the losses, `[1]`: what to call `backward` on. May be multiplied, or added to other terms.
    pub loss: Tensor<1>,
    /// The loss of each pair, `[pairs]`, for metrics.
    pub losses: Tensor<1>,
    /// The policy's log-probs, for metrics.
    pub policy: PairLogProbs,
    /// Whether loss and gradient were made in one pass.
    pub fused: bool,
}

impl LmHead {
    /// The mean loss over pairs of sequences, chosen ones first, and its gradient, from hidden states
    /// `[sequences, time, hidden]`.
    ///
    /// The same as
    ///
    /// ```text
    /// policy = head.token_log_probs(hidden, completions).sequences().into_pairs()
    /// losses = loss.losses(policy, reference)
    /// losses.mean()
    /// ```
    ///
    /// but where it can be, each pair's logits are made once, used for loss and gradient, and forgotten: `6 N H V` operations
    /// instead of 8. It can where the head is trained, the losses keep pairs apart, and one pair's logits fit the budget of
    /// memory; where not, the above is what is done. The losses are computed by the same code either way.
    ///
    /// # Example
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn::tensor::{Device, Tensor};
    /// use burn_dpo::{Beta, Completions, FDivergence, LmHead, PairLogProbs, PreferenceLoss};
    ///
    /// let device = Device::default().autodiff();
    /// let linear = LinearConfig::new(8, 50).with_bias(false).init(&device);
    /// let weight = linear.weight.val().detach().require_grad();
    /// let hidden = Tensor::<3>::ones([2, 4, 8], &device).require_grad();
    /// let completions = Completions::from_sequences(&[[1, 2, 3, 4], [1, 2, 5, 6]], &[2, 2], 50, &Device::default())?;
    /// let reference = PairLogProbs::from_host(&[(-8.0, 2)], &[(-8.0, 2)], &Device::default())?;
    /// let loss = PreferenceLoss::Dpo { beta: Beta::new(0.1)?, divergence: FDivergence::ReverseKl };
    ///
    /// let head = LmHead::new(weight.clone(), None);
    /// let step = head.preference_step(hidden.clone(), &completions, &reference, &loss.into())?;
    /// assert!(step.fused);
    /// let gradients = step.loss.backward();
    /// assert!(weight.grad(&gradients).is_some() && hidden.grad(&gradients).is_some());
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Numerics
    /// Those of the two roads are the same, but for the order in which numbers are added. In one pass the gradient is made
    /// before it is known by what `loss` will be multiplied, and multiplied then.
    ///
    /// # Errors
    /// Those of [`token_log_probs`](Self::token_log_probs) and of the losses; [`Error::OddSequences`] if the sequences cannot be
    /// halved; [`Error::PairCount`] if the reference has another number of pairs.
    pub fn preference_step(
        &self,
        hidden: Tensor<3>,
        completions: &Completions,
        reference: &PairLogProbs,
        loss: &LossMixture,
    ) -> Result<PreferenceStep> {
        self.check(&hidden, completions)?;
        let [sequences, _] = completions.dims();
        if sequences % 2 != 0 {
            return Err(Error::OddSequences { sequences });
        }
        expect_pairs("policy", sequences / 2, "reference", reference.pairs())?;
        if self.is_trained()
            && loss.keeps_pairs_apart()
            && let Some(rows) = self.rows(hidden.clone(), completions)?
            && let Some(groups) = self.groups_of_pairs(&rows, completions)
        {
            return InOnePass { rows, completions, reference, loss }.step(&groups);
        }
        let policy = self.token_log_probs(hidden, completions)?.sequences().into_pairs()?;
        let losses = loss.losses(&policy, reference)?;
        let fused = false;
        Ok(PreferenceStep {
            loss: losses.clone().mean(),
            losses: losses.without_autodiff(),
            policy: policy.detach(),
            fused,
        })
    }

    /// Pairs that go together, as many as the budget of memory has room for the logits of; none if a pair is too large for it.
    fn groups_of_pairs(&self, rows: &Rows, completions: &Completions) -> Option<Vec<Range<usize>>> {
        let [sequences, time] = completions.dims();
        let mut rows_of_pair = vec![0; sequences / 2];
        for position in &rows.on_host {
            rows_of_pair[*position as usize / time % (sequences / 2)] += 1;
        }
        let [all, width] = rows.hidden.dims();
        let dtype = rows.hidden.dtype();
        let room = self.logit_budget(all, width, dtype) / (rows.vocab() * dtype.size());
        let mut groups: Vec<Range<usize>> = Vec::new();
        let mut held = 0;
        for (pair, rows) in rows_of_pair.into_iter().enumerate() {
            if rows > room {
                return None;
            }
            match groups.last_mut() {
                Some(group) if held + rows <= room => {
                    group.end = pair + 1;
                    held += rows;
                }
                _ => {
                    groups.push(pair..pair + 1);
                    held = rows;
                }
            }
        }
        Some(groups)
    }
}

/// A batch whose loss and gradient are made together.
struct InOnePass<'a> {
    rows: Rows,
    completions: &'a Completions,
    reference: &'a PairLogProbs,
    loss: &'a LossMixture,
}

/// What is summed up over groups of pairs.
struct Gradients {
    hidden: Option<Tensor<2>>,
    /// In the weight's own orientation, in the format computed in.
    weight: Option<Tensor<2>>,
    bias: Option<Tensor<1>>,
}

/// The rows of a group of pairs: those of its chosen sequences, and those of its rejected ones.
struct Group {
    pairs: Range<usize>,
    sides: [Range<usize>; 2],
    /// Where each of them is among the group's own positions, chosen first.
    positions: Tensor<1, Int>,
}

impl InOnePass<'_> {
    fn step(self, groups: &[Range<usize>]) -> Result<PreferenceStep> {
        let Rows { hidden, weight, bias, .. } = &self.rows;
        let (device, dtype) = (hidden.device().without_autodiff(), hidden.dtype());
        let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, (&device, dtype));
        let mut gradients = Gradients {
            hidden: hidden.is_tracked().then(|| zeros(hidden.dims())),
            weight: weight.is_tracked().then(|| zeros(weight.dims())),
            bias: bias.is_tracked().then(|| Tensor::zeros(bias.dims(), (&device, dtype))),
        };
        let mut workspace = None;
        let (mut losses, mut policies) = (Vec::new(), Vec::new());
        for pairs in groups {
            let group = self.group(pairs.clone(), &device);
            let hidden = group.of(&self.rows.hidden.clone().without_autodiff());
            let ids = group.of(&self.rows.ids);
            let z = self.logits(workspace.take(), &hidden);
            let sums = RowSums::of(&z, &ids, 0, None, self.rows.head.road);
            let log_prob = sums.log_prob().cast(FloatDType::from(dtype));
            let (of_pairs, policy, upstream) = self.losses(&group, log_prob)?;
            losses.push(of_pairs);
            policies.push(policy);
            let of_logits = self.rows.head.row_gradient(z, &ids, &sums, upstream);
            gradients.add(&self.rows, &group, &hidden, &of_logits);
            workspace = Some(of_logits);
        }
        let losses = Tensor::cat(losses, 0);
        let loss = gradients.join(losses.clone().mean(), &self.rows);
        Ok(PreferenceStep { loss, losses, policy: PairLogProbs::cat(&policies), fused: true })
    }

    fn group(&self, pairs: Range<usize>, device: &Device) -> Group {
        let [sequences, time] = self.completions.dims();
        let all = &self.rows.on_host;
        // rows are in the order of their sequences
        let first_of = |sequence: usize| all.partition_point(|&position| (position as usize) < sequence * time);
        let rejected = pairs.start + sequences / 2..pairs.end + sequences / 2;
        let sides = [pairs.clone(), rejected].map(|side| (first_of(side.start)..first_of(side.end), side.start));
        let moved: Vec<i32> = sides
            .iter()
            .zip([0, pairs.len()])
            .flat_map(|((rows, first), place)| {
                all[rows.clone()].iter().map(move |&position| position - (first * time) as i32 + (place * time) as i32)
            })
            .collect();
        let positions = TensorData::new(moved.clone(), [moved.len()]);
        Group {
            pairs,
            sides: sides.map(|(rows, _)| rows),
            positions: Tensor::from_data(positions, (device, DType::I32)),
        }
    }

    /// The logits of the group's rows over the whole vocabulary.
    fn logits(&self, workspace: Option<Tensor<2>>, hidden: &Tensor<2>) -> Tensor<2> {
        let Rows { weight, bias, head, .. } = &self.rows;
        let (weight, bias) = (weight.clone().without_autodiff(), bias.clone().without_autodiff());
        head.whole_logits(workspace, hidden, &weight, &bias)
    }

    /// The losses of the group's pairs, the log-probs that they are computed from, and what each token's log-prob, `[rows, 1]`,
    /// receives from the mean over *all* pairs.
    fn losses(&self, group: &Group, log_prob: Tensor<2>) -> Result<(Tensor<1>, PairLogProbs, Tensor<2>)> {
        let pairs = group.pairs.len();
        let leaf = log_prob.autodiff().require_grad();
        let policy = self.token_log_probs(group, leaf.clone()).sequences().into_pairs()?;
        let losses = self.loss.losses(&policy, &self.reference.range(group.pairs.clone()))?;
        let of_mean = losses.clone().sum() / self.reference.pairs() as f64;
        let unreached = || leaf.clone().without_autodiff().zeros_like();
        let upstream = if of_mean.is_tracked() { leaf.grad(&of_mean.backward()) } else { None };
        debug_assert_eq!(losses.dims(), [pairs]);
        Ok((losses.without_autodiff(), policy.without_autodiff(), upstream.unwrap_or_else(unreached)))
    }

    /// The group's log-probs, `[rows, 1]`, as those of its sequences.
    fn token_log_probs(&self, group: &Group, log_prob: Tensor<2>) -> TokenLogProbs {
        let [sequences, time] = self.completions.dims();
        let Range { start, end } = group.pairs.clone();
        let pairs = end - start;
        let everywhere =
            Tensor::<2>::zeros([2 * pairs * time, 1], (&log_prob.device().without_autodiff(), log_prob.dtype()));
        let everywhere = everywhere.select_assign(0, group.positions.clone(), log_prob, IndexingUpdateOp::Add);
        let half = sequences / 2;
        let mask = self.completions.mask();
        let mask = [start..end, start + half..end + half].map(|side| mask.clone().slice(s![side, 1..]));
        TokenLogProbs::new(
            everywhere.reshape([2 * pairs, time]).slice(s![.., 0..time - 1]),
            Tensor::cat(mask.to_vec(), 0),
        )
    }
}

impl Group {
    /// Its rows of `x`, chosen first.
    fn of<const D: usize, K: Basic>(&self, x: &Tensor<D, K>) -> Tensor<D, K> {
        Tensor::cat(self.filled_sides().map(|side| x.clone().slice_dim(0, side)).collect(), 0)
    }

    /// A side may have no counted token; not both.
    fn filled_sides(&self) -> impl Iterator<Item = Range<usize>> {
        self.sides.clone().into_iter().filter(|side| !side.is_empty())
    }
}

impl Gradients {
    /// Adds what a group's hidden states, weight and bias receive from the gradient of its logits, `[rows, vocab]`.
    fn add(&mut self, rows: &Rows, group: &Group, hidden: &Tensor<2>, of_logits: &Tensor<2>) {
        let [_, width] = hidden.dims();
        let weight = rows.weight.clone().without_autodiff();
        let first = group.pairs.start == 0;
        for (index, columns) in rows.head.tiles_to_convert(&weight, hidden.dtype()).into_iter().enumerate() {
            let of_tile = of_logits.clone().slice(s![.., columns.clone()]);
            self.hidden = self.hidden.take().map(|destination| {
                let tile = rows.head.tile(&weight, columns.clone(), hidden.dtype()).transpose();
                let mut begun = 0;
                group.filled_sides().fold(destination, |destination, side| {
                    let of_side = of_tile.clone().slice(s![begun..begun + side.len(), ..]);
                    begun += side.len();
                    let product = Product { rows: side, columns: 0..width, accumulate: index > 0, scale: 1.0 };
                    rows.head.product_into(destination, of_side, tile.clone(), product)
                })
            });
            self.weight = self
                .weight
                .take()
                .map(|destination| rows.head.add_to_weight_gradient(destination, hidden, of_tile, columns, !first));
        }
        self.bias = self.bias.take().map(|sum| sum + of_logits.clone().sum_dim(0).squeeze_dim(0));
    }

    /// The mean loss, with its gradients, in the caller's graph.
    fn join(self, loss: Tensor<1>, rows: &Rows) -> Tensor<1> {
        let loss = match self.hidden {
            Some(gradient) => with_scaled_gradient(loss, rows.hidden.clone(), gradient),
            None => loss,
        };
        let loss = match self.weight {
            Some(gradient) => {
                let own = FloatDType::from(rows.weight.dtype());
                with_scaled_gradient(loss, rows.weight.clone(), gradient.cast(own))
            }
            None => loss,
        };
        match self.bias {
            Some(gradient) => {
                let own = FloatDType::from(rows.bias.dtype());
                with_scaled_gradient(loss, rows.bias.clone(), gradient.cast(own))
            }
            None => loss,
        }
    }
}

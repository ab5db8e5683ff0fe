//! A policy beside its reference, as expressions that losses are written over.

use burn_tensor::{FloatDType, Tensor};

use crate::{
    Error, PairLogProbs, Result, SequenceLogProbs,
    error::expect_pairs,
    expr::{Expr, function_of},
    ops::{Reach, check_same_device, common_dtype},
    sides::Sides,
};

/// A policy's log-probs, `[2 · pairs]`, chosen first, in the graph that computed them: what losses are functions of.
#[derive(Debug, Clone)]
pub(crate) struct Policy(Tensor<1>);

impl Policy {
    /// From log-probs `[2 · pairs]`, chosen first.
    pub fn of_stack(stack: Tensor<1>) -> Self {
        Self(stack)
    }

    /// The numbers of each pair, without the graph.
    pub fn log_probs(&self) -> Sides<Expr> {
        Expr::parts_of(&self.0).into()
    }

    /// The log-probs, `[2 · pairs]`, in the graph.
    pub fn stack(self) -> Tensor<1> {
        self.0
    }

    /// The loss with that value and those derivatives in chosen and rejected log-probs.
    pub fn loss(self, value: Expr, derivatives: Sides<Expr>) -> Tensor<1> {
        function_of(self.0, value, [derivatives.chosen, derivatives.rejected], Reach::OwnPair)
    }

    /// The loss of a difference, chosen − rejected, with that derivative.
    pub fn loss_of_difference(self, value: Expr, derivative: Expr) -> Tensor<1> {
        self.loss(value, Sides { chosen: derivative.clone(), rejected: derivative.neg() })
    }

    /// The loss of chosen completions alone. The gradient of the rejected ones is 0, whatever comes in.
    pub fn loss_of_chosen(self, value: Expr, derivative: Expr) -> Tensor<1> {
        function_of(self.0, value, [derivative], Reach::OwnPair)
    }

    /// One loss of all chosen completions together, the same number for each pair.
    pub fn loss_of_all_chosen(self, value: Expr, derivative: Expr) -> Tensor<1> {
        function_of(self.0, value, [derivative], Reach::AllPairs)
    }
}

impl Sides<Expr> {
    /// Sums times their [`inverse_token_counts`](PairLogProbs::inverse_token_counts): 0 for an empty completion, whatever its sum.
    pub fn per_token(self, inverse: &Sides<Expr>) -> Self {
        self.zip(inverse.clone(), |sum, inverse| sum.mask_fill(inverse.clone().equal_elem(0.0), 0.0) * inverse)
    }
}

/// Policy beside reference, checked, in one dtype.
pub(crate) struct Compared {
    /// The policy's log-probs, in the graph that computed them.
    pub policy: Policy,
    /// The reference's, without a graph.
    pub reference: Sides<Expr>,
    /// `log π − log π_ref`, without a graph.
    pub log_ratio: Sides<Expr>,
    /// f64 if either is f64, else f32.
    pub dtype: FloatDType,
}

/// Checks that the two go together, and takes the reference out of any graph.
pub(crate) fn compare(policy: &PairLogProbs, reference: &PairLogProbs) -> Result<Compared> {
    expect_pairs("policy", policy.pairs(), "reference", reference.pairs())?;
    check_same_device("policy", &policy.device(), "reference", &reference.device())?;
    check_same_ld_alpha(policy.stack(), reference.stack())?;
    let (policy, reference) = (&policy.stack().sum, &reference.stack().sum);
    let dtype = FloatDType::from(common_dtype([policy.dtype(), reference.dtype()]));
    let policy = Policy(policy.clone().cast(dtype));
    let reference = Sides::from(Expr::parts_of(&reference.clone().cast(dtype)));
    let log_ratio = policy.log_probs().zip(reference.clone(), |policy, reference| policy - reference);
    Ok(Compared { policy, reference, log_ratio, dtype })
}

/// A policy without a reference, in the dtype that is computed in.
pub(crate) fn alone(policy: &PairLogProbs) -> Policy {
    let sum = &policy.stack().sum;
    Policy(sum.clone().cast(FloatDType::from(common_dtype([sum.dtype()]))))
}

/// The policy's log-probs of completions that are not paired, in the graph that computed them, and their log-ratios without one.
pub(crate) struct ComparedSequences {
    pub policy: Tensor<1>,
    pub log_ratio: Expr,
}

/// [`compare`] for completions that are not paired.
pub(crate) fn compare_sequences(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<ComparedSequences> {
    policy.check("policy token_count")?;
    reference.check("reference token_count")?;
    if policy.sum.dims() != reference.sum.dims() {
        let (expected, actual) = (policy.sum.dims().to_vec(), reference.sum.dims().to_vec());
        return Err(Error::Shape { what: "reference", expected, actual });
    }
    check_same_device("policy", &policy.sum.device(), "reference", &reference.sum.device())?;
    check_same_ld_alpha(policy, reference)?;
    let dtype = FloatDType::from(common_dtype([policy.sum.dtype(), reference.sum.dtype()]));
    let [policy, reference] = [policy, reference].map(|model| model.sum.clone().cast(dtype));
    let log_ratio = Expr::of(&policy) - Expr::of(&reference);
    Ok(ComparedSequences { policy, log_ratio })
}

impl PairLogProbs {
    /// Token counts as numbers.
    pub(crate) fn token_counts(&self) -> Sides<Expr> {
        Expr::counts_of(&self.stack().token_count).into()
    }

    /// 1 / token count, and 0 for an empty completion.
    pub(crate) fn inverse_token_counts(&self) -> Sides<Expr> {
        self.token_counts().map(|count| {
            let empty = count.clone().lower_elem(1.0);
            count.mask_fill(empty.clone(), 1.0).recip().mask_fill(empty, 0.0)
        })
    }
}

/// Refuses a policy and a reference whose sums are known to be LD-DPO's with different `α`: their margin would not start at 0.
pub(crate) fn check_same_ld_alpha(policy: &SequenceLogProbs, reference: &SequenceLogProbs) -> Result<()> {
    match (policy.ld_alpha, reference.ld_alpha) {
        (Some(policy), Some(reference)) if policy != reference => {
            Err(Error::LdAlpha { policy: policy.get(), reference: reference.get() })
        }
        _ => Ok(()),
    }
}

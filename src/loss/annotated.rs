//! DPO with what is known of each pair: how sure its label is, by how much it should be won, how tightly it is held.

use burn_tensor::{FloatDType, Tensor};

use super::Beta;
use crate::{
    Error, PairLogProbs, Result,
    compare::compare,
    expr::{BoolExpr, Expr, finite, sigmoid, softplus},
    ops::{check_float, check_same_device},
};

/// What is known of each pair beside which completion is the better one: numbers `[pairs]` on the device, without gradient.
///
/// | annotation            | symbol | without it | domain                     |
/// |-----------------------|--------|------------|----------------------------|
/// | `betas`               | `β`    | one for all | finite, above 0           |
/// | `offsets`             | `o`    | 0          | finite                     |
/// | `label_probabilities` | `q`    | 1          | from 0 to 1                |
///
/// The numbers are not read back to be checked: one outside its domain makes the loss of its pair NaN, and of no other.
#[derive(Debug, Clone)]
pub struct PairAnnotations {
    beta: Beta,
    betas: Option<Tensor<1>>,
    offsets: Option<Tensor<1>>,
    label_probabilities: Option<Tensor<1>>,
}

impl PairAnnotations {
    /// Nothing is known: plain DPO with that β.
    pub fn new(beta: Beta) -> Self {
        Self { beta, betas: None, offsets: None, label_probabilities: None }
    }

    /// A β for each pair, in place of the one for all.
    pub fn with_betas(self, betas: Tensor<1>) -> Self {
        Self { betas: Some(betas), ..self }
    }

    /// By how much each reward margin should be passed.
    pub fn with_offsets(self, offsets: Tensor<1>) -> Self {
        Self { offsets: Some(offsets), ..self }
    }

    /// How probable it is that the label of each pair is right: 1 for certain, ½ for a tie, 0 for a label that is wrong.
    pub fn with_label_probabilities(self, label_probabilities: Tensor<1>) -> Self {
        Self { label_probabilities: Some(label_probabilities), ..self }
    }
}

/// DPO with a β, an offset and a soft label for each pair: one loss per pair.
///
/// ```text
/// z = β (a − b) − o
/// ℓ = −q log σ(z) − (1 − q) log σ(−z)
/// ```
///
/// `a`, `b` are the log-ratios of chosen and rejected; `β`, `o`, `q` are those of the pair, see [`PairAnnotations`]. Shapes,
/// units and gradients as in [`dpo_loss`](crate::dpo_loss).
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, PairAnnotations, PairLogProbs, annotated_dpo_loss};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let policy = PairLogProbs::from_host(&[(-9.0, 4), (-9.0, 4)], &[(-8.0, 4), (-8.0, 4)], &device)?;
/// let reference = PairLogProbs::from_host(&[(-10.0, 4), (-10.0, 4)], &[(-7.0, 4), (-7.0, 4)], &device)?;
///
/// // Two annotators out of ten disagreed about the second pair.
/// let annotations = PairAnnotations::new(Beta::new(0.5)?)
///     .with_label_probabilities(Tensor::<1>::from_floats([1.0, 0.8], &device));
/// let losses = annotated_dpo_loss(&policy, &reference, &annotations)?;
/// let losses = losses.into_data().try_to_vec::<f32>().unwrap();
/// assert_abs_diff_eq!(losses[0], 0.313_262, epsilon = 1e-6); // −log σ(1)
/// assert_abs_diff_eq!(losses[1], 0.513_262, epsilon = 1e-6); // 0.2 more: 0.2 · z
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Closed form. A margin beyond the dtype's range counts as its largest number.
///
/// # Errors
/// As [`dpo_loss`](crate::dpo_loss); [`Error::Shape`], [`Error::DType`] and [`Error::Device`] for annotations that do not go
/// with the pairs.
///
/// # Source
/// Offsets: Amini et al. 2024 (arXiv:2402.10571). Soft labels: Furuta et al. 2024 (arXiv:2409.06691) and, the same for all
/// pairs, [`cdpo_loss`](crate::cdpo_loss). A β that follows the data: Wu et al.
/// 2024, β-DPO (arXiv:2407.08639), which chooses it per batch.
pub fn annotated_dpo_loss(
    policy: &PairLogProbs,
    reference: &PairLogProbs,
    annotations: &PairAnnotations,
) -> Result<Tensor<1>> {
    let pairs = compare(policy, reference)?;
    let (delta, dtype) = (pairs.log_ratio.difference(), pairs.dtype);
    let checked = |what, numbers: &Option<Tensor<1>>| {
        numbers.as_ref().map(|numbers| per_pair(what, numbers, policy, dtype)).transpose()
    };
    let scaled = |numbers: Expr, beta: &Option<Expr>| match beta {
        Some(betas) => numbers * betas.clone(),
        None => numbers * annotations.beta.get(),
    };
    let betas =
        checked("betas", &annotations.betas)?.map(|betas| nan_where(betas.clone().lower_equal_elem(0.0), betas));
    let offsets = checked("offsets", &annotations.offsets)?;
    let certainty = checked("label_probabilities", &annotations.label_probabilities)?.map(|q| {
        let outside = q.clone().lower_elem(0.0).bool_or(q.clone().greater_elem(1.0));
        nan_where(outside, q)
    });

    let z = scaled(delta, &betas);
    let z = finite(match offsets {
        Some(offsets) => z - offsets,
        None => z,
    });
    let (right, wrong) = (softplus(z.clone().neg()), softplus(z.clone()));
    let (pull, push) = (sigmoid(z.clone().neg()).neg(), sigmoid(z));
    let (loss, derivative) = match certainty {
        Some(q) => {
            let doubt = q.clone().neg() + 1.0;
            (right * q.clone() + wrong * doubt.clone(), pull * q + push * doubt)
        }
        None => (right, pull),
    };
    let derivative = scaled(derivative, &betas);
    Ok(pairs.policy.loss_of_difference(loss, derivative))
}

/// Numbers that go with the pairs, as constants in the dtype of the log-probs. Infinities become NaN.
fn per_pair(what: &'static str, numbers: &Tensor<1>, policy: &PairLogProbs, dtype: FloatDType) -> Result<Expr> {
    if numbers.dims() != [policy.pairs()] {
        return Err(Error::Shape { what, expected: vec![policy.pairs()], actual: numbers.dims().to_vec() });
    }
    check_same_device("policy", &policy.device(), what, &numbers.device())?;
    check_float(what, numbers)?;
    let numbers = Expr::of(&numbers.clone().without_autodiff().cast(dtype));
    let infinite = numbers.clone().is_inf();
    Ok(nan_where(infinite, numbers))
}

fn nan_where(outside: BoolExpr, numbers: Expr) -> Expr {
    numbers.mask_fill(outside, f64::NAN)
}

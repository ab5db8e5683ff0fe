//! Plackett–Luce: rankings of more than two completions.

use burn_tensor::{Bool, FloatDType, Int, IntDType, Tensor, TensorData};

use super::Beta;
use crate::{
    Error, RankedLogProbs, Result,
    ops::{
        check_int, check_same_device, closed_form, common_dtype, finite, independent_of, indices, log1p_of_non_negative,
    },
};

/// How much of each ranking is known.
#[derive(Debug, Clone, Copy)]
pub enum RankedItems<'a> {
    /// The whole order, best first.
    All,
    /// The first so many are in order, best first; the others are only known to be worse.
    First(usize),
    /// Both numbers for each ranking, `[rankings]` each: how many of its items are in order, and how many there are at all. What
    /// is beyond is padding and cannot be seen. Not read back: numbers beyond the width count as the width.
    Each {
        /// How many lead in order.
        ranked: &'a Tensor<1, Int>,
        /// How many items there are.
        present: &'a Tensor<1, Int>,
    },
}

/// Plackett–Luce (listwise DPO): one loss per *ranking*.
///
/// ```text
/// r_j = β (log π(y_j|x) − log π_ref(y_j|x)),   y_1 the best
/// ℓ = Σ_k [log Σ_{j ≥ k} exp r_j − r_k]
/// ```
///
/// The sum over `k` runs over the places that are known ([`RankedItems`]). Of two items, this is DPO.
///
/// | argument    | shape               | unit                                 | gradient |
/// |-------------|---------------------|--------------------------------------|----------|
/// | `policy`    | `[rankings, items]` | nats, **summed** over counted tokens | flows    |
/// | `reference` | `[rankings, items]` | nats, **summed** over counted tokens | stopped  |
/// | `beta`      | scalar              | dimensionless                        | constant |
/// | *returns*   | `[rankings]`        | nats                                 | flows    |
///
/// # Example
/// ```
/// use approx::assert_abs_diff_eq;
/// use burn_dpo::{Beta, RankedItems, RankedLogProbs, plackett_luce_loss};
/// use burn::tensor::{Device, Tensor};
///
/// let device = Device::default();
/// let rankings = |sums: [f32; 3]| RankedLogProbs::new(Tensor::<2>::from_floats([sums], &device));
/// let (policy, reference) = (rankings([-4.0, -5.0, -6.0])?, rankings([-5.0, -5.0, -5.0])?);
///
/// let loss = plackett_luce_loss(&policy, &reference, Beta::new(1.0)?, RankedItems::All)?; // rewards 1, 0, −1
/// assert_abs_diff_eq!(loss.into_scalar::<f32>(), 0.720_868, epsilon = 1e-6); // log(1 + e⁻¹ + e⁻²) + log(1 + e⁻¹)
///
/// let best_of_three = plackett_luce_loss(&policy, &reference, Beta::new(1.0)?, RankedItems::First(1))?;
/// assert_abs_diff_eq!(best_of_three.into_scalar::<f32>(), 0.407_606, epsilon = 1e-6); // log(1 + e⁻¹ + e⁻²)
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// Each place's term is `M + log1p(Σ …)` with `M` the largest lead of a worse item over it, as accurate as DPO's. It compares
/// all items of a ranking with all: `rankings · items²` numbers are held until the backward pass.
///
/// # Edge cases
/// NaN in one item makes its ranking NaN, and no other.
///
/// # Errors
/// [`Error::Shape`] if policy and reference, or the counts, differ in shape; [`Error::Parameter`] for fewer than two items or for
/// more ranked ones than there are; [`Error::Device`], [`Error::DType`] as elsewhere.
///
/// # Source
/// Rafailov et al. 2023, appendix A.3, eq. 20 (arXiv:2305.18290); partial rankings: Plackett 1975.
pub fn plackett_luce_loss(
    policy: &RankedLogProbs,
    reference: &RankedLogProbs,
    beta: Beta,
    ranked: RankedItems,
) -> Result<Tensor<1>> {
    let (of_policy, rewards) = policy.compared_with(reference, beta)?;
    let [rankings, items] = rewards.dims();
    ranked.check(&rewards)?;
    if rankings == 0 {
        return Ok(independent_of(Tensor::zeros([0], (&rewards.device(), rewards.dtype())), &of_policy));
    }
    let ItemMasks { ranked, present } = ItemMasks::new(ranked, &rewards);
    let cube = [rankings, items, items];
    // [ranking, item k, item j]: the lead of j over k, where k is ranked and j is present and comes after k
    let of_item = rewards.clone().reshape([rankings, 1, items]).expand(cube);
    let of_ranked = rewards.reshape([rankings, items, 1]).expand(cube);
    let out = after(items, &of_item)
        .expand(cube)
        .bool_and(ranked.reshape([rankings, items, 1]).expand(cube))
        .bool_and(present.reshape([rankings, 1, items]).expand(cube))
        .bool_not();
    let lead = finite((of_item - of_ranked).mask_fill(out.clone(), 0.0));

    // log(1 + Σ_j e^lead) = M + log1p(Σ_j e^(lead − M) + e^−M − 1), M = max(0, lead)
    let most = lead.clone().max_dim(2).clamp_min(0.0);
    let powers = (lead - most.clone()).exp().mask_fill(out, 0.0);
    let beside = powers.clone().sum_dim(2) + (most.clone().neg().exp() - 1.0);
    let loss = (most + log1p_of_non_negative(beside.clone())).sum_dim(1).reshape([rankings, 1]);

    let shares = powers / (beside + 1.0);
    let pulled_down = shares.clone().sum_dim(1).reshape([rankings, items]);
    let pulled_up = shares.sum_dim(2).reshape([rankings, items]);
    let derivatives = (pulled_down - pulled_up) * beta.get();

    Ok(closed_form(loss, [(of_policy, derivatives)]).reshape([rankings]))
}

/// Which items are ranked and which are present, `[rankings, items]`.
struct ItemMasks {
    ranked: Tensor<2, Bool>,
    present: Tensor<2, Bool>,
}

impl RankedItems<'_> {
    /// That it goes with these rankings.
    fn check(self, rewards: &Tensor<2>) -> Result<()> {
        let [rankings, items] = rewards.dims();
        match self {
            RankedItems::First(ranked) if ranked > items => Err(Error::Parameter {
                name: "the number of ranked items",
                value: ranked as f64,
                expected: "at most the number of items",
            }),
            RankedItems::All | RankedItems::First(_) => Ok(()),
            RankedItems::Each { ranked, present } => {
                for (what, counts) in [("ranked", ranked), ("present", present)] {
                    if counts.dims() != [rankings] {
                        let actual = counts.dims().to_vec();
                        return Err(Error::Shape { what, expected: vec![rankings], actual });
                    }
                    check_int(what, counts)?;
                    check_same_device("policy", &rewards.device(), what, &counts.device())?;
                }
                Ok(())
            }
        }
    }
}

impl ItemMasks {
    fn new(ranked: RankedItems, rewards: &Tensor<2>) -> Self {
        let [rankings, items] = rewards.dims();
        let index = indices(items, &rewards.device()).reshape([1, items]).expand([rankings, items]);
        let below = |counts: &Tensor<1, Int>| {
            let counts = counts.clone().without_autodiff().cast(IntDType::I32);
            index.clone().lower(counts.reshape([rankings, 1]).expand([rankings, items]))
        };
        let first = |count: usize| index.clone().lower_elem(count as i64);
        match ranked {
            RankedItems::All => Self { ranked: first(items), present: first(items) },
            RankedItems::First(ranked) => Self { ranked: first(ranked), present: first(items) },
            RankedItems::Each { ranked, present } => {
                let present = below(present);
                Self { ranked: below(ranked).bool_and(present.clone()), present }
            }
        }
    }
}

/// `[1, items, items]`: whether item `j` (last) comes after item `k`.
fn after(items: usize, like: &Tensor<3>) -> Tensor<3, Bool> {
    let flags: Vec<bool> = (0..items * items).map(|cell| cell % items > cell / items).collect();
    Tensor::from_data(TensorData::new(flags, [1, items, items]), &like.device())
}

impl RankedLogProbs {
    /// The policy's sums, in the graph that computed them, and the rewards, without one.
    fn compared_with(&self, reference: &Self, beta: Beta) -> Result<(Tensor<2>, Tensor<2>)> {
        if self.sum().dims() != reference.sum().dims() {
            let (expected, actual) = (self.sum().dims().to_vec(), reference.sum().dims().to_vec());
            return Err(Error::Shape { what: "reference", expected, actual });
        }
        check_same_device("policy", &self.sum().device(), "reference", &reference.sum().device())?;
        let dtype = common_dtype([self.sum().dtype(), reference.sum().dtype()]);
        let policy = self.sum().cast(FloatDType::from(dtype));
        let reference = reference.sum().without_autodiff().cast(FloatDType::from(dtype));
        let constant = policy.clone().without_autodiff();
        if constant.dims()[0] == 0 {
            return Ok((policy, constant)); // burn's own product of no numbers panics on GPUs without fusion
        }
        // clamped: two infinite rewards would have no difference
        let rewards = finite((constant - reference) * beta.get());
        Ok((policy, rewards))
    }
}

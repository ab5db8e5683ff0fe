//! Which members are drawn beside each other, and through which points.

use anyhow::Context;
use burn::tensor::Device;
use burn_dpo::PreferenceLoss;
use burn_dpo_tools::drawing;

use crate::measure::{Measured, Placed, measure};

/// Losses of one kind, on common axes.
pub struct Panel {
    pub title: &'static str,
    /// What is on the horizontal axis.
    pub axis: String,
    /// What the vertical axes show.
    pub values: (f64, f64),
    pub derivatives: (f64, f64),
    pub curves: Vec<Curve>,
}

pub struct Curve {
    pub label: &'static str,
    /// Horizontal position, and what was measured there.
    pub points: Vec<(f64, Measured)>,
}

/// How far the horizontal axis reaches either way, and in how many steps: small ones around 0.
pub const REACH: f64 = 5.0;
const STEPS: i32 = 75;

/// The log-prob of the better completion where there is no reference.
const MOST_WITHOUT_REFERENCE: f64 = -0.5;

/// All panels. β is 1 wherever there is a reference, so that a nat is a unit of reward.
pub fn panels(device: &Device) -> anyhow::Result<Vec<Panel>> {
    let dpo = ("sigmoid (DPO)", r#"{"loss": "sigmoid", "beta": 1}"#);
    let against_reward =
        |rejected: f64| (format!("β · log-ratio of chosen (of rejected: {})", drawing::short(rejected)), rejected);
    let against_log_prob = ("chosen − rejected, nats per token (best: −0.5)".to_string(), 0.0);
    let panel =
        |title, (axis, rejected), values, derivatives, members: &[(&'static str, &str)]| -> anyhow::Result<Panel> {
            let curve = |(label, json): &(&'static str, &str)| curve(label, json, rejected, device);
            Ok(Panel {
                title,
                axis,
                values,
                derivatives,
                curves: members.iter().map(curve).collect::<anyhow::Result<_>>()?,
            })
        };
    Ok(vec![
        panel(
            "The logistic loss and its kin",
            against_reward(0.0),
            (-1.0, 6.0),
            (-2.0, 1.0),
            &[
                dpo,
                ("cdpo, ε = 0.1", r#"{"loss": "cdpo", "beta": 1, "label_smoothing": 0.1}"#),
                ("robust, ε = 0.1", r#"{"loss": "robust", "beta": 1, "label_smoothing": 0.1}"#),
                ("odpo, offset 1", r#"{"loss": "odpo", "beta": 1, "offset": 1}"#),
                ("dpop, λ = 0.5", r#"{"loss": "dpop", "beta": 1, "lambda": 0.5}"#),
                ("discopop, τ = 0.05", r#"{"loss": "discopop", "beta": 1, "temperature": 0.05}"#),
            ],
        )?,
        panel(
            "Targets and hinges",
            against_reward(0.0),
            (-0.5, 7.5),
            (-3.0, 3.0),
            &[
                dpo,
                ("hinge", r#"{"loss": "hinge", "beta": 1}"#),
                ("ipo, target 1/(2β) = 1", r#"{"loss": "ipo", "beta": 0.5}"#),
                ("sppo_hard, targets ±½", r#"{"loss": "sppo_hard", "beta": 1}"#),
                ("exo_pair, ε = 0.001", r#"{"loss": "exo_pair", "beta": 1, "label_smoothing": 0.001}"#),
            ],
        )?,
        panel(
            "Each side by itself",
            against_reward(-1.0),
            (-0.5, 6.0),
            (-1.0, 0.6),
            &[
                dpo,
                ("nca_pair", r#"{"loss": "nca_pair", "beta": 1}"#),
                ("bco_pair", r#"{"loss": "bco_pair", "beta": 1}"#),
                ("apo_zero", r#"{"loss": "apo_zero", "beta": 1}"#),
                ("apo_down", r#"{"loss": "apo_down", "beta": 1}"#),
            ],
        )?,
        panel(
            "DPO under other divergences",
            against_reward(0.0),
            (-0.5, 6.0),
            (-3.0, 0.5),
            &[
                ("reverse_kl (DPO)", dpo.1),
                ("forward_kl", r#"{"loss": "sigmoid", "beta": 1, "divergence": "forward_kl"}"#),
                (
                    "alpha_divergence, α = 0.5",
                    r#"{"loss": "sigmoid", "beta": 1, "divergence": {"alpha_divergence": {"alpha": 0.5}}}"#,
                ),
                ("js_divergence", r#"{"loss": "sigmoid", "beta": 1, "divergence": "js_divergence"}"#),
            ],
        )?,
        panel(
            "Without a reference",
            against_log_prob,
            (-0.5, 8.0),
            (-3.5, 0.5),
            &[
                ("cpo, β = 1: logistic", r#"{"loss": "cpo", "beta": 1, "label_smoothing": 0}"#),
                ("slic, δ = 1", r#"{"loss": "slic", "delta": 1}"#),
                ("orpo", r#"{"loss": "orpo"}"#),
                ("simpo, β = 2, γ = 1", r#"{"loss": "simpo", "beta": 2, "gamma": 1}"#),
                ("alphapo, also α = 0.25", r#"{"loss": "alphapo", "beta": 2, "alpha": 0.25, "gamma": 1}"#),
            ],
        )?,
    ])
}

fn curve(label: &'static str, json: &str, rejected: f64, device: &Device) -> anyhow::Result<Curve> {
    let loss: PreferenceLoss = serde_json::from_str(json).context(label)?;
    let most = if loss.needs_reference() { 0.0 } else { MOST_WITHOUT_REFERENCE };
    let place = |step: i32| {
        let share = f64::from(step) / f64::from(STEPS);
        REACH * share * share.abs()
    };
    let places: Vec<f64> = (-STEPS..=STEPS).map(place).collect();
    let pairs: Vec<Placed> = places.iter().map(|&place| Placed::new(&loss, place, rejected, most)).collect();
    Ok(Curve { label, points: places.into_iter().zip(measure(&loss, &pairs, device)?).collect() })
}

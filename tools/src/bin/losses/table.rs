//! Every member over the whole range of the margin, beside the f64 reference.

use std::fmt::Write;

use anyhow::Context;
use burn::tensor::Device;
use burn_dpo::{Beta, PreferenceLoss};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use crate::{
    exact::exact,
    measure::{Measured, Placed, measure},
};

const MARGINS: [f64; 9] = [0.0, 17.0, -17.0, 89.0, -89.0, 1e4, -1e4, 1e30, -1e30];

/// The table, and below it the largest differences.
pub fn markdown(device: &Device) -> anyhow::Result<String> {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["member", "z", "value", "f64 value", "derivative", "f64 derivative"]);
    let (mut value_off, mut derivative_off) = (Largest::new("value"), Largest::new("derivative"));
    for loss in PreferenceLoss::all() {
        for z in MARGINS {
            let shift = z / scale(&loss);
            // on the chosen side; but in APO-down that side alone cancels to 1
            let (chosen, rejected) =
                if matches!(loss, PreferenceLoss::ApoDown { .. }) { (0.0, -shift) } else { (shift, 0.0) };
            let pair = Placed::new(&loss, chosen, rejected, 0.0);
            // In a batch of its own: some members rank theirs.
            let Measured { value, derivative } = measure(&loss, &[pair], device)?[0];
            let reference = exact(&loss, pair.policy_sequences(), pair.reference)
                .with_context(|| format!("{loss} has no definition in f64"))?;
            let numbers = [value, reference.value, derivative, reference.gradient.chosen];
            let texts = numbers.map(|number| format!("{number:.6e}"));
            table.add_row([loss.to_string(), margin(z)].into_iter().chain(texts));
            value_off.add(&loss, z, value, reference.value);
            derivative_off.add(&loss, z, derivative, reference.gradient.chosen);
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let legend = "z is β times what chosen gains over rejected (per token where the loss is; β = 1 where it has none, and for \
                  ipo); the derivative is that in log π(chosen).";
    Ok(format!("{table}\n\n{legend}\n{}{}", value_off.text(), derivative_off.text()))
}

/// How much a nat of the chosen completion is worth in the margin. Without β it is 1; IPO's β is a target.
fn scale(loss: &PreferenceLoss) -> f64 {
    match loss {
        PreferenceLoss::Ipo { .. } => 1.0,
        loss => loss.beta().map_or(1.0, Beta::get),
    }
}

fn margin(z: f64) -> String {
    if z.abs() < 1e4 { format!("{z}") } else { format!("{z:e}") }
}

/// The largest relative difference, where f32 has the exact number with all its digits.
struct Largest {
    what: &'static str,
    difference: f64,
    place: String,
}

impl Largest {
    fn new(what: &'static str) -> Self {
        Self { what, difference: 0.0, place: "anywhere".into() }
    }

    fn add(&mut self, loss: &PreferenceLoss, z: f64, actual: f64, exact: f64) {
        if (exact as f32).is_normal() {
            let difference = (actual - exact).abs() / exact.abs();
            if difference > self.difference || difference.is_nan() {
                (self.difference, self.place) = (difference, format!("{loss} at z = {}", margin(z)));
            }
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let _ =
            writeln!(text, "Largest relative difference of a {}: {:.1e}, {}.", self.what, self.difference, self.place);
        text
    }
}

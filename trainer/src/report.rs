//! What a run came to: the tables on stdout, and summary.json.

use burn_dpo::PreferenceMetrics;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

use crate::{
    output::{entries, number},
    samples::{Sample, Samples},
    style::Style,
    train::Trainer,
};

/// The model before DPO and after, measured on the same pairs.
#[derive(Default)]
pub struct Comparison {
    pub before: PreferenceMetrics,
    pub after: PreferenceMetrics,
}

/// The metrics that the closing table shows.
const SHOWN: [&str; 15] = [
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/margins_p10",
    "rewards/margins_p90",
    "rewards/accuracies",
    "rewards/ties",
    "logps/chosen",
    "logps/rejected",
    "likelihood_displacement",
    "k3_per_token/chosen",
    "gradient_weight",
    "entropy",
    "mean_token_accuracy",
];

/// The metrics, and below them the style of sampled completions, which only held-out prompts have.
pub fn metrics_table(held_out: &Comparison, train: &Comparison, style: Option<[Style; 2]>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header([
        String::new(),
        format!("{} held-out pairs: before", held_out.before.pairs()),
        "after".into(),
        format!("{} training pairs: before", train.before.pairs()),
        "after".into(),
    ]);
    let columns = [&held_out.before, &held_out.after, &train.before, &train.after].map(|metrics| metrics.entries());
    for (row, (name, _)) in columns[0].iter().enumerate().filter(|(_, (name, _))| SHOWN.contains(name)) {
        let values = columns.iter().map(|entries| format!("{:.4}", entries[row].1));
        table.add_row([name.to_string()].into_iter().chain(values));
    }
    for (name, share) in [("win_rate", Style::win_rate as fn(&Style) -> f64), ("well_formed", Style::well_formed)] {
        if let Some(styles) = &style {
            let values = styles.iter().map(|style| format!("{:.4}", share(style)));
            table.add_row([name.to_string()].into_iter().chain(values).chain([String::new(), String::new()]));
        }
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

pub fn samples_table(samples: &[Sample]) -> Table {
    let mut table = Table::new();
    // A fixed width, so that the output is the same wherever it goes.
    table.load_preset(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic).set_width(110);
    table.set_header(["held-out prompt", "before DPO", "after DPO"]);
    for sample in samples {
        table.add_row([&sample.prompt, &sample.before, &sample.after].map(|text| printable(text)));
    }
    table
}

/// Models emit any byte; a terminal should not be told to obey it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// summary.json: the held-out metrics under TRL's names, and how they were come by.
pub fn summary(
    trainer: &Trainer<'_>,
    data: &str,
    parameters: usize,
    held_out: &Comparison,
    train: &Comparison,
    samples: &Samples,
) -> anyhow::Result<String> {
    let shown: Vec<Value> = samples
        .shown
        .iter()
        .map(|sample| json!({ "prompt": sample.prompt, "before": sample.before, "after": sample.after }))
        .collect();
    let [mut before, mut after] = [&held_out.before, &held_out.after].map(entries);
    for (side, style) in [&mut before, &mut after].into_iter().zip(samples.style.iter().flatten()) {
        side.insert("win_rate".into(), number(style.win_rate()));
        side.insert("well_formed".into(), number(style.well_formed()));
        side.insert("win_rate_samples".into(), style.samples.into());
    }
    let summary = json!({
        "before": before,
        "after": after,
        "train": { "before": entries(&train.before), "after": entries(&train.after) },
        "samples": shown,
        "data": data,
        "parameters": parameters,
        "loss": trainer.objective,
        "reward_beta": trainer.objective.reward_beta(),
        "config": trainer.args,
    });
    Ok(serde_json::to_string_pretty(&summary)? + "\n")
}

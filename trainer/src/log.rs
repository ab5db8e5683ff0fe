//! Progress on stderr, and the same as lines of metrics.jsonl.

use std::io::{self, Write};

use burn_dpo::PreferenceMetrics;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use crate::{descent::Taken, out::MetricsFile, output::number};

/// What one step of training gave.
pub struct Step {
    pub taken: Taken,
    pub metrics: Vec<(&'static str, f64)>,
}

/// A measurement, for the curves.
pub struct Point {
    pub step: usize,
    pub metrics: Vec<(&'static str, f64)>,
}

/// Everything that is measured while training.
pub struct Log {
    file: Option<MetricsFile>,
    bar: ProgressBar,
    phase: &'static str,
    /// On the batch of each DPO step.
    pub batches: Vec<Point>,
    /// On the held-out pairs, now and then, from before the first DPO step on.
    pub held_out: Vec<Point>,
}

impl Log {
    pub fn new(file: Option<MetricsFile>) -> Self {
        Self { file, bar: ProgressBar::hidden(), phase: "", batches: Vec::new(), held_out: Vec::new() }
    }

    pub fn begin(&mut self, phase: &'static str, steps: usize) -> anyhow::Result<()> {
        let style = ProgressStyle::with_template("{prefix:>8} {bar:32} {pos}/{len}  {msg}  ({eta} left)")?;
        self.bar = ProgressBar::new(steps as u64).with_style(style).with_prefix(phase);
        self.phase = phase;
        Ok(())
    }

    pub fn step(&mut self, step: usize, result: Step) -> anyhow::Result<()> {
        self.bar.set_message(brief(&result.metrics));
        self.bar.inc(1);
        let Taken { learning_rate, grad_norm } = result.taken;
        let optimizer = [("learning_rate", learning_rate), ("grad_norm", grad_norm)];
        self.write(self.phase, step, optimizer.iter().chain(&result.metrics))?;
        if self.phase == "dpo" {
            self.batches.push(Point { step, metrics: result.metrics });
        }
        Ok(())
    }

    pub fn held_out(&mut self, step: usize, metrics: &PreferenceMetrics) -> anyhow::Result<()> {
        let metrics = metrics.entries();
        self.note(&format!("step {step:>4}, held out: {}", brief(&metrics)));
        self.write("held-out", step, metrics.iter())?;
        self.held_out.push(Point { step, metrics });
        Ok(())
    }

    pub fn end(&mut self) {
        self.bar.finish();
    }

    /// A line on stderr, above the bar. Nobody may be listening; that is no reason to stop.
    pub fn note(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr(), "{line}");
        });
    }

    fn write<'a>(
        &mut self,
        phase: &str,
        step: usize,
        values: impl Iterator<Item = &'a (&'static str, f64)>,
    ) -> anyhow::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut line = Map::from_iter([("phase".into(), phase.into()), ("step".into(), step.into())]);
        line.extend(values.map(|&(name, value)| (name.to_string(), number(value))));
        file.append(&Value::from(line))
    }
}

/// Loss, margin and accuracy, as far as there are.
fn brief(metrics: &[(&'static str, f64)]) -> String {
    let shown = [("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")];
    let named = shown.iter().filter_map(|(name, short)| {
        let (_, value) = metrics.iter().find(|(known, _)| known == name)?;
        Some(format!("{short} {value:.3}"))
    });
    named.collect::<Vec<_>>().join("  ")
}

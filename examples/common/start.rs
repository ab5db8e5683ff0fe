//! Where the small examples begin: the shipped pairs, and a model that imitates their chosen completions.

use std::io::{self, Write};

use burn::tensor::Device;
use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    data,
    descent::Descent,
    device,
    imitation::imitate,
    model::Transformer,
    options::Options,
    tokens::{self, Limits, Pair},
};

const HELD_OUT: f64 = 0.1;
const WARMUP_LEARNING_RATE: f64 = 1e-2;
const MAX_GRAD_NORM: f64 = 1.0;

/// Everything that preference training needs.
pub struct Start {
    /// With autodiff.
    pub model: Transformer,
    pub train: Vec<Pair>,
    pub held_out: Vec<Pair>,
    /// Without autodiff.
    pub device: Device,
    pub rng: StdRng,
    /// The steps to come.
    pub descent: Descent,
}

/// Splits the pairs by prompts, and warms the model up.
pub fn start(options: &Options) -> anyhow::Result<Start> {
    let device = device::by_name(&options.device).map_err(anyhow::Error::msg)?;
    device.seed(options.seed);
    let mut rng = StdRng::seed_from_u64(options.seed);

    let encoded = tokens::encode(&data::shipped()?, &Limits { length: usize::MAX, prompt: usize::MAX })?;
    // Room for any prompt with any completion: they will not only be those that belong together.
    let prompts = encoded.pairs.iter().map(|pair| pair.prompt().len());
    let completions = encoded.pairs.iter().map(|pair| pair.chosen().len().max(pair.rejected().len()));
    let context = prompts.max().unwrap_or(0) + completions.max().unwrap_or(0);
    let (train, held_out) = tokens::split(encoded.pairs, HELD_OUT, &mut rng)?;

    let model = Transformer::new(context, &device.clone().autodiff());
    let warm_up = Descent::new(options.warmup_steps, WARMUP_LEARNING_RATE, MAX_GRAD_NORM);
    let model = imitate(model, &train, options.batch_size, warm_up, &mut rng, &device, |step, loss, _| {
        progress("warm-up", step, options.warmup_steps, &format!("loss {loss:.3}"));
        Ok(())
    })?;
    let descent = Descent::new(options.steps, options.learning_rate, MAX_GRAD_NORM);
    Ok(Start { model, train, held_out, device, rng, descent })
}

/// A line on stderr for every tenth of the steps. Nobody may be listening; that is no reason to stop.
pub fn progress(phase: &str, step: usize, steps: usize, what: &str) {
    if step.is_multiple_of((steps / 10).max(1)) {
        let _ = writeln!(io::stderr(), "{phase} {step:>4}/{steps}: {what}");
    }
}

/// Numbers before and after training, in a table. Before, all rewards are 0: a tie is not in order.
pub fn before_and_after(rows: &[(&str, f64, f64)]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(["held out", "before", "after"]);
    for (name, before, after) in rows {
        table.add_row([name.to_string(), format!("{before:.3}"), format!("{after:.3}")]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

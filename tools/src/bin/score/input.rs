//! The file format: batches, and the loss configurations to run over them.

use anyhow::{Context, ensure};
use burn::tensor::{Element, TensorData};
use serde::Deserialize;
use serde_json::Value;

/// The whole file.
#[derive(Deserialize)]
pub struct Input {
    pub cases: Vec<Case>,
}

/// One batch: `[2 · pairs, time]` tokens and masks, chosen first, and what two models made of them.
#[derive(Deserialize)]
pub struct Case {
    pub tokens: Vec<Vec<i64>>,
    completion_mask: Vec<Vec<Value>>,
    pub policy_hidden: Vec<Vec<Vec<f64>>>,
    pub policy_weight: Vec<Vec<f64>>,
    pub reference_hidden: Vec<Vec<Vec<f64>>>,
    pub reference_weight: Vec<Vec<f64>>,
    pub runs: Vec<Run>,
}

/// One configuration to answer; other keys (expected values) are not read.
#[derive(Deserialize)]
pub struct Run {
    pub config: Value,
}

impl Case {
    /// The completion mask, written as booleans or as 0 and 1.
    pub fn mask(&self) -> anyhow::Result<Vec<Vec<bool>>> {
        let cell = |value: &Value| match value {
            Value::Bool(counted) => Ok(*counted),
            Value::Number(number) if number.as_f64() == Some(0.0) => Ok(false),
            Value::Number(number) if number.as_f64() == Some(1.0) => Ok(true),
            other => anyhow::bail!("completion_mask has {other}, expected a boolean, 0 or 1"),
        };
        self.completion_mask.iter().map(|row| row.iter().map(cell).collect()).collect()
    }
}

/// Token ids as 32-bit integers, which every device has.
pub fn token_ids(rows: &[Vec<i64>]) -> anyhow::Result<TensorData> {
    let narrow = |&id: &i64| i32::try_from(id).with_context(|| format!("token id {id} does not fit 32 bits"));
    let rows: Vec<Vec<i32>> = rows.iter().map(|row| row.iter().map(narrow).collect()).collect::<anyhow::Result<_>>()?;
    data2("tokens", &rows)
}

pub fn data2<E: Element>(what: &str, rows: &[Vec<E>]) -> anyhow::Result<TensorData> {
    let width = rows.first().map_or(0, Vec::len);
    for (index, row) in rows.iter().enumerate() {
        ensure!(row.len() == width, "{what}: row {index} has {} entries, row 0 has {width}", row.len());
    }
    Ok(TensorData::new(rows.concat(), [rows.len(), width]))
}

pub fn data3(what: &str, blocks: &[Vec<Vec<f64>>]) -> anyhow::Result<TensorData> {
    let flat = data2(what, &blocks.concat())?;
    let (rows, time) = (blocks.len(), blocks.first().map_or(0, Vec::len));
    for (index, block) in blocks.iter().enumerate() {
        ensure!(block.len() == time, "{what}: row {index} has {} positions, row 0 has {time}", block.len());
    }
    let width = flat.shape()[1];
    Ok(TensorData::new(flat.try_to_vec::<f64>()?, [rows, time, width]))
}

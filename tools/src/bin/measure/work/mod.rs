//! What is measured.

mod drawn;
pub mod floor;
mod heads;
mod logits;
mod naive;

use anyhow::Context;
use burn::tensor::{Gradients, Tensor, TensorData};
use clap::ValueEnum;

pub use heads::{Heads, Loss};
pub use logits::Logits;

/// By whose code.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Implementation {
    /// This crate's, as it is used.
    Fast,
    /// This crate's, by burn's operations alone.
    Portable,
    /// What one writes with burn alone: `log_softmax` and `gather`.
    Naive,
}

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub rows: usize,
    pub vocab: usize,
    pub hidden: usize,
    pub time: usize,
    pub density: f64,
    pub frozen_head: bool,
    pub implementation: Implementation,
}

impl Size {
    /// How many of so many are counted: the last.
    fn counted(&self, all: usize) -> usize {
        (self.density * all as f64).round() as usize
    }
}

/// Numbers by name.
pub type Results = Vec<(&'static str, TensorData)>;

/// Work whose inputs are there.
pub trait Work: Sync {
    /// What a forward pass gives.
    type Answer;
    /// What a backward pass begins with, made anew for each: it may be overwritten.
    type Start: Send;
    /// What both passes give.
    type Step: Send;

    /// Without a graph.
    fn forward(&self) -> anyhow::Result<Self::Answer>;

    fn start(&self) -> Self::Start;

    fn forward_backward(&self, start: Self::Start) -> anyhow::Result<Self::Step>;

    fn results(&self, step: Self::Step) -> anyhow::Result<Results>;
}

pub struct Answer {
    /// What is differentiated, `[1]`.
    pub loss: Tensor<1>,
    /// Of each row.
    pub log_probs: Tensor<1>,
}

/// A forward pass and the backward pass from it.
pub struct Step<Leaves> {
    pub answer: Answer,
    pub leaves: Leaves,
    pub gradients: Gradients,
}

impl<Leaves> Step<Leaves> {
    fn of(answer: Answer, leaves: Leaves) -> Self {
        let gradients = answer.loss.backward();
        Self { answer, leaves, gradients }
    }

    fn gradient<const D: usize>(&self, leaf: &Tensor<D>) -> anyhow::Result<Tensor<D>> {
        leaf.grad(&self.gradients).context("no gradient reached an input")
    }
}

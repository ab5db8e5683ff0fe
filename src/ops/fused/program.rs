//! Programs: code, its constants, and the tensors that it reads.

use std::sync::Arc;

use burn::backend::{
    Backend, ExtensionType,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{DType, Device, Int, IntDType, Tensor};

use crate::ops::code::{Code, Instruction};

/// Code, and the constants that it reads. Constants are not part of the kernel, so a β that changes from step to step compiles
/// nothing (unless it becomes equal to another constant of the program: equal constants are stored once).
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub code: Code,
    pub constants: Vec<f64>,
    pub pairs: usize,
    /// How many of the operands are float inputs.
    pub inputs: usize,
}

/// The most float inputs of a program: with its outputs as many buffers as WebGPU lets a kernel bind.
const MOST_INPUTS: usize = 5;

/// The tensors that a program reads. Unused float inputs repeat the first one.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub struct Operands<B: Backend> {
    pub one: FloatTensor<B>,
    pub two: FloatTensor<B>,
    pub three: FloatTensor<B>,
    pub four: FloatTensor<B>,
    pub five: FloatTensor<B>,
    #[extension_type]
    pub counts: Counts<B>,
}

#[cfg(any(feature = "flex", feature = "ndarray", feature = "cube"))]
impl<B: Backend> Operands<B> {
    /// The float inputs.
    pub fn floats(self, program: &Program) -> (impl Iterator<Item = FloatTensor<B>> + use<B>, Counts<B>) {
        let Self { one, two, three, four, five, counts } = self;
        ([one, two, three, four, five].into_iter().take(program.inputs), counts)
    }
}

/// Token counts, if the program reads them.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Counts<B: Backend> {
    Unused,
    Used(IntTensor<B>),
}

/// A program together with the tensors that it reads.
#[derive(Default)]
pub(crate) struct Call {
    pub program: Program,
    pub inputs: Vec<Arc<Tensor<1>>>,
    pub counts: Option<Arc<Tensor<1, Int>>>,
}

impl Call {
    /// The index of a float input, of which that many pairs are read.
    pub fn input(&mut self, tensor: &Arc<Tensor<1>>, pairs: usize) -> usize {
        self.program.pairs = pairs;
        self.inputs.iter().position(|known| Arc::ptr_eq(known, tensor)).unwrap_or_else(|| {
            self.inputs.push(tensor.clone());
            self.inputs.len() - 1
        })
    }

    /// An instruction that reads token counts. A program reads those of one model only.
    pub fn count(&mut self, tensor: &Arc<Tensor<1, Int>>, part: usize, pairs: usize) -> Instruction {
        self.program.pairs = pairs;
        let counts = self.counts.get_or_insert_with(|| tensor.clone());
        debug_assert!(Arc::ptr_eq(counts, tensor), "token counts of two models in one program");
        Instruction::Count { part }
    }

    /// The index of a constant.
    pub fn constant(&mut self, value: f64) -> usize {
        let constants = &mut self.program.constants;
        constants.iter().position(|known| known.to_bits() == value.to_bits()).unwrap_or_else(|| {
            constants.push(value);
            constants.len() - 1
        })
    }

    /// The dtype of every input and output.
    pub(super) fn dtype(&self) -> DType {
        self.inputs[0].dtype()
    }

    pub(super) fn device(&self) -> Device {
        self.inputs[0].device()
    }

    /// As what a backend's kernel takes.
    pub(super) fn into_operands(mut self) -> (Operands<burn::backend::Dispatch>, Program) {
        let inputs = self.inputs.len();
        assert!((1..=MOST_INPUTS).contains(&inputs), "a program reads from 1 to {MOST_INPUTS} tensors");
        let operand = |index: usize| (**self.inputs.get(index).unwrap_or(&self.inputs[0])).clone().into_dispatch();
        let counts = match &self.counts {
            None => Counts::Unused,
            Some(counts) => Counts::Used((**counts).clone().cast(IntDType::I32).into_dispatch()),
        };
        let operands = Operands {
            one: operand(0),
            two: operand(1),
            three: operand(2),
            four: operand(3),
            five: operand(4),
            counts,
        };
        self.program.inputs = inputs;
        (operands, self.program)
    }
}

//! A function of numbers of pairs, ready to be computed in one launch.

use std::sync::Arc;

use burn::backend::{
    Backend, Dispatch, ExtensionType,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{Int, IntDType, Tensor};

use super::StepOps;

/// What is done to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    Neg,
    Abs,
    Recip,
    Log,
    Exp,
    Expm1,
    /// Of numbers of at least −½.
    Log1p,
    Softplus,
    Sigmoid,
}

/// What is made of two numbers; comparisons give 1 or 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Add,
    Sub,
    Mul,
    Div,
    Greater,
    GreaterEqual,
    Lower,
    LowerEqual,
    Equal,
}

/// One step of a program; `x`, `y` and `flag` name steps before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The pair's number in one part of a tensor.
    Input {
        slot: usize,
        part: usize,
    },
    /// The same of integers.
    Count {
        part: usize,
    },
    /// The only number of a tensor.
    Single {
        slot: usize,
    },
    Constant {
        index: usize,
    },
    Of {
        function: Function,
        x: usize,
    },
    OfTwo {
        operation: Operation,
        x: usize,
        y: usize,
    },
    /// `x` where the flag is not 0, else `y`.
    Choice {
        flag: usize,
        x: usize,
        y: usize,
    },
}

/// What is computed for each pair: a kernel of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Program {
    pub steps: Vec<Step>,
    /// Which steps give what is asked for.
    pub outputs: Vec<usize>,
}

impl Program {
    /// Adds a step, or finds the same one.
    pub fn push(&mut self, step: Step) -> usize {
        self.steps.iter().position(|earlier| *earlier == step).unwrap_or_else(|| {
            self.steps.push(step);
            self.steps.len() - 1
        })
    }
}

/// A program, and the numbers for it that are known on the host. They are no part of the kernel: a β that changes from step to step
/// does not compile it again (unless it becomes equal to another constant of the formula, which are kept once).
#[derive(Debug, Clone, Default)]
#[cfg_attr(not(feature = "cube"), allow(dead_code))] // there is no one to read it
pub struct Recipe {
    pub program: Program,
    pub constants: Vec<f32>,
    pub pairs: usize,
    /// How many of the operands there are.
    pub floats: usize,
}

/// How many tensors a formula may read: with its outputs as many as WebGPU lets a kernel see.
const FLOATS: usize = 5;

/// Tensors that a formula reads. Where there are fewer, the first one again.
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

/// Token counts, if they are read.
#[derive(ExtensionType)]
#[extension_type(fusion: cfg(feature = "fusion"))]
pub enum Counts<B: Backend> {
    Unread,
    Read(IntTensor<B>),
}

/// A recipe and what it is applied to.
#[derive(Default)]
pub(crate) struct Formula {
    pub program: Program,
    pub pairs: usize,
    constants: Vec<f32>,
    floats: Vec<Arc<Tensor<1>>>,
    counts: Option<Arc<Tensor<1, Int>>>,
}

impl Formula {
    /// The place of a tensor among those that are read.
    pub fn slot(&mut self, tensor: &Arc<Tensor<1>>) -> usize {
        self.floats.iter().position(|known| Arc::ptr_eq(known, tensor)).unwrap_or_else(|| {
            self.floats.push(tensor.clone());
            self.floats.len() - 1
        })
    }

    /// A step that reads integers, which are those of one model: a formula has one tensor of them.
    pub fn count(&mut self, tensor: &Arc<Tensor<1, Int>>, part: usize) -> Step {
        let counts = self.counts.get_or_insert_with(|| tensor.clone());
        debug_assert!(Arc::ptr_eq(counts, tensor), "token counts of two models in one formula");
        Step::Count { part }
    }

    /// The place of a number among the constants.
    pub fn constant(&mut self, number: f64) -> usize {
        let number = number as f32;
        self.constants.iter().position(|known| known.to_bits() == number.to_bits()).unwrap_or_else(|| {
            self.constants.push(number);
            self.constants.len() - 1
        })
    }

    /// All outputs, one after the other.
    pub fn compute(self) -> Tensor<1> {
        let (operands, recipe) = self.into_parts();
        Tensor::from_dispatch(Dispatch::numbers(operands, recipe))
    }

    /// The first output, and the others one after the other.
    pub fn compute_with_slopes(self) -> (Tensor<1>, Tensor<1>) {
        let (operands, recipe) = self.into_parts();
        let (value, slopes) = Dispatch::numbers_and_slopes(operands, recipe);
        (Tensor::from_dispatch(value), Tensor::from_dispatch(slopes))
    }

    fn into_parts(self) -> (Operands<Dispatch>, Recipe) {
        let floats = self.floats.len();
        assert!((1..=FLOATS).contains(&floats), "a formula reads from 1 to {FLOATS} tensors");
        let operand = |slot: usize| {
            let tensor = self.floats.get(slot).unwrap_or(&self.floats[0]);
            (**tensor).clone().into_dispatch()
        };
        let counts = match &self.counts {
            None => Counts::Unread,
            Some(counts) => Counts::Read((**counts).clone().cast(IntDType::I32).into_dispatch()),
        };
        let operands = Operands {
            one: operand(0),
            two: operand(1),
            three: operand(2),
            four: operand(3),
            five: operand(4),
            counts,
        };
        (operands, Recipe { program: self.program, constants: self.constants, pairs: self.pairs, floats })
    }
}

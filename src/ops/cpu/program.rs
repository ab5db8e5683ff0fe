//! Programs over slices: every instruction of a loss in one pass, without tensors in between.
//!
//! Pairs are taken in chunks. The result of each instruction for a chunk is a register of [`CHUNK`] numbers, so that all registers of
//! a program stay in the L1 or L2 cache and every instruction is a loop that the compiler turns into vector instructions.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{
    super::code::{BinaryOp, Code, Instruction, UnaryOp},
    dtype::Compute,
    functions::{exp, exp_half, expm1, finite, log1p, sigmoid, softplus},
};

/// The most pairs whose registers are held at a time.
const CHUNK: usize = 128;

/// Pairs that one task takes.
const TASK: usize = 1 << 13;

/// A program and the numbers that it reads.
pub(crate) struct Evaluation<'a, T> {
    pub(crate) code: &'a Code,
    pub(crate) constants: &'a [f64],
    pub(crate) pairs: usize,
    /// One or several parts of `[pairs]` each, or one number.
    pub(crate) inputs: Vec<&'a [T]>,
    /// Token counts; empty if the program reads none.
    pub(crate) counts: &'a [i32],
}

impl<T: Compute> Evaluation<'_, T> {
    /// Writes each output, `[pairs]`.
    pub(crate) fn write(&self, outputs: Vec<&mut [T]>) {
        assert_eq!(outputs.len(), self.code.outputs.len(), "outputs");
        assert!(outputs.iter().all(|output| output.len() == self.pairs), "an output for each pair");
        if self.pairs <= TASK {
            return self.run(0, outputs);
        }
        let mut tasks: Vec<Vec<&mut [T]>> = (0..self.pairs.div_ceil(TASK)).map(|_| Vec::new()).collect();
        for output in outputs {
            tasks.iter_mut().zip(output.chunks_mut(TASK)).for_each(|(task, part)| task.push(part));
        }
        tasks.into_par_iter().enumerate().for_each(|(task, outputs)| self.run(task * TASK, outputs));
    }

    /// The sum of each output over all pairs, in f64 until the end.
    pub(crate) fn sums(&self) -> Vec<T> {
        let of_task = |task: usize| {
            let first = task * TASK;
            let mut outputs = vec![T::ZERO; self.code.outputs.len() * TASK.min(self.pairs - first)];
            let length = outputs.len() / self.code.outputs.len();
            self.run(first, outputs.chunks_mut(length).collect());
            outputs.chunks(length).map(sum).collect::<Vec<f64>>()
        };
        let tasks: Vec<Vec<f64>> = (0..self.pairs.div_ceil(TASK)).into_par_iter().map(of_task).collect();
        (0..self.code.outputs.len()).map(|output| T::of(tasks.iter().map(|task| task[output]).sum())).collect()
    }

    /// Writes the outputs of consecutive pairs.
    fn run(&self, first: usize, outputs: Vec<&mut [T]>) {
        Arch::new().dispatch(Run { evaluation: self, first, outputs });
    }
}

struct Run<'a, T> {
    evaluation: &'a Evaluation<'a, T>,
    first: usize,
    outputs: Vec<&'a mut [T]>,
}

impl<T: Compute> WithSimd for Run<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        let Evaluation { code, constants, pairs, inputs, counts } = self.evaluation;
        let count = self.outputs.first().map_or(0, |output| output.len());
        let stride = CHUNK.min(count).max(1);
        let uniform = code.uniform();
        let mut registers = vec![T::ZERO; code.instructions.len() * stride];
        for start in (0..count).step_by(stride) {
            let length = stride.min(count - start);
            let from = |part: usize| part * pairs + self.first + start;
            for (index, instruction) in code.instructions.iter().enumerate() {
                if uniform[index] && start > 0 {
                    continue;
                }
                let (earlier, rest) = registers.split_at_mut(index * stride);
                let result = &mut rest[..length];
                let operand = |x: usize| match code.instructions[x] {
                    Instruction::Input { input, part } => &inputs[input][from(part)..][..length], // read where it is
                    _ => &earlier[x * stride..][..length],
                };
                match *instruction {
                    Instruction::Input { .. } => {}
                    Instruction::Count { part } => {
                        let counts = &counts[from(part)..][..length];
                        result.iter_mut().zip(counts).for_each(|(result, count)| *result = T::of(f64::from(*count)));
                    }
                    Instruction::Scalar { input, index } => result.fill(inputs[input][index]),
                    Instruction::Constant { index } => result.fill(T::of(constants[index])),
                    Instruction::Unary { op, x } => unary::<T, S>(op, operand(x), result),
                    Instruction::Binary { op, x, y } => binary(op, operand(x), operand(y), result),
                    Instruction::Select { condition, x, y } => {
                        let operands = operand(condition).iter().zip(operand(x)).zip(operand(y));
                        for (result, ((&condition, &x), &y)) in result.iter_mut().zip(operands) {
                            *result = if condition == T::ZERO { y } else { x }; // both are loaded, so that it is a vector's blend
                        }
                    }
                }
            }
            for (output, index) in self.outputs.iter_mut().zip(&code.outputs) {
                let result = match code.instructions[*index] {
                    Instruction::Input { input, part } => &inputs[input][from(part)..][..length],
                    _ => &registers[index * stride..][..length],
                };
                output[start..][..length].copy_from_slice(result);
            }
        }
    }
}

#[inline(always)]
fn unary<T: Compute, S: Simd>(op: UnaryOp, x: &[T], result: &mut [T]) {
    match op {
        UnaryOp::Neg => map(x, result, |x| -x),
        UnaryOp::Abs => map(x, result, T::abs),
        UnaryOp::Recip => map(x, result, |x| T::ONE / x),
        UnaryOp::Log => map(x, result, T::ln),
        UnaryOp::Exp => map(x, result, exp::<T, S>),
        UnaryOp::Expm1 => map(x, result, expm1::<T, S>),
        UnaryOp::Log1p => map(x, result, log1p::<T, S>),
        UnaryOp::Softplus => map(x, result, softplus::<T, S>),
        UnaryOp::Sigmoid => map(x, result, sigmoid::<T, S>),
        UnaryOp::Finite => map(x, result, finite),
        UnaryOp::ExpHalf => map(x, result, exp_half::<T, S>),
        UnaryOp::IsInf => map(x, result, |x| flag(x.is_infinite())),
    }
}

#[inline(always)]
fn binary<T: Compute>(op: BinaryOp, x: &[T], y: &[T], result: &mut [T]) {
    match op {
        BinaryOp::Add => zip(x, y, result, |x, y| x + y),
        BinaryOp::Sub => zip(x, y, result, |x, y| x - y),
        BinaryOp::Mul => zip(x, y, result, |x, y| x * y),
        BinaryOp::Div => zip(x, y, result, |x, y| x / y),
        BinaryOp::Greater => zip(x, y, result, |x, y| flag(x > y)),
        BinaryOp::GreaterEqual => zip(x, y, result, |x, y| flag(x >= y)),
        BinaryOp::Lower => zip(x, y, result, |x, y| flag(x < y)),
        BinaryOp::LowerEqual => zip(x, y, result, |x, y| flag(x <= y)),
        BinaryOp::Equal => zip(x, y, result, |x, y| flag(x == y)),
    }
}

#[inline(always)]
fn map<T: Compute>(x: &[T], result: &mut [T], f: impl Fn(T) -> T) {
    result.iter_mut().zip(x).for_each(|(result, x)| *result = f(*x));
}

#[inline(always)]
fn zip<T: Compute>(x: &[T], y: &[T], result: &mut [T], f: impl Fn(T, T) -> T) {
    result.iter_mut().zip(x.iter().zip(y)).for_each(|(result, (x, y))| *result = f(*x, *y));
}

#[inline(always)]
fn flag<T: Compute>(holds: bool) -> T {
    if holds { T::ONE } else { T::ZERO }
}

/// The gradient that comes in for each pair.
#[derive(Clone, Copy)]
pub(crate) enum PairGradient<'a, T> {
    /// The same for all, as from a mean.
    Same(T),
    Each(&'a [T]),
}

impl<T: Compute> PairGradient<'_, T> {
    /// The sum over that many pairs, in f64 until the end.
    pub(crate) fn sum(self, pairs: usize) -> T {
        T::of(match self {
            Self::Same(upstream) => upstream.to_f64() * pairs as f64,
            Self::Each(all) => all.par_chunks(TASK).map(sum).collect::<Vec<f64>>().into_iter().sum(),
        })
    }

    /// Multiplies `derivatives`, parts of `[pairs]`, by the incoming gradient; 0 where that is 0, whatever the derivative is.
    pub(crate) fn scale(self, derivatives: &mut [T], pairs: usize) {
        for part in derivatives.chunks_mut(pairs) {
            part.par_chunks_mut(TASK).enumerate().for_each(|(task, part)| match self {
                Self::Same(upstream) => part.iter_mut().for_each(|x| *x = scaled(*x, upstream)),
                Self::Each(all) => part.iter_mut().zip(&all[task * TASK..]).for_each(|(x, y)| *x = scaled(*x, *y)),
            });
        }
    }
}

/// The sum of some numbers, in f64.
fn sum<T: Compute>(numbers: &[T]) -> f64 {
    let (chunks, tail) = numbers.as_chunks::<8>();
    let lanes = chunks.iter().fold([0.0; 8], |mut lanes, chunk| {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x.to_f64());
        lanes
    });
    lanes.into_iter().chain(tail.iter().map(|x| x.to_f64())).sum()
}

#[inline(always)]
fn scaled<T: Compute>(derivative: T, upstream: T) -> T {
    if upstream == T::ZERO { T::ZERO } else { derivative * upstream }
}

#[cfg(test)]
#[path = "../../../tests/kernels/program.rs"]
mod tests;

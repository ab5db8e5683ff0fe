//! Programs of pairs: a kernel compiled from code, and the gradient of its results.

use cubecl::prelude::*;

use super::exp::{exp_of_minus_one, log1p};
use crate::ops::code::{BinaryOp, Code, Instruction, UnaryOp};

/// `(eˣ − 1)/x` for `|x| ≤ ln 2`, by powers of `x`: `1/(k + 1)!`, cut where the next term is below 7e-10.
const EXPM1: [f32; 10] = [
    1.0,
    1.0 / 2.0,
    1.0 / 6.0,
    1.0 / 24.0,
    1.0 / 120.0,
    1.0 / 720.0,
    1.0 / 5_040.0,
    1.0 / 40_320.0,
    1.0 / 362_880.0,
    1.0 / 3_628_800.0,
];

/// The outputs of a program for each pair. With two output tensors, the first output goes to the first, and the others go to the
/// second, one part after the other. With one tensor, all go there.
#[cube(launch)]
pub(in crate::ops) fn program_kernel(
    inputs: &Sequence<OwnedTensor<f32>>,
    counts: &Sequence<OwnedTensor<i32>>,
    outputs: &mut Sequence<OwnedTensor<f32>>,
    constants: &Sequence<f32>,
    pairs: usize,
    infinity: f32,
    #[comptime] code: Code,
    #[comptime] apart: bool,
) {
    if ABSOLUTE_POS < pairs {
        let mut results = Sequence::<f32>::new();
        #[unroll]
        for index in 0..code.instructions.len() {
            let instruction = comptime!(code.instructions[index]);
            let result = result_of(inputs, counts, constants, &results, pairs, infinity, instruction);
            results.push(result);
        }
        #[unroll]
        for output in 0..code.outputs.len() {
            let index = comptime!(code.outputs[output]);
            let tensor = comptime!(if apart && output > 0 { 1usize } else { 0usize });
            let part = comptime!(if apart && output > 0 { output - 1 } else { output });
            let out = outputs.index_mut(tensor);
            out[part * pairs + ABSOLUTE_POS] = *results.index(index);
        }
    }
}

#[cube]
fn result_of(
    inputs: &Sequence<OwnedTensor<f32>>,
    counts: &Sequence<OwnedTensor<i32>>,
    constants: &Sequence<f32>,
    results: &Sequence<f32>,
    pairs: usize,
    infinity: f32,
    #[comptime] instruction: Instruction,
) -> f32 {
    match instruction {
        Instruction::Input { input, part } => inputs.index(input)[part * pairs + ABSOLUTE_POS],
        Instruction::Count { part } => f32::cast_from(counts.index(0usize)[part * pairs + ABSOLUTE_POS]),
        Instruction::Scalar { input, index } => inputs.index(input)[index],
        Instruction::Constant { index } => *constants.index(index),
        Instruction::Unary { op, x } => unary(*results.index(x), infinity, op),
        Instruction::Binary { op, x, y } => binary(*results.index(x), *results.index(y), op),
        Instruction::Select { condition, x, y } => {
            select(*results.index(condition) != 0.0f32, *results.index(x), *results.index(y))
        }
    }
}

#[cube]
fn binary(x: f32, y: f32, #[comptime] op: BinaryOp) -> f32 {
    match op {
        BinaryOp::Add => x + y,
        BinaryOp::Sub => x - y,
        BinaryOp::Mul => x * y,
        BinaryOp::Div => x / y,
        BinaryOp::Greater => select(x > y, 1.0f32, 0.0f32),
        BinaryOp::GreaterEqual => select(x >= y, 1.0f32, 0.0f32),
        BinaryOp::Lower => select(x < y, 1.0f32, 0.0f32),
        BinaryOp::LowerEqual => select(x <= y, 1.0f32, 0.0f32),
        BinaryOp::Equal => select(x == y, 1.0f32, 0.0f32),
    }
}

#[cube]
fn unary(x: f32, infinity: f32, #[comptime] op: UnaryOp) -> f32 {
    match op {
        UnaryOp::Neg => -x,
        UnaryOp::Abs => x.abs(),
        UnaryOp::Recip => 1.0f32 / x,
        UnaryOp::Log => x.ln(),
        UnaryOp::Exp => exp(x, infinity),
        UnaryOp::Expm1 => expm1(x, infinity),
        UnaryOp::Log1p => log1p(x),
        UnaryOp::Softplus => softplus(x),
        UnaryOp::Sigmoid => sigmoid(x),
        UnaryOp::Finite => finite(x),
        UnaryOp::ExpHalf => exp_half(x, infinity),
        UnaryOp::IsInf => select(x.abs() > f32::MAX, 1.0f32, 0.0f32),
    }
}

/// `x`, clamped to the finite numbers. NaN stays.
#[cube]
fn finite(x: f32) -> f32 {
    let below = select(x > f32::MAX, f32::MAX, x);
    select(below < -f32::MAX, -f32::MAX, below)
}

/// `e^(x/2)` with `x/2` clamped, so that its square is beyond the range of f32 only if `eˣ` is.
#[cube]
fn exp_half(x: f32, infinity: f32) -> f32 {
    let half = x * 0.5f32;
    exp(select(half > 87.0f32, 87.0f32, half), infinity)
}

/// `max(x, 0) + log(1 + e^−|x|)`.
#[cube]
fn softplus(x: f32) -> f32 {
    let sum = select(x > 0.0f32, x, 0.0f32) + log1p(exp_of_minus_one(x.abs()));
    select(x.is_nan(), x, sum)
}

/// `1 / (1 + e^−x)`, whose small tail is `eˣ / (1 + eˣ)`.
#[cube]
fn sigmoid(x: f32) -> f32 {
    let small = exp_of_minus_one(x.abs());
    let share = select(x >= 0.0f32, 1.0f32, small) / (small + 1.0f32);
    select(x.is_nan(), x, share)
}

/// `eˣ`; above 0 as the square of its root, which is a number wherever `eˣ` is.
#[cube]
fn exp(x: f32, infinity: f32) -> f32 {
    let positive = x > 0.0f32;
    let small = exp_of_minus_one(select(positive, x * 0.5f32, -x));
    let root = 1.0f32 / select(positive, small, 1.0f32);
    let large = select(x > 89.0f32, infinity, root * root);
    let power = select(positive, large, small);
    select(x.is_nan(), x, power)
}

/// `eˣ − 1`.
#[cube]
fn expm1(x: f32, infinity: f32) -> f32 {
    let near = x.abs() <= std::f32::consts::LN_2;
    let z = select(near, x, 0.0f32);
    let mut sum = EXPM1[9].runtime();
    #[unroll]
    for k in 1..10usize {
        sum = sum * z + comptime!(EXPM1[9 - k]);
    }
    select(near, z * sum, exp(x, infinity) - 1.0f32)
}

/// The first `parts` of `derivatives`, `[n · pairs]`, times the upstream gradient of each pair, and 0 in the others. 0 where the
/// upstream gradient is 0, whatever the derivative is.
#[cube(launch)]
pub(in crate::ops) fn scaled_derivatives_kernel(
    derivatives: &Tensor<f32>,
    upstream: &Tensor<f32>,
    gradient: &mut Tensor<f32>,
    parts: usize,
) {
    if ABSOLUTE_POS < gradient.len() {
        let mut scaled = 0.0f32;
        let pairs = upstream.shape(0);
        if ABSOLUTE_POS < parts * pairs {
            let incoming = upstream[ABSOLUTE_POS % pairs * upstream.stride(0)];
            scaled = select(incoming == 0.0f32, 0.0f32, derivatives[ABSOLUTE_POS] * incoming);
        }
        gradient[ABSOLUTE_POS] = scaled;
    }
}

/// The indices that sort numbers: smaller ones first, equal ones in their order, NaN last. One unit per number.
#[cube(launch)]
pub(in crate::ops) fn argsort_kernel(numbers: &Tensor<f32>, order: &mut Tensor<i32>) {
    if ABSOLUTE_POS < numbers.len() {
        let x = numbers[ABSOLUTE_POS];
        let mut rank = 0usize;
        for other in 0..numbers.len() {
            let y = numbers[other];
            let equal = (x.is_nan() && y.is_nan()) || x == y;
            let smaller = (x.is_nan() && !y.is_nan()) || y < x;
            rank += select(smaller || (equal && other < ABSOLUTE_POS), 1usize, 0usize);
        }
        order[rank] = i32::cast_from(ABSOLUTE_POS);
    }
}

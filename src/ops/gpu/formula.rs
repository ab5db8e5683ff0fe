//! Formulas of numbers of pairs: a kernel that is made of a program, and the gradient of what it gives.

use cubecl::prelude::*;

use super::exp::{exp_of_minus_one, log1p};
use crate::ops::step::{Function, Operation, Program, Step};

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

/// What a program gives for each pair: its first output in the first tensor, the others, one part after the other, in the last.
/// If there is one tensor, all are in it.
#[cube(launch)]
pub(in crate::ops) fn formula_kernel(
    inputs: &Sequence<OwnedTensor<f32>>,
    counts: &Sequence<OwnedTensor<i32>>,
    outputs: &mut Sequence<OwnedTensor<f32>>,
    constants: &Sequence<f32>,
    pairs: usize,
    infinity: f32,
    #[comptime] program: Program,
    #[comptime] apart: bool,
) {
    if ABSOLUTE_POS < pairs {
        let mut results = Sequence::<f32>::new();
        #[unroll]
        for place in 0..program.steps.len() {
            let step = comptime!(program.steps[place]);
            let result = result_of(inputs, counts, constants, &results, pairs, infinity, step);
            results.push(result);
        }
        #[unroll]
        for output in 0..program.outputs.len() {
            let place = comptime!(program.outputs[output]);
            let tensor = comptime!(if apart && output > 0 { 1usize } else { 0usize });
            let part = comptime!(if apart && output > 0 { output - 1 } else { output });
            let out = outputs.index_mut(tensor);
            out[part * pairs + ABSOLUTE_POS] = *results.index(place);
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
    #[comptime] step: Step,
) -> f32 {
    match step {
        Step::Input { slot, part } => inputs.index(slot)[part * pairs + ABSOLUTE_POS],
        Step::Count { part } => f32::cast_from(counts.index(0usize)[part * pairs + ABSOLUTE_POS]),
        Step::Single { slot } => inputs.index(slot)[0],
        Step::Constant { index } => *constants.index(index),
        Step::Of { function, x } => function_of(*results.index(x), infinity, function),
        Step::OfTwo { operation, x, y } => operation_on(*results.index(x), *results.index(y), operation),
        Step::Choice { flag, x, y } => select(*results.index(flag) != 0.0f32, *results.index(x), *results.index(y)),
    }
}

#[cube]
fn operation_on(x: f32, y: f32, #[comptime] operation: Operation) -> f32 {
    match operation {
        Operation::Add => x + y,
        Operation::Sub => x - y,
        Operation::Mul => x * y,
        Operation::Div => x / y,
        Operation::Greater => select(x > y, 1.0f32, 0.0f32),
        Operation::GreaterEqual => select(x >= y, 1.0f32, 0.0f32),
        Operation::Lower => select(x < y, 1.0f32, 0.0f32),
        Operation::LowerEqual => select(x <= y, 1.0f32, 0.0f32),
        Operation::Equal => select(x == y, 1.0f32, 0.0f32),
    }
}

#[cube]
fn function_of(x: f32, infinity: f32, #[comptime] function: Function) -> f32 {
    match function {
        Function::Neg => -x,
        Function::Abs => x.abs(),
        Function::Recip => 1.0f32 / x,
        Function::Log => x.ln(),
        Function::Exp => exp(x, infinity),
        Function::Expm1 => expm1(x, infinity),
        Function::Log1p => log1p(x),
        Function::Softplus => softplus(x),
        Function::Sigmoid => sigmoid(x),
    }
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

/// Slopes, `[parts · pairs]`, times what comes in for each pair; 0 where that is 0, whatever the slope is.
#[cube(launch)]
pub(in crate::ops) fn parts_gradient_kernel(slopes: &Tensor<f32>, upstream: &Tensor<f32>, gradient: &mut Tensor<f32>) {
    if ABSOLUTE_POS < gradient.len() {
        let incoming = upstream[ABSOLUTE_POS % upstream.shape(0) * upstream.stride(0)];
        gradient[ABSOLUTE_POS] = select(incoming == 0.0f32, 0.0f32, slopes[ABSOLUTE_POS] * incoming);
    }
}

/// Where the number of each place in order is: smaller ones first, equal ones as they stand, NaN last. One unit per number.
#[cube(launch)]
pub(in crate::ops) fn ascending_kernel(numbers: &Tensor<f32>, order: &mut Tensor<i32>) {
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

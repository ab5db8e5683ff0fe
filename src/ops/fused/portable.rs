//! The same by burn's operations, on any backend, in several passes.

use burn::backend::{
    Backend, TensorMetadata, get_or_init_device_settings,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{Bool, BoolStore, DType, FloatDType, Int, IntDType, Shape, Slice, Tensor, s};

use super::{Reach, program::Call};
use crate::ops::{
    IGNORED, OUT_OF_VOCAB,
    code::{BinaryOp, Instruction, UnaryOp},
    constants::indices,
    math,
    reduce::{count, sum_in_blocks},
};

/// The result of an instruction.
#[derive(Clone)]
enum Register {
    Number(Tensor<1>),
    Condition(Tensor<1, Bool>),
    Constant(f64),
}

/// Each output of a program, `[pairs]`.
pub(super) fn evaluate(call: Call) -> Vec<Tensor<1>> {
    let dtype = FloatDType::from(call.dtype());
    let (pairs, device) = (call.program.pairs, call.device());
    let part = |whole: &Tensor<1>, part: usize| {
        if whole.dims() == [pairs] { whole.clone() } else { whole.clone().slice(s![part * pairs..(part + 1) * pairs]) }
    };
    let number = |register: &Register| match register {
        Register::Number(x) => x.clone(),
        Register::Condition(x) => x.clone().float().cast(dtype),
        Register::Constant(value) => Tensor::full([pairs], *value, (&device, DType::from(dtype))),
    };
    let counts = call.counts.as_ref().map(|counts| (**counts).clone().cast(dtype));
    let mut registers: Vec<Register> = Vec::with_capacity(call.program.code.instructions.len());
    for instruction in &call.program.code.instructions {
        let result = match *instruction {
            Instruction::Input { input, part: of } => Register::Number(part(&call.inputs[input], of)),
            Instruction::Count { part: of } => {
                Register::Number(part(counts.as_ref().expect("counts of a program that reads them"), of))
            }
            Instruction::Scalar { input, index } => {
                Register::Number((*call.inputs[input]).clone().slice(s![index..=index]).expand([pairs]))
            }
            Instruction::Constant { index } => Register::Constant(call.program.constants[index]),
            Instruction::Unary { op, x } => unary(op, number(&registers[x])),
            Instruction::Binary { op, x, y } => match &registers[y] {
                Register::Constant(value) => binary_with_constant(op, number(&registers[x]), *value),
                y => binary(op, number(&registers[x]), number(y)),
            },
            Instruction::Select { condition, x, y } => {
                let condition = match &registers[condition] {
                    Register::Condition(condition) => condition.clone(),
                    other => number(other).not_equal_elem(0.0),
                };
                Register::Number(match &registers[x] {
                    Register::Constant(value) => number(&registers[y]).mask_fill(condition, *value),
                    x => number(&registers[y]).mask_where(condition, number(x)),
                })
            }
        };
        registers.push(result);
    }
    call.program.code.outputs.iter().map(|output| number(&registers[*output])).collect()
}

fn unary(op: UnaryOp, x: Tensor<1>) -> Register {
    Register::Number(match op {
        UnaryOp::Neg => x.neg(),
        UnaryOp::Abs => x.abs(),
        UnaryOp::Recip => x.recip(),
        UnaryOp::Log => x.log(),
        UnaryOp::Exp => x.exp(),
        UnaryOp::Expm1 => math::expm1(x),
        UnaryOp::Log1p => math::log1p_of_at_most_one(x),
        UnaryOp::Softplus => math::softplus(x),
        UnaryOp::Sigmoid => math::sigmoid(x),
        UnaryOp::Finite => math::finite(x),
        UnaryOp::ExpHalf => math::exp_half(x),
        UnaryOp::IsInf => return Register::Condition(x.is_inf()),
    })
}

fn binary(op: BinaryOp, x: Tensor<1>, y: Tensor<1>) -> Register {
    Register::Condition(match op {
        BinaryOp::Add => return Register::Number(x + y),
        BinaryOp::Sub => return Register::Number(x - y),
        BinaryOp::Mul => return Register::Number(x * y),
        BinaryOp::Div => return Register::Number(x / y),
        BinaryOp::Greater => x.greater(y),
        BinaryOp::GreaterEqual => x.greater_equal(y),
        BinaryOp::Lower => x.lower(y),
        BinaryOp::LowerEqual => x.lower_equal(y),
        BinaryOp::Equal => x.equal(y),
    })
}

fn binary_with_constant(op: BinaryOp, x: Tensor<1>, value: f64) -> Register {
    Register::Condition(match op {
        BinaryOp::Add => return Register::Number(x + value),
        BinaryOp::Sub => return Register::Number(x - value),
        BinaryOp::Mul => return Register::Number(x * value),
        BinaryOp::Div => return Register::Number(x / value),
        BinaryOp::Greater => x.greater_elem(value),
        BinaryOp::GreaterEqual => x.greater_equal_elem(value),
        BinaryOp::Lower => x.lower_elem(value),
        BinaryOp::LowerEqual => x.lower_equal_elem(value),
        BinaryOp::Equal => x.equal_elem(value),
    })
}

/// Whether [`FusedKernels::targets`](super::FusedKernels::targets) can read the mask as integers.
pub(super) fn stores_bools_as_integers(mask: &Tensor<2, Bool>) -> bool {
    matches!(mask.dtype(), DType::Bool(BoolStore::U8 | BoolStore::U32)) || !crate::ops::device::is_gpu(&mask.device())
}

/// See [`targets`](super::targets).
pub(super) fn targets(
    tokens: &Tensor<2, Int>,
    mask: &Tensor<2, Bool>,
    vocab: usize,
) -> (Tensor<1, Int>, Tensor<2, Bool>, Tensor<1, Int>) {
    let [sequences, time] = tokens.dims();
    let next = tokens.clone().slice(s![.., 1..]);
    let counted = mask.clone().slice(s![.., 1..]);
    let outside = next.clone().lower_elem(0).bool_or(next.clone().greater_equal_elem(vocab as i64));
    let ids = next.mask_fill(outside.clone(), 0).cast(IntDType::I32).mask_fill(outside, OUT_OF_VOCAB);
    let ids = ids.mask_fill(counted.clone().bool_not(), IGNORED);
    let last = Tensor::full([sequences, 1], IGNORED, (&tokens.device(), DType::I32));
    (Tensor::cat(vec![ids, last], 1).reshape([sequences * time]), counted.clone(), count(counted))
}

/// See [`predictions`](super::predictions).
pub(super) fn predictions(rows: Tensor<2>, targets: &Tensor<1, Int>, time: usize, column: usize) -> Tensor<2> {
    let [all, columns] = rows.dims();
    let of_column = if columns == 1 { rows } else { rows.slice(s![.., column..=column]) };
    let ignored = targets.clone().equal_elem(IGNORED).unsqueeze_dim(1);
    of_column.mask_fill(ignored, 0.0).reshape([all / time, time]).slice(s![.., 0..time - 1])
}

/// See [`FusedOps::gradient_of_rows`](super::FusedOps::gradient_of_rows).
pub(super) fn gradient_of_rows<B: Backend>(
    upstream: FloatTensor<B>,
    targets: IntTensor<B>,
    columns: usize,
    column: usize,
) -> FloatTensor<B> {
    let [sequences, predicted] = upstream.shape().dims();
    let (rows, device, dtype) = (sequences * (predicted + 1), upstream.device(), FloatDType::from(upstream.dtype()));
    let bools = get_or_init_device_settings::<B>(&device).bool_dtype;
    let last = B::float_zeros(Shape::new([sequences, 1]), &device, dtype);
    let of_rows = B::float_reshape(B::float_cat(vec![upstream, last], 1), Shape::new([rows, 1]));
    let ignored = B::bool_reshape(B::int_equal_elem(targets, IGNORED.into(), bools), Shape::new([rows, 1]));
    let of_rows = B::float_mask_fill(of_rows, ignored, 0.0.into());
    let zeros = B::float_zeros(Shape::new([rows, columns]), &device, dtype);
    B::float_slice_assign(zeros, &[Slice::from(0..rows), Slice::from(column..column + 1)], of_rows)
}

/// See [`FusedOps::scaled_derivatives`](super::FusedOps::scaled_derivatives).
pub(super) fn scaled_derivatives<B: Backend>(
    derivatives: FloatTensor<B>,
    upstream: FloatTensor<B>,
    parts: usize,
    reach: Reach,
) -> FloatTensor<B> {
    let (shape, pairs) = (derivatives.shape(), upstream.shape().num_elements());
    let bools = get_or_init_device_settings::<B>(&derivatives.device()).bool_dtype;
    let upstream = match reach {
        Reach::OwnPair => upstream,
        Reach::AllPairs => B::float_expand(B::float_sum(upstream), Shape::new([pairs])),
    };
    let of_parts = Shape::new([shape.num_elements() / pairs, pairs]);
    let upstream = B::float_expand(B::float_reshape(upstream, Shape::new([1, pairs])), of_parts.clone());
    let unused = B::float_equal_elem(upstream.clone(), 0.0.into(), bools);
    let scaled = B::float_mul(B::float_reshape(derivatives, of_parts), upstream);
    let scaled = B::float_reshape(B::float_mask_fill(scaled, unused, 0.0.into()), shape.clone());
    if parts * pairs == shape.num_elements() {
        return scaled;
    }
    let (device, dtype) = (scaled.device(), scaled.dtype().into());
    let zeros = B::float_zeros(shape, &device, dtype);
    let given = [Slice::from(0..parts * pairs)];
    B::float_slice_assign(zeros, &given, B::float_slice(scaled, &given))
}

/// See [`accurate_sums`](super::accurate_sums).
///
/// Multiples of 1/8 are split off. Their sum is exact in any order, up to 2²¹ nats in f32. What is left of each value is exact too,
/// and at most 1/16, so that the rounding of its sum hardly shows beside the final one; near 0 it is the value itself. A value
/// that is not finite, or whose multiple is not, is left whole.
pub(super) fn accurate_sums(values: Tensor<2>) -> Tensor<1> {
    let eighths = (values.clone() * 8.0).round() / 8.0;
    let not_finite = eighths.clone().is_finite().bool_not();
    let eighths = eighths.mask_fill(not_finite, 0.0);
    let rest = values - eighths.clone();
    (sum_in_blocks(rest) + sum_in_blocks(eighths)).squeeze_dim(1)
}

/// See [`argsort`](super::argsort). Ranks are counted, `n²` comparisons: burn's own sort reads numbers back on GPUs, and leaves the
/// order of equal ones open.
pub(super) fn argsort(numbers: Tensor<1>) -> Tensor<1, Int> {
    let [count] = numbers.dims();
    let index = indices(count, &numbers.device());
    let nan = numbers.clone().is_nan();
    let numbers = numbers.mask_fill(nan.clone(), 0.0);
    let column = |row: Tensor<1, Int>| row.reshape([count, 1]).expand([count, count]);
    let row = |row: Tensor<1, Int>| row.reshape([1, count]).expand([count, count]);
    let (earlier, nan) = (column(index.clone()).greater(row(index.clone())), nan.int().cast(IntDType::I32));
    let mine = numbers.clone().reshape([count, 1]).expand([count, count]);
    let other = numbers.reshape([1, count]).expand([count, count]);
    let (nan_mine, nan_other) = (column(nan.clone()), row(nan));
    let alike = nan_mine.clone().equal(nan_other.clone());
    let smaller = other.clone().lower(mine.clone()).bool_or(other.equal(mine).bool_and(earlier));
    // Numbers are ordered by size, NaN by index, and numbers come before NaN. NaN is 0 in `smaller`, so its own ties go by index.
    let before = alike.bool_and(smaller).bool_or(nan_other.lower(nan_mine));
    let rank = before.int().cast(IntDType::I32).sum_dim(1);
    let at_rank = rank.reshape([1, count]).expand([count, count]).equal(column(index.clone()));
    row(index).mask_fill(at_rank.bool_not(), 0).sum_dim(1).reshape([count])
}

//! burn's CPU backends: their tensors as slices, for the kernels in `cpu`.

use std::borrow::Cow;

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
use burn_tensor::{DType, Element, bf16, f16};
use bytemuck::Pod;

use super::{
    LogitTransform, SoftmaxState,
    cpu::{self, Evaluation, PairGradient, RowGradients, Upstream},
    fused::{Counts, Operands, Program, Reach},
};

/// A backend whose tensors are slices in the host's memory.
pub(super) trait Host: Backend {
    /// The numbers of a tensor of this dtype, row-major.
    fn slice<T: Element + Pod>(tensor: &FloatTensor<Self>) -> Cow<'_, [T]>;

    /// The number of a tensor that repeats one number without storing it again.
    fn repeated<T: Element + Pod>(tensor: &FloatTensor<Self>) -> Option<T>;

    /// The numbers of a tensor of 32-bit integers, row-major.
    fn integers(tensor: &IntTensor<Self>) -> Cow<'_, [i32]>;

    /// The same of integers of any type; those that 64 signed bits cannot hold become the largest number that they can.
    fn ids(tensor: &IntTensor<Self>) -> Vec<i64>;

    /// The same of flags.
    fn flags(tensor: &BoolTensor<Self>) -> Vec<bool>;

    fn from_floats<T: Element + Pod + Send + Sync, const D: usize>(
        numbers: Vec<T>,
        shape: [usize; D],
    ) -> FloatTensor<Self>;

    fn from_integers<const D: usize>(numbers: Vec<i32>, shape: [usize; D]) -> IntTensor<Self>;

    /// Flags in the dtype of `like`.
    fn from_flags<const D: usize>(flags: Vec<bool>, shape: [usize; D], like: &BoolTensor<Self>) -> BoolTensor<Self>;

    /// Overwrites a tensor: in its own buffer if it is the only owner, else in a copy.
    fn overwrite<T: Element + Pod + Send + Sync>(
        tensor: FloatTensor<Self>,
        overwrite: impl FnOnce(&mut [T]),
    ) -> FloatTensor<Self>;

    /// Overwrites a tensor in its own buffer if it is the only owner, else writes into a buffer of zeros.
    fn overwrite_or_write<T: Element + Pod + Send + Sync>(
        tensor: FloatTensor<Self>,
        overwrite: impl FnOnce(&mut [T]),
        write: impl FnOnce(&[T], &mut [T]),
    ) -> FloatTensor<Self>;
}

/// Runs a block of code with a type alias for a float dtype.
macro_rules! with_dtype {
    ($dtype:expr, $F:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $F = f64;
                $body
            }
            DType::F16 => {
                type $F = f16;
                $body
            }
            DType::BF16 => {
                type $F = bf16;
                $body
            }
            _ => {
                type $F = f32;
                $body
            }
        }
    };
}

/// [`with_dtype`] for the two dtypes that are computed in.
macro_rules! with_arithmetic {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

pub(super) use with_arithmetic;
#[cfg(feature = "flex")]
pub(super) use with_dtype;

/// The kernels of a [`Host`]: each method calls the function of this module that bears its name.
macro_rules! host_kernels {
    ($Host:ty, $F:ty, $I:ty, $B:ty) => {
        host_kernels! { impl RowKernels for $Host {
            fn softmax_state(z: $F, targets: $I, offset: usize, statistics: Option<usize>) -> $F;
            fn merge(one: $F, two: $F) -> $F;
            fn outputs(state: $F, entropy: bool) -> $F;
            fn exp_rows(z: $F, state: $F, softcap: Option<f64>) -> $F;
        } }
        host_kernels! { impl FusedKernels for $Host {
            fn targets(tokens: $I, mask: $B, vocab: usize) -> ($I, $B, $I);
            fn predictions(rows: $F, targets: $I, time: usize, column: usize) -> $F;
            fn accurate_sums(values: $F) -> $F;
            fn evaluate(operands: Operands<$Host>, program: Program) -> $F;
            fn value_and_derivatives(operands: Operands<$Host>, program: Program, length: usize) -> ($F, $F);
            fn sums(operands: Operands<$Host>, program: Program) -> $F;
            fn argsort(numbers: $F) -> $I;
        } }
        host_kernels! { impl FusedOps for $Host {
            fn gradient_of_rows(upstream: $F, targets: $I, columns: usize, column: usize) -> $F;
            fn scaled_derivatives(derivatives: $F, upstream: $F, parts: usize, reach: Reach) -> $F;
        } }
    };
    (impl $Trait:ident for $Host:ty { $(fn $name:ident($($arg:ident: $Arg:ty),*) -> $Out:ty;)* }) => {
        impl $Trait for $Host {
            $(fn $name($($arg: $Arg),*) -> $Out {
                host::$name::<$Host>($($arg),*)
            })*
        }
    };
}

pub(super) use host_kernels;

/// See [`PreferenceOps::row_gradient`](super::PreferenceOps::row_gradient).
pub(super) fn row_gradient<B: Host>(
    z: FloatTensor<B>,
    targets: IntTensor<B>,
    state: FloatTensor<B>,
    upstream: FloatTensor<B>,
    offset: usize,
    transform: LogitTransform,
) -> FloatTensor<B> {
    let [_, outputs]: [usize; 2] = upstream.shape().dims();
    let of_row = |row: &[f64]| Upstream { log_prob: row[0], entropy: row.get(1).copied().unwrap_or(0.0) };
    let gradients = RowGradients {
        width: columns(&z),
        targets: &B::integers(&targets),
        offset,
        states: &states::<B>(&state),
        upstream: &in_f64::<B>(&upstream).chunks(outputs).map(of_row).collect::<Vec<_>>(),
        transform,
    };
    with_dtype!(z.dtype(), F => B::overwrite_or_write::<F>(
        z,
        |z| gradients.overwrite(z),
        |z, gradient| gradients.write(z, gradient),
    ))
}

/// See [`PreferenceOps::softcap`](super::PreferenceOps::softcap).
pub(super) fn softcap<B: Host>(z: FloatTensor<B>, softcap: f64) -> FloatTensor<B> {
    with_arithmetic!(z.dtype(), T => B::overwrite::<T>(z, |z| cpu::softcap(z, softcap)))
}

pub(super) fn softmax_state<B: Host>(
    z: FloatTensor<B>,
    targets: IntTensor<B>,
    offset: usize,
    statistics: Option<usize>,
) -> FloatTensor<B> {
    let targets = B::integers(&targets);
    let states =
        with_dtype!(z.dtype(), F => cpu::states_of(&B::slice::<F>(&z), columns(&z), &targets, offset, statistics));
    B::from_floats(states, [targets.len(), SoftmaxState::COLUMNS])
}

pub(super) fn merge<B: Host>(one: FloatTensor<B>, two: FloatTensor<B>) -> FloatTensor<B> {
    let rows = one.shape()[0];
    B::from_floats(cpu::merged(&states::<B>(&one), &states::<B>(&two)), [rows, SoftmaxState::COLUMNS])
}

pub(super) fn outputs<B: Host>(state: FloatTensor<B>, entropy: bool) -> FloatTensor<B> {
    B::from_floats(cpu::outputs(&states::<B>(&state), entropy), [state.shape()[0], if entropy { 2 } else { 1 }])
}

pub(super) fn exp_rows<B: Host>(z: FloatTensor<B>, state: FloatTensor<B>, softcap: Option<f64>) -> FloatTensor<B> {
    let states = states::<B>(&state);
    let (width, counted) = (columns(&z), vec![0; states.len()]);
    with_arithmetic!(z.dtype(), T => B::overwrite::<T>(z, |z| cpu::exp_rows(z, width, &counted, &states, softcap)))
}

pub(super) fn targets<B: Host>(
    tokens: IntTensor<B>,
    mask: BoolTensor<B>,
    vocab: usize,
) -> (IntTensor<B>, BoolTensor<B>, IntTensor<B>) {
    let [sequences, time]: [usize; 2] = tokens.shape().dims();
    let targets = cpu::targets(&B::ids(&tokens), &B::flags(&mask), time, vocab);
    (
        B::from_integers(targets.ids, [sequences * time]),
        B::from_flags(targets.counted, [sequences, time - 1], &mask),
        B::from_integers(targets.token_count, [sequences]),
    )
}

pub(super) fn predictions<B: Host>(
    rows: FloatTensor<B>,
    targets: IntTensor<B>,
    time: usize,
    column: usize,
) -> FloatTensor<B> {
    let [all, columns]: [usize; 2] = rows.shape().dims();
    with_arithmetic!(rows.dtype(), T => {
        let predictions = cpu::predictions(&B::slice::<T>(&rows), columns, &B::integers(&targets), time, column);
        B::from_floats(predictions, [all / time, time - 1])
    })
}

pub(super) fn gradient_of_rows<B: Host>(
    upstream: FloatTensor<B>,
    targets: IntTensor<B>,
    columns: usize,
    column: usize,
) -> FloatTensor<B> {
    let [_, predicted]: [usize; 2] = upstream.shape().dims();
    let targets = B::integers(&targets);
    with_arithmetic!(upstream.dtype(), T => {
        let gradient = cpu::gradient_of_rows(&B::slice::<T>(&upstream), predicted, &targets, columns, column);
        B::from_floats(gradient, [targets.len(), columns])
    })
}

pub(super) fn accurate_sums<B: Host>(values: FloatTensor<B>) -> FloatTensor<B> {
    let [rows, width]: [usize; 2] = values.shape().dims();
    with_arithmetic!(values.dtype(), T => B::from_floats(cpu::accurate_sums(&B::slice::<T>(&values), width), [rows]))
}

/// Runs a block of code with the [`Evaluation`] of a program.
macro_rules! with_evaluation {
    ($operands:expr, $program:expr, $T:ident, $evaluation:ident => $body:expr) => {{
        let (inputs, counts) = $operands.floats(&$program);
        let inputs: Vec<FloatTensor<B>> = inputs.collect();
        let counts = match &counts {
            Counts::Unused => Cow::Borrowed(&[][..]),
            Counts::Used(counts) => B::integers(counts),
        };
        with_arithmetic!(inputs[0].dtype(), $T => {
            let inputs: Vec<Cow<'_, [$T]>> = inputs.iter().map(B::slice::<$T>).collect();
            let $evaluation = Evaluation {
                code: &$program.code,
                constants: &$program.constants,
                pairs: $program.pairs,
                inputs: inputs.iter().map(|input| &**input).collect(),
                counts: &counts,
            };
            $body
        })
    }};
}

pub(super) fn evaluate<B: Host>(operands: Operands<B>, program: Program) -> FloatTensor<B> {
    let length = program.code.outputs.len() * program.pairs;
    with_evaluation!(operands, program, T, evaluation => {
        let mut outputs: Vec<T> = bytemuck::zeroed_vec(length);
        evaluation.write(outputs.chunks_mut(program.pairs).collect());
        B::from_floats(outputs, [length])
    })
}

pub(super) fn value_and_derivatives<B: Host>(
    operands: Operands<B>,
    program: Program,
    length: usize,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (pairs, outputs) = (program.pairs, program.code.outputs.len());
    with_evaluation!(operands, program, T, evaluation => {
        let (mut value, mut derivatives): (Vec<T>, Vec<T>) =
            (bytemuck::zeroed_vec(pairs), bytemuck::zeroed_vec(length));
        evaluation.write([&mut value[..]].into_iter().chain(derivatives.chunks_mut(pairs)).take(outputs).collect());
        (B::from_floats(value, [pairs]), B::from_floats(derivatives, [length]))
    })
}

pub(super) fn sums<B: Host>(operands: Operands<B>, program: Program) -> FloatTensor<B> {
    let outputs = program.code.outputs.len();
    with_evaluation!(operands, program, T, evaluation => B::from_floats(evaluation.sums(), [outputs]))
}

/// Derivatives times the incoming gradients, in their own buffer if they are its only owner.
pub(super) fn scaled_derivatives<B: Host>(
    derivatives: FloatTensor<B>,
    upstream: FloatTensor<B>,
    parts: usize,
    reach: Reach,
) -> FloatTensor<B> {
    let pairs = upstream.shape().num_elements();
    with_arithmetic!(derivatives.dtype(), T => {
        let repeated = B::repeated::<T>(&upstream);
        let each = if repeated.is_some() { Cow::Borrowed(&[][..]) } else { B::slice::<T>(&upstream) };
        let upstream = repeated.map_or(PairGradient::Each(&each), PairGradient::Same);
        let upstream = match reach {
            Reach::OwnPair => upstream,
            Reach::AllPairs => PairGradient::Same(upstream.sum(pairs)),
        };
        B::overwrite::<T>(derivatives, |derivatives| upstream.scale(&mut derivatives[..parts * pairs], pairs))
    })
}

pub(super) fn argsort<B: Host>(numbers: FloatTensor<B>) -> IntTensor<B> {
    let count = numbers.shape().num_elements();
    with_arithmetic!(numbers.dtype(), T => B::from_integers(cpu::argsort(&B::slice::<T>(&numbers)), [count]))
}

fn columns<T: TensorMetadata>(z: &T) -> usize {
    z.shape()[1]
}

/// Numbers of a dtype that is computed in, in f64.
fn in_f64<B: Host>(tensor: &FloatTensor<B>) -> Cow<'_, [f64]> {
    match tensor.dtype() {
        DType::F64 => B::slice::<f64>(tensor),
        _ => B::slice::<f32>(tensor).iter().map(|x| f64::from(*x)).collect(),
    }
}

/// The states of rows, also if another device computed them in f32.
fn states<B: Host>(state: &FloatTensor<B>) -> Vec<cpu::SoftmaxState> {
    bytemuck::cast_slice(&in_f64::<B>(state)).to_vec()
}

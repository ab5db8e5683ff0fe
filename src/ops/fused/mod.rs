//! What lies between rows of logits and a loss, each step in one pass: one launch on a GPU, one loop over slices on a CPU.
//!
//! Where the backend has no kernels for the dtype (f64 on a GPU, libtorch), burn's operations do the same in several passes
//! ([`portable`]).

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
mod portable;
mod program;

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
use burn_tensor::{Bool, Int, Tensor, TensorData};
#[cfg(feature = "fusion")]
use burn_tensor::{DType, Shape};

use super::{Implementation, constants::indices, graph::independent_of};
pub(crate) use program::Call;
#[cfg(any(feature = "flex", feature = "ndarray"))]
pub(super) use program::Counts;
pub(super) use program::{Operands, Program};

/// Values, each in one pass. No autodiff: all results are constants.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait FusedKernels: Backend {
    /// From token ids and mask, `[sequences, time]`: the target of each row of logits, `[sequences · time]`, which predictions are
    /// counted, `[sequences, time − 1]`, and how many of each sequence, `[sequences]`.
    #[fusion(meta = |tokens, mask, _| {
        let [sequences, time]: [usize; 2] = tokens.shape.dims();
        (
            TensorSpec::new(Shape::new([sequences * time]), DType::I32),
            TensorSpec::new(Shape::new([sequences, time - 1]), mask.dtype),
            TensorSpec::new(Shape::new([sequences]), DType::I32),
        )
    })]
    fn targets(
        tokens: IntTensor<Self>,
        mask: BoolTensor<Self>,
        vocab: usize,
    ) -> (IntTensor<Self>, BoolTensor<Self>, IntTensor<Self>);

    /// One column of `rows`, `[sequences · time, columns]`, at each prediction, `[sequences, time − 1]`; 0 where not counted.
    #[fusion(dtype = rows, shape = Shape::new([rows[0] / time, time - 1]))]
    fn predictions(rows: FloatTensor<Self>, targets: IntTensor<Self>, time: usize, column: usize) -> FloatTensor<Self>;

    /// The sum of each row, `[rows]`, rounded about once.
    #[fusion(dtype = values, shape = Shape::new([values[0]]))]
    fn accurate_sums(values: FloatTensor<Self>) -> FloatTensor<Self>;

    /// All outputs of a program, one after the other, `[outputs · pairs]`.
    #[fusion(meta = |operands, program| TensorSpec::new(Shape::new([program.code.outputs.len() * program.pairs]), operands.one.dtype))]
    fn evaluate(#[extension_type] operands: Operands<Self>, program: Program) -> FloatTensor<Self>;

    /// The first output of a program, and its other outputs one after the other at the beginning of a tensor of that length.
    #[fusion(meta = |operands, program, length| {
        let dtype = operands.one.dtype;
        (TensorSpec::new(Shape::new([program.pairs]), dtype), TensorSpec::new(Shape::new([*length]), dtype))
    })]
    fn value_and_derivatives(
        #[extension_type] operands: Operands<Self>,
        program: Program,
        length: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The sum of each output of a program over all pairs, `[outputs]`.
    #[fusion(meta = |operands, program| TensorSpec::new(Shape::new([program.code.outputs.len()]), operands.one.dtype))]
    fn sums(#[extension_type] operands: Operands<Self>, program: Program) -> FloatTensor<Self>;

    /// The indices that sort numbers: smallest first, equal ones in their order, NaN last.
    #[fusion(dtype = DType::I32, shape = numbers)]
    fn argsort(numbers: FloatTensor<Self>) -> IntTensor<Self>;
}

/// The same values in the graph of what they were computed from. Their gradients take one pass too, or none.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait FusedOps: Backend {
    /// `predictions`, which [`FusedKernels::predictions`] read from `rows`.
    #[fusion(default)]
    fn with_gradient_in_rows(
        predictions: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        targets: IntTensor<Self>,
        column: usize,
    ) -> FloatTensor<Self> {
        let _ = (rows, targets, column);
        predictions
    }

    /// The gradient of [`FusedKernels::predictions`] in its rows, `[rows, columns]`, from `upstream`, `[sequences, time − 1]`.
    #[fusion(dtype = upstream, shape = Shape::new([targets[0], *columns]))]
    fn gradient_of_rows(
        upstream: FloatTensor<Self>,
        targets: IntTensor<Self>,
        columns: usize,
        column: usize,
    ) -> FloatTensor<Self> {
        portable::gradient_of_rows::<Self>(upstream, targets, columns, column)
    }

    /// `sums`, as those of the rows of `values`.
    #[fusion(default)]
    fn with_gradient_in_values(sums: FloatTensor<Self>, values: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = values;
        sums
    }

    /// `value`, `[pairs]`, whose derivatives in the first `parts` of `input`, `[n · pairs]`, are the beginning of `derivatives`, which
    /// is as long; in the others they are 0.
    #[fusion(default)]
    fn with_derivatives(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        derivatives: FloatTensor<Self>,
        parts: usize,
        reach: Reach,
    ) -> FloatTensor<Self> {
        let _ = (input, derivatives, parts, reach);
        value
    }

    /// The first `parts` of `derivatives`, `[n · pairs]`, times the gradient that comes in for each pair, `[pairs]`, and 0 in the
    /// others. 0 where the incoming gradient is 0, whatever the derivative is.
    #[fusion(dtype = derivatives, shape = derivatives)]
    fn scaled_derivatives(
        derivatives: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        parts: usize,
        reach: Reach,
    ) -> FloatTensor<Self> {
        portable::scaled_derivatives::<Self>(derivatives, upstream, parts, reach)
    }
}

/// Which values of a function depend on an entry of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The value of the entry's own pair.
    OwnPair,
    /// The values of all pairs, which are one and the same number.
    AllPairs,
}

#[cfg(feature = "tch")]
impl FusedOps for burn::backend::LibTorch {}

impl Call {
    /// All outputs, one after the other.
    pub(crate) fn evaluate(self) -> Tensor<1> {
        if self.program.pairs == 0 {
            return self.nothing();
        }
        match self.implementation() {
            Implementation::Kernels => {
                let (operands, program) = self.into_operands();
                Tensor::from_dispatch(Dispatch::evaluate(operands, program))
            }
            Implementation::Portable => joined(portable::evaluate(self)),
        }
    }

    /// The sum of each output over all pairs, `[outputs]`.
    pub(crate) fn sums(self) -> Tensor<1> {
        let outputs = self.program.code.outputs.len();
        if self.program.pairs == 0 {
            return Tensor::from_data(
                TensorData::new(vec![0.0f32; outputs], [outputs]),
                (&self.device(), self.dtype()),
            );
        }
        match self.implementation() {
            Implementation::Kernels => {
                let (operands, program) = self.into_operands();
                Tensor::from_dispatch(Dispatch::sums(operands, program))
            }
            Implementation::Portable => joined(portable::evaluate(self).into_iter().map(Tensor::sum).collect()),
        }
    }

    /// The first output, whose derivatives in the first parts of `input` are the other outputs.
    pub(crate) fn evaluate_in_graph(self, input: Tensor<1>, reach: Reach) -> Tensor<1> {
        if self.program.pairs == 0 {
            return independent_of(self.nothing(), &input);
        }
        let (parts, [length]) = (self.program.code.outputs.len() - 1, input.dims());
        let (value, derivatives) = match self.implementation() {
            Implementation::Kernels => {
                let (operands, program) = self.into_operands();
                Dispatch::value_and_derivatives(operands, program, length)
            }
            Implementation::Portable => {
                let mut outputs = portable::evaluate(self);
                let value = outputs.remove(0);
                outputs.resize(length / value.dims()[0], value.zeros_like());
                (value.into_dispatch(), joined(outputs).into_dispatch())
            }
        };
        Tensor::from_dispatch(Dispatch::with_derivatives(value, input.into_dispatch(), derivatives, parts, reach))
    }

    fn implementation(&self) -> Implementation {
        Implementation::fastest(&self.device(), self.dtype())
    }

    /// The outputs for no pairs. Written on the host: GPUs launch nothing for nothing.
    fn nothing(&self) -> Tensor<1> {
        Tensor::from_data(TensorData::new(Vec::<f32>::new(), [0]), (&self.device(), self.dtype()))
    }
}

fn joined(mut parts: Vec<Tensor<1>>) -> Tensor<1> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) }
}

/// The target of each row of logits, which predictions are counted, and how many of each sequence: see [`FusedKernels::targets`].
/// There is at least one prediction.
pub(crate) fn targets(
    tokens: &Tensor<2, Int>,
    mask: &Tensor<2, Bool>,
    vocab: usize,
    implementation: Implementation,
) -> (Tensor<1, Int>, Tensor<2, Bool>, Tensor<1, Int>) {
    if implementation == Implementation::Portable || !portable::stores_bools_as_integers(mask) {
        return portable::targets(tokens, mask, vocab);
    }
    let (ids, counted, token_count) =
        Dispatch::targets(tokens.clone().into_dispatch(), mask.clone().into_dispatch(), vocab);
    (Tensor::from_dispatch(ids), Tensor::from_dispatch(counted), Tensor::from_dispatch(token_count))
}

/// One column of `rows`, `[sequences · time, columns]`, at each prediction, `[sequences, time − 1]`, in the graph of the rows; 0
/// where not counted.
pub(crate) fn predictions(
    rows: Tensor<2>,
    targets: &Tensor<1, Int>,
    time: usize,
    column: usize,
    implementation: Implementation,
) -> Tensor<2> {
    if implementation == Implementation::Portable {
        return portable::predictions(rows, targets, time, column);
    }
    let targets = targets.clone().into_dispatch();
    let constant = rows.clone().without_autodiff().into_dispatch();
    let values = Dispatch::predictions(constant, targets.clone(), time, column);
    if !rows.is_tracked() {
        return Tensor::from_dispatch(values);
    }
    Tensor::from_dispatch(Dispatch::with_gradient_in_rows(values, rows.into_dispatch(), targets, column))
}

/// The sum of each row, `[rows]`, rounded about once, in the graph of the values. There is at least one value.
pub(crate) fn accurate_sums(values: Tensor<2>) -> Tensor<1> {
    let constant = values.clone().without_autodiff();
    let sums = match Implementation::fastest(&values.device(), values.dtype()) {
        Implementation::Kernels => Dispatch::accurate_sums(constant.into_dispatch()),
        Implementation::Portable => portable::accurate_sums(constant).into_dispatch(),
    };
    if !values.is_tracked() {
        return Tensor::from_dispatch(sums);
    }
    Tensor::from_dispatch(Dispatch::with_gradient_in_values(sums, values.into_dispatch()))
}

/// The indices that sort numbers: smallest first, equal ones in their order, NaN last. A constant.
pub(crate) fn argsort(numbers: Tensor<1>) -> Tensor<1, Int> {
    let numbers = numbers.without_autodiff();
    if numbers.dims() == [0] {
        return indices(0, &numbers.device());
    }
    match Implementation::fastest(&numbers.device(), numbers.dtype()) {
        Implementation::Kernels => Tensor::from_dispatch(Dispatch::argsort(numbers.into_dispatch())),
        Implementation::Portable => portable::argsort(numbers),
    }
}

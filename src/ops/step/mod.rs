//! What lies between rows of logits and a loss, on GPUs: there each of burn's operations is a launch, and a step would be made of
//! hundreds of them.
//!
//! Elsewhere the same is written in burn's operations, by whoever asks [`saves_launches`] first.

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
mod formula;

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{
    Backend, Dispatch, backend_extension,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
#[cfg(feature = "fusion")]
use burn_tensor::Shape;
use burn_tensor::{Bool, DType, Device, Int, Tensor};

use super::is_gpu;
#[cfg(feature = "cube")]
pub(crate) use formula::Program;
pub(crate) use formula::{Formula, Function, Operation, Step};
use formula::{Operands, Recipe};

/// What becomes one launch. Only where there is something to be saved; gradients are written by hand in `autodiff`.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait StepOps: Backend {
    /// Of token ids and mask, `[sequences, time]`: what each row of logits predicts, `[sequences · time]`, which predictions are
    /// counted, `[sequences, time − 1]`, and how many, `[sequences]`.
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
    ) -> (IntTensor<Self>, BoolTensor<Self>, IntTensor<Self>) {
        let _ = (tokens, mask, vocab);
        nothing_to_save()
    }

    /// One column of numbers of rows, `[sequences · time, columns]`, as numbers of predictions, `[sequences, time − 1]`; 0 where not
    /// counted.
    #[fusion(dtype = DType::F32, shape = Shape::new([rows[0] / time, time - 1]))]
    fn predictions(rows: FloatTensor<Self>, targets: IntTensor<Self>, time: usize, column: usize) -> FloatTensor<Self> {
        let _ = (rows, targets, time, column);
        nothing_to_save()
    }

    /// `predictions`, as what [`predictions`](Self::predictions) made of `rows`.
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

    /// What rows receive from `upstream`, `[sequences, time − 1]`, of predictions that were their `column`.
    #[fusion(dtype = DType::F32, shape = Shape::new([targets[0], *columns]))]
    fn gradient_of_rows(
        upstream: FloatTensor<Self>,
        targets: IntTensor<Self>,
        columns: usize,
        column: usize,
    ) -> FloatTensor<Self> {
        let _ = (upstream, targets, columns, column);
        nothing_to_save()
    }

    /// The sum of each row, `[rows]`, rounded about once.
    #[fusion(dtype = DType::F32, shape = Shape::new([values[0]]))]
    fn accurate_sums(values: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = values;
        nothing_to_save()
    }

    /// What a formula gives of its operands: all its outputs, one after the other.
    #[fusion(meta = |_, recipe| numbers(recipe.program.outputs.len() * recipe.pairs))]
    fn numbers(#[extension_type] operands: Operands<Self>, recipe: Recipe) -> FloatTensor<Self> {
        let _ = (operands, recipe);
        nothing_to_save()
    }

    /// The same, with the first output apart from the others.
    #[fusion(meta = |_, recipe| (numbers(recipe.pairs), numbers((recipe.program.outputs.len() - 1) * recipe.pairs)))]
    fn numbers_and_slopes(
        #[extension_type] operands: Operands<Self>,
        recipe: Recipe,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let _ = (operands, recipe);
        nothing_to_save()
    }

    /// The indices of numbers, the smallest number first, equal ones as they stand, NaN last.
    #[fusion(dtype = DType::I32, shape = numbers)]
    fn ascending(numbers: FloatTensor<Self>) -> IntTensor<Self> {
        let _ = numbers;
        nothing_to_save()
    }

    /// `value`, `[pairs]`, whose derivatives in the parts of `input`, `[parts · pairs]`, are the `slopes`.
    #[fusion(default)]
    fn with_slopes(value: FloatTensor<Self>, input: FloatTensor<Self>, slopes: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = (input, slopes);
        value
    }

    /// Slopes, `[parts · pairs]`, times what comes in for each pair; 0 where that is 0.
    #[fusion(dtype = DType::F32, shape = slopes)]
    fn gradient_of_parts(slopes: FloatTensor<Self>, upstream: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = (slopes, upstream);
        nothing_to_save()
    }

    /// `sums`, as those of the rows of `values`.
    #[fusion(default)]
    fn with_gradient_in_values(sums: FloatTensor<Self>, values: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = values;
        sums
    }
}

#[cfg(feature = "fusion")]
fn numbers(count: usize) -> TensorSpec {
    TensorSpec::new(Shape::new([count]), DType::F32)
}

fn nothing_to_save<T>() -> T {
    unreachable!("asked only where it saves launches")
}

#[cfg(feature = "flex")]
impl StepOps for burn::backend::Flex {}
#[cfg(feature = "ndarray")]
impl StepOps for burn::backend::NdArray {}
#[cfg(feature = "tch")]
impl StepOps for burn::backend::LibTorch {}

/// Whether an operation on numbers of this format is a launch on the device, and kernels of this crate save some. They compute in
/// f32.
pub(crate) fn saves_launches(device: &Device, dtype: DType) -> bool {
    dtype == DType::F32 && is_gpu(device)
}

/// [`StepOps::targets`], if that saves launches.
pub(crate) fn targets_in_one_launch(
    tokens: &Tensor<2, Int>,
    mask: &Tensor<2, Bool>,
    vocab: usize,
) -> Option<(Tensor<1, Int>, Tensor<2, Bool>, Tensor<1, Int>)> {
    use burn_tensor::BoolStore;
    let stored = matches!(mask.dtype(), DType::Bool(BoolStore::U8 | BoolStore::U32));
    let [sequences, time] = tokens.dims();
    if !stored || sequences * time <= sequences || !saves_launches(&mask.device(), DType::F32) {
        return None;
    }
    let (ids, counted, token_count) =
        Dispatch::targets(tokens.clone().into_dispatch(), mask.clone().into_dispatch(), vocab);
    Some((Tensor::from_dispatch(ids), Tensor::from_dispatch(counted), Tensor::from_dispatch(token_count)))
}

/// [`StepOps::predictions`], in the graph of the rows.
pub(crate) fn predictions(rows: Tensor<2>, targets: &Tensor<1, Int>, time: usize, column: usize) -> Tensor<2> {
    let constant = rows.clone().without_autodiff().into_dispatch();
    let targets = targets.clone().into_dispatch();
    let values = Dispatch::predictions(constant, targets.clone(), time, column);
    if !rows.is_tracked() {
        return Tensor::from_dispatch(values);
    }
    Tensor::from_dispatch(Dispatch::with_gradient_in_rows(values, rows.into_dispatch(), targets, column))
}

/// [`StepOps::ascending`] of constants.
pub(crate) fn ascending_in_one_launch(numbers: Tensor<1>) -> Tensor<1, Int> {
    Tensor::from_dispatch(Dispatch::ascending(numbers.into_dispatch()))
}

/// [`StepOps::with_slopes`] for an input that is tracked.
pub(crate) fn with_slopes(value: Tensor<1>, input: Tensor<1>, slopes: Tensor<1>) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::with_slopes(value.into_dispatch(), input.into_dispatch(), slopes.into_dispatch()))
}

/// [`StepOps::accurate_sums`], in the graph of the values.
pub(crate) fn accurate_sums(values: Tensor<2>) -> Tensor<1> {
    let sums = Dispatch::accurate_sums(values.clone().without_autodiff().into_dispatch());
    if !values.is_tracked() {
        return Tensor::from_dispatch(sums);
    }
    Tensor::from_dispatch(Dispatch::with_gradient_in_values(sums, values.into_dispatch()))
}

//! The only place that knows backends.
//!
//! Everything above is written over burn's tensors, which choose their backend at run time. What burn's tensors
//! cannot say is asked for here, through an extension trait over burn's backends ([`PreferenceOps`]) whose default
//! bodies (`portable`) serve any backend and whose gradients are written by hand in `autodiff`.
//!
//! Two things are known of a block of logits `[rows, columns]`: what it adds to its rows ([`RowSums`], merged over blocks),
//! and, once the whole row is known, its gradient ([`PreferenceOps::row_gradient`]). Logits that a model returned are one
//! block as wide as the vocabulary; an LM head (`head`) makes one tile of the vocabulary after the other. Where the backend
//! has kernels of its own (`flex` and `ndarray` over `cpu`, `cube` over `gpu`), each block is read once.
//!
//! What lies between these rows and a loss is burn's operations, and on GPUs, where each would be a launch, `step`.
// burn calls its ndarray and libtorch backends deprecated; this crate supports them while burn does.
#![allow(deprecated)]

mod autodiff;
#[cfg(any(feature = "flex", feature = "ndarray"))]
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "cube")]
mod gpu;
mod head;
#[cfg(feature = "ndarray")]
mod ndarray;
mod portable;
mod precision;
mod reduce;
mod step;
mod sums;

use std::ops::Range;

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{
    Backend, Dispatch, DispatchDevice, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{DType, Device, FloatDType, Int, Shape, Tensor, TensorData};

pub(crate) use head::{Forward, Head, HeadGradients, HeadInputs, Kept, Room, Tiling};
pub(crate) use precision::{
    arithmetic_dtype, check_float, check_int, check_same_device, check_same_strategy, computes_in, exp_is_accurate,
    to_arithmetic_dtype,
};
pub(crate) use reduce::{count, max_of_rows, sum_in_blocks};
pub(crate) use step::{
    Formula, Function, Operation, Step, accurate_sums, ascending_in_one_launch, predictions, saves_launches,
    targets_in_one_launch, with_slopes,
};
pub(crate) use sums::RowSums;

/// The target of a row in which nothing is counted.
pub(crate) const UNCOUNTED: i32 = -1;
/// The target of a counted row whose token is outside the vocabulary.
pub(crate) const NOWHERE: i32 = i32::MAX;

/// By what a row's numbers are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// The backend's own kernels, where it has any.
    Kernels,
    /// burn's operations alone.
    Portable,
}

impl Road {
    /// Kernels, where the device has them for the format that is computed in.
    pub(crate) fn fastest(device: &Device, dtype: DType) -> Self {
        if has_kernels(device, arithmetic_dtype(dtype)) { Self::Kernels } else { Self::Portable }
    }

    /// [`PreferenceOps::row_gradient`] by this road.
    fn row_gradient<B: PreferenceOps>(
        self,
        z: FloatTensor<B>,
        targets: IntTensor<B>,
        sums: FloatTensor<B>,
        upstream: FloatTensor<B>,
        offset: usize,
        chain: Chain,
    ) -> FloatTensor<B> {
        match self {
            Self::Kernels => B::row_gradient(z, targets, sums, upstream, offset, chain),
            Self::Portable => portable::row_gradient::<B>(z, targets, sums, upstream, offset, chain),
        }
    }

    /// [`PreferenceOps::product_into`] by this road.
    fn product_into<B: PreferenceOps>(
        self,
        destination: FloatTensor<B>,
        lhs: FloatTensor<B>,
        rhs: FloatTensor<B>,
        product: Product,
    ) -> FloatTensor<B> {
        match self {
            Self::Kernels => B::product_into(destination, lhs, rhs, product),
            Self::Portable => portable::product_into::<B>(destination, lhs, rhs, product),
        }
    }
}

/// How a block of logits came about from what it is differentiated in: `z = cap · tanh(scale · x / cap)`, or `scale · x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chain {
    /// `scale`.
    pub scale: f64,
    /// `cap`.
    pub cap: Option<f64>,
}

impl Chain {
    /// Logits as they are.
    pub(crate) const NONE: Self = Self { scale: 1.0, cap: None };
}

/// Which part of the destination a matrix product fills, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Rows of the destination.
    pub rows: Range<usize>,
    /// Columns of the destination.
    pub columns: Range<usize>,
    /// Whether the product is added to what is there, or replaces it.
    pub accumulate: bool,
    /// What the product is multiplied by.
    pub scale: f64,
}

/// What this crate asks of a backend beyond burn's own operations.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait PreferenceOps: Backend {
    /// `value`, with `gradient` as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_gradient(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let _ = (input, gradient);
        value
    }

    /// `value`, with 0 as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_zero_gradient(value: FloatTensor<Self>, input: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = input;
        value
    }

    /// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (and entropy), as functions of the logits `z`, `[rows, columns]`, that
    /// begin at column `offset` of the vocabulary.
    #[fusion(default)]
    fn with_row_gradient(
        outputs: FloatTensor<Self>,
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        offset: usize,
        road: Road,
    ) -> FloatTensor<Self> {
        let _ = (z, targets, sums, offset, road);
        outputs
    }

    /// [`with_row_gradient`](Self::with_row_gradient) for `z` that a head makes of `hidden`, `weight` and `bias`.
    #[fusion(default)]
    fn with_head_gradient(
        outputs: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        head: Head,
    ) -> FloatTensor<Self> {
        let _ = (hidden, weight, bias, targets, sums, head);
        outputs
    }

    /// What a block of logits `z`, `[rows, columns]`, beginning at column `offset` of the vocabulary, receives from
    /// `upstream`, `[rows, 1]` (of log-probs) or `[rows, 2]` (and of entropies); in `z`'s own format, and buffer if it can.
    ///
    /// 0 where the upstream gradient is exactly 0 or nothing is counted, whatever the row holds.
    #[fusion(dtype = z, shape = z)]
    fn row_gradient(
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        sums: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        offset: usize,
        chain: Chain,
    ) -> FloatTensor<Self> {
        portable::row_gradient::<Self>(z, targets, sums, upstream, offset, chain)
    }

    /// `cap · tanh(z / cap)`.
    #[fusion(dtype = z, shape = z)]
    fn soft_cap(z: FloatTensor<Self>, cap: f64) -> FloatTensor<Self> {
        portable::soft_cap::<Self>(z, cap)
    }

    /// Zeros, where `like` is. What is overwritten before it is read costs no more than its memory.
    #[fusion(default)]
    fn zeros(like: FloatTensor<Self>, shape: [usize; 2], dtype: DType) -> FloatTensor<Self> {
        Self::float_zeros(Shape::new(shape), &like.device(), dtype.into())
    }

    /// Some rows and columns of a matrix.
    #[fusion(default)]
    fn block(x: FloatTensor<Self>, rows: Range<usize>, columns: Range<usize>) -> FloatTensor<Self> {
        Self::float_slice(x, &[rows.into(), columns.into()])
    }

    /// A matrix with other rows and columns from `rows` and `columns` on, in whose buffer it stays if it can.
    #[fusion(default)]
    fn with_block(
        x: FloatTensor<Self>,
        block: FloatTensor<Self>,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> FloatTensor<Self> {
        Self::float_slice_assign(x, &[rows.into(), columns.into()], block)
    }

    /// The matrix product of `lhs` and `rhs` in a part of `destination`, in whose buffer it stays if it can.
    #[fusion(dtype = destination, shape = destination)]
    fn product_into(
        destination: FloatTensor<Self>,
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        product: Product,
    ) -> FloatTensor<Self> {
        portable::product_into::<Self>(destination, lhs, rhs, product)
    }

    /// The column of `weight`, `[hidden, vocab]`, of each target, as rows: `[rows, hidden]`, in the format computed in.
    /// 0 where the target is no column.
    #[fusion(default)]
    fn target_columns(weight: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        portable::target_columns::<Self>(weight, targets)
    }

    /// `x` times one number, `[1]`; 0 where that is 0, whatever `x` holds.
    #[fusion(default)]
    fn times(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::times::<Self>(x, factor)
    }
}

/// What backends with kernels of their own do in one pass over a block of logits, and with what it gave. No autodiff: all
/// make constants.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait RowKernels: Backend {
    /// What a block of logits, beginning at column `offset` of the vocabulary, adds to its rows: the columns of [`RowSums`].
    /// Those of `statistics` if the size of the vocabulary is given.
    #[fusion(dtype = DType::F32, shape = Shape::new([z[0], RowSums::COLUMNS]))]
    fn row_sums(
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        offset: usize,
        statistics: Option<usize>,
    ) -> FloatTensor<Self>;

    /// Of two parts of the same rows what is known of both together.
    #[fusion(dtype = DType::F32, shape = one)]
    fn merge(one: FloatTensor<Self>, two: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Log-prob, `[rows, 1]`, or log-prob and entropy, `[rows, 2]`, of what is known of whole rows.
    #[fusion(meta = |sums, entropy| TensorSpec::new(Shape::new([sums.shape[0], if *entropy { 2 } else { 1 }]), DType::F32))]
    fn outputs(sums: FloatTensor<Self>, entropy: bool) -> FloatTensor<Self>;

    /// `exp(z − max)`, times what a soft cap makes of a derivative.
    #[fusion(dtype = z, shape = z)]
    fn exp_rows(z: FloatTensor<Self>, sums: FloatTensor<Self>, cap: Option<f64>) -> FloatTensor<Self>;
}

/// Whether products stay in the memory of their destination, and parts of a weight are looked at, not copied.
pub(crate) fn multiplies_in_place(device: &Device, road: Road) -> bool {
    match (device.clone().without_autodiff().as_dispatch(), road) {
        #[cfg(feature = "flex")]
        (DispatchDevice::Flex(_), Road::Kernels) => true,
        _ => false,
    }
}

/// Whether the device is a GPU: burn's cube backend runs on processors too, which nothing here is made for.
pub(crate) fn is_gpu(device: &Device) -> bool {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => device.runtime() != burn::backend::cubecl::RuntimeId::Cpu,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

/// How many bytes the device gives in one piece.
pub(crate) fn largest_allocation(device: &Device) -> usize {
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(device) => {
            usize::try_from(device.client().properties().memory.max_page_size).unwrap_or(usize::MAX)
        }
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => usize::MAX,
    }
}

/// Whether the device's backend is one of those. GPUs compute in f32.
fn has_kernels(device: &Device, dtype: DType) -> bool {
    if is_gpu(device) {
        return dtype == DType::F32;
    }
    match device.clone().without_autodiff().as_dispatch() {
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[allow(unreachable_patterns)] // if there is no other backend
        _ => false,
    }
}

#[cfg(feature = "tch")]
impl PreferenceOps for burn::backend::LibTorch {}

/// A function known by its value and its partial derivatives: `value`, whose derivative in each `input` is the
/// `gradient` beside it.
///
/// `value` and the gradients have one shape and carry no gradient themselves; an input that is not tracked costs nothing.
/// A `value` of `[rows, 1]` may stand beside inputs and gradients of `[rows, n]`: one function of each row.
/// Where the incoming gradient is exactly 0 the outgoing one is 0, whatever `gradient` holds there.
pub(crate) fn closed_form<const D: usize, const N: usize>(
    value: Tensor<D>,
    partials: [(Tensor<D>, Tensor<D>); N],
) -> Tensor<D> {
    partials.into_iter().fold(value, |value, (input, gradient)| {
        if !input.is_tracked() {
            return value;
        }
        Tensor::from_dispatch(Dispatch::with_gradient(
            value.into_dispatch(),
            input.into_dispatch(),
            gradient.into_dispatch(),
        ))
    })
}

/// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (and entropy), in the graph of the logits that they are functions of,
/// which begin at column `offset` of the vocabulary. In the format that is computed in.
pub(crate) fn with_row_gradient(
    outputs: Tensor<2>,
    z: Tensor<2>,
    targets: &Tensor<1, Int>,
    sums: &RowSums,
    offset: usize,
    road: Road,
) -> Tensor<2> {
    let outputs = outputs.cast(FloatDType::from(arithmetic_dtype(z.dtype())));
    if !z.is_tracked() {
        return outputs;
    }
    Tensor::from_dispatch(Dispatch::with_row_gradient(
        outputs.into_dispatch(),
        z.into_dispatch(),
        targets.clone().into_dispatch(),
        sums.0.clone().into_dispatch(),
        offset,
        road,
    ))
}

/// `value`, one number, `[1]`, whose derivative in `input` is `gradient`, which is given away: a backward pass that starts
/// with 1 hands it on as it is.
pub(crate) fn with_scaled_gradient<const D: usize>(
    value: Tensor<1>,
    input: Tensor<D>,
    gradient: Tensor<D>,
) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::with_gradient(
        value.into_dispatch(),
        input.into_dispatch(),
        gradient.into_dispatch(),
    ))
}

/// What a soft cap makes of a derivative at `z`: `1 − (z/cap)²`.
pub(crate) fn slope_of_cap(z: Tensor<2>, cap: f64) -> Tensor<2> {
    Tensor::from_dispatch(portable::slope_of_cap::<Dispatch>(z.into_dispatch(), cap))
}

/// `value`, in the graph of an `input` that it does not depend on as well: a backward pass can start from it, and gives
/// the input a gradient of 0.
///
/// For results of no elements. Slicing, selecting or reducing to nothing leaves the graph on some backends, and on wgpu
/// gives whatever was in the memory as a gradient.
pub(crate) fn independent_of<const D: usize, const E: usize>(value: Tensor<D>, input: &Tensor<E>) -> Tensor<D> {
    if !input.is_tracked() {
        return value;
    }
    Tensor::from_dispatch(Dispatch::with_zero_gradient(value.into_dispatch(), input.clone().into_dispatch()))
}

/// 0, `[1]`, where the other tensor is and in its format: the sum of nothing.
///
/// Written on the host: on wgpu, burn's reduction to nothing, and even its `zeros` beside other operations on nothing, may give
/// whatever was in the memory.
pub(crate) fn zero<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    Tensor::from_data(TensorData::new(vec![0.0f64], [1]), (&like.device().without_autodiff(), like.dtype()))
}

/// Zeros, where `like` is, without autodiff. What is overwritten before it is read costs no more than its memory.
pub(crate) fn zeros<const D: usize>(like: &Tensor<D>, shape: [usize; 2], dtype: DType) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::zeros(like.clone().without_autodiff().into_dispatch(), shape, dtype))
}

/// 0, 1, 2, … in 32 bits, whatever the device's default integer is.
///
/// Written on the host: on wgpu, burn's `arange` is wrong beyond 65 535.
pub(crate) fn indices(count: usize, device: &Device) -> Tensor<1, Int> {
    let indices: Vec<i32> = (0..count as i32).collect();
    Tensor::from_data(TensorData::new(indices, [count]), (&device.clone().without_autodiff(), DType::I32))
}

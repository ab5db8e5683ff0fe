//! What this crate asks of a backend beyond burn's own operations, for rows of logits and heads.

use std::ops::Range;

#[cfg(feature = "fusion")]
use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{
    Backend, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{DType, Shape};

#[cfg(feature = "fusion")]
use super::SoftmaxState;
use super::{Head, Implementation, LogitTransform, MatmulInto, portable};

/// Operations with a portable body each, and gradients written by hand.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    LibTorch: cfg(feature = "tch"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion"),
    Autodiff
)]
pub trait PreferenceOps: Backend {
    /// `value`, with `derivative` as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_gradient(
        value: FloatTensor<Self>,
        input: FloatTensor<Self>,
        derivative: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let _ = (input, derivative);
        value
    }

    /// `value`, with 0 as its derivative in `input`. Costs nothing without autodiff.
    #[fusion(default)]
    fn with_zero_gradient(value: FloatTensor<Self>, input: FloatTensor<Self>) -> FloatTensor<Self> {
        let _ = input;
        value
    }

    /// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (log-prob and entropy), as functions of the logits `z`, `[rows, columns]`,
    /// that begin at column `offset` of the vocabulary.
    #[fusion(default)]
    fn with_row_gradient(
        outputs: FloatTensor<Self>,
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        state: FloatTensor<Self>,
        offset: usize,
        implementation: Implementation,
    ) -> FloatTensor<Self> {
        let _ = (z, targets, state, offset, implementation);
        outputs
    }

    /// [`with_row_gradient`](Self::with_row_gradient) for `z` that a head computes from `hidden`, `weight` and `bias`.
    #[fusion(default)]
    fn with_head_gradient(
        outputs: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        targets: IntTensor<Self>,
        state: FloatTensor<Self>,
        head: Head,
    ) -> FloatTensor<Self> {
        let _ = (hidden, weight, bias, targets, state, head);
        outputs
    }

    /// The gradient of a block of logits `z`, `[rows, columns]`, beginning at column `offset` of the vocabulary, from
    /// `upstream`, `[rows, 1]` (of log-probs) or `[rows, 2]` (and of entropies). In `z`'s own dtype, and in its buffer if `z` is
    /// its only owner.
    ///
    /// 0 where the upstream gradient is exactly 0 or nothing is counted, whatever the row holds.
    #[fusion(dtype = z, shape = z)]
    fn row_gradient(
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        state: FloatTensor<Self>,
        upstream: FloatTensor<Self>,
        offset: usize,
        transform: LogitTransform,
    ) -> FloatTensor<Self> {
        portable::row_gradient::<Self>(z, targets, state, upstream, offset, transform)
    }

    /// `softcap · tanh(z / softcap)`.
    #[fusion(dtype = z, shape = z)]
    fn softcap(z: FloatTensor<Self>, softcap: f64) -> FloatTensor<Self> {
        portable::softcap::<Self>(z, softcap)
    }

    /// Zeros on the device of `like`. Memory that is overwritten before it is read costs no more than its allocation.
    #[fusion(default)]
    fn zeros(like: FloatTensor<Self>, shape: [usize; 2], dtype: DType) -> FloatTensor<Self> {
        Self::float_zeros(Shape::new(shape), &like.device(), dtype.into())
    }

    /// Some rows and columns of a matrix.
    #[fusion(default)]
    fn block(x: FloatTensor<Self>, rows: Range<usize>, columns: Range<usize>) -> FloatTensor<Self> {
        Self::float_slice(x, &[rows.into(), columns.into()])
    }

    /// A matrix with other rows and columns from `rows` and `columns` on, in its own buffer if it is its only owner.
    #[fusion(default)]
    fn with_block(
        x: FloatTensor<Self>,
        block: FloatTensor<Self>,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> FloatTensor<Self> {
        Self::float_slice_assign(x, &[rows.into(), columns.into()], block)
    }

    /// The matrix product of `lhs` and `rhs` in a block of `destination`, in its buffer if it is its only owner.
    #[fusion(dtype = destination, shape = destination)]
    fn matmul_into(
        destination: FloatTensor<Self>,
        lhs: FloatTensor<Self>,
        rhs: FloatTensor<Self>,
        into: MatmulInto,
    ) -> FloatTensor<Self> {
        portable::matmul_into::<Self>(destination, lhs, rhs, into)
    }

    /// The column of `weight`, `[hidden, vocab]`, of each target, as rows: `[rows, hidden]`, in the dtype that is computed in.
    /// 0 where the target is no column.
    #[fusion(default)]
    fn target_columns(weight: FloatTensor<Self>, targets: IntTensor<Self>) -> FloatTensor<Self> {
        portable::target_columns::<Self>(weight, targets)
    }

    /// `x` times one number, `[1]`; 0 where that number is 0, whatever `x` holds.
    #[fusion(default)]
    fn times(x: FloatTensor<Self>, factor: FloatTensor<Self>) -> FloatTensor<Self> {
        portable::times::<Self>(x, factor)
    }
}

/// What backends with kernels of their own compute from a block of logits in one pass. No autodiff: all results are constants.
#[backend_extension(
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Cube: cfg(feature = "cube"),
    Fusion: cfg(feature = "fusion")
)]
pub trait RowKernels: Backend {
    /// The softmax state of a block of logits that begins at column `offset` of the vocabulary: the columns of [`SoftmaxState`].
    /// With statistics, if the size of the vocabulary is given.
    ///
    /// [`SoftmaxState`]: super::SoftmaxState
    #[fusion(dtype = DType::F32, shape = Shape::new([z[0], SoftmaxState::COLUMNS]))]
    fn softmax_state(
        z: FloatTensor<Self>,
        targets: IntTensor<Self>,
        offset: usize,
        statistics: Option<usize>,
    ) -> FloatTensor<Self>;

    /// The softmax state of two parts of the same rows together.
    #[fusion(dtype = DType::F32, shape = one)]
    fn merge(one: FloatTensor<Self>, two: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Log-prob, `[rows, 1]`, or log-prob and entropy, `[rows, 2]`, from the state of whole rows.
    #[fusion(meta = |state, entropy| TensorSpec::new(Shape::new([state.shape[0], if *entropy { 2 } else { 1 }]), DType::F32))]
    fn outputs(state: FloatTensor<Self>, entropy: bool) -> FloatTensor<Self>;

    /// `exp(z − max)`, times the derivative of a soft cap.
    #[fusion(dtype = z, shape = z)]
    fn exp_rows(z: FloatTensor<Self>, state: FloatTensor<Self>, softcap: Option<f64>) -> FloatTensor<Self>;
}

#[cfg(feature = "tch")]
impl PreferenceOps for burn::backend::LibTorch {}

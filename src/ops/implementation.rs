//! Which implementation computes a result, and how logits and matrix products are specified.

use std::ops::Range;

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn_tensor::{DType, Device};

use super::{LogitTransform, PreferenceOps, device::has_kernels, dtype::arithmetic_dtype, portable};

/// What computes the numbers of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The backend's own kernels.
    Kernels,
    /// burn's operations alone.
    Portable,
}

impl Implementation {
    /// Kernels, where the backend has them for numbers of this dtype.
    pub(crate) fn fastest(device: &Device, dtype: DType) -> Self {
        if has_kernels(device, arithmetic_dtype(dtype)) { Self::Kernels } else { Self::Portable }
    }

    /// [`PreferenceOps::row_gradient`] by this implementation.
    pub(super) fn row_gradient<B: PreferenceOps>(
        self,
        z: FloatTensor<B>,
        targets: IntTensor<B>,
        state: FloatTensor<B>,
        upstream: FloatTensor<B>,
        offset: usize,
        transform: LogitTransform,
    ) -> FloatTensor<B> {
        match self {
            Self::Kernels => B::row_gradient(z, targets, state, upstream, offset, transform),
            Self::Portable => portable::row_gradient::<B>(z, targets, state, upstream, offset, transform),
        }
    }

    /// [`PreferenceOps::matmul_into`] by this implementation.
    pub(super) fn matmul_into<B: PreferenceOps>(
        self,
        destination: FloatTensor<B>,
        lhs: FloatTensor<B>,
        rhs: FloatTensor<B>,
        into: MatmulInto,
    ) -> FloatTensor<B> {
        match self {
            Self::Kernels => B::matmul_into(destination, lhs, rhs, into),
            Self::Portable => portable::matmul_into::<B>(destination, lhs, rhs, into),
        }
    }
}

/// Which block of the destination a matrix product fills, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct MatmulInto {
    /// Rows of the destination.
    pub rows: Range<usize>,
    /// Columns of the destination.
    pub columns: Range<usize>,
    /// Whether the product is added to the block, or replaces it.
    pub accumulate: bool,
    /// The product is multiplied by this.
    pub scale: f64,
}

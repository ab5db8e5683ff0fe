//! Reductions of rows that are right however long the row is.

use burn_tensor::{Bool, FloatDType, Int, IntDType, Tensor, s};

/// The largest entry of each row, `[rows, 1]`, by [`in_blocks`].
pub(crate) fn max_of_rows(rows: Tensor<2>) -> Tensor<2> {
    in_blocks(rows, Tensor::max_dim, |whole, rest| Tensor::cat(vec![whole, rest], 1).max_dim(1))
}

/// The sum of each row, `[rows, 1]`, by [`in_blocks`].
///
/// Added one after the other, 256 k terms lose up to 2e-4 of their sum; in three times 64, at most 192 roundings, 1e-5.
pub(crate) fn sum_in_blocks(terms: Tensor<2>) -> Tensor<2> {
    in_blocks(terms, Tensor::sum_dim, |whole, rest| whole + rest)
}

/// Reduces each row to one number, `[rows, 1]`, block by block and then over the blocks.
///
/// Not in one go: on wgpu, burn's reductions leave out the end of some rows longer than 65 534.
fn in_blocks(
    terms: Tensor<2>,
    reduce: fn(Tensor<3>, usize) -> Tensor<3>,
    join: fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    const BLOCK: usize = 64;
    let [rows, length] = terms.dims();
    let (blocks, rest) = (length / BLOCK, length % BLOCK);
    let reduced = |terms: Tensor<2>, blocks: usize, length: usize| -> Tensor<2> {
        reduce(terms.reshape([rows, blocks, length]), 2).reshape([rows, blocks])
    };
    if blocks < 2 {
        return reduced(terms, 1, length);
    }
    let over_blocks = |terms: Tensor<2>| in_blocks(reduced(terms, blocks, BLOCK), reduce, join);
    if rest == 0 {
        return over_blocks(terms);
    }
    let whole = blocks * BLOCK;
    join(over_blocks(terms.clone().slice(s![.., 0..whole])), reduced(terms.slice(s![.., whole..length]), 1, rest))
}

/// How many of each row are true, `[rows]`, in 32 bits: the device's default integer may be as narrow as its user likes.
///
/// Counted in f32, exact up to 2²⁴, by the sum that is right for long rows.
pub(crate) fn count(flags: Tensor<2, Bool>) -> Tensor<1, Int> {
    let ones = flags.float().cast(FloatDType::F32);
    sum_in_blocks(ones).squeeze_dim::<1>(1).int().cast(IntDType::I32)
}

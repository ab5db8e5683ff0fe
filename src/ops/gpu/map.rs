//! One function of each number.

use cubecl::prelude::*;

use super::index::linear_index;

/// `softcap · tanh(z / softcap)`; `out` may be the buffer of `z`.
#[cube(launch, address_type = "dynamic")]
pub(in crate::ops) fn softcap_kernel<F: Float, N: Size>(
    z: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    softcap: f32,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < out.len() {
        let x = Vector::<f32, N>::cast_from(z[ABSOLUTE_POS]);
        let softcap = Vector::new(softcap);
        // beyond 15 it is 1, and the `tanh` of some shaders is NaN
        let argument = max(min(x / softcap, Vector::new(15.0f32)), Vector::new(-15.0f32));
        out[ABSOLUTE_POS] = Vector::cast_from(select_many(x.is_nan(), x, softcap * argument.tanh()));
    }
}

/// `scale · x`, `[rows, columns]`, written to a block of `out` that begins at `row` and `column`, or added to it.
#[cube(launch, address_type = "dynamic")]
pub(in crate::ops) fn accumulate_kernel<F: Float, N: Size>(
    x: &Tensor<Vector<F, N>>,
    out: &mut Tensor<Vector<F, N>>,
    row: usize,
    column: usize,
    scale: f32,
    #[comptime] accumulate: bool,
    #[define(F)] _dtype: ElemType,
) {
    let lanes = N::value();
    let width = x.shape(1) / lanes;
    if ABSOLUTE_POS < x.shape(0) * width {
        let from_row = ABSOLUTE_POS / width;
        let to = linear_index(row + from_row, out.shape(1) / lanes, column / lanes + ABSOLUTE_POS % width);
        let mut sum = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) * Vector::new(scale);
        if comptime!(accumulate) {
            sum += Vector::cast_from(out[to]);
        }
        out[to] = Vector::cast_from(sum);
    }
}

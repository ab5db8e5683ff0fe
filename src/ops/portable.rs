//! Row gradients and heads by burn's operations alone. They are right on any backend, and kernels are tested and measured against
//! them.

use burn::backend::{
    Backend, TensorMetadata, get_or_init_device_settings,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
use burn::tensor::{BoolDType, DType, FloatDType, Shape, Slice, TensorData};

use super::{LogitTransform, MatmulInto, dtype::arithmetic_dtype, softmax_state::column};

/// See [`PreferenceOps::row_gradient`](super::PreferenceOps::row_gradient).
///
/// With `p = exp(z − m)/S`, `d = m − z` (the gap), `D = Σ p d` (the mean gap), and `g`, `h` the incoming gradients of log-prob and
/// entropy:
///
/// ```text
/// ∂/∂z_v = p_v (h (d_v − D) − g)      v ≠ target
/// ∂/∂z_y = g (1 − p_y) + h p_y (d_y − D)
/// ```
///
/// `1 − p_y` is `(S − 1)/S` where the target is the largest logit, whose `exp(z − m)` is exactly 1; elsewhere `p_y ≤ ½`.
pub(super) fn row_gradient<B: Backend>(
    z: FloatTensor<B>,
    targets: IntTensor<B>,
    state: FloatTensor<B>,
    upstream: FloatTensor<B>,
    offset: usize,
    transform: LogitTransform,
) -> FloatTensor<B> {
    let own_dtype = FloatDType::from(z.dtype());
    let dtype = FloatDType::from(arithmetic_dtype(z.dtype()));
    let bools = get_or_init_device_settings::<B>(&z.device()).bool_dtype;
    let [rows, columns] = z.shape().dims();
    let wide = Shape::new([rows, columns]);
    let spread = |x: &FloatTensor<B>| B::float_expand(x.clone(), wide.clone());

    let z = B::float_cast(z, dtype);
    let upstream = B::float_cast(upstream, dtype);
    let state = B::float_cast(state, dtype);
    let of_column = |index: usize| column_of::<B>(&state, index);
    let (max, target) = (of_column(column::MAX), of_column(column::TARGET_LOGIT));
    let above_one =
        B::float_add(of_column(column::SUM_EXP_REST), B::float_sub_scalar(of_column(column::MAX_COUNT), 1.0.into()));
    let sum = B::float_add_scalar(above_one.clone(), 1.0.into());

    // NaN without a distribution, or without a target for a log-prob
    let of_log_prob = column_of::<B>(&upstream, 0);
    let of_entropy = (upstream.shape().dims::<2>()[1] > 1).then(|| column_of::<B>(&upstream, 1));
    let no_log_prob = B::float_equal_elem(of_log_prob.clone(), 0.0.into(), bools);
    let outside = B::bool_and(B::float_is_nan(target.clone(), bools), B::bool_not(no_log_prob.clone()));
    let no_distribution = B::bool_or(
        B::bool_not(is_finite::<B>(max.clone(), bools)),
        B::bool_or(B::float_lower_elem(sum.clone(), 0.5.into(), bools), B::float_is_nan(sum.clone(), bools)),
    );
    let undefined = B::bool_or(outside, no_distribution);
    let level = B::float_neg(B::float_div(of_log_prob.clone(), sum.clone()));
    let level = B::float_mask_fill(level, undefined.clone(), f64::NAN.into());

    // everywhere but at the target
    let mean_gap = B::float_div(of_column(column::SUM_EXP_GAP), sum.clone());
    let exp = B::float_exp(B::float_sub(z.clone(), spread(&max)));
    let gradient = match &of_entropy {
        None => B::float_mul(exp, spread(&level)),
        Some(h) => {
            // in this order: e is 0 where d is so large that h d is no number
            let gap = finite_or_zero::<B>(B::float_sub(spread(&max), z.clone()), bools);
            let of_one = B::float_mul(exp.clone(), B::float_sub(gap, spread(&mean_gap)));
            let none = B::bool_expand(B::float_equal_elem(h.clone(), 0.0.into(), bools), wide.clone());
            let per_gap = B::float_div(h.clone(), sum.clone());
            let own = B::float_mask_fill(B::float_mul(of_one, spread(&per_gap)), none, (-0.0).into()); // x + −0 is x
            B::float_add(own, B::float_mul(exp, spread(&level)))
        }
    };

    // at the target
    let target_exp = B::float_exp(B::float_sub(target.clone(), max.clone()));
    let target_prob = B::float_div(target_exp, sum.clone());
    let is_largest = B::float_equal(target.clone(), max.clone(), bools);
    let complement = B::float_mask_where(
        B::float_add_scalar(B::float_neg(target_prob.clone()), 1.0.into()),
        is_largest,
        B::float_div(above_one, sum.clone()),
    );
    let mut at_target = B::float_mul(of_log_prob.clone(), complement);
    if let Some(h) = &of_entropy {
        let target_gap = finite_or_zero::<B>(B::float_sub(max.clone(), target.clone()), bools);
        let own = B::float_mul(B::float_mul(target_prob, B::float_sub(target_gap, mean_gap)), h.clone());
        let none = B::float_equal_elem(h.clone(), 0.0.into(), bools);
        at_target = B::float_add(at_target, B::float_mask_fill(own, none, (-0.0).into()));
    }
    let at_target = B::float_mask_fill(at_target, undefined, f64::NAN.into());
    // without a gradient of the log-prob, the target is an entry like any other
    let is_target = is_target::<B>(&targets, offset, columns, rows, bools);
    let is_target = B::bool_and(is_target, B::bool_not(B::bool_expand(no_log_prob.clone(), wide.clone())));
    let gradient = B::float_mask_where(gradient, is_target, spread(&at_target));

    // through the transform of the logits
    let gradient = match transform.softcap {
        None => gradient,
        Some(softcap) => B::float_mul(gradient, softcap_derivative::<B>(z, softcap)),
    };
    let gradient =
        if transform.scale == 1.0 { gradient } else { B::float_mul_scalar(gradient, transform.scale.into()) };

    // 0 where the incoming gradient is 0 or nothing is counted, whatever the row holds
    let unused = match of_entropy {
        None => no_log_prob,
        Some(h) => B::bool_and(no_log_prob, B::float_equal_elem(h, 0.0.into(), bools)),
    };
    let ignored = B::int_lower_elem(targets, 0.into(), bools);
    let unused = B::bool_or(unused, B::bool_reshape(ignored, Shape::new([rows, 1])));
    B::float_cast(B::float_mask_fill(gradient, B::bool_expand(unused, wide), 0.0.into()), own_dtype)
}

/// See [`PreferenceOps::softcap`](super::PreferenceOps::softcap).
pub(super) fn softcap<B: Backend>(z: FloatTensor<B>, softcap: f64) -> FloatTensor<B> {
    B::float_mul_scalar(B::float_tanh(B::float_div_scalar(z, softcap.into())), softcap.into())
}

/// `1 − (z/cap)²`: the derivative of `z = cap · tanh(x/cap)`.
pub(super) fn softcap_derivative<B: Backend>(z: FloatTensor<B>, softcap: f64) -> FloatTensor<B> {
    let tanh = B::float_div_scalar(z, softcap.into());
    B::float_add_scalar(B::float_neg(B::float_mul(tanh.clone(), tanh)), 1.0.into())
}

/// See [`PreferenceOps::matmul_into`](super::PreferenceOps::matmul_into).
pub(super) fn matmul_into<B: Backend>(
    destination: FloatTensor<B>,
    lhs: FloatTensor<B>,
    rhs: FloatTensor<B>,
    product: MatmulInto,
) -> FloatTensor<B> {
    let MatmulInto { rows, columns, accumulate, scale } = product;
    let whole = destination.shape().dims() == [rows.len(), columns.len()];
    let part = [Slice::from(rows), Slice::from(columns)];
    let value = B::float_matmul(lhs, rhs);
    let value = if scale == 1.0 { value } else { B::float_mul_scalar(value, scale.into()) };
    let value = match (accumulate, whole) {
        (false, _) => value,
        (true, true) => return B::float_add(destination, value),
        (true, false) => B::float_add(B::float_slice(destination.clone(), &part), value),
    };
    if whole { value } else { B::float_slice_assign(destination, &part, value) }
}

/// See [`PreferenceOps::target_columns`](super::PreferenceOps::target_columns).
pub(super) fn target_columns<B: Backend>(weight: FloatTensor<B>, targets: IntTensor<B>) -> FloatTensor<B> {
    let bools = get_or_init_device_settings::<B>(&weight.device()).bool_dtype;
    let dtype = arithmetic_dtype(weight.dtype());
    let [hidden, vocab] = weight.shape().dims();
    let [rows] = targets.shape().dims();
    let undefined = B::bool_or(
        B::int_lower_elem(targets.clone(), 0.into(), bools),
        B::int_greater_equal_elem(targets.clone(), (vocab as i64).into(), bools),
    );
    let columns = B::int_mask_fill(targets, undefined.clone(), 0.into());
    let selected = B::float_cast(B::float_select(B::float_transpose(weight), 0, columns), dtype.into());
    let undefined = B::bool_expand(B::bool_reshape(undefined, Shape::new([rows, 1])), Shape::new([rows, hidden]));
    B::float_mask_fill(selected, undefined, 0.0.into())
}

/// See [`PreferenceOps::times`](super::PreferenceOps::times).
pub(super) fn times<B: Backend>(x: FloatTensor<B>, factor: FloatTensor<B>) -> FloatTensor<B> {
    let bools = get_or_init_device_settings::<B>(&x.device()).bool_dtype;
    let shape = x.shape();
    let ones = Shape::from(vec![1; shape.num_dims()]);
    let (own_dtype, dtype) = (x.dtype(), factor.dtype()); // a factor may be too large for 16 bits, or too small
    let factor = B::float_reshape(factor, ones);
    let unused = B::bool_expand(B::float_equal_elem(factor.clone(), 0.0.into(), bools), shape);
    let product = B::float_mul(B::float_cast(x, dtype.into()), factor);
    B::float_cast(B::float_mask_fill(product, unused, 0.0.into()), own_dtype.into())
}

fn column_of<B: Backend>(x: &FloatTensor<B>, index: usize) -> FloatTensor<B> {
    let [rows, _] = x.shape().dims();
    B::float_slice(x.clone(), &[Slice::from(0..rows), Slice::from(index..index + 1)])
}

fn finite_or_zero<B: Backend>(x: FloatTensor<B>, bools: BoolDType) -> FloatTensor<B> {
    let infinite = B::float_is_inf(x.clone(), bools);
    B::float_mask_fill(x, infinite, 0.0.into())
}

fn is_finite<B: Backend>(x: FloatTensor<B>, bools: BoolDType) -> BoolTensor<B> {
    B::bool_not(B::bool_or(B::float_is_inf(x.clone(), bools), B::float_is_nan(x, bools)))
}

/// Which entry of a block is its row's target, `[rows, columns]`.
fn is_target<B: Backend>(
    targets: &IntTensor<B>,
    offset: usize,
    columns: usize,
    rows: usize,
    bools: BoolDType,
) -> BoolTensor<B> {
    // written on the host: on wgpu, burn's `arange` is wrong beyond 65 535
    let ids: Vec<i32> = (offset..offset + columns).map(|id| id as i32).collect();
    let ids = TensorData::new(ids, [1, columns]).convert_dtype(DType::I32);
    let ids = B::int_expand(B::int_from_data(ids, &targets.device()), Shape::new([rows, columns]));
    let targets = B::int_reshape(targets.clone(), Shape::new([rows, 1]));
    B::int_equal(B::int_expand(targets, Shape::new([rows, columns])), ids, bools)
}

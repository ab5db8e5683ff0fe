//! An LM head tile by tile: the logits of all rows, a part of the vocabulary at a time, within a budget of memory.

use std::ops::Range;

use burn::backend::{
    Dispatch, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{DType, FloatDType, Int, Shape, Slice, Tensor, s};

use super::{Chain, PreferenceOps, Product, Road, RowKernels, RowSums, arithmetic_dtype, portable, zeros};

/// How logits come about: `z = cap · tanh(scale · (hidden · weight + bias) / cap)`, or without the cap; and in which tiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Whether the weight is `[vocab, hidden]`, as an embedding's is.
    pub transposed: bool,
    /// Whether there is a bias; without one it is of no elements.
    pub biased: bool,
    /// From the products to the logits.
    pub chain: Chain,
    /// Which part of the logits is held at a time.
    pub tiling: Tiling,
    /// By what it is computed.
    pub road: Road,
}

/// Which part of the logits `[rows, vocab]` is held at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiling {
    /// Rows of a tile.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
}

impl Tiling {
    /// A tile is not made larger than this even if it may be: what is written and read again should stay near the processor.
    const NEAR: usize = 16 << 20;
    /// Narrower products are slow.
    const NARROW: usize = 256;

    /// Tiles of at most `budget` bytes of logits, and of as many columns of `beside` numbers each, as wide as rows allow.
    ///
    /// All rows at once, so that every tile of the weight is read once; where not even a narrow tile of all rows fits, in
    /// parts. A tile has at least one logit, however small the budget.
    pub(crate) fn within(budget: usize, rows: usize, beside: usize, vocab: usize, dtype: DType, road: Road) -> Self {
        let numbers = (budget / dtype.size()).max(1);
        let near = match road {
            Road::Kernels => numbers.min(Self::NEAR / dtype.size()),
            Road::Portable => numbers,
        };
        let rows = rows.max(1);
        let widest = (numbers / (beside + 1)).clamp(1, vocab);
        let columns = (near / (rows + beside)).max(Self::NARROW).min(widest);
        let columns = vocab.div_ceil(vocab.div_ceil(columns)); // of equal width
        let left = numbers.saturating_sub(beside * columns);
        Self { rows: (left / columns).clamp(1, rows), columns }
    }
}

/// What one pass over the vocabulary gives.
pub(crate) struct Forward {
    pub(crate) sums: RowSums,
    /// `Σ_v e_v ∂z_v/∂x_v W_v`, `[rows, hidden]`, if it was asked for.
    pub(crate) weighted: Option<Tensor<2>>,
}

/// Logits that wait in the memory of a weight's gradient until it is made: each tile of them where the gradient of the same
/// columns will be.
///
/// A tile of the gradient has as many rows as there are hidden numbers, so that is how many rows of logits there is room
/// for.
#[derive(Debug)]
pub(crate) struct Kept {
    /// In the weight's own shape and orientation, in the format that is computed in.
    pub(crate) memory: Tensor<2>,
    /// How many rows are kept, the first ones.
    pub(crate) rows: usize,
}

impl Head {
    /// The gradients of hidden states, weight and bias, each if it is tracked, from those of log-probs, `[rows, 1]`; from the
    /// logits that were kept, as far as they were. All that comes back is without autodiff.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn gradient(
        &self,
        hidden: &Tensor<2>,
        weight: &Tensor<2>,
        bias: &Tensor<1>,
        targets: &Tensor<1, Int>,
        sums: RowSums,
        upstream: Tensor<2>,
        kept: Kept,
    ) -> Parts<Option<Tensor<2>>> {
        let wanted = Parts { hidden: hidden.is_tracked(), weight: weight.is_tracked(), bias: bias.is_tracked() };
        let saved = Saved::<Dispatch> {
            hidden: hidden.clone().without_autodiff().into_dispatch(),
            weight: weight.clone().without_autodiff().into_dispatch(),
            bias: bias.clone().without_autodiff().into_dispatch(),
            targets: targets.clone().into_dispatch(),
            sums: sums.0.into_dispatch(),
            head: *self,
        };
        let Kept { memory, rows } = kept;
        let Parts { hidden, weight, bias } =
            saved.gradient(upstream.into_dispatch(), wanted, Some((memory.into_dispatch(), rows)));
        let back = |gradient: Option<FloatTensor<Dispatch>>| gradient.map(Tensor::<2>::from_dispatch);
        let bias = bias.map(|bias| Tensor::<1>::from_dispatch(bias).unsqueeze_dim(0));
        Parts { hidden: back(hidden), weight: back(weight), bias }
    }

    /// What is known of each row of `hidden`, `[rows, hidden]`. All tensors without autodiff.
    pub(crate) fn forward(
        &self,
        hidden: &Tensor<2>,
        weight: &Tensor<2>,
        bias: &Tensor<1>,
        targets: &Tensor<1, Int>,
        statistics: Option<usize>,
        weighted: bool,
        mut kept: Option<&mut Kept>,
    ) -> Forward {
        let [rows, width] = hidden.dims();
        let [_, vocab] = self.dims(weight);
        let zeros = |rows: usize| zeros(hidden, [rows, width], hidden.dtype());
        let mut parts: Vec<Part> = row_parts(rows, self.tiling.rows, kept.as_ref().map_or(0, |kept| kept.rows))
            .into_iter()
            .map(|rows| Part { sums: None, weighted: weighted.then(|| zeros(rows.len())), rows })
            .collect();
        let mut workspace: Option<Tensor<2>> = None;
        for columns in columns_of(vocab, self.tiling.columns) {
            let tile = self.tile(weight, columns.clone(), hidden.dtype());
            for part in &mut parts {
                let hidden = hidden.clone().slice(s![part.rows.clone(), ..]);
                let targets = targets.clone().slice(s![part.rows.clone()]);
                let z = self.logits(workspace.take(), hidden, tile.clone(), bias, columns.clone());
                part.add(RowSums::of(&z, &targets, columns.start, statistics, self.road));
                if let Some(kept) = kept.as_deref_mut().filter(|kept| part.rows.end <= kept.rows) {
                    kept.put(self, z.clone(), columns.clone());
                }
                workspace = Some(match part.weighted.take() {
                    None => z,
                    Some(weighted) => {
                        let probs = exp_rows(z, part.sums(), self.chain.cap, self.road);
                        let product =
                            Product { rows: 0..part.rows.len(), columns: 0..width, accumulate: true, scale: 1.0 };
                        part.weighted =
                            Some(self.product_into(weighted, probs.clone(), tile.clone().transpose(), product));
                        probs
                    }
                });
            }
        }
        let (sums, weighted): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.sums().0.clone(), part.weighted)).unzip();
        let weighted: Option<Vec<_>> = weighted.into_iter().collect();
        Forward { sums: RowSums(Tensor::cat(sums, 0)), weighted: weighted.map(|parts| Tensor::cat(parts, 0)) }
    }

    /// The logits of some rows and columns, `[rows, columns]`, in the workspace if it fits.
    pub(crate) fn logits(
        &self,
        workspace: Option<Tensor<2>>,
        hidden: Tensor<2>,
        tile: Tensor<2>,
        bias: &Tensor<1>,
        columns: Range<usize>,
    ) -> Tensor<2> {
        let shape = [hidden.dims()[0], columns.len()];
        let workspace = workspace.filter(|workspace| workspace.dims() == shape);
        let workspace = workspace.unwrap_or_else(|| zeros(&hidden, shape, hidden.dtype()));
        Tensor::from_dispatch(logits::<Dispatch>(
            self,
            workspace.into_dispatch(),
            hidden.into_dispatch(),
            tile.into_dispatch(),
            &bias.clone().into_dispatch(),
            columns,
        ))
    }

    /// Some columns of the weight, `[hidden, columns]`, in the format that is computed in.
    pub(crate) fn tile(&self, weight: &Tensor<2>, columns: Range<usize>, dtype: DType) -> Tensor<2> {
        Tensor::from_dispatch(tile::<Dispatch>(self, &weight.clone().into_dispatch(), columns, dtype.into()))
    }

    /// The product of two matrices in a part of a third.
    pub(crate) fn product_into(
        &self,
        destination: Tensor<2>,
        lhs: Tensor<2>,
        rhs: Tensor<2>,
        product: Product,
    ) -> Tensor<2> {
        let [destination, lhs, rhs] = [destination, lhs, rhs].map(Tensor::into_dispatch);
        Tensor::from_dispatch(self::product_into::<Dispatch>(self, destination, lhs, rhs, product))
    }

    /// The column of the weight of each target, `[rows, hidden]`, in the format that is computed in; 0 where there is none.
    pub(crate) fn target_columns(&self, weight: &Tensor<2>, targets: &Tensor<1, Int>) -> Tensor<2> {
        let weight = weight.clone().without_autodiff();
        let weight = if self.transposed { weight.transpose() } else { weight }.into_dispatch();
        let targets = targets.clone().into_dispatch();
        Tensor::from_dispatch(match self.road {
            Road::Kernels => Dispatch::target_columns(weight, targets),
            Road::Portable => portable::target_columns::<Dispatch>(weight, targets),
        })
    }

    /// `outputs`, `[rows, 1]` (log-prob) or `[rows, 2]` (and entropy), in the graph of what they are functions of; the logits
    /// are made once more in the backward pass.
    pub(crate) fn with_gradient(
        &self,
        outputs: Tensor<2>,
        hidden: &Tensor<2>,
        weight: &Tensor<2>,
        bias: &Tensor<1>,
        targets: &Tensor<1, Int>,
        sums: RowSums,
    ) -> Tensor<2> {
        let outputs = outputs.cast(FloatDType::from(hidden.dtype()));
        if !(hidden.is_tracked() || weight.is_tracked() || bias.is_tracked()) {
            return outputs;
        }
        Tensor::from_dispatch(Dispatch::with_head_gradient(
            outputs.into_dispatch(),
            hidden.clone().into_dispatch(),
            weight.clone().into_dispatch(),
            bias.clone().into_dispatch(),
            targets.clone().into_dispatch(),
            sums.0.into_dispatch(),
            *self,
        ))
    }

    /// `[hidden, vocab]`.
    pub(crate) fn dims(&self, weight: &Tensor<2>) -> [usize; 2] {
        let [rows, columns] = weight.dims();
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }

    /// The part of a weight that belongs to some columns of the vocabulary.
    fn part(&self, width: usize, columns: Range<usize>) -> [Range<usize>; 2] {
        if self.transposed { [columns, 0..width] } else { [0..width, columns] }
    }
}

/// Some rows on their way through the vocabulary.
struct Part {
    rows: Range<usize>,
    sums: Option<RowSums>,
    weighted: Option<Tensor<2>>,
}

impl Part {
    /// Takes in what another tile adds. What was weighted with the largest logit so far is weighted with the new one.
    fn add(&mut self, tile: RowSums) {
        let Some(before) = self.sums.take() else {
            self.sums = Some(tile);
            return;
        };
        let (max, merged) = (before.max(), before.merge(tile));
        self.weighted = self.weighted.take().map(|weighted| {
            let same = max.clone().equal(merged.max());
            let factor = (max - merged.max()).mask_fill(same, 0.0).exp(); // ∞ − ∞ where both are
            let dtype = weighted.dtype();
            weighted * factor.cast(FloatDType::from(dtype))
        });
        self.sums = Some(merged);
    }

    fn sums(&self) -> &RowSums {
        self.sums.as_ref().expect("a vocabulary has at least one tile")
    }
}

impl Kept {
    /// Room for the logits of up to `rows` rows, in one part: where the gradient of some columns is made, all that was kept
    /// there has to be in use already.
    pub(crate) fn new(head: &Head, weight: &Tensor<2>, rows: usize, dtype: DType) -> Self {
        let [width, _] = head.dims(weight);
        Self { memory: zeros(weight, weight.dims(), dtype), rows: rows.min(width).min(head.tiling.rows) }
    }

    fn put(&mut self, head: &Head, z: Tensor<2>, columns: Range<usize>) {
        let memory = std::mem::replace(&mut self.memory, Tensor::empty([0, 0], &z.device())); // its only owner writes in place
        let (memory, z) = (memory.into_dispatch(), z.into_dispatch());
        self.memory = Tensor::from_dispatch(with_logits::<Dispatch>(head, memory, z, columns));
    }
}

/// A matrix as which the memory of a weight's gradient holds logits of `columns`, and where in it they are.
///
/// Beside each other where the gradient's columns are those of the vocabulary; where its rows are, one after the other in the
/// rows' place.
fn place_of_logits<B: PreferenceOps>(
    head: &Head,
    memory: FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> (FloatTensor<B>, [Range<usize>; 2]) {
    if !head.transposed {
        return (memory, [0..rows, columns]);
    }
    let (width, numbers) = (memory.shape().dims::<2>()[1], memory.shape().num_elements());
    let start = columns.start * width;
    (B::float_reshape(memory, Shape::new([1, numbers])), [0..1, start..start + rows * columns.len()])
}

/// Puts the logits of the first rows where the gradient of the weight's same columns will be.
fn with_logits<B: PreferenceOps>(
    head: &Head,
    memory: FloatTensor<B>,
    z: FloatTensor<B>,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = memory.shape();
    let (memory, [rows, columns]) = place_of_logits::<B>(head, memory, z.shape().dims::<2>()[0], columns);
    let z = B::float_reshape(z, Shape::new([rows.len(), columns.len()]));
    B::float_reshape(B::with_block(memory, z, rows, columns), shape)
}

/// The logits that [`with_logits`] put there.
fn logits_of<B: PreferenceOps>(
    head: &Head,
    memory: &FloatTensor<B>,
    rows: usize,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let shape = Shape::new([rows, columns.len()]);
    let (memory, [rows, columns]) = place_of_logits::<B>(head, memory.clone(), rows, columns);
    B::float_reshape(B::block(memory, rows, columns), shape)
}

/// The columns of a vocabulary, in tiles.
fn columns_of(vocab: usize, tile: usize) -> impl Iterator<Item = Range<usize>> {
    (0..vocab).step_by(tile).map(move |start| start..vocab.min(start + tile))
}

/// Rows in parts of at most `part`, none of which has both rows that are kept and rows that are not.
fn row_parts(rows: usize, part: usize, kept: usize) -> Vec<Range<usize>> {
    let parts = |all: Range<usize>| all.clone().step_by(part).map(move |start| start..all.end.min(start + part));
    parts(0..kept).chain(parts(kept..rows)).collect()
}

/// `exp(z − max) ∂z/∂x` of each logit, with what is known of its row.
fn exp_rows(z: Tensor<2>, sums: &RowSums, cap: Option<f64>, road: Road) -> Tensor<2> {
    match road {
        Road::Kernels => {
            Tensor::from_dispatch(Dispatch::exp_rows(z.into_dispatch(), sums.0.clone().into_dispatch(), cap))
        }
        Road::Portable => {
            let exp = (z.clone() - sums.max().cast(FloatDType::from(z.dtype()))).exp();
            match cap {
                None => exp,
                Some(cap) => exp * (-(z / cap).square() + 1.0),
            }
        }
    }
}

/// What a head's backward pass starts from.
#[derive(Debug, Clone)]
pub(super) struct Saved<B: PreferenceOps> {
    pub hidden: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    pub bias: FloatTensor<B>,
    pub targets: IntTensor<B>,
    pub sums: FloatTensor<B>,
    pub head: Head,
}

/// Which gradients are wanted, and what they came to.
pub(crate) struct Parts<T> {
    pub hidden: T,
    pub weight: T,
    pub bias: T,
}

impl<B: PreferenceOps> Saved<B> {
    /// The gradients of hidden states, weight and bias, each if it is wanted. Each logit is made once more, but for those of
    /// the first `kept_rows` rows if they are in `kept`, which becomes the gradient of the weight.
    pub(super) fn gradient(
        self,
        upstream: FloatTensor<B>,
        wanted: Parts<bool>,
        kept: Option<(FloatTensor<B>, usize)>,
    ) -> Parts<Option<FloatTensor<B>>> {
        let Self { hidden, weight, bias, targets, sums, head } = self;
        let [rows, width] = hidden.shape().dims();
        let vocab = if head.transposed { weight.shape().dims::<2>()[0] } else { weight.shape().dims::<2>()[1] };
        let zeros = |shape: [usize; 2], dtype: FloatDType| B::zeros(weight.clone(), shape, dtype.into());
        let (dtype, own_dtype) = (FloatDType::from(hidden.dtype()), FloatDType::from(weight.dtype()));
        let [_, outputs] = upstream.shape().dims();

        let mut of_hidden = wanted.hidden.then(|| zeros([rows, width], dtype));
        let kept_rows = kept.as_ref().map_or(0, |(_, rows)| *rows);
        let mut of_weight = match kept {
            Some((memory, _)) => Some(memory),
            None => wanted.weight.then(|| zeros(weight.shape().dims(), own_dtype)),
        };
        let mut of_bias: Option<Vec<FloatTensor<B>>> = wanted.bias.then(Vec::new);
        let mut workspace: Option<FloatTensor<B>> = None;
        for columns in columns_of(vocab, head.tiling.columns) {
            let tile = tile::<B>(&head, &weight, columns.clone(), dtype);
            let [weight_rows, weight_columns] = head.part(width, columns.clone());
            // of a weight in another format the gradient is summed up in the one computed in
            let mut aside =
                (wanted.weight && own_dtype != dtype).then(|| zeros([weight_rows.len(), weight_columns.len()], dtype));
            let mut of_tile_bias: Option<FloatTensor<B>> = None;
            for part in row_parts(rows, head.tiling.rows, kept_rows) {
                let first = part.start == 0;
                let of_rows = |x: &FloatTensor<B>, width: usize| {
                    B::float_slice(x.clone(), &[Slice::from(part.clone()), Slice::from(0..width)])
                };
                let hidden = of_rows(&hidden, width);
                let targets = B::int_slice(targets.clone(), &[Slice::from(part.clone())]);
                let z = match &of_weight {
                    Some(memory) if part.end <= kept_rows => logits_of::<B>(&head, memory, part.len(), columns.clone()),
                    _ => {
                        let shape = Shape::new([part.len(), columns.len()]);
                        let place = workspace.take().filter(|place| place.shape() == shape);
                        let place = place.unwrap_or_else(|| zeros(shape.dims(), dtype));
                        logits::<B>(&head, place, hidden.clone(), tile.clone(), &bias, columns.clone())
                    }
                };
                let (sums, upstream) = (of_rows(&sums, 8), of_rows(&upstream, outputs));
                let of_logits = gradient::<B>(&head, z, targets, sums, upstream, columns.start);

                of_hidden = of_hidden.map(|destination| {
                    let product = Product { rows: part.clone(), columns: 0..width, accumulate: true, scale: 1.0 };
                    product_into::<B>(&head, destination, of_logits.clone(), B::float_transpose(tile.clone()), product)
                });
                if wanted.weight {
                    let (lhs, rhs) = if head.transposed {
                        (B::float_transpose(of_logits.clone()), hidden)
                    } else {
                        (B::float_transpose(hidden), of_logits.clone())
                    };
                    let (rows, columns) = match &aside {
                        Some(_) => (0..weight_rows.len(), 0..weight_columns.len()),
                        None => (weight_rows.clone(), weight_columns.clone()),
                    };
                    let product = Product { rows, columns, accumulate: !first, scale: 1.0 };
                    let place = if aside.is_some() { &mut aside } else { &mut of_weight };
                    *place = place.take().map(|place| product_into::<B>(&head, place, lhs, rhs, product));
                }
                if wanted.bias {
                    let sum = B::float_sum_dim(of_logits.clone(), 0);
                    of_tile_bias = Some(match of_tile_bias {
                        None => sum,
                        Some(before) => B::float_add(before, sum),
                    });
                }
                workspace = Some(of_logits);
            }
            if let (Some(aside), Some(whole)) = (aside, of_weight.take_if(|_| own_dtype != dtype)) {
                let place = [Slice::from(weight_rows), Slice::from(weight_columns)];
                of_weight = Some(B::float_slice_assign(whole, &place, B::float_cast(aside, own_dtype)));
            }
            if let (Some(all), Some(of_tile)) = (&mut of_bias, of_tile_bias) {
                all.push(of_tile);
            }
        }
        let of_bias = of_bias.map(|tiles| {
            let whole = B::float_reshape(B::float_cat(tiles, 1), Shape::new([vocab]));
            B::float_cast(whole, bias.dtype().into())
        });
        Parts { hidden: of_hidden, weight: of_weight, bias: of_bias }
    }
}

fn tile<B: PreferenceOps>(
    head: &Head,
    weight: &FloatTensor<B>,
    columns: Range<usize>,
    dtype: FloatDType,
) -> FloatTensor<B> {
    let width = weight.shape().dims::<2>()[if head.transposed { 1 } else { 0 }];
    let part = head.part(width, columns).map(Slice::from);
    let tile = B::float_slice(weight.clone(), &part);
    let tile = if FloatDType::from(tile.dtype()) == dtype { tile } else { B::float_cast(tile, dtype) };
    if head.transposed { B::float_transpose(tile) } else { tile }
}

fn logits<B: PreferenceOps>(
    head: &Head,
    place: FloatTensor<B>,
    hidden: FloatTensor<B>,
    tile: FloatTensor<B>,
    bias: &FloatTensor<B>,
    columns: Range<usize>,
) -> FloatTensor<B> {
    let [rows, width] = place.shape().dims();
    let place = if head.biased {
        let bias = B::float_slice(bias.clone(), &[Slice::from(columns)]);
        let bias = B::float_cast(B::float_reshape(bias, Shape::new([1, width])), hidden.dtype().into());
        B::float_repeat_dim(B::float_mul_scalar(bias, head.chain.scale.into()), 0, rows)
    } else {
        place
    };
    let product = Product { rows: 0..rows, columns: 0..width, accumulate: head.biased, scale: head.chain.scale };
    let z = product_into::<B>(head, place, hidden, tile, product);
    match (head.chain.cap, head.road) {
        (None, _) => z,
        (Some(cap), Road::Kernels) => B::soft_cap(z, cap),
        (Some(cap), Road::Portable) => portable::soft_cap::<B>(z, cap),
    }
}

fn gradient<B: PreferenceOps>(
    head: &Head,
    z: FloatTensor<B>,
    targets: IntTensor<B>,
    sums: FloatTensor<B>,
    upstream: FloatTensor<B>,
    offset: usize,
) -> FloatTensor<B> {
    match head.road {
        Road::Kernels => B::row_gradient(z, targets, sums, upstream, offset, head.chain),
        Road::Portable => portable::row_gradient::<B>(z, targets, sums, upstream, offset, head.chain),
    }
}

fn product_into<B: PreferenceOps>(
    head: &Head,
    destination: FloatTensor<B>,
    lhs: FloatTensor<B>,
    rhs: FloatTensor<B>,
    product: Product,
) -> FloatTensor<B> {
    match head.road {
        Road::Kernels => B::product_into(destination, lhs, rhs, product),
        Road::Portable => portable::product_into::<B>(destination, lhs, rhs, product),
    }
}

/// The format that a head computes in.
pub(crate) fn head_dtype(hidden: DType, weight: DType) -> DType {
    if hidden == DType::F64 || weight == DType::F64 { DType::F64 } else { arithmetic_dtype(hidden) }
}

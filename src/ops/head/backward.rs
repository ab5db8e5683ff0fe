//! Gradients of hidden states, weight and bias, tile by tile.

use std::ops::Range;

use burn::backend::{
    Dispatch, TensorMetadata, get_or_init_device_settings,
    tensor::{FloatTensor, IntTensor},
};
use burn_tensor::{Shape, Slice, Tensor};

use super::{
    Head, HeadInputs, LogitCache, MatmulInto, PreferenceOps, SoftmaxState, columns_of, logit_cache::load, logits,
    oriented, row_parts, tile, to_dtype,
};

/// What a head's backward pass needs.
#[derive(Debug, Clone)]
pub(crate) struct Saved<B: PreferenceOps> {
    pub hidden: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    pub bias: FloatTensor<B>,
    pub targets: IntTensor<B>,
    pub state: FloatTensor<B>,
    pub head: Head,
}

/// Which gradients are wanted, and what they came to.
pub(crate) struct HeadGradients<T> {
    pub hidden: T,
    pub weight: T,
    pub bias: T,
}

impl<B: PreferenceOps> Saved<B> {
    /// The gradients of hidden states, weight and bias, each if it is wanted. Logits are computed again, but for cached ones; the
    /// buffer of the cache becomes the gradient of the weight.
    ///
    /// A row whose upstream gradients are 0 contributes nothing, whatever its hidden states hold.
    pub(crate) fn gradient(
        mut self,
        upstream: FloatTensor<B>,
        wanted: HeadGradients<bool>,
        cache: Option<(FloatTensor<B>, usize)>,
    ) -> HeadGradients<Option<FloatTensor<B>>> {
        self.hidden = without_unused_rows::<B>(self.hidden, &upstream);
        let head = self.head;
        let [rows, width] = self.hidden.shape().dims();
        let [_, vocab] = oriented(self.weight.shape().dims(), head.transposed);
        let mut summed = Summed::begin(&self, &wanted, cache);
        for columns in columns_of(vocab, head.tiling.columns) {
            let factor = tile::<B>(&head, &self.weight, columns.clone());
            let weight = to_dtype::<B>(factor.clone(), self.hidden.dtype());
            let tile = Tile { factor, weight, block: head.block(width, columns.clone()), columns };
            summed.begin_tile(&self, &tile);
            for part in row_parts(rows, head.tiling.rows, summed.cached_rows) {
                let z = summed.logits(&self, &tile, &part);
                let of_logits = head.implementation.row_gradient::<B>(
                    z,
                    B::int_slice(self.targets.clone(), &[Slice::from(part.clone())]),
                    of_rows::<B>(&self.state, &part),
                    of_rows::<B>(&upstream, &part),
                    tile.columns.start,
                    head.transform,
                );
                summed.add(&self, &tile, &part, of_logits);
            }
            summed.end_tile(&self, &tile);
        }
        summed.gradients(&self, vocab)
    }
}

/// Some columns of the vocabulary.
struct Tile<B: PreferenceOps> {
    columns: Range<usize>,
    /// `[hidden, columns]`, in the dtype of the factors.
    factor: FloatTensor<B>,
    /// The same, in the dtype that is computed in.
    weight: FloatTensor<B>,
    /// The block of the weight that they are.
    block: [Range<usize>; 2],
}

/// The gradients so far.
struct Summed<B: PreferenceOps> {
    /// Hidden states in the dtype of the factors.
    factors: FloatTensor<B>,
    hidden: Option<FloatTensor<B>>,
    /// With a cache, it holds the logits of tiles to come.
    weight: Option<FloatTensor<B>>,
    /// The current tile's block of it in the dtype that is computed in, if that is not the weight's own.
    converted_tile: Option<FloatTensor<B>>,
    /// Of each tile, `[1, columns]`.
    bias: Option<Vec<FloatTensor<B>>>,
    cached_rows: usize,
    workspace: Option<FloatTensor<B>>,
}

impl<B: PreferenceOps> Summed<B> {
    fn begin(saved: &Saved<B>, wanted: &HeadGradients<bool>, cache: Option<(FloatTensor<B>, usize)>) -> Self {
        let (cache, cached_rows) = cache.unzip();
        let zeros = |like: &FloatTensor<B>| B::zeros(like.clone(), like.shape().dims(), like.dtype());
        Self {
            factors: to_dtype::<B>(saved.hidden.clone(), saved.head.factors),
            hidden: wanted.hidden.then(|| zeros(&saved.hidden)),
            weight: cache.or_else(|| wanted.weight.then(|| zeros(&saved.weight))),
            converted_tile: None,
            bias: wanted.bias.then(Vec::new),
            cached_rows: cached_rows.unwrap_or(0),
            workspace: None,
        }
    }

    fn begin_tile(&mut self, saved: &Saved<B>, tile: &Tile<B>) {
        let dtype = saved.hidden.dtype();
        if self.weight.is_some() && saved.weight.dtype() != dtype {
            let shape = tile.block.clone().map(|range| range.len());
            self.converted_tile = Some(B::zeros(saved.hidden.clone(), shape, dtype));
        }
    }

    /// The logits of these rows in the tile: cached ones, or computed again.
    fn logits(&mut self, saved: &Saved<B>, tile: &Tile<B>, part: &Range<usize>) -> FloatTensor<B> {
        let (head, columns) = (&saved.head, tile.columns.clone());
        if let Some(buffer) = self.weight.as_ref().filter(|_| part.end <= self.cached_rows) {
            return load::<B>(head, buffer, part.len(), columns);
        }
        let (hidden, dtype) = (of_rows::<B>(&self.factors, part), saved.hidden.dtype());
        logits::<B>(head, self.workspace.take(), hidden, tile.factor.clone(), &saved.bias, columns, dtype)
    }

    /// Adds the contributions of these rows' logits in the tile.
    fn add(&mut self, saved: &Saved<B>, tile: &Tile<B>, part: &Range<usize>, of_logits: FloatTensor<B>) {
        let head = &saved.head;
        let hidden = of_rows::<B>(&saved.hidden, part);
        let first = part.start == 0;
        self.hidden = self.hidden.take().map(|sum| {
            let [_, columns] = hidden.shape().dims();
            let into = MatmulInto { rows: part.clone(), columns: 0..columns, accumulate: true, scale: 1.0 };
            let weight = B::float_transpose(tile.weight.clone());
            head.implementation.matmul_into::<B>(sum, of_logits.clone(), weight, into)
        });
        let (lhs, rhs) = match head.transposed {
            true => (B::float_transpose(of_logits.clone()), hidden),
            false => (B::float_transpose(hidden), of_logits.clone()),
        };
        let into = |[rows, columns]: [Range<usize>; 2]| MatmulInto { rows, columns, accumulate: !first, scale: 1.0 };
        if let Some(tile_gradient) = self.converted_tile.take() {
            let whole = tile_gradient.shape().dims().map(|length| 0..length);
            self.converted_tile = Some(head.implementation.matmul_into::<B>(tile_gradient, lhs, rhs, into(whole)));
        } else if let Some(sum) = self.weight.take() {
            self.weight = Some(head.implementation.matmul_into::<B>(sum, lhs, rhs, into(tile.block.clone())));
        }
        if let Some(tiles) = &mut self.bias {
            let sum = B::float_sum_dim(of_logits.clone(), 0);
            let sum = if first { sum } else { B::float_add(tiles.pop().expect("of the first rows"), sum) };
            tiles.push(sum);
        }
        self.workspace = Some(of_logits);
    }

    fn end_tile(&mut self, saved: &Saved<B>, tile: &Tile<B>) {
        if let Some(tile_gradient) = self.converted_tile.take() {
            let block = tile.block.clone().map(Slice::from);
            let tile_gradient = B::float_cast(tile_gradient, saved.weight.dtype().into());
            self.weight = self.weight.take().map(|sum| B::float_slice_assign(sum, &block, tile_gradient));
        }
    }

    fn gradients(self, saved: &Saved<B>, vocab: usize) -> HeadGradients<Option<FloatTensor<B>>> {
        let bias = self.bias.map(|tiles| {
            let whole = B::float_reshape(B::float_cat(tiles, 1), Shape::new([vocab]));
            B::float_cast(whole, saved.bias.dtype().into())
        });
        HeadGradients { hidden: self.hidden, weight: self.weight, bias }
    }
}

/// Hidden states, 0 where the upstream gradients of log-prob and entropy are 0: the product of NaN with 0 would be NaN.
fn without_unused_rows<B: PreferenceOps>(hidden: FloatTensor<B>, upstream: &FloatTensor<B>) -> FloatTensor<B> {
    let bools = get_or_init_device_settings::<B>(&hidden.device()).bool_dtype;
    let [rows, outputs] = upstream.shape().dims();
    let unused = (0..outputs)
        .map(|output| {
            let one = [Slice::from(0..rows), Slice::from(output..output + 1)];
            B::float_equal_elem(B::float_slice(upstream.clone(), &one), 0.0.into(), bools)
        })
        .reduce(B::bool_and)
        .expect("a log-prob at least");
    let shape = hidden.shape();
    B::float_mask_fill(hidden, B::bool_expand(unused, shape), 0.0.into())
}

/// Some rows of a matrix.
fn of_rows<B: PreferenceOps>(x: &FloatTensor<B>, rows: &Range<usize>) -> FloatTensor<B> {
    let [_, columns] = x.shape().dims();
    B::float_slice(x.clone(), &[Slice::from(rows.clone()), Slice::from(0..columns)])
}

impl Head {
    /// The gradients of the tracked inputs, from those of log-probs, `[rows, 1]`, and the cached logits. Without a graph.
    pub(crate) fn gradient(
        &self,
        inputs: &HeadInputs,
        state: &SoftmaxState,
        upstream: Tensor<2>,
        cache: LogitCache,
    ) -> HeadGradients<Option<Tensor<2>>> {
        let HeadInputs { hidden, weight, bias, targets } = inputs;
        let wanted =
            HeadGradients { hidden: hidden.is_tracked(), weight: weight.is_tracked(), bias: bias.is_tracked() };
        let HeadInputs { hidden, weight, bias, .. } = inputs.without_autodiff();
        let saved = Saved::<Dispatch> {
            hidden: hidden.into_dispatch(),
            weight: weight.into_dispatch(),
            bias: bias.into_dispatch(),
            targets: targets.clone().into_dispatch(),
            state: state.columns().into_dispatch(),
            head: *self,
        };
        let cache = (cache.buffer.into_dispatch(), cache.rows);
        let gradients = saved.gradient(upstream.into_dispatch(), wanted, Some(cache));
        let back = |gradient: Option<FloatTensor<Dispatch>>| gradient.map(Tensor::<2>::from_dispatch);
        let of_bias = gradients.bias.map(|bias| Tensor::<1>::from_dispatch(bias).unsqueeze_dim(0));
        HeadGradients { hidden: back(gradients.hidden), weight: back(gradients.weight), bias: of_bias }
    }
}

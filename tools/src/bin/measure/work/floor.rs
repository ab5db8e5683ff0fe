//! What no way of doing the work is without, by burn's own kernels: what a GPU's times are compared with.
//!
//! All that is computed is handed on: what nobody holds might not be computed. A number of each is read back once, as devices
//! say only then that they could not.

use burn::tensor::{DType, Device, Tensor, TensorData, s};

use super::{Results, Size, Work, drawn};

/// Each logit is read once, and something written once in a buffer of its own, as a device's bandwidth is measured. The same
/// for both passes.
pub struct Copied {
    /// `[rows, vocab]`.
    logits: Tensor<2>,
}

impl Copied {
    pub fn new(size: &Size, dtype: DType, device: &Device) -> Self {
        Self { logits: normal([size.rows, size.vocab], 4.0, dtype, device) }
    }
}

impl Work for Copied {
    type Answer = Tensor<2>;
    type Start = ();
    type Step = Tensor<2>;

    fn forward(&self) -> anyhow::Result<Tensor<2>> {
        Ok(self.logits.clone() + 1)
    }

    fn start(&self) {}

    fn forward_backward(&self, _: ()) -> anyhow::Result<Tensor<2>> {
        self.forward()
    }

    fn results(&self, copied: Tensor<2>) -> anyhow::Result<Results> {
        last_of(&[copied])
    }
}

/// The matrix products of the counted tokens alone.
pub struct Products {
    policy: Model,
    reference: Option<Model>,
    frozen_head: bool,
}

struct Model {
    /// `[counted tokens, hidden]`.
    hidden: Tensor<2>,
    /// `[hidden, vocab]`.
    weight: Tensor<2>,
}

impl Model {
    fn new(size: &Size, dtype: DType, device: &Device) -> Self {
        let Size { rows, vocab, hidden, time, .. } = *size;
        // token 0 is not predicted
        let counted = rows * size.counted(time).min(time - 1);
        Self {
            hidden: normal([counted, hidden], 1.0, dtype, device),
            weight: normal([hidden, vocab], (hidden as f32).powf(-0.5), dtype, device),
        }
    }

    fn logits(&self) -> Tensor<2> {
        self.hidden.clone().matmul(self.weight.clone())
    }
}

impl Products {
    pub fn new(size: &Size, has_reference: bool, dtype: DType, device: &Device) -> Self {
        let model = || Model::new(size, dtype, device);
        Self { policy: model(), reference: has_reference.then(model), frozen_head: size.frozen_head }
    }
}

impl Work for Products {
    type Answer = Vec<Tensor<2>>;
    type Start = ();
    type Step = Vec<Tensor<2>>;

    fn forward(&self) -> anyhow::Result<Vec<Tensor<2>>> {
        Ok(self.reference.iter().chain([&self.policy]).map(Model::logits).collect())
    }

    fn start(&self) {}

    fn forward_backward(&self, _: ()) -> anyhow::Result<Vec<Tensor<2>>> {
        let mut products: Vec<_> = self.reference.iter().map(Model::logits).collect();
        let Model { hidden, weight } = &self.policy;
        // in place of the logits' gradient, which is as large
        let logits = self.policy.logits();
        products.push(logits.clone().matmul(weight.clone().transpose()));
        if !self.frozen_head {
            products.push(hidden.clone().transpose().matmul(logits));
        }
        Ok(products)
    }

    fn results(&self, products: Vec<Tensor<2>>) -> anyhow::Result<Results> {
        last_of(&products)
    }
}

/// The last number of each.
fn last_of(tensors: &[Tensor<2>]) -> anyhow::Result<Results> {
    let last = |tensor: &Tensor<2>| tensor.clone().slice(s![-1.., -1..]).into_data();
    Ok(tensors.iter().map(|tensor| ("last", last(tensor))).collect())
}

fn normal(shape: [usize; 2], scale: f32, dtype: DType, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(drawn::normal(1, shape.iter().product(), scale), shape), (device, dtype))
}

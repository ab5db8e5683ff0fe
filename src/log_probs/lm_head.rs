//! Log-probabilities from hidden states: the logits are never held.

use burn::nn::{Embedding, Linear};
use burn_tensor::{Bool, FloatDType, IndexingUpdateOp, Int, Tensor};

use super::{TokenLogProbs, TokenStatistics, statistics::Constants, token::nothing_predicted};
use crate::{
    Completions, Error, Result,
    ops::{
        DEFAULT_BUDGET, DEFAULT_GPU_BUDGET, Head, HeadInputs, HeadOptions, Implementation, LogitTransform, check_float,
        check_same_device, check_same_strategy, common_dtype, independent_of,
    },
    targets::Targets,
};

/// A language model's head: hidden states in, log-probs out, without the logits between them ever being held.
///
/// ```text
/// z = cap · tanh(scale · (hidden · weight + bias) / cap) / temperature
/// log p(token t+1) = z[t, token t+1] − log Σ_v exp z[t, v]
/// ```
///
/// Only counted tokens are multiplied by the weight, one tile of the vocabulary after the other, within a budget of memory.
/// What is kept for the backward pass is the counted tokens' hidden states and a few numbers per token.
///
/// | what             | shape                                                             | gradient         |
/// |------------------|-------------------------------------------------------------------|------------------|
/// | weight           | `[hidden, vocab]`, or `[vocab, hidden]` of a tied embedding       | flows, if tracked |
/// | bias             | `[vocab]`                                                         | flows, if tracked |
/// | scale, soft cap, temperature | scalars; 1, none and 1 unless set                     | constant         |
///
/// Made for a step and thrown away: it holds the parameters as they are now.
///
/// # Example
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use burn_dpo::{Completions, LmHead, token_log_probs};
///
/// let device = Device::default();
/// let linear = LinearConfig::new(8, 50).with_bias(false).init(&device);
/// let hidden = Tensor::<3>::ones([2, 4, 8], &device); // what the model returns before its head
/// let completions = Completions::from_sequences(&[[1, 2, 3, 4], [1, 2, 5, 6]], &[2, 2], 50, &device)?;
///
/// let from_hidden = LmHead::from_linear(&linear).token_log_probs(hidden.clone(), &completions)?;
/// let from_logits = token_log_probs(linear.forward(hidden), &completions)?;
/// let difference = (from_hidden.values() - from_logits.values()).abs().max().into_scalar::<f32>();
/// assert!(difference < 1e-5);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
///
/// # Numerics
/// f16 and bf16 are computed in f32, the weight converted a tile at a time; if hidden states or weight are f64, all is. (On a GPU
/// hidden states and weight of one 16-bit dtype are multiplied as they are and added up in f32, which is the same; and for factors
/// in f32 burn may choose TF32 on NVIDIA's tensor cores, as for any product: 11 bits of each factor.) Elsewhere the
/// products are f32 as well, so this is more accurate than logits that were rounded to 16 bits. Gradients come in each
/// tensor's own dtype, summed up before they are rounded to it. How large the tiles are changes nothing but the order in
/// which numbers are added.
///
/// # Speed and memory
/// In multiplications of `N` counted tokens, `H` hidden numbers and a vocabulary of `V`, each of `2 N H V` operations:
///
/// | what is trained            | forward | backward | kept between them      |
/// |----------------------------|---------|----------|------------------------|
/// | nothing (a reference)      | 1       | none     | nothing                |
/// | hidden states (LoRA)       | 2       | none     | `N · H` numbers        |
/// | the head as well           | 1       | 3        | `N · H` numbers, and 8 per token |
///
/// With statistics a frozen head takes 1 and 2. Where the loss is known, [`preference_step`](Self::preference_step) does the last in 3.
///
/// # Source
/// The online softmax of Milakov and Gimelshein 2018 (arXiv:1805.02867), by tiles of the vocabulary as in Wijmans et al. 2024
/// (arXiv:2411.09009).
#[derive(Debug, Clone)]
pub struct LmHead {
    weight: Tensor<2>,
    transposed: bool,
    bias: Option<Tensor<1>>,
    scale: f64,
    softcap: Option<f64>,
    temperature: f64,
    budget: Option<usize>,
    implementation: Option<Implementation>,
}

impl LmHead {
    /// What logits may take unless [`with_memory_budget`](Self::with_memory_budget) says otherwise: 64 MiB.
    pub const DEFAULT_BUDGET: usize = DEFAULT_BUDGET;
    /// The same on a GPU, where wide products are what is fast: 512 MiB.
    pub const DEFAULT_GPU_BUDGET: usize = DEFAULT_GPU_BUDGET;

    /// From a weight `[hidden, vocab]` and a bias `[vocab]`.
    ///
    /// They are checked where they are used.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self {
            weight,
            transposed: false,
            bias,
            scale: 1.0,
            softcap: None,
            temperature: 1.0,
            budget: None,
            implementation: None,
        }
    }

    /// From a model's last layer, which may be frozen, trained, or adapted.
    pub fn from_linear(linear: &Linear) -> Self {
        Self::new(linear.weight.val(), linear.bias.as_ref().map(|bias| bias.val()))
    }

    /// From an embedding whose weight, `[vocab, hidden]`, is that of the head as well (tied). It is not copied.
    pub fn from_embedding(embedding: &Embedding) -> Self {
        Self { transposed: true, ..Self::new(embedding.weight.val(), None) }
    }

    /// Divides the logits by a temperature: a finite number above 0.
    pub fn with_temperature(self, temperature: f64) -> Self {
        Self { temperature, ..self }
    }

    /// Caps the logits at ±`cap`, a finite number above 0, as Gemma 2 does: `cap · tanh(z / cap)`, before the temperature.
    pub fn with_softcap(self, softcap: f64) -> Self {
        Self { softcap: Some(softcap), ..self }
    }

    /// Multiplies the logits by a finite number other than 0, before they are capped.
    pub fn with_scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// How many bytes may be held beyond the gradients: tiles of logits, and the counted tokens' hidden states. Fewer cost nothing
    /// but time, and little of it above some MiB.
    ///
    /// Hidden states are held in any case; logits get what is left, a quarter at least. Not counted is what matrix products pack
    /// their factors into, some MiB per thread. Kept to on burn's Flex backend; on a GPU a tile's
    /// products take as much again as the gradient of the hidden states, and where burn's operations do the work the tiles are
    /// smaller, to make up for copies of them, but what else burn copies is not ours to count.
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Self { budget: Some(bytes), ..self }
    }

    /// Computes with burn's operations alone, also where there are kernels: to test and to measure against.
    pub fn with_portable_operations(self) -> Self {
        Self { implementation: Some(Implementation::Portable), ..self }
    }

    /// The log-probability of every completion token, from hidden states `[sequences, time, hidden]` exactly as the model
    /// returns them.
    ///
    /// The same as [`token_log_probs`](crate::token_log_probs) of the logits, with the same edge cases: what the mask leaves
    /// out cannot be seen, a counted id outside the vocabulary is NaN. NaN in a counted position's hidden states is NaN there,
    /// and in the weight's gradient if anything flows into that position; in the weight it is NaN everywhere.
    ///
    /// Which tokens count has to be known here. Completions made from lengths know it; others read their mask once (see
    /// [`Completions::locate`]).
    ///
    /// # Errors
    /// [`Error::Shape`] if hidden states fit neither completions nor weight, or the bias does not fit the weight;
    /// [`Error::EmptyVocabulary`]; [`Error::Parameter`] for scale, soft cap or temperature outside their domains;
    /// [`Error::DType`] for a dtype that the device cannot compute in, or a quantized weight; [`Error::Device`] if they are
    /// on different ones; [`Error::Checkpointing`] if they are recorded under different strategies; [`Error::Read`] if the
    /// mask cannot be read.
    pub fn token_log_probs(&self, hidden: Tensor<3>, completions: &Completions) -> Result<TokenLogProbs> {
        self.check(&hidden, completions)?;
        let Some(rows) = self.rows(hidden.clone(), completions)? else {
            return Ok(self.nothing(&hidden, completions));
        };
        Ok(rows.token_log_probs(rows.head.log_probs(&rows.inputs)))
    }

    /// [`token_log_probs`](Self::token_log_probs) beside the entropy and other statistics, as
    /// [`token_statistics`](crate::token_statistics) has them. The mean logit is that after scale, cap and temperature.
    ///
    /// # Errors
    /// Those of [`token_log_probs`](Self::token_log_probs).
    pub fn token_statistics(&self, hidden: Tensor<3>, completions: &Completions) -> Result<TokenStatistics> {
        self.check(&hidden, completions)?;
        let Some(rows) = self.rows(hidden.clone(), completions)? else {
            return Ok(TokenStatistics::of_nothing(self.nothing(&hidden, completions)));
        };
        let state = rows.head.forward(&rows.inputs, Some(rows.vocab()), false, None).state;
        let constants = Constants::of(&state, &rows.inputs.targets, rows.inputs.hidden.dtype());
        let outputs = rows.head.with_gradient(state.outputs(true), &rows.inputs, &state);
        let everywhere = Constants {
            log_sum_sq_probs: rows.everywhere(constants.log_sum_sq_probs),
            mean_logit: rows.everywhere(constants.mean_logit),
            is_argmax: rows.flags_everywhere(constants.is_argmax),
        };
        let outputs = rows.everywhere(outputs);
        Ok(TokenStatistics::of_rows(&rows.targets, outputs, &everywhere, rows.head.implementation))
    }

    pub(crate) fn check(&self, hidden: &Tensor<3>, completions: &Completions) -> Result<()> {
        let [sequences, time, width] = hidden.dims();
        let [expected_sequences, expected_time] = completions.dims();
        let [own_width, vocab] = self.dims();
        let expected = vec![expected_sequences, expected_time, own_width];
        if vec![sequences, time, width] != expected {
            return Err(Error::Shape { what: "hidden", expected, actual: vec![sequences, time, width] });
        }
        if vocab == 0 {
            return Err(Error::EmptyVocabulary { what: "weight" });
        }
        if own_width == 0 {
            return Err(Error::Shape { what: "weight", expected: vec![1, vocab], actual: vec![0, vocab] });
        }
        check_float("hidden", hidden)?;
        check_float("weight", &self.weight)?;
        let device = hidden.device();
        check_same_device("hidden", &device, "completions", &completions.device())?;
        check_same_device("hidden", &device, "weight", &self.weight.device())?;
        let mut strategies = vec![
            ("hidden", hidden.gradient_checkpointing_strategy()),
            ("weight", self.weight.gradient_checkpointing_strategy()),
        ];
        if let Some(bias) = &self.bias {
            if bias.dims() != [vocab] {
                return Err(Error::Shape { what: "bias", expected: vec![vocab], actual: bias.dims().to_vec() });
            }
            check_float("bias", bias)?;
            check_same_device("hidden", &device, "bias", &bias.device())?;
            strategies.push(("bias", bias.gradient_checkpointing_strategy()));
        }
        check_same_strategy(&strategies)?;
        let positive = |name, value: f64, of_it: f64| {
            let fits = value > 0.0 && (of_it as f32).is_finite() && of_it as f32 > 0.0;
            if fits {
                Ok(())
            } else {
                Err(Error::Parameter { name, value, expected: "a number above 0 that f32 can hold" })
            }
        };
        let softcap = self.softcap.unwrap_or(1.0);
        positive("temperature", self.temperature, self.temperature)?;
        positive("softcap", softcap, softcap / self.temperature)?;
        if self.scale == 0.0 || !((self.scale / self.temperature) as f32).is_normal() {
            return Err(Error::Parameter {
                name: "scale",
                value: self.scale,
                expected: "a number other than 0 that, divided by the temperature, f32 can hold",
            });
        }
        Ok(())
    }

    /// `[hidden, vocab]`.
    fn dims(&self) -> [usize; 2] {
        let [rows, columns] = self.weight.dims();
        if self.transposed { [columns, rows] } else { [rows, columns] }
    }

    /// Whether the weight will have a gradient, in the dtype in which logits are computed.
    pub(crate) fn can_cache_logits(&self, hidden: &Tensor<3>) -> bool {
        self.weight.is_tracked() && self.weight.dtype() == common_dtype([hidden.dtype(), self.weight.dtype()])
    }

    /// The counted positions, as rows. None if there are none.
    pub(crate) fn rows(&self, hidden: Tensor<3>, completions: &Completions) -> Result<Option<Rows>> {
        let [sequences, time, width] = hidden.dims();
        let positions = completions.counted_positions()?;
        if positions.on_host.is_empty() {
            return Ok(None);
        }
        let options = HeadOptions {
            transposed: self.transposed,
            biased: self.bias.is_some(),
            transform: LogitTransform {
                scale: self.scale / self.temperature,
                softcap: self.softcap.map(|softcap| softcap / self.temperature),
            },
            budget: self.budget,
            implementation: self.implementation,
        };
        let head = Head::new(options, &hidden, &self.weight, positions.on_host.len());
        let [_, vocab] = self.dims();
        let targets = completions.targets(vocab, head.implementation);
        let dtype = common_dtype([hidden.dtype(), self.weight.dtype()]);
        let hidden = hidden.reshape([sequences * time, width]).select(0, positions.on_device.clone());
        let hidden = if hidden.dtype() == dtype { hidden } else { hidden.cast(FloatDType::from(dtype)) };
        let bias = self.bias.clone().unwrap_or_else(|| Tensor::empty([0], (&hidden.device(), dtype)));
        let inputs = HeadInputs {
            targets: targets.ids.clone().select(0, positions.on_device.clone()),
            hidden,
            weight: self.weight.clone(),
            bias,
        };
        Ok(Some(Rows { inputs, head, positions: positions.on_device.clone(), targets }))
    }

    /// The log-probs of no counted token, in the graph.
    fn nothing(&self, hidden: &Tensor<3>, completions: &Completions) -> TokenLogProbs {
        let dtype = common_dtype([hidden.dtype(), self.weight.dtype()]);
        let mut nothing = nothing_predicted(completions, dtype);
        nothing.values = independent_of(nothing.values, hidden);
        nothing.values = independent_of(nothing.values, &self.weight);
        if let Some(bias) = &self.bias {
            nothing.values = independent_of(nothing.values, bias);
        }
        nothing
    }
}

/// The counted positions of a batch and the head that they go through.
pub(crate) struct Rows {
    /// In the caller's graph.
    pub(crate) inputs: HeadInputs,
    pub(crate) head: Head,
    /// The index of each row in `[sequences · time]`.
    positions: Tensor<1, Int>,
    targets: Targets,
}

impl Rows {
    fn vocab(&self) -> usize {
        self.head.dims(&self.inputs.weight)[1]
    }

    /// Log-probs of rows, `[rows, 1]`, as those of the batch's tokens.
    pub(crate) fn token_log_probs(&self, rows: Tensor<2>) -> TokenLogProbs {
        TokenLogProbs::of_rows(&self.targets, self.everywhere(rows), self.head.implementation)
    }

    /// Numbers of rows, `[rows, n]`, at their positions among all, `[sequences · time, n]`; 0 elsewhere.
    fn everywhere(&self, rows: Tensor<2>) -> Tensor<2> {
        let [_, columns] = rows.dims();
        let [all] = self.targets.ids.dims();
        let nothing = Tensor::zeros([all, columns], (&rows.device().without_autodiff(), rows.dtype()));
        nothing.select_assign(0, self.positions.clone(), rows, IndexingUpdateOp::Add)
    }

    fn flags_everywhere(&self, rows: Tensor<2, Bool>) -> Tensor<2, Bool> {
        self.everywhere(rows.float()).greater_elem(0.5)
    }
}

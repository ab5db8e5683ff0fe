//! Which tokens are completion tokens.

use std::{
    ops::RangeInclusive,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use burn_tensor::{Bool, DType, Device, Int, IntDType, Tensor, TensorData};

use crate::{
    Error, Result,
    ops::{Implementation, check_int, check_same_device},
    targets::{CountedPositions, Targets},
};

/// Token sequences, and which of their tokens are *completion* tokens: those whose log-probability counts.
///
/// Tokens and mask are both in **token** coordinates, as the model is fed: `mask[s, t]` says whether token `t` of
/// sequence `s` is part of the completion. A causal model predicts token `t` at position `t − 1`; that shift is made
/// once, inside this crate, and by nobody else. Token 0 has no prediction and is never counted, whatever the mask says.
///
/// | field    | shape               | unit                                          |
/// |----------|---------------------|-----------------------------------------------|
/// | `tokens` | `[sequences, time]` | token id                                      |
/// | `mask`   | `[sequences, time]` | true = completion token (counted), never padding or prompt |
///
/// The mask is never guessed from token values: a padding id that is also the end-of-sequence id, or token 0, is an
/// ordinary token where the mask is true. The end-of-sequence token that ends a completion belongs to it.
///
/// # Example
/// ```
/// use burn_dpo::Completions;
/// use burn::tensor::Device;
///
/// // Two sequences: a prompt of two tokens with a completion of two, and a prompt of one with a completion of one.
/// let sequences = [vec![5, 6, 7, 8], vec![5, 9]];
/// let completions = Completions::from_sequences(&sequences, &[2, 1], 10, &Device::default())?;
/// assert_eq!(completions.dims(), [2, 4]);
/// let mask = completions.mask().into_data();
/// assert_eq!(mask.iter::<bool>().collect::<Vec<_>>(), [false, false, true, true, false, true, false, false]);
/// # Ok::<(), burn_dpo::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Completions {
    tokens: Tensor<2, Int>,
    mask: Tensor<2, Bool>,
    cache: Arc<Cache>,
}

/// What was computed from completions, shared by all their clones.
#[derive(Debug, Default)]
struct Cache {
    counted_positions: OnceLock<CountedPositions>,
    /// Targets, and the sizes of vocabularies for which they are right.
    targets: Mutex<Vec<(RangeInclusive<usize>, Targets)>>,
}

impl Completions {
    /// From token ids `[sequences, time]` and a mask of the same shape, true at completion tokens.
    ///
    /// Ids are device data and are not read: what an id outside the vocabulary gives is said at
    /// [`token_log_probs`](crate::token_log_probs). Ids and mask carry no gradient, whichever device they come with.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, [`Error::Device`] if the devices do, [`Error::DType`] for ids of a type that
    /// the device does not have.
    pub fn new(tokens: Tensor<2, Int>, mask: Tensor<2, Bool>) -> Result<Self> {
        if tokens.dims() != mask.dims() {
            return Err(Error::Shape { what: "mask", expected: tokens.dims().to_vec(), actual: mask.dims().to_vec() });
        }
        check_same_device("tokens", &tokens.device(), "mask", &mask.device())?;
        check_int("tokens", &tokens)?;
        Ok(Self { tokens: widened(tokens.without_autodiff()), mask: mask.without_autodiff(), cache: Arc::default() })
    }

    /// From labels `[sequences, time]` in token coordinates, where `ignore_index` (commonly −100) marks what is not a
    /// completion token.
    ///
    /// The labels are *not* shifted: `labels[s, t]` is token `t` or `ignore_index`, as Hugging Face collators make
    /// them. They say nothing of the prompt's ids: [`tokens`](Self::tokens) of the result has 0 there, so feed the model its
    /// own.
    ///
    /// # Example
    /// ```
    /// use burn_dpo::Completions;
    /// use burn::tensor::{Device, Int, Tensor};
    ///
    /// // A prompt of two tokens, a completion of two.
    /// let labels = Tensor::<2, Int>::from_ints([[-100, -100, 7, 8]], &Device::default());
    /// let completions = Completions::from_labels(labels, -100)?;
    /// let mask = completions.mask().into_data();
    /// assert_eq!(mask.iter::<bool>().collect::<Vec<_>>(), [false, false, true, true]);
    /// # Ok::<(), burn_dpo::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Parameter`] if `ignore_index` does not fit the labels' integer type, [`Error::DType`] as in
    /// [`new`](Self::new).
    pub fn from_labels(labels: Tensor<2, Int>, ignore_index: i64) -> Result<Self> {
        let fits = match labels.dtype() {
            DType::I8 => i8::try_from(ignore_index).is_ok(),
            DType::I16 => i16::try_from(ignore_index).is_ok(),
            DType::U8 => u8::try_from(ignore_index).is_ok(),
            DType::U16 => u16::try_from(ignore_index).is_ok(),
            DType::I32 => i32::try_from(ignore_index).is_ok(),
            DType::U32 => u32::try_from(ignore_index).is_ok(),
            DType::U64 => u64::try_from(ignore_index).is_ok(),
            _ => true,
        };
        if !fits {
            return Err(Error::Parameter {
                name: "ignore_index",
                value: ignore_index as f64,
                expected: "a value that the labels' integer type can hold",
            });
        }
        check_int("labels", &labels)?;
        let labels = widened(labels.without_autodiff());
        let (ignored, counted) = (labels.clone().equal_elem(ignore_index), labels.clone().not_equal_elem(ignore_index));
        Self::new(labels.mask_fill(ignored, 0), counted)
    }

    /// From padded rows on the host: `tokens` holds `sequences · time` ids, row by row; the first `prompt_lengths[s]`
    /// tokens of a row are its prompt, those up to `total_lengths[s]` its completion, and the rest padding.
    ///
    /// Padding may hold any id. Everything else is checked here, where the numbers are at hand.
    ///
    /// A completion may be empty (`prompt_lengths[s] == total_lengths[s]`): its log-prob is 0, it pulls on nothing, and
    /// [`PreferenceMetrics`](crate::PreferenceMetrics) counts it.
    ///
    /// # Errors
    /// - [`Error::Shape`] if `tokens` is not `sequences · time` long, or the two lists of lengths differ in length.
    /// - [`Error::Length`] if a prompt is longer than its total, or a total longer than `time`.
    /// - [`Error::TokenId`] if an id before `total_lengths[s]` is not below `vocab_size`.
    pub fn from_lengths(
        tokens: &[u32],
        time: usize,
        prompt_lengths: &[usize],
        total_lengths: &[usize],
        vocab_size: usize,
        device: &Device,
    ) -> Result<Self> {
        let sequences = prompt_lengths.len();
        expect_length("total_lengths", sequences, total_lengths.len())?;
        expect_length("tokens", sequences.saturating_mul(time), tokens.len())?;

        let mut ids = vec![0i64; sequences * time];
        let mut mask = vec![false; sequences * time];
        for sequence in 0..sequences {
            let (prompt, total) = (prompt_lengths[sequence], total_lengths[sequence]);
            expect_within(sequence, "total length", total, "time", time)?;
            expect_within(sequence, "prompt length", prompt, "total length", total)?;
            let row = sequence * time;
            for (position, &token) in tokens[row..row + total].iter().enumerate() {
                if token as usize >= vocab_size {
                    return Err(Error::TokenId { sequence, position, token: token.into(), vocab_size });
                }
                ids[row + position] = token.into();
            }
            mask[row + prompt..row + total].fill(true);
        }

        let shape = [sequences, time];
        let device = device.clone().without_autodiff();
        let positions = CountedPositions::of(&mask, time, &device);
        let cache = Cache { counted_positions: positions.into(), ..Cache::default() };
        if sequences * time > sequences && vocab_size <= i32::MAX as usize {
            // all ids are below the size of the vocabulary, and so below any larger one
            cache.insert(vocab_size..=usize::MAX, Targets::from_host(&ids, &mask, time, &device));
        }
        // Ids fit i32 unless the vocabulary does not; the narrower type is the one that every backend has.
        let dtype = if vocab_size <= i32::MAX as usize { DType::I32 } else { DType::I64 };
        let completions = Self::new(
            Tensor::from_data(TensorData::new(ids, shape), (&device, dtype)),
            Tensor::from_data(TensorData::new(mask, shape), &device),
        )?;
        Ok(Self { cache: cache.into(), ..completions })
    }

    /// From ragged rows on the host: each row is a prompt of `prompt_lengths[s]` tokens and its completion.
    ///
    /// Rows are padded on the right, with id 0, to the longest. Feed [`tokens`](Self::tokens) to the model.
    ///
    /// # Errors
    /// - [`Error::Shape`] if there are not as many prompt lengths as rows.
    /// - [`Error::Length`] if a prompt is longer than its row.
    /// - [`Error::TokenId`] if an id is not below `vocab_size`.
    pub fn from_sequences<S: AsRef<[u32]>>(
        sequences: &[S],
        prompt_lengths: &[usize],
        vocab_size: usize,
        device: &Device,
    ) -> Result<Self> {
        expect_length("prompt_lengths", sequences.len(), prompt_lengths.len())?;
        let totals: Vec<usize> = sequences.iter().map(|row| row.as_ref().len()).collect();
        let time = totals.iter().copied().max().unwrap_or(0);
        let mut tokens = vec![0; sequences.len() * time];
        for (sequence, row) in sequences.iter().enumerate() {
            tokens[sequence * time..][..totals[sequence]].copy_from_slice(row.as_ref());
        }
        Self::from_lengths(&tokens, time, prompt_lengths, &totals, vocab_size, device)
    }

    /// The token ids, `[sequences, time]`: what the model is fed.
    pub fn tokens(&self) -> Tensor<2, Int> {
        self.tokens.clone()
    }

    /// Which tokens are completion tokens, `[sequences, time]`.
    pub fn mask(&self) -> Tensor<2, Bool> {
        self.mask.clone()
    }

    /// `[sequences, time]`.
    pub fn dims(&self) -> [usize; 2] {
        self.tokens.dims()
    }

    /// The device that holds the tokens.
    pub fn device(&self) -> Device {
        self.tokens.device()
    }

    /// Reads which tokens count from the device, if that is not known yet: [`LmHead`](crate::LmHead) leaves out the others
    /// before it computes anything, and has to know how many there are.
    ///
    /// Completions made from lengths know it, and nothing is read; others read their mask once, here or at a head's first
    /// pass, and keep it (clones share it). In a browser, where nothing can be read synchronously, await this before the
    /// head is used.
    ///
    /// # Errors
    /// [`Error::Read`] if the device cannot hand its numbers over.
    pub async fn locate(&self) -> Result<()> {
        if self.cache.counted_positions.get().is_none() {
            let mask = self.mask.clone().into_data_async().await.map_err(unreadable)?;
            self.locate_in(mask);
        }
        Ok(())
    }

    /// The positions that predict a counted token. Reads the mask back unless they are in the cache.
    pub(crate) fn counted_positions(&self) -> Result<&CountedPositions> {
        match self.cache.counted_positions.get() {
            Some(positions) => Ok(positions),
            None => Ok(self.locate_in(self.mask.clone().try_into_data().map_err(unreadable)?)),
        }
    }

    fn locate_in(&self, mask: TensorData) -> &CountedPositions {
        let mask: Vec<bool> = mask.iter::<bool>().collect();
        self.cache.counted_positions.get_or_init(|| CountedPositions::of(&mask, self.dims()[1], &self.device()))
    }

    /// The target of each position, computed once for each size of vocabulary, and by burn's operations each time.
    pub(crate) fn targets(&self, vocab: usize, implementation: Implementation) -> Targets {
        let compute = || Targets::of(&self.tokens, &self.mask, vocab, implementation);
        match implementation {
            Implementation::Portable => compute(),
            Implementation::Kernels => self.cache.get(vocab).unwrap_or_else(|| {
                let targets = compute();
                self.cache.insert(vocab..=vocab, targets.clone());
                targets
            }),
        }
    }
}

impl Cache {
    fn get(&self, vocab: usize) -> Option<Targets> {
        let cached = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        cached.iter().find(|(vocabularies, _)| vocabularies.contains(&vocab)).map(|(_, targets)| targets.clone())
    }

    fn insert(&self, vocabularies: RangeInclusive<usize>, targets: Targets) {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner).push((vocabularies, targets));
    }
}

/// Integers of 8 and 16 bits cannot be compared with a vocabulary's size: make them 32.
fn widened(tokens: Tensor<2, Int>) -> Tensor<2, Int> {
    match tokens.dtype() {
        DType::I64 | DType::I32 | DType::U64 | DType::U32 => tokens,
        _ => tokens.cast(IntDType::I32),
    }
}

fn expect_length(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::Shape { what, expected: vec![expected], actual: vec![actual] }) }
}

fn expect_within(
    sequence: usize,
    what: &'static str,
    length: usize,
    limit_name: &'static str,
    limit: usize,
) -> Result<()> {
    if length <= limit { Ok(()) } else { Err(Error::Length { sequence, what, length, limit_name, limit }) }
}

fn unreadable(cause: impl std::fmt::Display) -> Error {
    Error::Read { what: "the mask", cause: cause.to_string() }
}

//! The shift between a token and the logits that predict it, made here and nowhere else.

use burn_tensor::{Bool, DType, Device, Int, Tensor, TensorData, s};

use crate::ops::{self, IGNORED, Implementation, predictions};

/// The target of each position: position `t` predicts token `t + 1`, and the last one nothing.
///
/// The last position stays, ignored, so that logits `[sequences, time, vocab]` need not be sliced (a copy).
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    /// The token, `[sequences · time]` in 32 bits; [`IGNORED`] where none is counted, [`OUT_OF_VOCAB`](crate::ops::OUT_OF_VOCAB)
    /// where it is outside the vocabulary.
    pub ids: Tensor<1, Int>,
    /// `[sequences, time − 1]`.
    pub counted: Tensor<2, Bool>,
    /// How many of them, `[sequences]`, in 32 bits.
    pub token_count: Tensor<1, Int>,
}

impl Targets {
    /// From ids and mask on a device, `[sequences, time]`.
    pub fn of(tokens: &Tensor<2, Int>, mask: &Tensor<2, Bool>, vocab: usize, implementation: Implementation) -> Self {
        let [sequences, time] = tokens.dims();
        if sequences * time <= sequences {
            return Self::none(sequences, time, &tokens.device());
        }
        let (ids, counted, token_count) = ops::targets(tokens, mask, vocab, implementation);
        Self { ids, counted, token_count }
    }

    /// Where there is no second token.
    fn none(sequences: usize, time: usize, device: &Device) -> Self {
        Self {
            ids: Tensor::full([sequences * time], IGNORED, (device, DType::I32)),
            counted: Tensor::<2, Int>::zeros([sequences, 0], (device, DType::I32)).bool(),
            token_count: Tensor::zeros([sequences], (device, DType::I32)),
        }
    }

    /// From ids and mask on the host, where all ids are within the vocabulary and there is a second token.
    pub fn from_host(ids: &[i64], mask: &[bool], time: usize, device: &Device) -> Self {
        let sequences = ids.len() / time;
        let predicted: Vec<bool> = mask.chunks(time).flat_map(|row| &row[1..]).copied().collect();
        let last_of_row = |row: usize| (row + 1).is_multiple_of(time);
        let target = |row: usize| if last_of_row(row) || !mask[row + 1] { IGNORED } else { ids[row + 1] as i32 };
        let targets: Vec<i32> = (0..ids.len()).map(target).collect();
        let count = |row: &[bool]| row.iter().filter(|counted| **counted).count() as i32;
        let token_count: Vec<i32> = predicted.chunks(time - 1).map(count).collect();
        Self {
            ids: Tensor::from_data(TensorData::new(targets, [ids.len()]), (device, DType::I32)),
            counted: Tensor::from_data(TensorData::new(predicted, [sequences, time - 1]), device),
            token_count: Tensor::from_data(TensorData::new(token_count, [sequences]), (device, DType::I32)),
        }
    }

    /// A column of numbers of all positions, `[sequences · time, columns]`, at each prediction, `[sequences, time − 1]`, in the graph;
    /// 0 where not counted.
    pub fn predictions(&self, rows: Tensor<2>, column: usize, implementation: Implementation) -> Tensor<2> {
        let [_, predicted] = self.counted.dims();
        predictions(rows, &self.ids, predicted + 1, column, implementation)
    }

    /// Flags of all positions, `[sequences · time, 1]`, at each prediction; false where not counted.
    pub fn flags(&self, rows: Tensor<2, Bool>) -> Tensor<2, Bool> {
        let [sequences, predicted] = self.counted.dims();
        rows.reshape([sequences, predicted + 1]).slice(s![.., 0..predicted]).bool_and(self.counted.clone())
    }
}

/// The positions in `[sequences, time]` that predict a counted token, row-major.
#[derive(Debug)]
pub(crate) struct CountedPositions {
    /// Their indices in `[sequences · time]`, ascending.
    pub on_host: Vec<i32>,
    /// The same on the device, in 32 bits.
    pub on_device: Tensor<1, Int>,
}

impl CountedPositions {
    pub fn of(mask: &[bool], time: usize, device: &Device) -> Self {
        // token 0 of a row has no prediction
        let counted = mask.iter().enumerate().filter(|&(token, &counted)| counted && !token.is_multiple_of(time));
        let on_host: Vec<i32> = counted.map(|(token, _)| (token - 1) as i32).collect();
        let data = TensorData::new(on_host.clone(), [on_host.len()]);
        Self { on_device: Tensor::from_data(data, (device, DType::I32)), on_host }
    }
}

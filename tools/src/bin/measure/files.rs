//! Numbers from and to files, so that others can compute the same from the same.

use std::{fs, path::Path};

use anyhow::{Context, bail, ensure};
use burn::tensor::{DType, Element, TensorData};
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};

use super::work::Results;

/// Where inputs come from.
pub enum Source {
    /// The same at every run.
    Drawn,
    /// A file of the safetensors format, whole.
    File(Vec<u8>),
}

impl Source {
    pub fn open(folder: Option<&Path>) -> anyhow::Result<Self> {
        let Some(folder) = folder else { return Ok(Self::Drawn) };
        let path = folder.join("inputs.safetensors");
        Ok(Self::File(fs::read(&path).with_context(|| path.display().to_string())?))
    }

    /// The numbers of that name, as they are in the file, or drawn.
    pub fn numbers<E: Element, const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        draw: impl FnOnce() -> Vec<E>,
    ) -> anyhow::Result<TensorData> {
        let bytes = match self {
            Self::Drawn => return Ok(TensorData::new(draw(), shape)),
            Self::File(bytes) => bytes,
        };
        let file = SafeTensors::deserialize(bytes)?;
        let tensor = file.tensor(name)?;
        ensure!(tensor.shape() == shape, "{name} is {:?}, expected {shape:?}", tensor.shape());
        let dtype = match tensor.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::I32 => DType::I32,
            Dtype::U8 => DType::U8,
            other => bail!("{name} is of {other:?}, expected F32, F16, BF16, I32 or U8"),
        };
        Ok(TensorData::from_bytes_vec(tensor.data().to_vec(), shape, dtype))
    }
}

/// Writes `outputs.safetensors`.
pub fn write(folder: &Path, results: &Results) -> anyhow::Result<()> {
    let tensors: Vec<(&str, TensorView)> = results
        .iter()
        .map(|(name, data)| {
            let dtype = match data.dtype() {
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::F32 => Dtype::F32,
                other => bail!("{name} is of {other:?}"),
            };
            Ok((*name, TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())?))
        })
        .collect::<anyhow::Result<_>>()?;
    let path = folder.join("outputs.safetensors");
    serialize_to_file(tensors, None, &path).with_context(|| path.display().to_string())
}

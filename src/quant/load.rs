//! Weights that are quantised while they are loaded.

use super::{dequantise, quantise};
use crate::dtype::DType;
use crate::error::Result;
use crate::io::checkpoint::{Checkpoint, TensorView};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the matrices of layers are quantised to on their way to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum LoadFormat {
    /// 4 bits and an f32 for each 64: 4.5 bits a weight
    #[serde(rename = "nf4")]
    #[cfg_attr(feature = "cli", value(name = "nf4"))]
    Nf4,
    /// The same with 8 bits for each 64: 4.13 bits a weight
    #[serde(rename = "nf4-double")]
    #[cfg_attr(feature = "cli", value(name = "nf4-double"))]
    Nf4Double,
    /// 8 bits and an f16 for each 32: 8.5 bits a weight
    #[serde(rename = "q8_0")]
    #[cfg_attr(feature = "cli", value(name = "q8_0"))]
    Q8_0,
    /// 4 bits, with scales and minima for each 32: 4.5 bits a weight
    #[serde(rename = "q4_k")]
    #[cfg_attr(feature = "cli", value(name = "q4_k"))]
    Q4K,
}

impl LoadFormat {
    /// The format of the weights.
    pub fn dtype(self) -> DType {
        match self {
            LoadFormat::Nf4 => DType::NF4,
            LoadFormat::Nf4Double => DType::NF4_DOUBLE,
            LoadFormat::Q8_0 => DType::Q8_0,
            LoadFormat::Q4K => DType::Q4_K,
        }
    }
}

impl fmt::Display for LoadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LoadFormat::Nf4 => "nf4",
            LoadFormat::Nf4Double => "nf4-double",
            LoadFormat::Q8_0 => "q8_0",
            LoadFormat::Q4K => "q4_k",
        })
    }
}

/// From now on `checkpoint` gives the matrices of its layers in this format, one at a time as they are asked for. As with
/// bitsandbytes, embedding, head, norms and biases stay as they are, and so does what is quantised already.
///
/// # Errors
/// [`crate::error::Error::Invalid`] for rows that are no whole blocks of the format.
pub fn quantise_on_load(checkpoint: &mut Checkpoint, to: LoadFormat) -> Result<()> {
    checkpoint.recode(to.dtype(), encode)
}

fn encode(to: DType, view: &TensorView<'_>) -> Result<Vec<u8>> {
    let mut values = vec![0.0; view.shape.iter().product()];
    dequantise(view.dtype, &view.data, &mut values)?;
    quantise(to, &values)
}

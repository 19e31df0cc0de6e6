//! Options that are one of a few words.

use crate::data::{EmptyRows, PromptFormat, RowKind, TrainOn, Truncate};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Declares an enum whose values are spelled in snake_case on the command line and in files.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $( $(#[$value_meta:meta])* $value:ident, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
        pub enum $name { $( $(#[$value_meta])* $value, )* }
    };
}

choice! {
    /// What trains.
    Method {
        /// Low-rank and sparse adapters together
        Rosa,
        /// Low-rank adapters
        Lora,
        /// Sparse adapters
        Spa,
        /// All weights
        Full,
    }
}

choice! {
    /// How gradients of the frozen weights g, one a micro-batch, make the score whose largest entries form the mask.
    MaskMode {
        /// Mean of g²
        MeanSquared,
        /// Mean of g, by magnitude
        Mean,
    }
}

choice! {
    /// What adapters and Adam's moments are rounded to after each step. Memory and files hold f32.
    AdapterDtype {
        /// Not rounded
        F32,
        /// To bf16, as the paper's experiments hold them: steps below 0.2 to 0.4 % of a value are lost
        Bf16,
    }
}

choice! {
    /// The values that a run ends with.
    Keep {
        /// Those behind its last step
        Last,
        /// Those with the lowest evaluation loss of the training phase
        Best,
    }
}

choice! {
    /// What a step's loss is divided by.
    LossNormalisation {
        /// All supervised tokens of the step: how rows fall into micro-batches makes no difference
        Tokens,
        /// Each micro-batch by its own, then the mean of those: as the original does
        MicroBatch,
    }
}

choice! {
    /// What the rows of a data set look like.
    DataFormat {
        /// By the keys of each row
        Auto,
        /// `messages`, through the model's chat template
        Messages,
        /// A prompt and a supervised response
        PromptResponse,
        /// `instruction`, `input`, `output`
        Alpaca,
        /// `text`, all of it supervised
        Text,
        /// `input_ids` and `labels`
        Tokens,
    }
}

choice! {
    /// What happens to a row that is too long.
    TooLong {
        /// Its end is cut off
        Truncate,
        /// The prompt and the last tokens of the answer are kept, as the original does; a prompt that leaves no room is left out
        KeepEnd,
        /// It is left out
        Drop,
    }
}

choice! {
    /// Which of the assistant's turns in a conversation are learnt.
    TrainTurns {
        /// All of them
        All,
        /// The last one
        Last,
    }
}

choice! {
    /// How pairs of a prompt and a response are put.
    PromptFormatOption {
        /// chat where the model has a chat template, else raw
        Auto,
        /// Through the model's chat template, as `generate --chat` asks
        Chat,
        /// As they are, as `generate --prompt` asks
        Raw,
    }
}

choice! {
    /// What happens to a row without an answer.
    EmptyRowsOption {
        /// It ends the run
        Error,
        /// It is left out
        Skip,
    }
}

choice! {
    /// What the operands of products are rounded to. Sums are f32 always.
    PrecisionOption {
        /// Not at all
        F32,
        /// To f16 where the device has matrix units that compute rightly
        F16,
    }
}

/// Which activations are kept for the backward pass: the inputs of groups of so many layers, or with 0 all. The rest is
/// computed again, so that a group's activations are there at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpointing(pub usize);

impl Checkpointing {
    pub const OFF: Checkpointing = Checkpointing(0);
    pub const LAYER: Checkpointing = Checkpointing(1);
    /// As the memory asks for; a run has settled on one of the others.
    pub const AUTO: Checkpointing = Checkpointing(usize::MAX);
}

impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("off"),
            1 => f.write_str("layer"),
            usize::MAX => f.write_str("auto"),
            n => write!(f, "{n}"),
        }
    }
}

impl FromStr for Checkpointing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Checkpointing::OFF),
            "layer" => Ok(Checkpointing::LAYER),
            "auto" => Ok(Checkpointing::AUTO),
            n => n.parse::<u32>().ok().filter(|n| *n > 0).map(|n| Checkpointing(n as usize)).ok_or_else(|| {
                format!(
                    "\"{n}\" is none of off, layer, auto and a number of layers whose first one's input is kept, from 1"
                )
            }),
        }
    }
}

impl Serialize for Checkpointing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected \"off\", \"layer\", \"auto\" or a number of layers")]
        enum Value {
            Text(String),
            Number(u32),
        }
        let text = match Value::deserialize(deserializer)? {
            Value::Text(text) => text,
            Value::Number(n) => n.to_string(),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount of memory: `8GiB`, `512MiB`, `1.5GiB`, or a number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units by name, with the bytes of each, the largest first.
const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let of = |(name, unit): &(&str, u64)| text.strip_suffix(name).map(|number| (number.trim_end(), *unit));
        let (number, unit) = UNITS.iter().find_map(of).unwrap_or((text, 1));
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(unit),
            // a float would be taken for a number of bytes too
            Err(_) if unit > 1 => {
                number.parse::<f64>().ok().map(|x| x * unit as f64).filter(|b| *b >= 0.0).map(|b| b as u64)
            }
            Err(_) => None,
        };
        bytes.map(ByteSize).ok_or_else(|| format!("\"{text}\" is no amount of memory; write it as 8GiB or 512MiB"))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl DataFormat {
    /// The kind of rows as the data layer knows it; `None` looks at each row.
    pub fn kind(self) -> Option<RowKind> {
        match self {
            DataFormat::Auto => None,
            DataFormat::Messages => Some(RowKind::Messages),
            DataFormat::PromptResponse => Some(RowKind::PromptResponse),
            DataFormat::Alpaca => Some(RowKind::Alpaca),
            DataFormat::Text => Some(RowKind::Text),
            DataFormat::Tokens => Some(RowKind::InputIds),
        }
    }
}

impl From<TrainTurns> for TrainOn {
    fn from(turns: TrainTurns) -> TrainOn {
        match turns {
            TrainTurns::All => TrainOn::All,
            TrainTurns::Last => TrainOn::Last,
        }
    }
}

impl From<TooLong> for Truncate {
    fn from(too_long: TooLong) -> Truncate {
        match too_long {
            TooLong::Truncate => Truncate::Truncate,
            TooLong::KeepEnd => Truncate::KeepEnd,
            TooLong::Drop => Truncate::Drop,
        }
    }
}

impl From<PromptFormatOption> for PromptFormat {
    fn from(format: PromptFormatOption) -> PromptFormat {
        match format {
            PromptFormatOption::Auto => PromptFormat::Auto,
            PromptFormatOption::Chat => PromptFormat::Chat,
            PromptFormatOption::Raw => PromptFormat::Raw,
        }
    }
}

impl From<EmptyRowsOption> for EmptyRows {
    fn from(empty: EmptyRowsOption) -> EmptyRows {
        match empty {
            EmptyRowsOption::Error => EmptyRows::Error,
            EmptyRowsOption::Skip => EmptyRows::Skip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_read_back_as_they_are_written() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|b| b.0);
        assert_eq!(bytes("8GiB"), Ok(8 << 30));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("512"), Ok(512));
        for wrong in ["", "8GB", "-1GiB", "x", "1.5", "99999999999TiB", "nanGiB"] {
            assert!(bytes(wrong).is_err_and(|e| e.contains("8GiB")), "{wrong}");
        }
        for size in [0, 1, 1023, 1024, 3 << 29, 1 << 30, 5 << 40, u64::MAX] {
            assert_eq!(bytes(&ByteSize(size).to_string()), Ok(size));
        }
    }
}

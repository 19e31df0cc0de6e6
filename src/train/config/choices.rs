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
}

impl fmt::Display for Checkpointing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("off"),
            1 => f.write_str("layer"),
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
            n => n.parse::<u32>().ok().filter(|n| *n > 0).map(|n| Checkpointing(n as usize)).ok_or_else(|| {
                format!("\"{n}\" is none of off, layer and a number of layers whose first one's input is kept, from 1")
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
        #[serde(untagged, expecting = "expected \"off\", \"layer\" or a number of layers")]
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

//! Options that are one of a few words.

use crate::data::{RowKind, Truncate};
use serde::{Deserialize, Serialize};

/// Declares an enum whose values are spelled in snake_case on the command line and in files.
macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $( $(#[$value_meta:meta])* $value:ident, )* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
        #[serde(rename_all = "snake_case")]
        #[value(rename_all = "snake_case")]
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
        /// It is left out
        Drop,
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

choice! {
    /// Which activations are kept for the backward pass.
    Checkpointing {
        /// All
        Off,
        /// Each layer's input; the rest is computed again
        Layer,
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

impl From<TooLong> for Truncate {
    fn from(too_long: TooLong) -> Truncate {
        match too_long {
            TooLong::Truncate => Truncate::Truncate,
            TooLong::Drop => Truncate::Drop,
        }
    }
}

//! From arguments that several commands share to what the layers below take.

use super::args::RowArgs;
use crate::data::{DataOptions, RowKind, Tokenizer, Truncate};
use crate::error::Result;
use crate::io::checkpoint::Checkpoint;
use crate::train::config::{DataFormat, TooLong};

/// The model's tokenizer; `None` where it comes without one, which is enough for rows of token ids.
///
/// # Errors
/// Those of [`Tokenizer::from_folder`] and [`Tokenizer::from_gguf`].
pub fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>> {
    match (checkpoint.folder(), checkpoint.gguf_metadata()) {
        (Some(folder), _) if folder.join("tokenizer.json").exists() => Tokenizer::from_folder(folder).map(Some),
        (None, Some(metadata)) if metadata.contains_key("tokenizer.ggml.model") => {
            Tokenizer::from_gguf(checkpoint.path(), metadata).map(Some)
        }
        _ => Ok(None),
    }
}

/// How rows are read, in the order of the file, one in a sequence.
pub fn data_options(rows: &RowArgs) -> DataOptions {
    DataOptions {
        kind: match rows.data_format {
            DataFormat::Auto => None,
            DataFormat::Messages => Some(RowKind::Messages),
            DataFormat::PromptResponse => Some(RowKind::PromptResponse),
            DataFormat::Alpaca => Some(RowKind::Alpaca),
            DataFormat::Text => Some(RowKind::Text),
            DataFormat::Tokens => Some(RowKind::InputIds),
        },
        prompt_field: rows.prompt_field.clone(),
        response_field: rows.response_field.clone(),
        seq_len: rows.seq_len,
        packing: false,
        truncate: match rows.too_long {
            TooLong::Truncate => Truncate::Truncate,
            TooLong::Drop => Truncate::Drop,
        },
        shuffle: false,
        seed: 0,
    }
}

//! One small file a family, named after `model_type`.

pub mod llama;

use super::Decoder;
use super::loader::Loader;
use crate::error::{Error, Result};

/// Builds the decoder that the checkpoint's `model_type` names.
pub(super) fn build(loader: &Loader<'_>) -> Result<Decoder> {
    match loader.config().model_type.as_str() {
        "llama" => llama::build(loader),
        other => {
            Err(Error::file(loader.path(), "model_type", format!("\"{other}\" is not supported; supported: llama")))
        }
    }
}

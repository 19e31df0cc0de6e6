//! What the tensors of a folder are called: by the modules of the whole model, of its base without a head, or of a language model
//! inside of one that sees.

use super::{Checkpoint, Source};
use crate::error::{Error, Result};
use crate::io::safetensors::{RawTensor, SafetensorsFolder};
use std::collections::{BTreeMap, BTreeSet};

/// What the names of a language model's tensors may begin with. Of two that fit the first holds.
const ROOTS: [&str; 5] = ["model.language_model.", "language_model.model.", "model.", "language_model.", ""];
const HEAD: &str = "lm_head.";

/// The tensors of a folder by the names that its model's modules have.
#[derive(Debug)]
pub(super) struct Names {
    /// Module's name -> the file's.
    pub own: BTreeMap<String, String>,
    /// Tensors that are no part of the language model.
    pub others: Vec<String>,
}

impl Names {
    /// `root`: what the modules' names begin with, `model` in most models.
    pub fn of(folder: &SafetensorsFolder, root: &str) -> Names {
        let has = |part: &str| {
            ["embed_tokens.weight", "norm.weight", "layers.0."].iter().any(|end| {
                let start = format!("{part}{end}");
                folder.names().any(|name| name.starts_with(&start))
            })
        };
        let stored_root = ROOTS.into_iter().find(|part| has(part)).unwrap_or("model.");
        let mut names = Names { own: BTreeMap::new(), others: Vec::new() };
        for name in folder.names() {
            let head = name.strip_prefix("language_model.").unwrap_or(name);
            if head.starts_with(HEAD) {
                names.own.insert(head.to_owned(), name.to_owned());
            } else if let Some(rest) = name.strip_prefix(stored_root) {
                names.own.insert(format!("{root}.{rest}"), name.to_owned());
            } else {
                names.others.push(name.to_owned());
            }
        }
        names
    }

    /// The parts of the model that those tensors are of which are no part of the language model.
    pub fn parts(&self) -> BTreeSet<&str> {
        (self.others.iter())
            .map(|name| name.strip_prefix("model.").unwrap_or(name))
            .filter_map(|name| name.split('.').next())
            .collect()
    }

    /// One line about tensors that are no part of the language model, if there are any.
    pub fn note(&self) -> Option<String> {
        let parts: Vec<&str> = self.parts().into_iter().collect();
        let count = self.others.len();
        (count > 0)
            .then(|| format!("the language model is used; {count} tensors of {} are left alone", parts.join(", ")))
    }
}

impl Checkpoint {
    /// The tensors of a folder that are no part of the language model, as they lie.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn others(&self) -> Result<Vec<RawTensor<'_>>> {
        match &self.source {
            Source::Folder { names, .. } => names.others.iter().map(|name| self.other(name)).collect(),
            Source::Gguf { .. } | Source::Shapes(_) => Ok(Vec::new()),
        }
    }

    /// One of [`Checkpoint::others`], by its name in the file.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn other(&self, name: &str) -> Result<RawTensor<'_>> {
        let found = match &self.source {
            Source::Folder { folder, .. } => folder.get(name),
            Source::Gguf { .. } | Source::Shapes(_) => None,
        };
        found.unwrap_or_else(|| Err(Error::file(&self.path, name, "this tensor is missing")))
    }

    /// The parts of the model, such as `vision_tower`, that they are of.
    pub fn other_parts(&self) -> Vec<String> {
        match &self.source {
            Source::Folder { names, .. } => names.parts().into_iter().map(str::to_owned).collect(),
            Source::Gguf { .. } | Source::Shapes(_) => Vec::new(),
        }
    }
}

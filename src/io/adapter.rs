//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors`, in the format of the original RoSA code (also
//! for sparse adapters without a low-rank part), in PEFT's LoRA format and in PEFT's SUPERTUNING format.
mod compare;
mod config;
mod convert;
mod export;
mod gguf;
mod pattern;
mod supertuning;
mod tensors;

pub use compare::{Comparison, compare};
pub use config::{AdapterConfig, AdapterKind, Targets};
pub use convert::Converted;
pub use export::{ExportFormat, Exported, export};
pub use pattern::Pattern;

use super::safetensors::{SafetensorsFile, write_safetensors};
use crate::csr::{Csr, CsrPattern};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File name of the configuration.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// File name of the tensors.
pub const TENSORS_FILE: &str = "adapter_model.safetensors";

/// An adapter as it lies on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterFolder {
    pub config: AdapterConfig,
    /// By Hugging Face's name of the adapted linear, `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, ModuleTensors>,
}

/// The adapter of one linear `[rows, cols]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModuleTensors {
    /// `[r, cols]`; there is an `a` where there is a `b`.
    pub a: Option<Matrix>,
    /// `[rows, r]`
    pub b: Option<Matrix>,
    /// `[rows, cols]`
    pub sparse: Option<Csr>,
}

impl ModuleTensors {
    /// Rows and columns of the linear; none where A, B and S are of different ones, or there are none.
    pub fn shape(&self) -> Option<(usize, usize)> {
        let low_rank = self.b.as_ref().zip(self.a.as_ref()).map(|(b, a)| (b.rows, a.cols));
        let sparse = self.sparse.as_ref().map(|s| (s.pattern.rows, s.pattern.cols));
        low_rank.or(sparse).filter(|shape| sparse.is_none_or(|s| s == *shape))
    }
}

/// A dense matrix `[rows, cols]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

/// What an adapter consists of, without its values.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    pub config: AdapterConfig,
    /// By Hugging Face's name of the adapted linear.
    pub modules: BTreeMap<String, Halves>,
}

/// What the adapter of a linear has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Halves {
    pub low_rank: bool,
    pub sparse: bool,
}

impl Outline {
    /// Reads the headers of `folder`.
    ///
    /// # Errors
    /// As [`AdapterFolder::read`], but for what depends on the model.
    pub fn read(folder: &Path) -> Result<Self> {
        check_files(folder)?;
        let config = AdapterConfig::read(&folder.join(CONFIG_FILE))?;
        let file = SafetensorsFile::open(&folder.join(TENSORS_FILE))?;
        let modules = tensors::halves(&file, config.kind)?;
        Ok(Outline { config, modules })
    }
}

impl AdapterFolder {
    /// The masks of the modules that have one.
    pub fn masks(&self) -> BTreeMap<String, CsrPattern> {
        let mask = |(name, m): (&String, &ModuleTensors)| Some((name.clone(), m.sparse.as_ref()?.pattern.clone()));
        self.modules.iter().filter_map(mask).collect()
    }

    /// Reads `folder`. `shape_of` gives `(rows, cols)` of the model's linear of a name, or `None` if there is none;
    /// every tensor is checked against it.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] naming the file and the key or tensor: no adapter, an unknown type, an option
    /// that is not supported, a tensor that does not fit the model or the configuration.
    pub fn read(folder: &Path, shape_of: impl Fn(&str) -> Option<(usize, usize)>) -> Result<Self> {
        check_files(folder)?;
        let config = AdapterConfig::read(&folder.join(CONFIG_FILE))?;
        let file = SafetensorsFile::open(&folder.join(TENSORS_FILE))?;
        let modules = tensors::read(&file, &config, shape_of)?;
        Ok(AdapterFolder { config, modules })
    }

    /// Reads `folder` without its model: the shapes are those that the tensors have.
    ///
    /// # Errors
    /// As [`AdapterFolder::read`]; [`Error::File`] where the tensors do not tell a shape.
    pub fn read_alone(folder: &Path) -> Result<Self> {
        check_files(folder)?;
        let config = AdapterConfig::read(&folder.join(CONFIG_FILE))?;
        let file = SafetensorsFile::open(&folder.join(TENSORS_FILE))?;
        let shapes = tensors::own_shapes(&file, config.kind)?;
        if let Some(module) = shapes.iter().find_map(|(name, shape)| shape.0.zip(shape.1).is_none().then_some(name)) {
            let base = config.base_model_name_or_path.as_ref();
            let base = base.map_or_else(|| "DIR|FILE.gguf".to_owned(), |base| base.replace('\n', " "));
            let reason =
                format!("the adapter alone does not tell the shape of its matrix; give its model: ⟨model⟩ {base}");
            return Err(Error::file(file.path(), module.as_str(), reason));
        }
        let modules = tensors::read(&file, &config, |name| {
            let (rows, cols) = *shapes.get(name)?;
            rows.zip(cols)
        })?;
        Ok(AdapterFolder { config, modules })
    }

    /// Writes both files into `folder`, which is made if it does not exist. Values are written as F32; indices as I16
    /// where rows and columns are at most 32767, as the original does, and as I32 elsewhere, which the file's metadata
    /// then says (`sparse_index_dtype`).
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Shape`] if tensors of a module don't fit each other or the kind of the adapter.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let (tensors, metadata) = tensors::to_write(self)?;
        write_safetensors(&folder.join(TENSORS_FILE), &tensors, &metadata)?;
        self.config.write(&folder.join(CONFIG_FILE))
    }
}

/// Whether `folder` has both files.
fn check_files(folder: &Path) -> Result<()> {
    // so that a folder that isn't there is told apart from one without an adapter
    std::fs::read_dir(folder).map_err(Error::io(folder))?;
    for name in [CONFIG_FILE, TENSORS_FILE] {
        if !folder.join(name).exists() {
            let hint = match folder_below(folder) {
                _ if folder.join("adapter_model.bin").exists() => {
                    "adapter_model.bin is not read: convert it to safetensors".to_owned()
                }
                Some(below) => format!("there is one in a folder below, give that one: {}", below.display()),
                None => "give the folder that rugosa train wrote, or that of a PEFT adapter".to_owned(),
            };
            return Err(Error::file(folder, name, format!("no adapter found, this file is missing; {hint}")));
        }
    }
    Ok(())
}

/// A folder in `folder` with an adapter, as trainers leave them: `checkpoint-500`.
fn folder_below(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path()));
    entries.filter(|p| p.join(CONFIG_FILE).exists() && p.join(TENSORS_FILE).exists()).max()
}

#[cfg(test)]
mod tests;

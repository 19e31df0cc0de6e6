//! A model with the adapters that go into it: W + S + s·B·A in f32.

use super::types::Model;
use crate::csr::Csr;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::io::adapter::{AdapterFolder, ModuleTensors, TENSORS_FILE};
use crate::io::checkpoint::{Checkpoint, TensorView};
use crate::io::digest::digest_file;
use crate::io::finite::first_non_finite;
use crate::quant;
use crate::train::output;
use rayon::prelude::*;
use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// The key under which a written model says what was merged into it.
pub(super) const MERGED_KEY: &str = "rugosa.merged";

/// An adapter, and what it is multiplied by.
#[derive(Clone, Debug)]
pub struct Weighted {
    pub adapter: AdapterFolder,
    pub weight: f64,
    pub path: PathBuf,
    /// Of its tensors' file.
    pub digest: String,
}

/// A model and the adapters that are added to its weights.
#[derive(Debug)]
pub struct Source {
    pub checkpoint: Checkpoint,
    pub adapters: Vec<Weighted>,
    /// What a user should know about how the files were understood, a line each.
    pub notes: Vec<String>,
}

impl Source {
    /// Opens the model and the adapters, each with its weight.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`] and [`AdapterFolder::read`]: an adapter of another model is told by the modules that do not fit.
    pub fn open(model: &Path, adapters: &[(PathBuf, f64)]) -> Result<Source> {
        let checkpoint = Checkpoint::open(model)?;
        let mut notes = checkpoint.notes.clone();
        let shapes = checkpoint.required();
        let shape_of = |module: &str| {
            let is_linear = |name: &str| name.contains(".layers.") || name.starts_with("lm_head.");
            let is_it = |name: &str| name.strip_suffix(".weight") == Some(module) && is_linear(name);
            let (_, shape) = shapes.iter().find(|(name, _)| is_it(name))?;
            <[usize; 2]>::try_from(shape.as_slice()).ok().map(|[rows, cols]| (rows, cols))
        };
        let mut all = Vec::with_capacity(adapters.len());
        for (path, weight) in adapters {
            let place = output::adapter_in(path)?;
            notes.extend(place.note);
            let adapter = AdapterFolder::read(&place.folder, shape_of)?;
            let (digest, _) = digest_file(&place.folder.join(TENSORS_FILE))?;
            all.push(Weighted { adapter, weight: *weight, path: path.clone(), digest });
        }
        Ok(Source { checkpoint, adapters: all, notes })
    }

    /// What was merged into the model before, as it says itself.
    pub(super) fn merged_before(&self) -> Result<Vec<String>> {
        if let Some(metadata) = self.checkpoint.gguf_metadata() {
            let list = metadata.get(MERGED_KEY).and_then(|v| v.as_array()).unwrap_or_default();
            return Ok(list.iter().filter_map(|v| v.as_str().map(String::from)).collect());
        }
        let Some(folder) = self.checkpoint.folder() else { return Ok(Vec::new()) };
        let config = super::folder::config_json(folder)?;
        let list = config.get(MERGED_KEY).and_then(|v| v.as_array()).cloned().unwrap_or_default();
        Ok(list.iter().filter_map(|v| v.as_str().map(String::from)).collect())
    }

    /// Refuses an adapter that the model has already.
    pub(super) fn refuse_repeated(&self) -> Result<()> {
        let before = self.merged_before()?;
        match self.adapters.iter().find(|a| before.contains(&a.digest)) {
            Some(a) => {
                let reason = format!(
                    "the adapter {} is merged into this model already; give the model that the adapter was trained on",
                    a.path.display()
                );
                Err(Error::file(self.checkpoint.path(), MERGED_KEY, reason))
            }
            None => Ok(()),
        }
    }

    /// What a model that is written says of adapters: those before, and these.
    pub(super) fn merged(&self) -> Result<Vec<String>> {
        let mut all = self.merged_before()?;
        all.extend(self.adapters.iter().map(|a| a.digest.clone()));
        Ok(all)
    }

    /// What the recipes of GGUF files look at.
    pub(super) fn model(&self) -> Model {
        let c = &self.checkpoint.config;
        Model {
            layers: c.num_hidden_layers,
            queries_per_key: c.num_attention_heads / c.num_key_value_heads,
            has_output: !c.tie_word_embeddings,
        }
    }

    /// The format that tensor `name` is stored in.
    pub(super) fn stored(&self, name: &str) -> Result<DType> {
        Ok(self.checkpoint.stored(name)?.dtype)
    }

    /// The adapters of the weight `name`.
    fn parts(&self, name: &str) -> Vec<Part<'_>> {
        let Some(module) = name.strip_suffix(".weight") else { return Vec::new() };
        (self.adapters.iter())
            .filter_map(|a| {
                let scale = (a.adapter.config.scale(module) * a.weight) as f32;
                Some(Part { tensors: a.adapter.modules.get(module)?, scale, weight: a.weight as f32 })
            })
            .collect()
    }

    /// Whether an adapter changes the tensor `name`.
    pub(super) fn changes(&self, name: &str) -> bool {
        !self.parts(name).is_empty()
    }

    /// The values of tensor `name` with the adapters, in Hugging Face's order.
    ///
    /// # Errors
    /// [`Error::File`] for a weight that is NaN or infinite.
    pub fn values(&self, name: &str) -> Result<Vec<f32>> {
        let view = self.checkpoint.tensor(name)?;
        self.checkpoint.check_finite(&view)?;
        let mut values = decoded(&view)?;
        if let [_, cols] = *view.shape.as_slice() {
            let parts = self.parts(name);
            if !parts.is_empty() && cols > 0 {
                values.par_chunks_mut(cols).enumerate().for_each(|(n, row)| add(row, n, &parts));
            }
        }
        Ok(values)
    }

    /// The blocks of tensor `name` with the adapters in format `to`: the file's own where nothing changes.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the format cannot hold a value; as [`Source::values`].
    pub(super) fn blocks(&self, name: &str, to: DType) -> Result<Cow<'_, [u8]>> {
        if self.stored(name)? == to && !self.changes(name) {
            let view = self.checkpoint.tensor(name)?;
            self.checkpoint.check_finite(&view)?;
            return Ok(view.data);
        }
        self.encode(name, to, &self.values(name)?).map(Cow::Owned)
    }

    /// Blocks of values of tensor `name`.
    pub(super) fn encode(&self, name: &str, to: DType, values: &[f32]) -> Result<Vec<u8>> {
        let data = quant::quantise(to, values)?;
        match first_non_finite(to, &data) {
            Some(at) => {
                let block = &values[at..(at + to.block_elements()).min(values.len())];
                let largest = block.iter().fold(0f32, |m, v| if v.abs() > m || v.is_nan() { v.abs() } else { m });
                let reason =
                    format!("{name} has a value of {largest:e}, which {to} cannot hold; choose ⟨type⟩ bf16 or f32");
                Err(Error::option("type", reason))
            }
            None => Ok(data),
        }
    }
}

/// The adapter of a weight.
struct Part<'a> {
    tensors: &'a ModuleTensors,
    /// Of B·A, and of S.
    scale: f32,
    weight: f32,
}

pub(super) fn decoded(view: &TensorView<'_>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; view.shape.iter().product()];
    quant::dequantise(view.dtype, &view.data, &mut values)?;
    Ok(values)
}

/// Adds row `n` of all parts to `row` of the weight.
fn add(row: &mut [f32], n: usize, parts: &[Part<'_>]) {
    let mut product = vec![0f32; row.len()];
    for part in parts {
        if let (Some(a), Some(b)) = (&part.tensors.a, &part.tensors.b) {
            product.fill(0.0);
            for (b, a) in b.data[n * b.cols..][..b.cols].iter().zip(a.data.chunks_exact(a.cols)) {
                product.iter_mut().zip(a).for_each(|(p, a)| *p += b * a);
            }
            row.iter_mut().zip(&product).for_each(|(w, p)| *w += part.scale * p);
        }
        if let Some(Csr { pattern, values }) = &part.tensors.sparse {
            for i in pattern.row_offs[n] as usize..pattern.row_offs[n + 1] as usize {
                row[pattern.col_idx[i] as usize] += part.weight * values[i];
            }
        }
    }
}

//! A pretrained model on disk: a Hugging Face folder or one GGUF file, seen through Hugging Face's names and layouts.
mod layout;
mod names;
mod rename;

use super::config::ModelConfig;
use super::finite::first_non_finite;
use super::gguf::{GgufFile, Metadata};
use super::hub::{self, RepoKind};
use super::nf4::Quantised;
use super::safetensors::{Dtype, RawTensor, SafetensorsFolder};
use super::{fp8, nf4};
use crate::dtype::DType;
use crate::error::{Error, Result};
use names::Names;
pub(in crate::io) use rename::{gguf_name, hf_name, permute_rows, unpermute_rows};
use rename::{with_one, without_one};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One tensor; `data` is borrowed from the file's map unless its rows had to be put in order.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorView<'a> {
    /// Hugging Face's name, `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    pub dtype: DType,
    /// `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// Row-major, whole blocks of `dtype`, not necessarily aligned.
    pub data: Cow<'a, [u8]>,
}

/// Tensors of GGUF files that the configuration is read from.
const ROPE_TENSORS: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
/// Name of the output head's weight.
const HEAD: &str = "lm_head.weight";

/// A pretrained model. Opening reads headers only; weights are paged in as they are used. (Where a head is called the
/// embedding and there is one beside it, the two are compared.)
#[derive(Debug)]
pub struct Checkpoint {
    pub config: ModelConfig,
    /// What a user should know about how the files were understood, a line each.
    pub notes: Vec<String>,
    path: PathBuf,
    source: Source,
    /// What the matrices of layers become on their way out of here.
    recoded: Option<Recoded>,
}

/// Another format for what is read.
#[derive(Clone, Copy, Debug)]
struct Recoded {
    to: DType,
    encode: Encode,
}

/// Makes blocks of a format of a tensor.
pub type Encode = fn(DType, &TensorView<'_>) -> Result<Vec<u8>>;

#[derive(Debug)]
enum Source {
    Folder {
        folder: SafetensorsFolder,
        names: Names,
    },
    /// `names`: Hugging Face's name -> the file's.
    Gguf {
        file: GgufFile,
        names: BTreeMap<String, String>,
    },
    /// Types and shapes without weights.
    Shapes(BTreeMap<String, (DType, Vec<usize>)>),
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a GGUF file, or what a name such as `hf:org/name` stands for, and checks that every tensor that the decoder needs is there, in a
    /// supported type and of the shape that the configuration says.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::File`], naming the file, the key or tensor, and the way out.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &*hub::local(path, RepoKind::Model)?;
        let found = std::fs::metadata(path).map_err(|e| absent(path, e))?;
        let mut checkpoint = if found.is_dir() { Self::open_folder(path)? } else { Self::open_gguf(path)? };
        checkpoint.untie()?;
        checkpoint.check_tensors()?;
        checkpoint.note_unused()?;
        Ok(checkpoint)
    }

    /// A model that is not there, to make room for: its matrices in the formats that `format_of` gives for their names, its
    /// vectors in F32. `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a matrix whose rows are no whole blocks of its format.
    pub fn of_shapes(config: ModelConfig, name: &str, format_of: impl Fn(&str) -> DType) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for (tensor, shape) in layout::required_tensors(&config) {
            let dtype = if shape.len() == 1 { DType::F32 } else { format_of(&tensor) };
            if let [_, cols] = *shape.as_slice()
                && !cols.is_multiple_of(dtype.block_elements())
            {
                let reason =
                    format!("{tensor} has rows of {cols}, no whole blocks of {dtype}; choose a format without blocks");
                return Err(Error::invalid(name, reason));
            }
            tensors.insert(tensor, (dtype, shape));
        }
        Ok(Checkpoint::of(config, Path::new(name), Source::Shapes(tensors)))
    }

    fn open_folder(path: &Path) -> Result<Self> {
        if !path.join("config.json").exists()
            && let Some(file) = first_gguf(path)
        {
            let reason = format!("there is none here, but a GGUF file: give that one, {}", file.display());
            return Err(Error::file(path, "config.json", reason));
        }
        let config = ModelConfig::from_hf(path)?;
        let folder = SafetensorsFolder::open(path)?;
        let names = Names::of(&folder, config.root());
        Ok(Checkpoint::of(config, path, Source::Folder { folder, names }))
    }

    fn open_gguf(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        let config = ModelConfig::from_gguf(&file)?;
        let names = file.names().filter_map(|n| Some((hf_name(config.family, n)?, n.to_string()))).collect();
        Ok(Checkpoint::of(config, path, Source::Gguf { file, names }))
    }

    fn of(config: ModelConfig, path: &Path, source: Source) -> Self {
        Checkpoint { config, notes: Vec::new(), path: path.to_path_buf(), source, recoded: None }
    }

    /// A configuration may call the head the embedding where the file has a head of its own. As in transformers 5 that one is
    /// used then, unless the two are equal.
    fn untie(&mut self) -> Result<()> {
        let embedding = self.embedding();
        // a wrapper and its language model may say different things
        if self.config.wrapped && !self.contains(HEAD) && self.contains(&embedding) {
            self.config.tie_word_embeddings = true;
        }
        if self.config.tie_word_embeddings && self.contains(HEAD) && self.contains(&embedding) && !self.is_tied()? {
            self.config.tie_word_embeddings = false;
            self.notes.push(format!(
                "{}: tie_word_embeddings is true, but {HEAD} is another matrix than the embedding; it is used as the head",
                self.path.display()
            ));
        }
        Ok(())
    }

    /// Name of the embedding's weight.
    fn embedding(&self) -> String {
        format!("{}.embed_tokens.weight", self.config.root())
    }

    /// Whether the head has the values of the embedding.
    fn is_tied(&self) -> Result<bool> {
        let Source::Folder { folder, names } = &self.source else { return Ok(true) };
        let get = |name: &str| names.own.get(name).and_then(|own| folder.get(own));
        let (Some(embedding), Some(head)) = (get(&self.embedding()), get(HEAD)) else { return Ok(true) };
        let (embedding, head) = (embedding?, head?);
        Ok(embedding.shape == head.shape
            && match embedding.dtype == head.dtype {
                true => embedding.data == head.data,
                false => embedding.to_f32()? == head.to_f32()?,
            })
    }

    /// What a folder's file calls the tensor `name`: of a head that is the embedding one of the two names is enough.
    fn stored_as<'a>(&self, names: &'a Names, name: &str) -> Option<&'a str> {
        let own = names.own.get(name);
        let head = || names.own.get(HEAD).filter(|_| self.config.tie_word_embeddings && name == self.embedding());
        own.or_else(head).map(String::as_str)
    }

    fn check_tensors(&self) -> Result<()> {
        for (name, expected) in layout::required_tensors(&self.config) {
            let found = self.stored(&name)?;
            if found.shape != expected {
                let reason = format!(
                    "has the shape {:?}, but the model's configuration says {expected:?}; they belong to different models",
                    found.shape
                );
                return Err(Error::file(&self.path, name, reason));
            }
            if found.shape.len() == 1 && found.dtype.is_quantised() {
                return Err(Error::file(&self.path, name, format!("is a vector, which can't be {}", found.dtype)));
            }
        }
        Ok(())
    }

    /// Says which tensors no part of the decoder reads.
    ///
    /// # Errors
    /// [`Error::File`] for a bias that the configuration denies: with it or without it, one of the two would be wrong.
    fn note_unused(&mut self) -> Result<()> {
        let required: BTreeSet<String> =
            layout::required_tensors(&self.config).into_iter().map(|(name, _)| name).collect();
        let all: Vec<&str> = match &self.source {
            Source::Folder { names, .. } if self.config.wrapped => {
                self.notes.extend(names.note().map(|note| format!("{}: {note}", self.path.display())));
                names.own.keys().map(String::as_str).collect()
            }
            Source::Folder { names, .. } => {
                names.own.keys().map(String::as_str).chain(names.others.iter().map(String::as_str)).collect()
            }
            Source::Gguf { file, names } => {
                let known: BTreeSet<&str> = names.values().map(String::as_str).collect();
                let unknown = file.names().filter(|name| !known.contains(name) && !ROPE_TENSORS.contains(name));
                names.keys().map(String::as_str).chain(unknown).collect()
            }
            Source::Shapes(_) => return Ok(()),
        };
        let part = |name: &str| nf4::is_part(name) || fp8::is_part(name);
        let harmless = |name: &str| name == HEAD || name.ends_with("rotary_emb.inv_freq") || part(name);
        let unused: Vec<&str> = all.into_iter().filter(|name| !required.contains(*name) && !harmless(name)).collect();
        let is_bias = |name: &&&str| {
            let module = name.strip_suffix(".bias");
            module.is_some_and(|module| required.contains(&format!("{module}.weight")))
        };
        if let Some(bias) = unused.iter().find(is_bias) {
            let reason = "is there, but by the model's configuration there is none; set attention_bias or mlp_bias in it, or \
                          take the tensor out";
            return Err(Error::file(&self.path, *bias, reason));
        }
        if let [first, ..] = unused.as_slice() {
            let note = format!("{}: {} tensors are not used, {first} first", self.path.display(), unused.len());
            self.notes.push(note);
        }
        Ok(())
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on gives the matrices of layers that are stored in 16 or 32 bits in the format `to`, which `encode` makes. Embedding,
    /// head, norms and biases stay, and what is quantised already.
    ///
    /// # Errors
    /// [`Error::Invalid`] for rows that are no whole blocks of the format.
    pub fn recode(&mut self, to: DType, encode: Encode) -> Result<()> {
        let mut kept = None;
        for (name, shape) in layout::required_tensors(&self.config) {
            if !is_layer_matrix(&name, &shape) {
                continue;
            }
            let stored = self.stored(&name)?.dtype;
            if stored.is_quantised() {
                kept = Some(stored);
            } else if !shape[1].is_multiple_of(to.block_elements()) {
                let fits =
                    [DType::NF4, DType::Q8_0].iter().find(|other| shape[1].is_multiple_of(other.block_elements()));
                let way_out = match fits {
                    Some(other) => format!("take one of smaller blocks, {}", other.to_string().to_lowercase()),
                    None => "leave ⟨quantize⟩ out".to_owned(),
                };
                let (cols, block) = (shape[1], to.block_elements());
                let reason = format!("{name} has rows of {cols}, no whole number of {to} blocks of {block}; {way_out}");
                return Err(Error::option("quantize", reason));
            }
        }
        if let Some(stored) = kept {
            self.notes.push(format!(
                "{}: matrices that are quantised already ({stored}) stay as they are",
                self.path.display()
            ));
        }
        self.recoded = Some(Recoded { to, encode });
        Ok(())
    }

    /// What becomes of the matrix `view`, if it is to be in another format.
    fn recoding(&self, view: &TensorView<'_>) -> Option<Recoded> {
        self.recoded.filter(|_| !view.dtype.is_quantised() && is_layer_matrix(&view.name, &view.shape))
    }

    /// Name and shape of every tensor that the decoder reads.
    pub fn required(&self) -> Vec<(String, Vec<usize>)> {
        layout::required_tensors(&self.config)
    }

    /// The file, where it is a GGUF one.
    pub fn gguf(&self) -> Option<&GgufFile> {
        match &self.source {
            Source::Gguf { file, .. } => Some(file),
            Source::Folder { .. } | Source::Shapes(_) => None,
        }
    }

    /// What GGUF calls the tensor `name` (Hugging Face's).
    pub fn gguf_name(&self, name: &str) -> Option<String> {
        gguf_name(self.config.family, name)
    }

    /// Puts the rows of the tensor `name` (Hugging Face's), whole blocks of any format, into llama.cpp's order.
    ///
    /// # Errors
    /// [`Error::File`] for rows that are no two halves for each head.
    pub fn to_gguf_rows<'d>(&self, name: &str, rows: usize, data: Cow<'d, [u8]>) -> Result<Cow<'d, [u8]>> {
        let Some(heads) = self.rotated_heads(name) else { return Ok(data) };
        permute_rows(&data, rows, heads).map(Cow::Owned).ok_or_else(|| self.odd_rows(name, rows, heads))
    }

    /// What GGUF holds for the values of the vector `name`: of Gemma's norms the sum of them and 1.
    pub fn to_gguf_vector(&self, name: &str, values: &mut [f32]) {
        if self.is_offset_norm(name) {
            with_one(values);
        }
    }

    /// The folder, where it is one: `tokenizer.json` and the like lie beside the weights.
    pub fn folder(&self) -> Option<&Path> {
        match self.source {
            Source::Folder { .. } => Some(&self.path),
            Source::Gguf { .. } | Source::Shapes(_) => None,
        }
    }

    /// The metadata, where it is a GGUF file: tokenizer and chat template are in it.
    pub fn gguf_metadata(&self) -> Option<&Metadata> {
        match &self.source {
            Source::Folder { .. } | Source::Shapes(_) => None,
            Source::Gguf { file, .. } => Some(file.metadata()),
        }
    }

    /// Rows and columns of the linear `module` (Hugging Face's name), also of a head that is the embedding.
    pub fn linear_shape(&self, module: &str) -> Option<(usize, usize)> {
        let (hidden, vocab) = (self.config.hidden_size, self.config.vocab_size);
        if module == "lm_head" {
            return Some((vocab, hidden));
        }
        let weight = format!("{module}.weight");
        let embedding = self.embedding();
        let all = layout::required_tensors(&self.config).into_iter().filter(|(name, _)| *name != embedding);
        all.into_iter().find_map(|(name, shape)| match *shape.as_slice() {
            [rows, cols] if name == weight => Some((rows, cols)),
            _ => None,
        })
    }

    /// Hugging Face's names of all tensors, in alphabetical order. Those of GGUF files without such a name are left out, and those
    /// beside the language model.
    pub fn names(&self) -> Vec<&str> {
        match &self.source {
            Source::Folder { names, .. } => names.own.keys().map(String::as_str).collect(),
            Source::Gguf { names, .. } => names.keys().map(String::as_str).collect(),
            Source::Shapes(tensors) => tensors.keys().map(String::as_str).collect(),
        }
    }

    /// Whether there is a tensor `name` (Hugging Face's).
    pub fn contains(&self, name: &str) -> bool {
        match &self.source {
            Source::Folder { names, .. } => names.own.contains_key(name),
            Source::Gguf { names, .. } => names.contains_key(name),
            Source::Shapes(tensors) => tensors.contains_key(name),
        }
    }

    /// The tensor `name` (Hugging Face's).
    ///
    /// # Errors
    /// [`Error::File`] if it is missing or of a type that is not supported.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let view = self.own_tensor(name)?;
        let Some(Recoded { to, encode }) = self.recoding(&view) else { return Ok(view) };
        self.check_finite(&view)?;
        let data = Cow::Owned(encode(to, &view)?);
        Ok(TensorView { dtype: to, data, ..view })
    }

    /// The tensor as it is stored.
    fn own_tensor(&self, name: &str) -> Result<TensorView<'_>> {
        if let Source::Shapes(_) = self.source {
            return Err(Error::file(&self.path, name, "has a shape and no values here"));
        }
        if let Source::Folder { folder, names } = &self.source
            && let Some(view) = self.unpacked(folder, names, name)?
        {
            return Ok(view);
        }
        let mut view = self.own_stored(name)?;
        if let Some(heads) = self.permuted_heads(name) {
            let rows = view.shape.first().copied().unwrap_or(0);
            let data = unpermute_rows(&view.data, rows, heads).ok_or_else(|| self.odd_rows(name, rows, heads))?;
            view.data = Cow::Owned(data);
        }
        if self.folder().is_none() && self.is_offset_norm(name) {
            let data = Some(&view.data).filter(|_| view.dtype == DType::F32).and_then(|d| without_one(d));
            let other =
                || Error::file(&self.path, name, format!("is {}, but the norms of this family are F32", view.dtype));
            view.data = Cow::Owned(data.ok_or_else(other)?);
        }
        Ok(view)
    }

    /// A weight that several tensors of a folder make together.
    fn unpacked(&self, folder: &SafetensorsFolder, names: &Names, name: &str) -> Result<Option<TensorView<'_>>> {
        let Some(own) = self.stored_as(names, name) else { return Ok(None) };
        let Some(raw) = folder.get(own) else { return Ok(None) };
        let raw = raw?;
        let view = |dtype, shape: &[usize], data| {
            Some(TensorView { name: name.to_string(), dtype, shape: shape.to_vec(), data: Cow::Owned(data) })
        };
        if fp8::is_fp8(&raw) {
            return Ok(view(DType::BF16, raw.shape, fp8::to_bf16(folder, own, &raw)?));
        }
        let Some(quantised) = Quantised::of(folder, own, raw)? else { return Ok(None) };
        Ok(view(quantised.dtype()?, &quantised.shape, quantised.blocks()?))
    }

    /// The tensor `name` with its rows in the file's order, which costs nothing: for its shape and type. What several tensors make
    /// together has no data here.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`].
    pub fn stored(&self, name: &str) -> Result<TensorView<'_>> {
        let view = self.own_stored(name)?;
        let Some(Recoded { to, .. }) = self.recoding(&view) else { return Ok(view) };
        Ok(TensorView { dtype: to, data: Cow::Borrowed(&[]), ..view })
    }

    /// Says of a tensor that is not there whether another form of it is.
    fn why_missing(&self, name: &str) -> String {
        let packed = name.strip_suffix(".weight").and_then(|module| {
            let Source::Folder { folder, .. } = &self.source else { return None };
            let forms =
                [("qweight", "GPTQ or AWQ"), ("weight_packed", "compressed-tensors"), ("weight_blocks", "MXFP4")];
            forms.into_iter().find(|(part, _)| folder.get(&format!("{module}.{part}")).is_some())
        });
        match packed {
            Some((part, kind)) => format!(
                "this tensor is packed by {kind}, as its {part} shows, which is not supported; use the unquantised model or a GGUF file"
            ),
            None => "this tensor is missing; download the model again".to_owned(),
        }
    }

    fn own_stored(&self, name: &str) -> Result<TensorView<'_>> {
        let missing = || Error::file(&self.path, name, self.why_missing(name));
        match &self.source {
            Source::Folder { folder, names } => {
                let own = self.stored_as(names, name).ok_or_else(missing)?;
                let raw = folder.get(own).ok_or_else(missing)??;
                let whole =
                    |dtype, shape| TensorView { name: name.to_string(), dtype, shape, data: Cow::Borrowed(&[]) };
                if fp8::is_fp8(&raw) {
                    return Ok(whole(DType::BF16, raw.shape.to_vec()));
                }
                if let Some(quantised) = Quantised::of(folder, own, raw.clone())? {
                    return Ok(whole(quantised.dtype()?, quantised.shape));
                }
                Ok(TensorView { name: name.to_string(), ..folder_tensor(raw)? })
            }
            Source::Gguf { file, names } => {
                let raw = file.tensor(names.get(name).ok_or_else(missing)?)?;
                Ok(TensorView { name: name.to_string(), dtype: raw.dtype, shape: raw.shape, data: raw.data })
            }
            Source::Shapes(tensors) => {
                let (dtype, shape) = tensors.get(name).ok_or_else(missing)?.clone();
                Ok(TensorView { name: name.to_string(), dtype, shape, data: Cow::Borrowed(&[]) })
            }
        }
    }

    /// Looks at every number of a tensor of this model.
    ///
    /// # Errors
    /// [`Error::File`] that names the tensor's file, the tensor and the place of the first that is NaN or infinite.
    pub fn check_finite(&self, view: &TensorView<'_>) -> Result<()> {
        let Some(at) = first_non_finite(view.dtype, &view.data) else { return Ok(()) };
        let place = match *view.shape.as_slice() {
            [_, cols] if cols > 0 => format!("row {}, column {}", at / cols, at % cols),
            _ => format!("element {at}"),
        };
        let what = if view.dtype.is_quantised() { "the scale of a block" } else { "a number" };
        let bad = if view.dtype.is_quantised() { "NaN, infinite or too large" } else { "NaN or infinite" };
        let reason = format!(
            "holds {what} that is {bad}, first at {place}: nothing can be computed with it; the file is damaged, or \
             its training went wrong: get the model again, or another one"
        );
        let file = match &self.source {
            Source::Folder { folder, names } => {
                self.stored_as(names, &view.name).and_then(|own| folder.file_of(own)).unwrap_or(&self.path)
            }
            Source::Gguf { file, names } => names.get(&view.name).map_or(file.path(), |name| file.file_of(name)),
            Source::Shapes(_) => &self.path,
        };
        Err(Error::file(file, &view.name, reason))
    }

    fn odd_rows(&self, name: &str, rows: usize, heads: usize) -> Error {
        let reason = format!("has {rows} rows, which are no two halves for each of {heads} heads");
        Error::file(&self.path, name, reason)
    }

    /// Whether it is a norm that multiplies by 1 + w, of which GGUF holds the sum.
    fn is_offset_norm(&self, name: &str) -> bool {
        self.config.family.has_unit_offset() && name.ends_with("norm.weight")
    }

    /// Heads of a tensor whose rows llama.cpp keeps in its own rotary order.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        self.rotated_heads(name).filter(|_| self.folder().is_none())
    }

    /// Heads of a tensor whose rows llama.cpp's converter puts in another order.
    fn rotated_heads(&self, name: &str) -> Option<usize> {
        if !self.config.family.written_in_gguf().is_some_and(|g| g.permuted) {
            return None;
        }
        let (module, _kind) = name.rsplit_once('.')?;
        match module.rsplit_once('.')?.1 {
            "q_proj" => Some(self.config.num_attention_heads),
            "k_proj" => Some(self.config.num_key_value_heads),
            _ => None,
        }
    }
}

/// Whether a tensor is what products of layers are with: no embedding, head, norm or bias.
fn is_layer_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && name.contains(".layers.")
}

fn folder_tensor(raw: RawTensor<'_>) -> Result<TensorView<'_>> {
    let dtype = match raw.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        other => {
            let reason = format!(
                "has the type {other}; supported in safetensors are F32, F16, BF16, bitsandbytes' NF4 and F8_E4M3 in blocks: convert the model"
            );
            return Err(raw.error(reason));
        }
    };
    Ok(TensorView { name: raw.name.to_string(), dtype, shape: raw.shape.to_vec(), data: Cow::Borrowed(raw.data) })
}

/// The error of a model's path that leads nowhere.
fn absent(path: &Path, source: std::io::Error) -> Error {
    let text = path.to_str().unwrap_or_default();
    let is_name = |part: &str| {
        part.starts_with(char::is_alphanumeric) && part.chars().all(|c| c.is_alphanumeric() || "._-".contains(c))
    };
    let is_hub = text.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name))
        && source.kind() == std::io::ErrorKind::NotFound
        && !path.parent().is_some_and(Path::exists)
        && path.extension().is_none_or(|e| e != "gguf" && e != "safetensors");
    let reason = if is_hub {
        "no such folder or file; names on the Hugging Face Hub are not downloaded: hf download NAME --local-dir DIR, then give DIR"
    } else if text.starts_with("~/") {
        "no such folder or file; the shell leaves ~ as it is in quotes and behind =: write the whole path"
    } else {
        return Error::io(path)(source);
    };
    Error::file(path, "⟨model⟩", reason)
}

/// The first GGUF file of `folder` by name.
fn first_gguf(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?;
    entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "gguf")).min()
}

#[cfg(test)]
mod tests;

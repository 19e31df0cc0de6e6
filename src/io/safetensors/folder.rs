//! The safetensors of a model folder: one file, shards that an index lists, or shards that say by their names that they are
//! complete.

use super::{INDEX, RawTensor, SINGLE, SafetensorsFile};
use crate::error::{Error, Result};
use crate::io::kind;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Shards whose names a message lists, at most.
const LISTED: usize = 4;

/// The safetensors of a model folder, one file or many, seen as one.
#[derive(Debug)]
pub struct SafetensorsFolder {
    files: Vec<SafetensorsFile>,
    /// Tensor name -> index of its file.
    owner: BTreeMap<String, usize>,
}

impl SafetensorsFolder {
    /// Opens `model.safetensors`, or all shards that `model.safetensors.index.json` names, or without such an index all of
    /// `model-00001-of-0000N.safetensors`.
    ///
    /// # Errors
    /// [`Error::File`] naming the folder if there are no weights, the shard or tensor if one is missing or the index lies.
    pub fn open(folder: &Path) -> Result<Self> {
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            let owner = file.names().map(|n| (n.to_string(), 0)).collect();
            return Ok(SafetensorsFolder { files: vec![file], owner });
        }
        if index.exists() {
            return Self::open_indexed(folder, &index);
        }
        let names = file_names(folder);
        let shards: Vec<Shard> = names.iter().filter_map(|n| Shard::of(n)).collect();
        match shards.first() {
            Some(first) => Self::open_numbered(folder, first, &shards),
            None => Err(no_weights(folder, &names)),
        }
    }

    fn open_indexed(folder: &Path, index: &Path) -> Result<Self> {
        let json: Value = serde_json::from_slice(&kind::read(index)?)
            .map_err(|e| Error::file(index, "JSON", format!("is not valid: {e}")))?;
        let weight_map = json["weight_map"]
            .as_object()
            .ok_or_else(|| Error::file(index, "weight_map", "must map tensor names to file names"))?;
        let mut places: Vec<(&String, &str)> = Vec::new();
        for (name, shard) in weight_map {
            let shard = shard
                .as_str()
                .filter(|s| !s.is_empty() && *s != ".." && !s.contains(['/', '\\']))
                .ok_or_else(|| Error::file(index, name, format!("{shard} is no file name in this folder")))?;
            places.push((name, shard));
        }
        let shards: BTreeSet<&str> = places.iter().map(|(_, shard)| *shard).collect();
        refuse_missing(folder, shards.iter().map(|s| (*s).to_owned()), &format!("that {INDEX} names"))?;
        let mut opened: BTreeMap<&str, usize> = BTreeMap::new();
        let mut all = SafetensorsFolder { files: Vec::new(), owner: BTreeMap::new() };
        for (name, shard) in places {
            let i = match opened.get(shard) {
                Some(&i) => i,
                None => {
                    all.files.push(SafetensorsFile::open(&folder.join(shard))?);
                    opened.insert(shard, all.files.len() - 1);
                    all.files.len() - 1
                }
            };
            if !all.files[i].contains(name) {
                return Err(Error::file(index, name, format!("is said to be in {shard}, which does not have it")));
            }
            all.owner.insert(name.clone(), i);
        }
        Ok(all)
    }

    /// Shards without an index: their names say how many there are.
    fn open_numbered(folder: &Path, first: &Shard, found: &[Shard]) -> Result<Self> {
        if let Some(other) = found.iter().find(|s| (&s.prefix, s.count) != (&first.prefix, first.count)) {
            let reason = format!(
                "{} and {} are shards of different sets, and {INDEX} does not say which is the model; leave one set here",
                first.name(),
                other.name()
            );
            return Err(Error::file(folder, "weights", reason));
        }
        let names = (1..=first.count).map(|number| Shard { number, ..first.clone() }.name());
        refuse_missing(folder, names.clone(), "of the model")?;
        let mut all = SafetensorsFolder { files: Vec::new(), owner: BTreeMap::new() };
        for name in names {
            let file = SafetensorsFile::open(&folder.join(&name))?;
            for tensor in file.names() {
                if let Some(before) = all.owner.insert(tensor.to_owned(), all.files.len()) {
                    let before: &SafetensorsFile = &all.files[before];
                    let reason = format!("is in {} too; download the model again", before.path().display());
                    return Err(Error::file(folder.join(&name), tensor, reason));
                }
            }
            all.files.push(file);
        }
        Ok(all)
    }

    /// The names of all tensors, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.owner.keys().map(String::as_str)
    }

    /// Whether there is a tensor `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.owner.contains_key(name)
    }

    /// The file that has the tensor `name`.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.owner.get(name).map(|&i| self.files[i].path())
    }

    /// The tensor `name`; `None` if no file has it.
    pub fn get(&self, name: &str) -> Option<Result<RawTensor<'_>>> {
        self.owner.get(name).map(|&i| self.files[i].get(name))
    }
}

/// A name such as `model-00002-of-00003.safetensors`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shard {
    /// `model`
    prefix: String,
    number: u32,
    count: u32,
}

impl Shard {
    fn of(name: &str) -> Option<Shard> {
        let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let parse = |text: &str| text.parse::<u32>().ok().filter(|_| text.len() == 5);
        let shard = Shard { prefix: prefix.to_owned(), number: parse(number)?, count: parse(count)? };
        (1..=shard.count).contains(&shard.number).then_some(shard)
    }

    fn name(&self) -> String {
        format!("{}-{:05}-of-{:05}.safetensors", self.prefix, self.number, self.count)
    }
}

/// Whether a file of this name is a shard of a model.
#[cfg(feature = "hub")]
pub(in crate::io) fn is_shard(name: &str) -> bool {
    Shard::of(name).is_some()
}

/// Refuses a folder in which some of `shards` are not. `which`: what they are, for the message.
fn refuse_missing(folder: &Path, shards: impl Iterator<Item = String>, which: &str) -> Result<()> {
    let (mut all, mut missing) = (0, Vec::new());
    for shard in shards {
        all += 1;
        if !folder.join(&shard).exists() {
            missing.push(shard);
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let more = if missing.len() > LISTED { format!(" and {} more", missing.len() - LISTED) } else { String::new() };
    let reason = format!(
        "{} of the {all} shards {which} are missing: {}{more}; download them into this folder",
        missing.len(),
        missing[..missing.len().min(LISTED)].join(", ")
    );
    Err(Error::file(folder, "weights", reason))
}

/// Names in `folder`, in order; none where it cannot be read.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// What a folder without weights that can be read has instead.
fn no_weights(folder: &Path, names: &[String]) -> Error {
    let ending = |endings: &[&str]| names.iter().find(|n| endings.iter().any(|e| n.to_lowercase().ends_with(e)));
    let has = |name: &str| names.iter().any(|n| n == name);
    let neither = format!("neither {SINGLE} nor {INDEX} is here");
    let reason = if let Some(name) = ending(&[".gguf"]) {
        format!("{neither}, but a GGUF file: give that one, {}", folder.join(name).display())
    } else if let Some(name) = ending(&[".incomplete", ".part", ".crdownload", ".aria2", ".download"]) {
        format!("{neither}, and {name} is half a download: finish it")
    } else if has("consolidated.safetensors") {
        format!("{neither}; consolidated.safetensors has Mistral's own names: download the Hugging Face files too")
    } else if has("adapter_model.safetensors") {
        format!("{neither}; this is the folder of an adapter: give it as ⟨adapter⟩, and its model as ⟨model⟩")
    } else if let Some(name) = ending(&[".safetensors"]) {
        format!("{neither}, but {name}: call it {SINGLE} if it holds the whole model")
    } else if let Some(name) = ending(&[".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"]) {
        format!("{neither}; {name} is not read: save the model as safetensors with transformers, or take its GGUF file")
    } else {
        format!("{neither}; download the weights of the model into this folder")
    };
    Error::file(folder, "weights", reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::safetensors::{OutTensor, write_safetensors};

    fn write(folder: &Path, file: &str, tensor: &str) {
        let tensor = OutTensor::f32(tensor, &[1], &[1.0]);
        write_safetensors(&folder.join(file), &[tensor], &BTreeMap::new()).unwrap();
    }

    #[track_caller]
    fn fails(folder: &Path, parts: &[&str]) {
        let message = SafetensorsFolder::open(folder).unwrap_err().to_string();
        assert!(parts.iter().all(|p| message.contains(p)) && !message.contains('\n'), "{message}");
    }

    #[test]
    fn shards_without_an_index_are_read_if_they_are_complete() {
        let dir = tempfile::tempdir().unwrap();
        for (i, tensor) in ["b", "a", "c"].iter().enumerate() {
            write(dir.path(), &format!("model-0000{}-of-00003.safetensors", i + 1), tensor);
        }
        let all = SafetensorsFolder::open(dir.path()).unwrap();
        assert_eq!(all.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all.get("c").unwrap().unwrap().to_f32().unwrap(), [1.0]);
        write(dir.path(), "model-00003-of-00003.safetensors", "a");
        fails(dir.path(), &["model-00003-of-00003.safetensors: a: is in", "model-00002-of-00003.safetensors too"]);
        write(dir.path(), "other-00001-of-00001.safetensors", "a");
        fails(dir.path(), &["shards of different sets", "leave one set here"]);
    }

    #[test]
    fn missing_shards_are_named() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "model-00002-of-00003.safetensors", "a");
        fails(
            dir.path(),
            &[
                "weights: 2 of the 3 shards of the model are missing: model-00001-of-00003.safetensors, model-00003-of-00003.safetensors; download",
            ],
        );
        let index =
            r#"{"weight_map": {"a": "model-00002-of-00003.safetensors", "b": "model-00003-of-00003.safetensors"}}"#;
        std::fs::write(dir.path().join(INDEX), index).unwrap();
        fails(dir.path(), &["1 of the 2 shards that model.safetensors.index.json names are missing: model-00003-of"]);
        std::fs::remove_file(dir.path().join(INDEX)).unwrap();
        std::fs::remove_file(dir.path().join("model-00002-of-00003.safetensors")).unwrap();
        write(dir.path(), "model-00001-of-00020.safetensors", "a");
        fails(dir.path(), &["19 of the 20", "model-00005-of-00020.safetensors and 15 more;"]);
    }

    #[test]
    fn folders_without_weights_are_told_by_what_they_have() {
        for (name, part) in [
            ("m.gguf", "but a GGUF file: give that one"),
            ("model.safetensors.part", "half a download"),
            ("consolidated.safetensors", "Mistral's own names"),
            ("adapter_model.safetensors", "give it as ⟨adapter⟩"),
            ("weights.safetensors", "call it model.safetensors if"),
            ("model-1-of-2.safetensors", "call it model.safetensors if"),
            ("pytorch_model.bin", "pytorch_model.bin is not read: save the model as safetensors"),
            ("model.onnx", "model.onnx is not read"),
            ("README.md", "download the weights"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(name), "").unwrap();
            fails(dir.path(), &["weights: neither model.safetensors nor model.safetensors.index.json is here", part]);
        }
    }
}

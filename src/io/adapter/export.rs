//! An adapter for other programs.

use super::{AdapterFolder, Comparison, Converted, compare};
use crate::error::{Error, Result};
use crate::io::config::ModelConfig;
use crate::io::disk;
use crate::io::write::new_folder;
use std::path::Path;

/// What an adapter is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// PEFT's LoRA; SUPERTUNING where there is an S.
    Peft,
    /// The original RoSA code's.
    PeftRosa,
    /// llama.cpp's LoRA.
    Gguf,
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// What had to be changed for the format, a line each.
    pub notes: Vec<String>,
    /// What was found where the result was opened again.
    pub verified: Option<Comparison>,
}

/// Writes `adapter` to `out`, a new folder, or with [`ExportFormat::Gguf`] a new file, which needs the base's configuration,
/// `model`. `verify`: the result is read again and compared number by number. It gets its name at the end: what fails leaves nothing.
///
/// # Errors
/// [`Error::File`] where something is at `out` already; those of the formats, of files, and of [`compare()`].
pub fn export(
    adapter: &AdapterFolder,
    format: ExportFormat,
    out: &Path,
    model: Option<&ModelConfig>,
    verify: bool,
) -> Result<Exported> {
    check_free(out, format)?;
    let shape_of = |name: &str| adapter.modules.get(name)?.shape();
    let needed =
        || Error::option("model", "is needed for GGUF, whose names and order of rows are the model's").as_usage();
    let model = if format == ExportFormat::Gguf { Some(model.ok_or_else(needed)?) } else { None };
    let parent = disk::parent(out);
    disk::create_folder(parent)?;
    let unfinished = new_folder(parent)?;
    let at = &unfinished.path().join("adapter");
    let (notes, read): (_, Box<dyn Fn() -> Result<AdapterFolder>>) = match (format, model) {
        (ExportFormat::Gguf, Some(model)) => {
            let notes = adapter.write_gguf(at, model)?;
            (notes, Box::new(move || AdapterFolder::read_gguf(at, model)))
        }
        _ => {
            let Converted { adapter: converted, notes } = match format {
                ExportFormat::PeftRosa => adapter.to_peft_rosa()?,
                _ => adapter.to_peft()?,
            };
            disk::create_folder(at)?;
            converted.write(at)?;
            (notes, Box::new(move || AdapterFolder::read(at, shape_of)))
        }
    };
    let verified = if verify { Some(compare(adapter, &read()?)?) } else { None };
    drop(read); // Windows moves no file that is mapped
    if out.exists() {
        disk::remove_folder(out)?; // an empty one
    }
    disk::rename(at, out)?;
    disk::sync_folder(parent)?;
    Ok(Exported { notes, verified })
}

/// Refuses to write over what is there.
fn check_free(out: &Path, format: ExportFormat) -> Result<()> {
    let is_empty_folder = || std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    let free = !out.exists() || (format != ExportFormat::Gguf && is_empty_folder());
    let what = if format == ExportFormat::Gguf { "file" } else { "folder" };
    free.then_some(()).ok_or_else(|| Error::file(out, "⟨out⟩", format!("exists already; give a new {what}")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::super::{AdapterKind, Matrix};
    use super::*;

    #[test]
    fn what_is_there_stays_and_gguf_needs_the_model() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = small(AdapterKind::Rosa);
        let to = |format, out: &Path| export(&adapter, format, out, None, true).map_err(|e| e.to_string());
        let out = dir.path().join("new");
        let done = to(ExportFormat::Peft, &out).unwrap();
        assert_eq!((done.notes.len(), done.verified.unwrap().worst), (0, 0.0));
        let before = std::fs::read(out.join("adapter_config.json")).unwrap();
        assert!(to(ExportFormat::PeftRosa, &out).unwrap_err().contains("⟨out⟩: exists already; give a new folder"));
        assert_eq!(std::fs::read(out.join("adapter_config.json")).unwrap(), before);
        let gguf = dir.path().join("a.gguf");
        assert!(to(ExportFormat::Gguf, &gguf).unwrap_err().starts_with("⟨model⟩: is needed for GGUF"));
        std::fs::write(&gguf, "x").unwrap();
        assert!(to(ExportFormat::Gguf, &gguf).unwrap_err().contains("give a new file"));
    }

    #[test]
    fn a_shape_that_does_not_go_together_is_no_shape() {
        let mut adapter = small(AdapterKind::Rosa);
        let module = adapter.modules.values_mut().next().unwrap();
        assert_eq!(module.shape(), Some((32, 64)));
        module.a = Some(Matrix { rows: 2, cols: 3, data: vec![0.0; 6] });
        assert_eq!(module.shape(), None);
    }
}

//! A Modelfile for Ollama beside a GGUF file.

use crate::data::Tokenizer;
use crate::error::Result;
use crate::io::atomic::write_atomic;
use std::path::{Path, PathBuf};

/// Go templates of the usual chat formats, by a mark in the model's own.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "<|im_start|>",
        "{{- if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}\n\
         {{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    ),
    (
        "<|start_header_id|>",
        "{{- if .System }}<|start_header_id|>system<|end_header_id|>\n\n{{ .System }}<|eot_id|>{{ end }}{{- range .Messages }}\
         <|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant\
         <|end_header_id|>\n\n",
    ),
    (
        "<start_of_turn>",
        "{{- range .Messages }}<start_of_turn>{{ if eq .Role \"assistant\" }}model{{ else }}user{{ end }}\n{{ .Content }}\
         <end_of_turn>\n{{ end }}<start_of_turn>model\n",
    ),
];

/// Writes the Modelfile of `gguf` beside it, `NAME.Modelfile`, where there is none; its path.
///
/// # Errors
/// [`Error::Io`].
pub fn write_modelfile(gguf: &Path, tokenizer: Option<&Tokenizer>) -> Result<Option<PathBuf>> {
    let path = gguf.with_extension("Modelfile");
    if path.symlink_metadata().is_ok() {
        return Ok(None);
    }
    let name = gguf.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut text =
        format!("# ollama create my-model -f {}\nFROM ./{name}\n", path.file_name().unwrap_or_default().display());
    if let Some(tokenizer) = tokenizer {
        let own = tokenizer.chat_templates().first().map(|(_, text)| text.as_str()).unwrap_or_default();
        if let Some((_, template)) = TEMPLATES.iter().find(|(mark, _)| own.contains(mark)) {
            text += &format!("TEMPLATE \"\"\"{template}\"\"\"\n");
        }
        for token in tokenizer.end_of_turn().iter().filter_map(|id| tokenizer.token(*id)) {
            if !token.contains(['"', '\n', '\r']) {
                text += &format!("PARAMETER stop \"{token}\"\n");
            }
        }
    }
    write_atomic(&path, |w| w.write_all(text.as_bytes()))?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_modelfile_names_its_model_and_is_never_written_over() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io("."))?;
        let gguf = dir.path().join("a b.gguf");
        let path = write_modelfile(&gguf, None)?.expect("a path");
        assert_eq!(path, dir.path().join("a b.Modelfile"));
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        assert!(text.ends_with("FROM ./a b.gguf\n"), "{text}");
        assert_eq!(write_modelfile(&gguf, None)?, None);
        Ok(())
    }
}

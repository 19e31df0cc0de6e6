//! Where chat templates lie in a model's folder.

use crate::data::tokenizer::token_text;
use crate::error::{Error, Result};
use crate::io::kind;
use serde_json::{Value as Json, json};
use std::path::Path;

const FILE: &str = "chat_template.jinja";
const MORE: &str = "additional_chat_templates";
const DEFAULT: &str = "default";

/// Names and texts: `chat_template.jinja` as `default` and the files of `additional_chat_templates` by their names, or where
/// there is none of these `chat_template` of the tokenizer's configuration, which is a text or a list of named ones.
pub(in crate::data) fn folder_templates(folder: &Path, config: &Json) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    if let Some(text) = read(&folder.join(FILE))? {
        found.push((DEFAULT.to_owned(), text));
    }
    let more = folder.join(MORE);
    if more.is_dir() {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&more).map_err(Error::io(&more))? {
            paths.push(entry.map_err(Error::io(&more))?.path());
        }
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
            let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            found.extend(read(path)?.map(|text| (name, text)));
        }
    }
    if found.is_empty() {
        found = in_config(folder, config)?;
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Option<String>> {
    match kind::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes);
            text.map(Some).map_err(|e| Error::file(path, "content", format!("is not UTF-8: {}", e.utf8_error())))
        }
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn in_config(folder: &Path, config: &Json) -> Result<Vec<(String, String)>> {
    let bad = |reason: &str| Error::file(folder.join("tokenizer_config.json"), "chat_template", reason);
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::String(text)) => Ok(vec![(DEFAULT.to_owned(), text.clone())]),
        Some(Json::Array(list)) => {
            let one = |entry: &Json| {
                let field = |name: &str| entry.get(name).and_then(Json::as_str).map(str::to_owned);
                field("name").zip(field("template")).ok_or_else(|| bad("each of a list needs a name and a template"))
            };
            list.iter().map(one).collect()
        }
        Some(_) => Err(bad("must be a string, or a list of names and templates")),
    }
}

/// `chat_template` of a tokenizer's configuration.
pub(in crate::data) fn config_entry(templates: &[(String, String)]) -> Json {
    match templates {
        [] => Json::Null,
        [(name, text)] if name == DEFAULT => json!(text),
        several => several.iter().map(|(name, text)| json!({"name": name, "template": text})).collect(),
    }
}

/// Special tokens beyond the four that every tokenizer has: other keys that end in `_token`.
pub(in crate::data) fn more_specials(configs: &[&Json]) -> Vec<(String, String)> {
    let known = ["bos_token", "eos_token", "pad_token", "unk_token"];
    let mut found: Vec<(String, String)> = Vec::new();
    for (key, value) in configs.iter().filter_map(|c| c.as_object()).flatten() {
        if key.ends_with("_token")
            && !known.contains(&key.as_str())
            && found.iter().all(|(name, _)| name != key)
            && let Some(text) = token_text(value)
        {
            found.push((key.clone(), text.to_owned()));
        }
    }
    found
}

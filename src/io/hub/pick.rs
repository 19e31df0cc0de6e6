//! Which files of a repository a model needs.

use super::name::HubName;
use crate::error::Result;
use crate::io::companions::{COMPANIONS, MORE_TEMPLATES};
use crate::io::safetensors::{INDEX, SINGLE, is_shard};
use crate::near::tip;

/// Names that a message lists, at most.
const LISTED: usize = 6;
const CONFIG: &str = "config.json";

/// What to fetch of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// These files; the first is what was named.
    Files(Vec<String>),
    /// A model's folder: these files, and then the shards that its index names.
    Indexed(Vec<String>),
}

/// What of a repository with the files `all` is meant by `name`.
///
/// # Errors
/// [`crate::error::Error::Invalid`] where it has no such file, or is no model that is read, with what it has.
pub fn wanted(name: &HubName, all: &[String]) -> Result<Wanted> {
    match &name.file {
        Some(file) if all.iter().any(|f| f == file) => Ok(Wanted::Files(parts(file, all))),
        Some(file) => {
            let known = all.iter().map(String::as_str);
            let ending = |f: &str| f.rsplit_once('.').map(|(_, e)| e.to_owned());
            let alike: Vec<&String> = all.iter().filter(|f| ending(f) == ending(file)).collect();
            let has = if alike.is_empty() { list(all.iter()) } else { list(alike.into_iter()) };
            let near = tip(file, known);
            let way_out = if near.is_empty() { format!("; it has {has}") } else { near };
            Err(name.error(format!("has no file {file}{way_out}")))
        }
        None => model(name, all),
    }
}

/// A file, and the other parts of a GGUF file that is split: `x-00001-of-00003.gguf`.
fn parts(file: &str, all: &[String]) -> Vec<String> {
    let split = |f: &str| {
        let (stem, part, count) = {
            let (rest, count) = f.strip_suffix(".gguf")?.rsplit_once("-of-")?;
            let (stem, part) = rest.rsplit_once('-')?;
            (stem.to_owned(), part, count.to_owned())
        };
        (part.len() == 5 && part.bytes().chain(count.bytes()).all(|b| b.is_ascii_digit())).then_some((stem, count))
    };
    let mut files = vec![file.to_owned()];
    if let Some(own) = split(file) {
        files.extend(all.iter().filter(|f| *f != file && split(f).as_ref() == Some(&own)).cloned());
    }
    files
}

fn model(name: &HubName, all: &[String]) -> Result<Wanted> {
    let has = |file: &str| all.iter().any(|f| f == file);
    let ending = |ending: &'static str| all.iter().filter(move |f| f.ends_with(ending));
    let ggufs = || list(ending(".gguf").map(|f| format!("{name}/{f}")).collect::<Vec<_>>().iter());
    let mut files: Vec<String> = all.iter().filter(|f| is_companion(f)).cloned().collect();
    let numbered = all.iter().filter(|f| is_shard(f));
    let weights: Vec<String> = match () {
        () if has(SINGLE) => vec![SINGLE.to_owned()],
        () if has(INDEX) => vec![INDEX.to_owned()],
        () => numbered.cloned().collect(),
    };
    if weights.is_empty() || !has(CONFIG) {
        let reason = if ending(".gguf").next().is_some() {
            format!("has GGUF files: give one of them, {}", ggufs())
        } else if ending(".bin").chain(ending(".pt")).chain(ending(".pth")).next().is_some() {
            "has its weights in files of PyTorch's, which are not read; look for the model in safetensors or GGUF"
                .into()
        } else if has("adapter_config.json") {
            "is an adapter, not a model; give its base model".to_owned()
        } else {
            format!(
                "is no model that is read: it has no {CONFIG} with safetensors, and no GGUF file; it has {}",
                list(all.iter())
            )
        };
        return Err(name.error(reason));
    }
    files.push(CONFIG.to_owned());
    let indexed = weights == [INDEX];
    files.extend(weights);
    Ok(if indexed { Wanted::Indexed(files) } else { Wanted::Files(files) })
}

/// Small files beside the weights that the program reads or writes beside a model of its own.
fn is_companion(file: &str) -> bool {
    COMPANIONS.contains(&file) || file.strip_prefix(MORE_TEMPLATES).is_some_and(|f| f.starts_with('/'))
}

/// Some names in one line.
fn list<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<&String> = names.collect();
    let shown: Vec<&str> = names.iter().take(LISTED).map(|n| n.as_str()).collect();
    match names.len() {
        0 => "no files".to_owned(),
        n if n > LISTED => format!("{} and {} more", shown.join(", "), n - LISTED),
        _ => shown.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::super::name::RepoKind;
    use super::*;

    fn pick(file: Option<&str>, all: &str) -> Result<Wanted, String> {
        let name = HubName { kind: RepoKind::Model, repo: "o/n".into(), revision: None, file: file.map(str::to_owned) };
        let all: Vec<String> = all.split(' ').map(str::to_owned).collect();
        wanted(&name, &all).map_err(|e| e.to_string())
    }

    fn files(names: &str) -> Vec<String> {
        names.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn only_what_a_model_needs_is_taken() {
        let all = "README.md config.json tokenizer.json model.safetensors pytorch_model.bin onnx/model.onnx \
                   generation_config.json chat_template.jinja consolidated.safetensors additional_chat_templates/a.jinja \
                   original/tokenizer.model";
        let Ok(Wanted::Files(got)) = pick(None, all) else { panic!() };
        let want = "tokenizer.json generation_config.json chat_template.jinja additional_chat_templates/a.jinja config.json model.safetensors";
        assert_eq!(got, files(want));
        let index = "config.json model.safetensors.index.json model-00001-of-00002.safetensors tokenizer.json";
        let want = "tokenizer.json config.json model.safetensors.index.json";
        assert_eq!(pick(None, index), Ok(Wanted::Indexed(files(want))));
        let numbered = "config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors";
        assert_eq!(pick(None, numbered), Ok(Wanted::Files(files(numbered))));
    }

    #[test]
    fn a_split_gguf_is_taken_whole_and_no_other() {
        let all = "q4-00001-of-00002.gguf q4-00002-of-00002.gguf q8-00001-of-00002.gguf q4.gguf";
        let want = files("q4-00001-of-00002.gguf q4-00002-of-00002.gguf");
        assert_eq!(pick(Some("q4-00001-of-00002.gguf"), all), Ok(Wanted::Files(want)));
        assert_eq!(pick(Some("q4.gguf"), all), Ok(Wanted::Files(files("q4.gguf"))));
    }

    #[test]
    fn what_is_no_model_is_refused_with_the_way_out() {
        for (file, all, said) in [
            (None, "a-Q8_0.gguf README.md", "hf:o/n: has GGUF files: give one of them, hf:o/n/a-Q8_0.gguf"),
            (None, "config.json pytorch_model.bin", "hf:o/n: has its weights in files of PyTorch's"),
            (None, "adapter_config.json adapter_model.safetensors", "is an adapter, not a model"),
            (None, "README.md", "is no model that is read"),
            (Some("other.gguf"), "a.gguf README.md", "has no file other.gguf; it has a.gguf"),
            (Some("model-Q4_K.gguf"), "model-Q4_K_M.gguf", "did you mean model-Q4_K_M.gguf?"),
        ] {
            let got = pick(file, all).unwrap_err();
            assert!(got.contains(said), "{got}");
        }
    }
}

//! Names on the Hub: `hf:org/name[@revision][/file]`.

use crate::error::{Error, Result};
use std::fmt;
use std::path::Path;

/// What a name on the Hub begins with.
pub const PREFIX: &str = "hf:";

/// What a repository holds. The Hub has a list of names for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepoKind {
    Model,
    Dataset,
}

impl RepoKind {
    /// As the Hub's API and its cache folders call them.
    pub fn plural(self) -> &'static str {
        match self {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        }
    }

    /// In messages.
    pub fn singular(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "data set",
        }
    }
}

/// A repository on the Hub, or a file in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    pub kind: RepoKind,
    /// `org/name`
    pub repo: String,
    /// A branch, a tag, a commit or `refs/pr/1`; the branch `main` where none is given.
    pub revision: Option<String>,
    /// A path in the repository.
    pub file: Option<String>,
}

impl HubName {
    /// What `path` names, if it begins with [`PREFIX`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that the Hub cannot have.
    pub fn of(path: &Path, kind: RepoKind) -> Result<Option<HubName>> {
        let Some(text) = path.to_str().filter(|t| t.starts_with(PREFIX)) else { return Ok(None) };
        // Windows may have turned the slashes around
        let rest = text[PREFIX.len()..].replace('\\', "/");
        HubName::parse(&rest, kind).map(Some).map_err(|reason| Error::invalid(text, reason))
    }

    fn parse(text: &str, kind: RepoKind) -> Result<HubName, String> {
        const FORM: &str = "a name on the Hub is written hf:org/name, hf:org/name@revision or hf:org/name/file";
        // an `@` further on is part of a file's name
        let (repo, rest) = match (text.find('@'), text.match_indices('/').nth(1)) {
            (Some(at), second) if second.is_none_or(|(slash, _)| at < slash) => (&text[..at], &text[at..]),
            (_, Some((slash, _))) => (&text[..slash], &text[slash..]),
            (_, None) => (text, ""),
        };
        let is_word = |w: &str| !w.is_empty() && w != "." && w != ".." && w.chars().all(is_name_char);
        if repo.matches('/').count() > 1 || !repo.split('/').all(is_word) {
            return Err(FORM.to_owned());
        }
        let (revision, file) = match rest.strip_prefix('@') {
            None => (None, rest.strip_prefix('/')),
            Some(rest) => {
                let (revision, file) = split_revision(rest);
                (Some(revision), file)
            }
        };
        let revision = revision.map(|r| r.replace("%2F", "/").replace("%2f", "/"));
        if let Some(revision) = revision.as_deref().filter(|r| !is_path(r)) {
            return Err(format!("\"{revision}\" is no revision: give a branch, a tag or a commit; {FORM}"));
        }
        if let Some(file) = file.filter(|f| !is_path(f)) {
            return Err(format!("\"{file}\" is no file of a repository; {FORM}"));
        }
        Ok(HubName { kind, repo: repo.to_owned(), revision, file: file.map(str::to_owned) })
    }

    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// The repository's page, as its browser shows it.
    pub fn page(&self, endpoint: &str) -> String {
        match self.kind {
            RepoKind::Model => format!("{endpoint}/{}", self.repo),
            RepoKind::Dataset => format!("{endpoint}/datasets/{}", self.repo),
        }
    }

    /// The folder of the repository in the cache.
    pub fn folder(&self) -> String {
        format!("{}--{}", self.kind.plural(), self.repo.replace('/', "--"))
    }

    /// An error about what the name stands for.
    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::invalid(self.to_string(), reason)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.repo)?;
        if let Some(revision) = &self.revision {
            let short = split_revision(revision) == (revision.as_str(), None);
            write!(f, "@{}", if short { revision.clone() } else { revision.replace('/', "%2F") })?;
        }
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

/// A revision and the file behind it. The Hub's own references have slashes; in others they are written `%2F`.
fn split_revision(text: &str) -> (&str, Option<&str>) {
    let own = ["refs/pr/", "refs/convert/"].into_iter().find(|p| text.starts_with(p)).map_or(0, str::len);
    match text[own..].find('/') {
        Some(slash) => (&text[..own + slash], Some(&text[own + slash + 1..])),
        None => (text, None),
    }
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Whether a path stays inside of the folder that it is put into, on every system, and a URL takes it after escaping.
pub fn is_path(text: &str) -> bool {
    let is_part = |p: &str| {
        let device = p.ends_with('.') || p.ends_with(' ');
        !p.is_empty() && p != "." && p != ".." && !device
    };
    text.len() <= 1024
        && text.split('/').all(is_part)
        && !text.contains(|c: char| c.is_control() || "\\:*?\"<>|".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(String, Option<String>, Option<String>), String> {
        let name = HubName::of(Path::new(text), RepoKind::Model).map_err(|e| e.to_string())?.unwrap();
        assert_eq!(HubName::of(Path::new(&name.to_string()), RepoKind::Model).unwrap(), Some(name.clone()), "{text}");
        Ok((name.repo, name.revision, name.file))
    }

    #[test]
    fn names_have_a_repository_a_revision_and_a_file() {
        let some = |s: &str| Some(s.to_owned());
        for (text, repo, revision, file) in [
            ("hf:org/name", "org/name", None, None),
            ("hf:gpt2", "gpt2", None, None),
            ("hf:gpt2@v1", "gpt2", some("v1"), None),
            ("hf:org/na.me-1@main", "org/na.me-1", some("main"), None),
            ("hf:org/name/a.gguf", "org/name", None, some("a.gguf")),
            ("hf:org/name@v1/q4/a@b.gguf", "org/name", some("v1"), some("q4/a@b.gguf")),
            ("hf:org/name/q4/a@b.gguf", "org/name", None, some("q4/a@b.gguf")),
            ("hf:org/name@refs/pr/1", "org/name", some("refs/pr/1"), None),
            ("hf:org/name@refs/pr/1/a.gguf", "org/name", some("refs/pr/1"), some("a.gguf")),
            ("hf:org/name@a%2Fb/a.gguf", "org/name", some("a/b"), some("a.gguf")),
        ] {
            assert_eq!(parse(text), Ok((repo.to_owned(), revision, file)), "{text}");
        }
        assert_eq!(HubName::of(Path::new("org/name"), RepoKind::Model).unwrap(), None);
        assert_eq!(HubName::of(Path::new("./hf:org/name"), RepoKind::Model).unwrap(), None);
    }

    #[test]
    fn what_the_hub_cannot_have_is_refused_in_one_line() {
        for text in [
            "hf:",
            "hf:/name",
            "hf:org/",
            "hf:org//a",
            "hf:../name",
            "hf:org/na me",
            "hf:org/name@",
            "hf:org/name@../x",
            "hf:org/name/../../x",
            "hf:org/name/a:b",
            "hf:org/name/",
            "hf:org/name@a?b",
        ] {
            let said = parse(text).unwrap_err();
            assert!(said.starts_with(&format!("{text}: ")) && said.contains("hf:org/name"), "{said}");
        }
    }
}

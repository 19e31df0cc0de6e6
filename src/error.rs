//! The one error type of the library.
//!
//! Every message that reaches a user is a single line that names the file or field, the reason and, where there is one,
//! the way out. An option is named as the key of a configuration, ⟨seq_len⟩: [`shown::options`] puts what the program's users
//! call it there. Variants carry named fields so that callers and tests can match on them instead of on text.

use crate::shown;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. `Display` is one line, ready to be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused: missing file, no permission, full disk.
    #[error("{}: {source}{}", shown::path(path), io_hint(source))]
    Io { path: PathBuf, source: std::io::Error },

    /// A file's content is wrong: truncated, hostile, inconsistent or of an unknown kind.
    #[error("{}: {field}: {reason}", shown::path(path))]
    File { path: PathBuf, field: String, reason: String },

    /// A row of a line-based file is wrong; `line` counts from 1.
    #[error("{}:{line}: {reason}", shown::path(path))]
    Row { path: PathBuf, line: usize, reason: String },

    /// An argument, a configuration key or a combination of them is wrong.
    #[error("{what}: {reason}")]
    Invalid { what: String, reason: String },

    /// The command line asks for what makes no sense, whatever the files and the device are.
    #[error("{what}: {reason}")]
    Usage { what: String, reason: String },

    /// Shapes that do not fit together: a bug of the caller, told as such.
    #[error("{op}: {reason}")]
    Shape { op: &'static str, reason: String },

    /// No device to compute on.
    #[error("{reason}")]
    NoDevice { reason: String },

    /// The device refused an allocation. All sizes in bytes.
    #[error("{device}: out of memory: {requested} more bytes on top of {in_use} in use ({what}); {hint}")]
    OutOfMemory { device: String, what: String, requested: u64, in_use: u64, hint: String },

    /// More in one buffer than the device takes. Sizes in bytes.
    #[error("{device}: {what} of {requested} bytes in one buffer, but the device takes at most {limit}; {hint}")]
    TooLarge { device: String, what: String, requested: u64, limit: u64, hint: String },

    /// A run that takes more memory than there is. Sizes in bytes.
    #[error("{device}: the run takes {needed} bytes of its memory, but there are {available}; {hint}")]
    DoesNotFit { device: String, needed: u64, available: u64, hint: String },

    /// The device went away: driver reset, unplugged, watchdog.
    #[error("{device}: device lost: {reason}; start the run again, on another device with ⟨device⟩ if it repeats")]
    DeviceLost { device: String, reason: String },

    /// A kernel that the driver or the validator rejects, or that computes wrongly.
    #[error("kernel {name}: {reason}")]
    Kernel { name: String, reason: String },

    /// Numbers that no longer mean anything.
    #[error("{what}: {reason}")]
    NonFinite { what: String, reason: String },

    /// The user asked to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Wraps an I/O error with the path it is about; for use in `map_err`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }

    /// A file whose `field` is wrong for `reason`.
    pub fn file(path: impl AsRef<Path>, field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::File { path: path.as_ref().to_path_buf(), field: one_line(field), reason: one_line(reason) }
    }

    /// A line (counted from 1) of a file that is wrong for `reason`.
    pub fn row(path: impl AsRef<Path>, line: usize, reason: impl Into<String>) -> Error {
        Error::Row { path: path.as_ref().to_path_buf(), line, reason: one_line(reason) }
    }

    /// An argument or configuration key `what` that is wrong for `reason`.
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { what: one_line(what), reason: one_line(reason) }
    }

    /// An option, by its key, whose value is wrong for `reason`.
    pub fn option(key: &str, reason: impl Into<String>) -> Error {
        Error::invalid(format!("⟨{key}⟩"), reason)
    }

    /// The same error, told as wrong usage where it is about an option's value.
    pub fn as_usage(self) -> Error {
        match self {
            Error::Invalid { what, reason } => Error::Usage { what, reason },
            other => other,
        }
    }

    /// Operands of `op` that do not fit together.
    pub fn shape(op: &'static str, reason: impl Into<String>) -> Error {
        Error::Shape { op, reason: reason.into() }
    }
}

fn io_hint(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        StorageFull | QuotaExceeded => "; free some space or choose another folder with ⟨out⟩",
        PermissionDenied | ReadOnlyFilesystem => "; choose a folder that can be written to",
        IsADirectory => "; a file is expected here",
        NotADirectory => "; a part of this path is a file",
        _ => "",
    }
}

/// Text that may come out of a file: a message stays one line, and a name in a hostile file cannot speak to the terminal.
fn one_line(text: impl Into<String>) -> String {
    shown::one_line(&text.into()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_files_say_stays_on_one_line_and_off_the_terminal() {
        let error = Error::file("a.gguf", "key\n\u{1b}[2J", "is wrong: é");
        assert_eq!(error.to_string(), "a.gguf: key\\n\\u{1b}[2J: is wrong: é");
        assert_eq!(Error::row("a.jsonl", 3, "x\ry").to_string(), "a.jsonl:3: x\\ry");
        // names of files too
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert!(Error::io("a\u{1b}[2J\u{202e}.json")(missing).to_string().starts_with("a\\u{1b}[2J\\u{202e}.json: "));
        assert_eq!(Error::row("\u{9b}a", 1, "x").to_string(), "\\u{9b}a:1: x");
    }
}

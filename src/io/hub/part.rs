//! A file that is arriving: its bytes so far, and the digest that they must come to.

use crate::error::{Error, Result};
use crate::io::disk::OutFile;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;

/// What is known of a file of the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    pub path: String,
    pub size: Option<u64>,
    /// SHA-256 of large files, git's SHA-1 of small ones.
    pub etag: Option<String>,
}

/// A file on its way to the disk.
pub struct Part {
    path: PathBuf,
    file: OutFile,
    pub length: u64,
    size: Option<u64>,
    etag: String,
    digest: Option<Context>,
}

impl Part {
    /// Goes on behind what of the file lies at `path`, if anything does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, size: Option<u64>, etag: &str) -> Result<Part> {
        let file = if path.exists() { OutFile::append(path)? } else { OutFile::create(path)? };
        let mut part =
            Part { path: path.to_owned(), file, length: 0, size, etag: etag.to_owned(), digest: start(etag, size) };
        let mut before = File::open(path).map_err(Error::io(path))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match before.read(&mut chunk).map_err(Error::io(path))? {
                0 => break,
                n => part.count(&chunk[..n]),
            }
        }
        if size.is_some_and(|size| part.length > size) {
            part.clear()?;
        }
        Ok(part)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            digest.update(bytes);
        }
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.path))?;
        self.count(bytes);
        Ok(())
    }

    /// Begins again.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn clear(&mut self) -> Result<()> {
        self.file.truncate(0)?;
        (self.length, self.digest) = (0, start(&self.etag, self.size));
        Ok(())
    }

    /// Whether all bytes are here, as far as their number is known.
    pub fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| self.length == size)
    }

    /// Bytes that have not arrived, where it is known how many there are.
    pub fn missing(&self) -> Option<u64> {
        self.size.map(|size| size.saturating_sub(self.length))
    }

    /// Whether these are the bytes that the Hub has, as far as its digest is one that is known.
    pub fn is_right(&self) -> bool {
        let Some(digest) = self.digest.clone() else { return true };
        let hex: String = digest.finish().as_ref().iter().map(|b| format!("{b:02x}")).collect();
        hex == self.etag.to_ascii_lowercase()
    }

    /// Waits until the disk has it, and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self, to: &Path) -> Result<()> {
        self.file.sync()?;
        drop(self.file);
        std::fs::rename(&self.path, to).map_err(Error::io(to))
    }

    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        drop(self.file);
        crate::io::disk::remove_file(&self.path)
    }
}

/// The digest that an etag of this length is: SHA-256, or SHA-1 of a blob of git's, which begins with its size.
fn start(etag: &str, size: Option<u64>) -> Option<Context> {
    if !etag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    match (etag.len(), size) {
        (64, _) => Some(Context::new(&SHA256)),
        (40, Some(size)) => {
            let mut digest = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
            digest.update(format!("blob {size}\0").as_bytes());
            Some(digest)
        }
        _ => None,
    }
}

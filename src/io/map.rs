//! Memory-mapped files.

use super::kind::refuse_stand_in;
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::Path;

/// Maps all of `path` for reading.
///
/// # Errors
/// [`Error::Io`] if it can't be opened, [`Error::File`] if it is no regular file, or one that only stands for another.
pub(super) fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    if !file.metadata().map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "type", "a regular file is expected here"));
    }
    // SAFETY: the map is private to this process and read-only. What remains is that another process shortens the file
    // meanwhile, which no reader of mapped files can exclude; model files are written once and renamed into place.
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    refuse_stand_in(path, &map)?;
    Ok(map)
}

//! What lies beside a model's weights and goes along with it.

use crate::error::{Error, Result};
use crate::io::atomic::write_atomic;
use crate::io::companions::{COMPANIONS, MORE_TEMPLATES};
use crate::io::disk;
use std::path::Path;

/// Copies tokenizer, chat templates and generation configuration of the model folder `from` to the folder `to`.
///
/// # Errors
/// [`Error::Io`].
pub fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    let copy = |from: &Path, to: &Path| {
        let bytes = std::fs::read(from).map_err(Error::io(from))?;
        write_atomic(to, |w| w.write_all(&bytes))
    };
    for name in COMPANIONS.iter().filter(|name| from.join(name).is_file()) {
        copy(&from.join(name), &to.join(name))?;
    }
    let more = from.join(MORE_TEMPLATES);
    if more.is_dir() {
        let to = to.join(MORE_TEMPLATES);
        disk::create_folder(&to)?;
        for entry in std::fs::read_dir(&more).map_err(Error::io(&more))? {
            let entry = entry.map_err(Error::io(&more))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

//! What the targets share.

use rugosa::error::Result;
use std::path::Path;
use std::sync::OnceLock;

/// Writes the files to a folder of this process and reads them. A reader may refuse; it must not panic, and its message is
/// one line.
pub fn feed(files: &[(&str, &[u8])], read: impl Fn(&Path) -> Result<()>) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
    });
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    if let Err(e) = read(folder.path()) {
        let message = e.to_string();
        assert!(!message.contains(char::is_control), "more than a line: {message}");
    }
}

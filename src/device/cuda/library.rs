//! Finding CUDA's libraries when a device is opened: nothing of CUDA is needed to build or to start the program.

use crate::env;
use libloading::Library;
use std::path::{Path, PathBuf};

/// Where toolkits lie that the system's loader does not know.
const FOLDERS: [&str; 2] = ["/usr/local/cuda/lib64", "/opt/cuda/lib64"];

/// The first of `names` that can be loaded: from the folder that [`env::CUDA`] names, by the system's loader, from a toolkit.
pub(super) fn load(names: &[&str]) -> Option<Library> {
    let said = env::settings().cuda.iter().map(PathBuf::as_path);
    let paths = |folder: &Path| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let toolkits = FOLDERS.iter().flat_map(|folder| paths(Path::new(folder)));
    let mut all: Vec<PathBuf> = said.flat_map(paths).collect();
    all.extend(names.iter().map(PathBuf::from));
    all.extend(toolkits);
    // SAFETY: these libraries do nothing when they are loaded but set themselves up
    all.iter().find_map(|path| unsafe { Library::new(path) }.ok())
}

/// Loads what lies beside the libraries in the folder that [`env::CUDA`] names and begins with `prefix`, for good: NVRTC looks for a
/// part of itself by name alone.
pub(super) fn load_parts(prefix: &str) {
    let entries = env::settings().cuda.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    let parts = entries.filter_map(|e| e.ok()).filter(|e| e.file_name().to_string_lossy().starts_with(prefix));
    for part in parts {
        // SAFETY: as above
        let loaded = unsafe { Library::new(part.path()) };
        loaded.into_iter().for_each(std::mem::forget);
    }
}

/// Functions of a library, looked up once: a struct of pointers that keeps the library loaded.
macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($function:ident = $symbol:literal ($($argument:ty),* $(,)?);)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name {
            $(pub $function: unsafe extern "C" fn($($argument),*) -> i32,)*
            _library: libloading::Library,
        }

        impl $name {
            /// The functions of `library`, or the name of the first that it lacks.
            fn of(library: libloading::Library) -> Result<Self, &'static str> {
                // SAFETY: the types are those of the library's documented interface
                unsafe {
                    Ok($name {
                        $($function: *library.get($symbol.as_bytes()).map_err(|_| $symbol)?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}
pub(super) use functions;

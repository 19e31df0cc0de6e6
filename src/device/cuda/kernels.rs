//! Kernels, compiled for the card at hand and kept on disk.

use super::driver::{Card, Context, Handle};
use super::{nvrtc, writer};
use crate::device::hash::FastMap;
use crate::device::{KernelSpec, shader};
use crate::error::Result;
use crate::io::atomic::write_atomic;
use crate::io::cache_folder;
use crate::io::digest::Digest;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes of the digest in front of the code in a file.
const DIGEST: usize = 16;
/// Bytes of kept kernels in all; a folder that holds more is begun afresh.
const MOST: u64 = 256 << 20;

/// A kernel that can be launched.
pub(super) struct Compiled {
    context: Arc<Context>,
    module: Handle,
    pub function: Handle,
    pub threads: u32,
}

// SAFETY: handles of the driver may be used from any thread
unsafe impl Send for Compiled {}
// SAFETY: as above
unsafe impl Sync for Compiled {}

impl Drop for Compiled {
    fn drop(&mut self) {
        if let Ok(api) = self.context.enter() {
            // SAFETY: nobody else has the handle
            unsafe { (api.unload)(self.module) };
        }
    }
}

/// The kernels of a device by specialisation.
pub(super) struct Kernels {
    context: Arc<Context>,
    capability: (i32, i32),
    /// What kept code depends on besides its text.
    identity: String,
    folder: Option<PathBuf>,
    compiled: Mutex<FastMap<KernelSpec, Arc<Compiled>>>,
}

impl Kernels {
    pub fn new(context: &Arc<Context>, card: &Card, compiler: &nvrtc::Compiler) -> Kernels {
        let identity = format!("{:?} NVRTC {:?} {}\n", card.capability, compiler.version, card.driver);
        let folder = cache_folder().map(|folder| folder.join("cuda"));
        folder.iter().for_each(|folder| keep_small(folder));
        let compiled = Mutex::default();
        Kernels { context: context.clone(), capability: card.capability, identity, folder, compiled }
    }

    fn compiled(&self) -> MutexGuard<'_, FastMap<KernelSpec, Arc<Compiled>>> {
        self.compiled.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// `spec`, if it was compiled before.
    pub fn find(&self, spec: &KernelSpec) -> Option<Arc<Compiled>> {
        self.compiled().get(spec).cloned()
    }

    /// Compiles `spec`, or loads what is kept of it.
    ///
    /// # Errors
    /// [`Error::Kernel`](crate::error::Error::Kernel) with what writer, compiler or driver say.
    pub fn compile(&self, spec: &KernelSpec) -> Result<Arc<Compiled>> {
        let text = shader::render(spec)?;
        shader::dump(spec, &text)?;
        let translation = writer::translate(spec)?;
        let name = Digest::of(format!("{}{}", self.identity, translation.text).as_bytes());
        let path = self.folder.as_ref().map(|folder| folder.join(format!("{}-{name}.bin", spec.kernel.name)));
        let kept = path.as_deref().and_then(read);
        let code = match &kept {
            Some(code) => code.clone(),
            None => nvrtc::compiler()?.compile(spec.kernel.name, &translation.text, self.capability)?,
        };
        let compiled = Arc::new(self.load(&code, &translation)?);
        if let (None, Some(path)) = (kept, path) {
            write(&path, &code);
        }
        Ok(self.compiled().entry(spec.clone()).or_insert(compiled).clone())
    }

    fn load(&self, code: &[u8], of: &writer::Translation) -> Result<Compiled> {
        let api = self.context.enter()?;
        let name = CString::new(of.entry.as_str()).unwrap_or_default();
        // PTX is a text that ends with a zero
        let code = [code, &[0]].concat();
        let mut module = null_mut();
        // SAFETY: the code is the compiler's, and each call writes one handle
        unsafe {
            self.context.check((api.load)(&mut module, code.as_ptr().cast()))?;
            let mut compiled =
                Compiled { context: self.context.clone(), module, function: null_mut(), threads: of.threads };
            self.context.check((api.function)(&mut compiled.function, module, name.as_ptr()))?;
            Ok(compiled)
        }
    }
}

/// Code of a file that [`write`] wrote; none if it is damaged.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut said = std::fs::read(path).ok()?;
    let code = said.split_off(said.len().min(DIGEST));
    (said == Digest::of(&code).as_bytes()).then_some(code)
}

/// Keeps code for the next process. Where that cannot be, the next process compiles again.
fn write(path: &Path, code: &[u8]) {
    let is_there = path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok());
    if is_there {
        let _ = write_atomic(path, |w| w.write_all(Digest::of(code).as_bytes()).and_then(|()| w.write_all(code)));
    }
}

/// Nothing is ever taken out of the folder, so one that has grown over [`MOST`] is emptied.
fn keep_small(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    let bytes: u64 = files.iter().filter_map(|path| std::fs::metadata(path).ok()).map(|m| m.len()).sum();
    if bytes > MOST {
        for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "bin")) {
            let _ = std::fs::remove_file(path); // another process may have been faster
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_code_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cuda/kernel.bin");
        assert_eq!(read(&path), None);
        write(&path, b"code");
        assert_eq!(read(&path).as_deref(), Some(&b"code"[..]));
        let whole = std::fs::read(&path).unwrap();
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path), None, "byte {i}");
            std::fs::write(&path, &whole[..i]).unwrap();
            assert_eq!(read(&path), None, "{i} bytes");
        }
        keep_small(path.parent().unwrap());
        assert!(path.exists());
    }
}

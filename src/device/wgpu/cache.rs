//! What the driver made of pipelines, kept from process to process: not every driver keeps it itself.

use crate::io::atomic::write_atomic;
use crate::io::cache_folder;
use crate::io::digest::Digest;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes of the digest in front of the data.
const DIGEST: usize = 16;
/// Nothing is ever taken out of a cache, so one that has grown over this many bytes is begun afresh.
const MOST: u64 = 256 << 20;

/// A device's cache, and the file that it comes from.
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    path: PathBuf,
    /// Digest of the data in the file.
    saved: Mutex<Option<String>>,
}

impl PipelineCache {
    /// The cache of the adapter `info`; none where the API has none or the user wants none.
    pub fn open(device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<PipelineCache> {
        PipelineCache::open_in(&cache_folder()?, device, info)
    }

    fn open_in(folder: &Path, device: &wgpu::Device, info: &wgpu::AdapterInfo) -> Option<PipelineCache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let path = folder.join(format!("{}.bin", wgpu::util::pipeline_cache_key(info)?));
        let (saved, data) = read(&path).unzip();
        // SAFETY: the digest says that the bytes are those that `save` got from a cache; wgpu and the driver check
        // that it was one of this device and of their own versions
        let cache = unsafe {
            let label = Some("pipelines");
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label,
                data: data.as_deref(),
                fallback: true,
            })
        };
        Some(PipelineCache { cache, path, saved: Mutex::new(saved) })
    }

    pub fn handle(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes the file if there is something new. Where it cannot be written, the next process compiles again.
    pub fn save(&self) {
        let Some(data) = self.cache.get_data() else { return };
        let digest = Digest::of(&data);
        let mut saved = self.saved.lock().unwrap_or_else(|e| e.into_inner());
        if saved.as_ref() == Some(&digest) {
            return;
        }
        let written = self.path.parent().is_some_and(|folder| std::fs::create_dir_all(folder).is_ok())
            && write_atomic(&self.path, |w| w.write_all(digest.as_bytes()).and_then(|()| w.write_all(&data))).is_ok();
        if written {
            *saved = Some(digest);
        }
    }
}

/// Digest and data of a file that [`PipelineCache::save`] wrote; none if it is damaged.
fn read(path: &Path) -> Option<(String, Vec<u8>)> {
    if std::fs::metadata(path).ok()?.len() > MOST {
        return None;
    }
    let mut data = std::fs::read(path).ok()?;
    let rest = data.split_off(data.len().min(DIGEST));
    let said = String::from_utf8(data).ok()?;
    (said == Digest::of(&rest)).then_some((said, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceOptions;
    use crate::device::wgpu::adapters;

    #[test]
    fn a_file_that_is_damaged_or_cut_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        assert_eq!(read(&path), None);
        let whole = [Digest::of(b"pipelines").as_bytes(), b"pipelines"].concat();
        let try_with = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read(&path)
        };
        assert_eq!(try_with(&whole), Some((Digest::of(b"pipelines"), b"pipelines".to_vec())));
        for cut in [0, 1, DIGEST - 1, DIGEST, whole.len() - 1] {
            assert_eq!(try_with(&whole[..cut]), None, "{cut} bytes");
        }
        for i in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[i] ^= 1;
            assert_eq!(try_with(&bytes), None, "byte {i}");
        }
    }

    #[test]
    fn what_was_saved_is_there_in_the_next_process() {
        let adapter = adapters::choose(&DeviceOptions::from_env(None)).unwrap();
        if !adapter.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return;
        }
        let (device, _queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            required_features: wgpu::Features::PIPELINE_CACHE,
            ..Default::default()
        }))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("rugosa");
        let open = || PipelineCache::open_in(&inner, &device, &adapter.get_info()).unwrap();
        let first = open();
        first.save();
        let file = std::fs::read(&first.path).unwrap();
        assert!(read(&first.path).is_some());
        assert!(open().saved.lock().unwrap().is_some());
        // damage costs a compilation, no more, and is mended
        std::fs::write(&first.path, &file[..file.len() / 2]).unwrap();
        let next = open();
        assert_eq!(*next.saved.lock().unwrap(), None);
        next.save();
        assert!(read(&next.path).is_some());
        assert_eq!(std::fs::read_dir(&inner).unwrap().count(), 1);
    }
}

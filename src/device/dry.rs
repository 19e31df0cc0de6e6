//! A device that only counts: memory is handed out and nothing is computed. What a run will hold is found by recording
//! one of its steps on it, with the very code that runs on the real device.

use super::gemm::Gemm;
use super::profile::KernelTime;
use super::{AllocError, Backend, Caps, Counters, Device, KernelSpec, Launch, Pending, RawBuffer, Slice};
use crate::error::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// See the top of the module. Everything that is read back from it is zero.
pub struct DryBackend {
    caps: Caps,
    budget: u64,
    taken: AtomicU64,
    next_id: AtomicU64,
}

impl Device {
    /// A device that only counts and takes the kernels that this one takes: it has its limits, its precision and its tiles.
    pub fn counting(&self) -> Device {
        let counting = Device::new(Box::new(DryBackend::new(self.caps().clone())));
        counting.set_precision(self.precision());
        counting.set_tiles(self.tiles());
        counting
    }
}

impl DryBackend {
    /// With the limits of a real device, and memory without end.
    pub fn new(caps: Caps) -> Self {
        DryBackend::with_budget(caps, u64::MAX)
    }

    /// With `budget` bytes of memory.
    pub fn with_budget(caps: Caps, budget: u64) -> Self {
        DryBackend { caps, budget, taken: AtomicU64::new(0), next_id: AtomicU64::new(1) }
    }

    #[cfg(test)]
    pub(crate) fn caps_for_tests() -> Caps {
        Caps {
            name: "dry".into(),
            driver: String::new(),
            api: "none".into(),
            class: super::DeviceClass::Discrete,
            subgroup_min: 32,
            subgroup_max: 32,
            max_binding: u64::MAX,
            max_buffer: u64::MAX,
            max_workgroup_memory: 16 << 10,
            max_workgroup_size: 256,
            max_groups_per_dimension: 65_535,
            storage_alignment: 256,
            features: Vec::new(),
            fragment: None,
            memory: None,
        }
    }
}

struct Zeros(usize);

impl Pending for Zeros {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(vec![0; self.0])
    }
}

impl Backend for DryBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        let more = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.budget);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Err(AllocError::OutOfMemory);
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        Ok(RawBuffer { id, size: bytes, handle: Arc::new(()) })
    }

    fn image(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        self.alloc(bytes)
    }

    fn copy_to_image(&self, _: &Slice, _: &RawBuffer) -> Result<()> {
        Ok(())
    }

    fn forget(&self, raw: &[RawBuffer]) {
        self.taken.fetch_sub(raw.iter().map(|r| r.size).sum(), Ordering::Relaxed);
    }

    fn upload(&self, _: &Slice, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn download(&self, from: &Slice) -> Result<Box<dyn Pending>> {
        Ok(Box::new(Zeros(from.len as usize)))
    }

    fn copy(&self, _: &Slice, _: &Slice) -> Result<()> {
        Ok(())
    }

    fn clear(&self, _: &Slice) -> Result<()> {
        Ok(())
    }

    fn launch(&self, _: &Launch<'_>) -> Result<()> {
        Ok(())
    }

    fn gemm(&self, _: &Gemm) -> Result<()> {
        Ok(())
    }

    fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let _ = specs.iter().all(|_| compiled());
        Ok(())
    }

    fn submit(&self) -> Result<()> {
        Ok(())
    }

    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn profile(&self, _: bool) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

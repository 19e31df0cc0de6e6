//! The boundary to the GPU: memory, named kernels, and a queue that runs them in order.
//!
//! Everything above this module speaks to a [`Device`]; only the folders below it know an API. A backend is a dozen
//! object-safe methods ([`Backend`]), not a method an operation: kernels are data ([`spec::Kernel`]).

mod caps;
pub mod choose;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dry;
pub mod gemm;
mod hash;
pub mod image;
mod ledger;
mod pool;
pub mod profile;
pub mod shader;
pub mod spec;
pub mod tiles;
mod watch;
pub mod wgpu;

pub use caps::{Caps, DeviceClass, DeviceOptions, Feature, Precision};
pub use ledger::{Ledger, LedgerRow};
pub use spec::{Access, Binding, Cost, Grid, Kernel, KernelSpec, Launch};
pub use watch::Watch;

use crate::error::{Error, Result};
use pool::Pool;
use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::thread::ThreadId;

/// A piece of device memory as its backend knows it.
#[derive(Clone)]
pub struct RawBuffer {
    /// Unique in the process; part of cache keys.
    pub id: u64,
    /// Bytes.
    pub size: u64,
    pub handle: Arc<dyn Any + Send + Sync>,
}

/// A range of a buffer: what a kernel binds. Offsets and lengths in bytes.
#[derive(Clone)]
pub struct Slice {
    pub raw: RawBuffer,
    pub offset: u64,
    pub len: u64,
    /// Whether it holds pairs of f16 instead of words: only a variant of a kernel that says so takes them.
    pub half: bool,
}

/// Bytes on their way back from the device.
pub trait Pending: Send {
    /// Waits for them.
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// What an API must offer. Commands run in the order in which they are given; nothing is done until `submit` or until
/// the backend finds that enough work has gathered.
pub trait Backend: Send + Sync {
    fn caps(&self) -> &Caps;
    /// Zeroed memory. The size is a multiple of 4 bytes.
    fn alloc(&self, bytes: u64) -> Result<RawBuffer, AllocError>;
    /// An [image]; the size is a multiple of a row. What it holds is unspecified.
    fn image(&self, bytes: u64) -> Result<RawBuffer, AllocError>;
    /// Copies a slice to the front of an image that is as large at least.
    fn copy_to_image(&self, from: &Slice, to: &RawBuffer) -> Result<()>;
    /// Called before memory is given back, so that caches let go of it.
    fn forget(&self, raw: &[RawBuffer]);
    fn upload(&self, to: &Slice, data: &[u8]) -> Result<()>;
    /// Notes the bytes as they are at this point of the queue, without waiting.
    fn download(&self, from: &Slice) -> Result<Box<dyn Pending>>;
    fn copy(&self, from: &Slice, to: &Slice) -> Result<()>;
    /// Sets bytes to zero.
    fn clear(&self, to: &Slice) -> Result<()>;
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;
    /// A product by a library of the backend's, which has one where its capabilities have [`Feature::Gemm`].
    fn gemm(&self, _: &gemm::Gemm) -> Result<()> {
        Err(Error::shape("gemm", "this device has no library of products"))
    }
    /// Compiles pipelines ahead, several at a time; see [`Device::prepare`].
    fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()>;
    fn submit(&self) -> Result<()>;
    /// Submits and waits until all is done.
    fn wait(&self) -> Result<()>;
    /// Starts (true) or ends (false) timing of each launch; ending returns what was measured.
    fn profile(&self, on: bool) -> Result<Vec<profile::KernelTime>>;
    /// What was counted since the device was opened.
    fn counters(&self) -> Counters;
    /// See [`Device::destroy`].
    fn destroy(&self) {}
}

/// Things that must not happen in the hot loop, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub allocations: u64,
    pub pipelines: u64,
    pub bind_groups: u64,
    pub launches: u64,
    pub submissions: u64,
    pub readbacks: u64,
}

/// Why memory was not given; [`Device::alloc`] adds what it was for and what is in use.
#[derive(Debug)]
pub enum AllocError {
    /// The device has no room.
    OutOfMemory,
    /// Anything else.
    Other(Error),
}

/// Purposes whose size does not depend on the batch.
const FIXED: &[&str] = &["weights", "adapter", "gradients", "optimiser", "mask scores", "sparse index"];

/// An open device. Cheap to clone; all clones are the same device.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    backend: Box<dyn Backend>,
    pool: Mutex<Pool>,
    images: image::Images,
    dummy: OnceLock<Buffer>,
    /// The specialisations launched so far by threads that ask for them.
    launched: Mutex<HashMap<ThreadId, Vec<KernelSpec>>>,
    /// Whether a thread asks: looked at at every launch, so without the lock.
    is_noted: AtomicBool,
    f16: AtomicBool,
    /// Whether there is a watch: asked at every launch, so without a lock.
    is_watched: AtomicBool,
    watch: Mutex<Option<Arc<Watch>>>,
    tiles: tiles::Tiles,
}

/// Device memory that goes back to the pool when its last clone is dropped.
#[derive(Clone)]
pub struct Buffer(Arc<BufferInner>);

struct BufferInner {
    raw: RawBuffer,
    bytes: u64,
    what: &'static str,
    device: Weak<Inner>,
}

impl Device {
    /// Opens the device that `options` choose.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if there is none, with the way to get one; [`Error::Invalid`] where no device is the one.
    pub fn open(options: &DeviceOptions) -> Result<Device> {
        Ok(Device::new(choose::open(options)?))
    }

    /// A device over any backend.
    pub fn new(backend: Box<dyn Backend>) -> Device {
        Device(Arc::new(Inner {
            backend,
            pool: Mutex::new(Pool::default()),
            images: image::Images::default(),
            dummy: OnceLock::new(),
            launched: Mutex::default(),
            is_noted: AtomicBool::new(false),
            f16: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            watch: Mutex::default(),
            tiles: tiles::Tiles::default(),
        }))
    }

    pub fn caps(&self) -> &Caps {
        self.0.backend.caps()
    }

    /// What products round their operands to.
    pub fn precision(&self) -> Precision {
        if self.0.f16.load(Ordering::Relaxed) { Precision::F16 } else { Precision::F32 }
    }

    /// Sets it, unchecked: [`kernels::precision::enable`](crate::kernels::precision::enable) tests the device first.
    pub fn set_precision(&self, precision: Precision) {
        self.0.f16.store(precision == Precision::F16, Ordering::Relaxed);
    }

    /// `bytes` bytes of device memory for `what` (a row of the ledger). Contents are unspecified: kernels write what
    /// others read, and tests poison.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what is in use, or [`Error::TooLarge`] over the device's largest buffer.
    pub fn alloc(&self, bytes: u64, what: &'static str) -> Result<Buffer> {
        let class = pool::size_class(bytes);
        let caps = self.caps();
        if class > caps.max_buffer || bytes > caps.max_binding {
            let smaller = if FIXED.contains(&what) { "" } else { "lower ⟨batch_size⟩ or ⟨seq_len⟩, or " };
            return Err(Error::TooLarge {
                device: caps.name.clone(),
                what: what.into(),
                requested: bytes,
                limit: caps.max_buffer.min(caps.max_binding),
                hint: format!("{smaller}use another ⟨device⟩"),
            });
        }
        let mut pool = self.pool();
        let raw = match pool.take(class) {
            Some(raw) => raw,
            None => {
                let idle = pool.make_room(class);
                if !idle.is_empty() {
                    self.0.backend.forget(&idle);
                }
                self.take(&mut pool, class, what, |bytes| self.0.backend.alloc(bytes))?
            }
        };
        pool.ledger.add(what, class);
        let buffer = Buffer(Arc::new(BufferInner { raw, bytes: class, what, device: Arc::downgrade(&self.0) }));
        drop(pool);
        if self.0.is_watched.load(Ordering::Relaxed) {
            // what an earlier launch left there is not this one's fault
            self.clear(&buffer.slice())?;
        }
        Ok(buffer)
    }

    /// Memory that `alloc` takes from the device for `what`.
    fn take(
        &self,
        pool: &mut MutexGuard<'_, Pool>,
        class: u64,
        what: &'static str,
        alloc: impl Fn(u64) -> Result<RawBuffer, AllocError>,
    ) -> Result<RawBuffer> {
        let backend = &self.0.backend;
        let raw = match alloc(class) {
            Err(AllocError::OutOfMemory) => {
                // free what is only kept for reuse, then try once more
                backend.forget(&pool.drain());
                backend.wait()?;
                alloc(class)
            }
            other => other,
        };
        let raw = raw.map_err(|e| match e {
            AllocError::Other(e) => e,
            AllocError::OutOfMemory => Error::OutOfMemory {
                device: self.caps().name.clone(),
                what: what.into(),
                requested: class,
                in_use: pool.ledger.in_use(),
                hint: "lower ⟨batch_size⟩ (and raise ⟨gradient_accumulation_steps⟩), lower ⟨seq_len⟩, or add ⟨checkpointing⟩ layer".into(),
            },
        })?;
        pool.ledger.reserve(class);
        Ok(raw)
    }

    /// What a buffer of `bytes` bytes takes of the memory.
    pub fn size_class(bytes: u64) -> u64 {
        pool::size_class(bytes)
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        // a panic elsewhere leaves the pool consistent: every critical section is a few plain moves
        self.0.pool.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// A few bytes to bind where a kernel's variant reads nothing.
    pub fn dummy(&self) -> Result<Slice> {
        if let Some(b) = self.0.dummy.get() {
            return Ok(b.slice());
        }
        let buffer = self.alloc(256, "constants")?;
        Ok(self.0.dummy.get_or_init(|| buffer).slice())
    }

    pub fn upload(&self, to: &Slice, data: &[u8]) -> Result<()> {
        self.note_write(to);
        self.0.backend.upload(to, data)
    }

    /// Reads bytes back and waits for them. Not for hot loops: see [`Device::download_later`].
    pub fn download(&self, from: &Slice) -> Result<Vec<u8>> {
        self.download_later(from)?.wait()
    }

    pub fn download_later(&self, from: &Slice) -> Result<Box<dyn Pending>> {
        self.0.backend.download(from)
    }

    pub fn copy(&self, from: &Slice, to: &Slice) -> Result<()> {
        self.note_write(to);
        self.0.backend.copy(from, to)
    }

    pub fn clear(&self, to: &Slice) -> Result<()> {
        self.note_write(to);
        self.0.backend.clear(to)
    }

    /// # Errors
    /// [`Error::Shape`] where a binding is f16 and the kernel's variant reads words, or the other way round; those of
    /// the backend.
    pub fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        launch.check_elements()?;
        if self.0.is_noted.load(Ordering::Relaxed)
            && let Some(noted) = self.launched().get_mut(&std::thread::current().id())
        {
            noted.push(launch.spec.clone());
        }
        if (0..launch.bindings.len()).any(|i| launch.spec.reads_image(i)) {
            self.launch_with_images(launch)?;
        } else {
            self.0.backend.launch(launch)?;
        }
        self.note_writes(launch);
        match self.watched() {
            Some(watch) => watch.look(&*self.0.backend, launch, self.0.dummy.get().map(|b| b.slice().raw.id)),
            None => Ok(()),
        }
    }

    /// Lets `watch` look at what every launch from now on writes, or ends that with `None`.
    pub fn watch(&self, watch: Option<Arc<Watch>>) {
        self.0.is_watched.store(watch.is_some(), Ordering::Relaxed);
        *self.0.watch.lock().unwrap_or_else(|e| e.into_inner()) = watch;
    }

    /// The watch, if there is one.
    pub fn watched(&self) -> Option<Arc<Watch>> {
        if !self.0.is_watched.load(Ordering::Relaxed) {
            return None;
        }
        self.0.watch.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Starts (true) or ends (false) a list of the specialisations that this thread launches; returns the list so far.
    pub fn note_launches(&self, on: bool) -> Vec<KernelSpec> {
        let id = std::thread::current().id();
        let mut launched = self.launched();
        let before = launched.remove(&id).unwrap_or_default();
        if on {
            launched.insert(id, Vec::new());
        }
        self.0.is_noted.store(!launched.is_empty(), Ordering::Relaxed);
        before
    }

    /// Ends the list that [`Device::note_launches`] began: each specialisation once, in the order of their first launches, for
    /// [`Device::prepare`].
    pub fn launched_kernels(&self) -> Vec<KernelSpec> {
        let mut seen = HashSet::new();
        let mut kernels = self.note_launches(false);
        kernels.retain(|spec| seen.insert(spec.clone()));
        kernels
    }

    fn launched(&self) -> MutexGuard<'_, HashMap<ThreadId, Vec<KernelSpec>>> {
        self.0.launched.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Compiles `specs` ahead, several at a time; what was compiled before costs nothing. Other threads can use the device
    /// meanwhile. `compiled` is called for each of `specs`, from any thread; where it returns false, the rest is left out.
    ///
    /// # Errors
    /// [`Error::Kernel`] of the first that the driver refuses.
    pub fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        self.0.backend.prepare(specs, compiled)
    }

    pub fn submit(&self) -> Result<()> {
        self.0.backend.submit()
    }

    pub fn wait(&self) -> Result<()> {
        self.0.backend.wait()
    }

    pub fn profile(&self, on: bool) -> Result<Vec<profile::KernelTime>> {
        self.0.backend.profile(on)
    }

    pub fn counters(&self) -> Counters {
        self.0.backend.counters()
    }

    /// Ends the device as a driver's reset would: every later call fails with [`Error::DeviceLost`]. For tests of what
    /// outlasts that.
    pub fn destroy(&self) {
        self.0.backend.destroy();
    }

    /// A copy of the byte ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.pool().ledger.clone()
    }

    /// Lets the ledger's peaks begin with what is held now: what came before is not the run's.
    pub fn restart_peaks(&self) {
        self.pool().ledger.restart();
    }

    /// Does `work`, of whose memory the ledger's peaks are not to know; what it leaves for reuse goes back to the device.
    ///
    /// # Errors
    /// Those of `work` and of the device.
    pub fn aside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.ledger();
        let done = work();
        self.trim()?;
        self.pool().ledger.restore_peaks(&before);
        done
    }

    /// Gives memory that is kept for reuse back to the device.
    pub fn trim(&self) -> Result<()> {
        self.trim_images();
        let free = self.pool().drain();
        self.0.backend.forget(&free);
        drop(free);
        self.0.backend.wait()
    }
}

impl Buffer {
    /// Bytes, rounded up to the pool's size class.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Whether another clone is alive.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub fn slice(&self) -> Slice {
        Slice { raw: self.0.raw.clone(), offset: 0, len: self.0.bytes, half: false }
    }

    /// The range `offset .. offset + len`, in bytes; both must lie inside of the buffer.
    pub fn range(&self, offset: u64, len: u64) -> Slice {
        debug_assert!(offset + len <= self.0.bytes, "{offset} + {len} > {}", self.0.bytes);
        Slice { raw: self.0.raw.clone(), offset, len, half: false }
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        if let Some(device) = self.device.upgrade() {
            let mut pool = device.pool.lock().unwrap_or_else(|e| e.into_inner());
            pool.ledger.remove(self.what, self.bytes);
            pool.give(self.raw.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::dry::DryBackend;
    use super::*;

    fn device(budget: u64) -> Device {
        let caps = Caps { max_binding: 1 << 30, max_buffer: 1 << 30, ..DryBackend::caps_for_tests() };
        Device::new(Box::new(DryBackend::with_budget(caps, budget)))
    }

    #[test]
    fn out_of_memory_is_typed_and_says_what_to_change() {
        let device = device(1 << 20);
        let _held = device.alloc(700 << 10, "weights").unwrap();
        let err = device.alloc(700 << 10, "activations").err().unwrap();
        let Error::OutOfMemory { what, requested, in_use, .. } = &err else { panic!("{err}") };
        assert_eq!((what.as_str(), *in_use), ("activations", 704 << 10), "{err}");
        assert!(*requested >= 700 << 10 && err.to_string().contains("⟨checkpointing⟩ layer"), "{err}");
        assert!(!err.to_string().contains('\n'));
    }

    #[test]
    fn memory_kept_for_reuse_is_given_up_before_an_allocation_fails() {
        let device = device(1 << 20);
        drop(device.alloc(700 << 10, "activations").unwrap());
        assert_eq!(device.ledger().reserved(), 704 << 10);
        let other = device.alloc(800 << 10, "activations").unwrap();
        assert_eq!((device.ledger().reserved(), device.ledger().in_use()), (other.bytes(), other.bytes()));
    }

    #[test]
    fn a_buffer_over_the_devices_limits_is_refused_with_a_way_out() {
        let device = device(u64::MAX);
        let message = |what| device.alloc(1 << 50, what).err().unwrap().to_string();
        assert!(message("activations").contains("lower ⟨batch_size⟩ or ⟨seq_len⟩"), "{}", message("activations"));
        let weights = message("weights");
        assert!(weights.ends_with("use another ⟨device⟩") && !weights.contains("⟨batch_size⟩"), "{weights}");
    }

    #[test]
    fn the_ledger_knows_who_held_what_at_the_peak() {
        let device = device(u64::MAX);
        let weights = device.alloc(1024, "weights").unwrap();
        drop(device.alloc(4096, "activations").unwrap());
        let _scratch = device.alloc(512, "scratch").unwrap();
        drop(weights);
        let at_peak: Vec<_> = device.ledger().rows().map(|(what, row)| (what, row.at_peak)).collect();
        assert_eq!(at_peak, [("activations", 4096), ("scratch", 0), ("weights", 1024)]);
        assert_eq!(device.ledger().peak(), 5120);
    }
}

//! The CUDA backend proper.

use super::blas::Blas;
use super::driver::{self, COOP_CAPABILITY, Card, Context, OLDEST_CAPABILITY};
use super::kernels::{Compiled, Kernels};
use super::memory::{Blocks, Event, Memory, Readback, Ring};
use super::nvrtc;
use crate::device::gemm::{Gemm, GemmOperand};
use crate::device::profile::KernelTime;
use crate::device::{AllocError, Backend, Caps, Cost, Counters, DeviceClass, DeviceOptions, Feature};
use crate::device::{Grid, KernelSpec, Launch, Pending, RawBuffer, Slice};
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// A card opened through CUDA. Everything is done on one stream, in the order in which it is asked for.
pub struct CudaBackend {
    caps: Caps,
    context: Arc<Context>,
    kernels: Kernels,
    blocks: Arc<Blocks>,
    state: Mutex<State>,
    counts: Counts,
}

struct State {
    ring: Ring,
    /// Where cuBLASLt was found and is wanted.
    blas: Option<Blas>,
    timer: Option<Vec<Timed>>,
}

impl State {
    /// An event now, while launches are timed.
    fn event(&self, context: &Arc<Context>) -> Result<Option<Event>> {
        match &self.timer {
            Some(_) => Event::new(context, true).and_then(|e| e.record().map(|()| Some(e))),
            None => Ok(None),
        }
    }

    /// Notes what was launched since the event `from`.
    fn timed(&mut self, context: &Arc<Context>, name: &'static str, cost: Cost, from: Option<Event>) -> Result<()> {
        if let (Some(from), Some(to)) = (from, self.event(context)?)
            && let Some(timer) = &mut self.timer
        {
            timer.push(Timed { name, cost, from, to });
        }
        Ok(())
    }
}

/// A launch between its two events.
struct Timed {
    name: &'static str,
    cost: Cost,
    from: Event,
    to: Event,
}

#[derive(Default)]
struct Counts {
    allocations: AtomicU64,
    pipelines: AtomicU64,
    /// Each is with the driver at once, a submission of its own.
    launches: AtomicU64,
    readbacks: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl CudaBackend {
    /// Opens a card.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where the card is too old, NVRTC is missing, or the driver refuses.
    pub(super) fn open(card: &Card, options: &DeviceOptions) -> Result<Self> {
        if !Self::takes(card) {
            let ((major, minor), (a, b)) = (card.capability, OLDEST_CAPABILITY);
            let reason = format!(
                "{}: its compute capability is {major}.{minor}, and CUDA wants {a}.{b} or newer here; choose its Vulkan path (`rugosa devices`)",
                card.name
            );
            return Err(Error::NoDevice { reason });
        }
        let compiler = nvrtc::compiler()?;
        let context = Arc::new(Context::open(card)?);
        let kernels = Kernels::new(&context, card, compiler);
        let mut caps = caps(card, options);
        // code and numbers are the compiler's too
        caps.driver = format!("{}, NVRTC {}.{}", caps.driver, compiler.version.0, compiler.version.1);
        let blas = if caps.has(Feature::Gemm) { Blas::open(&context)? } else { None };
        if caps.has(Feature::Gemm) && blas.is_none() {
            tracing::warn!("cuBLASLt is not found: products run on kernels of our own; RUGOSA_CUDA names its folder");
            caps.features.retain(|f| *f != Feature::Gemm);
        }
        let state = State { ring: Ring::new(&context)?, blas, timer: None };
        let (blocks, counts) = (Arc::default(), Counts::default());
        Ok(CudaBackend { caps, context, kernels, blocks, state: Mutex::new(state), counts })
    }

    /// Whether kernels can be compiled for a card.
    pub(super) fn takes(card: &Card) -> bool {
        card.capability >= OLDEST_CAPABILITY
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn compile(&self, spec: &KernelSpec) -> Result<Arc<Compiled>> {
        self.counts.pipelines.fetch_add(1, Ordering::Relaxed);
        self.kernels.compile(spec)
    }
}

/// What a card offers to kernels.
pub(super) fn caps(card: &Card, options: &DeviceOptions) -> Caps {
    let has_units = card.capability >= COOP_CAPABILITY;
    let class = if card.is_integrated { DeviceClass::Integrated } else { DeviceClass::Discrete };
    let all = Feature::ALL.into_iter().filter(|f| *f != Feature::Images);
    let features = all.filter(|f| (has_units || *f != Feature::CoopMatrix) && !options.disable.contains(f));
    let features: Vec<Feature> = features.collect();
    let default = options.default_limits;
    Caps {
        name: card.name.clone(),
        driver: card.driver.clone(),
        api: "CUDA".into(),
        class: options.class.unwrap_or(class),
        subgroup_min: 32,
        subgroup_max: 32,
        // shaders count words in 32 bits; Vulkan's bound on the same cards
        max_binding: options.max_binding.unwrap_or(u64::MAX).min(if default { 128 << 20 } else { (4 << 30) - 4 }),
        max_buffer: if default { 256 << 20 } else { card.memory },
        max_workgroup_memory: if default { 16 << 10 } else { 48 << 10 },
        max_workgroup_size: if default { 256 } else { 1024 },
        max_groups_per_dimension: i32::MAX as u32,
        storage_alignment: 256,
        fragment: features.contains(&Feature::CoopMatrix).then_some(16),
        features,
        memory: Some(card.memory).filter(|_| !card.is_integrated),
    }
}

/// Where a slice begins on the device.
fn address(slice: &Slice) -> Result<u64> {
    let memory = slice.raw.handle.downcast_ref::<Memory>();
    Ok(memory.ok_or_else(|| Error::shape("device", "a buffer of another backend"))?.at + slice.offset)
}

/// Words of a slice.
fn words(slice: &Slice) -> usize {
    slice.len.div_ceil(4) as usize
}

impl Backend for CudaBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        let memory = Memory::new(&self.context, bytes)?;
        self.counts.allocations.fetch_add(1, Ordering::Relaxed);
        Ok(RawBuffer { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), size: bytes, handle: Arc::new(memory) })
    }

    fn image(&self, _: u64) -> Result<RawBuffer, AllocError> {
        Err(AllocError::Other(Error::shape("device", "images are for software renderers")))
    }

    fn copy_to_image(&self, _: &Slice, _: &RawBuffer) -> Result<()> {
        Err(Error::shape("device", "images are for software renderers"))
    }

    fn forget(&self, _: &[RawBuffer]) {}

    fn upload(&self, to: &Slice, data: &[u8]) -> Result<()> {
        if data.len() as u64 > to.len {
            return Err(Error::shape("upload", format!("{} bytes into {}", data.len(), to.len)));
        }
        if data.is_empty() { Ok(()) } else { self.state().ring.upload(&self.context, address(to)?, data) }
    }

    fn download(&self, from: &Slice) -> Result<Box<dyn Pending>> {
        self.counts.readbacks.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Readback::begin(&self.context, &self.blocks, address(from)?, from.len as usize)?))
    }

    fn copy(&self, from: &Slice, to: &Slice) -> Result<()> {
        if from.len > to.len {
            return Err(Error::shape("copy", format!("{} bytes into {}", from.len, to.len)));
        }
        let api = self.context.enter()?;
        // SAFETY: both ranges lie in their buffers, which are as long as their slices say
        let code = unsafe { (api.copy)(address(to)?, address(from)?, 4 * words(from), self.context.stream) };
        self.context.check(code)
    }

    fn clear(&self, to: &Slice) -> Result<()> {
        let api = self.context.enter()?;
        // SAFETY: the range lies in its buffer
        self.context.check(unsafe { (api.fill)(address(to)?, 0, words(to), self.context.stream) })
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let kernel = launch.spec.kernel;
        debug_assert_eq!(launch.params.len(), kernel.params_bytes, "{}", kernel.name);
        debug_assert_eq!(launch.bindings.len(), kernel.bindings.len(), "{}", kernel.name);
        let groups = u32::try_from(launch.groups).ok().filter(|g| *g <= self.caps.max_groups_per_dimension);
        let groups =
            groups.ok_or_else(|| Error::shape(kernel.name, format!("{} workgroups are too many", launch.groups)))?;
        if groups == 0 {
            return Ok(());
        }
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        let compiled = self.kernels.find(launch.spec).map_or_else(|| self.compile(launch.spec), Ok)?;
        let mut addresses = launch.bindings.iter().map(address).collect::<Result<Vec<u64>>>()?;
        let mut params = launch.params.to_vec();
        params[..size_of::<Grid>()].copy_from_slice(bytemuck::bytes_of(&Grid { base: 0, groups }));
        let mut arguments: Vec<*mut c_void> = addresses.iter_mut().map(|a| std::ptr::from_mut(a).cast()).collect();
        arguments.push(params.as_mut_ptr().cast());
        let mut state = self.state();
        let api = self.context.enter()?;
        let from = state.event(&self.context)?;
        // SAFETY: the arguments are those of the kernel, in order: the writer makes them of the same table; every shader guards its own
        // indices against the sizes in its parameters, and each host function checks its slices against the same sizes
        self.context.check(unsafe {
            let (function, stream) = (compiled.function, self.context.stream);
            let arguments = arguments.as_mut_ptr();
            (api.launch)(function, groups, 1, 1, compiled.threads, 1, 1, 0, stream, arguments, std::ptr::null_mut())
        })?;
        state.timed(&self.context, kernel.name, launch.cost, from)
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        let at = |o: &GemmOperand| address(&o.slice).map(|a| a + (o.column * o.element()) as u64);
        let addresses = [at(&gemm.a)?, at(&gemm.b)?, at(&gemm.c)?];
        let bias = gemm.bias.as_ref().map(address).transpose()?;
        let [m, n, k] = gemm.shape.map(|l| l as f64);
        let bytes = (gemm.a.element() as f64) * (m * k + k * n) + 4.0 * m * n;
        let mut state = self.state();
        let from = state.event(&self.context)?;
        let Some(blas) = &mut state.blas else {
            return Err(Error::shape("gemm", "this device has no library of products"));
        };
        blas.multiply(gemm, addresses, bias)?;
        state.timed(&self.context, "gemm", Cost { flops: 2.0 * m * n * k, bytes }, from)
    }

    fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(spec) = specs.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.kernels.find(spec).is_none() {
                    self.compile(spec)?;
                }
                if !compiled() {
                    next.store(specs.len(), Ordering::Relaxed);
                }
            }
            Ok(())
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(specs.len());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let panicked = || Error::Kernel { name: "(compiler)".into(), reason: "the compiler failed".into() };
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(panicked()))).collect::<Result<Vec<()>>>()
        })
        .map(drop)
    }

    fn submit(&self) -> Result<()> {
        // everything is with the driver already
        self.context.enter().map(drop)
    }

    fn wait(&self) -> Result<()> {
        self.context.synchronize()
    }

    fn profile(&self, on: bool) -> Result<Vec<KernelTime>> {
        if on && !self.caps.has(Feature::Timestamps) {
            return Err(Error::invalid("profile", format!("{} has no timestamps", self.caps.name)));
        }
        self.wait()?;
        let before = std::mem::replace(&mut self.state().timer, on.then(Vec::new));
        let time = |t: &Timed| -> Result<KernelTime> {
            let time = Duration::from_secs_f64(f64::from(t.to.since(&t.from)?.max(0.0)) / 1e3);
            Ok(KernelTime { name: t.name, time, flops: t.cost.flops, bytes: t.cost.bytes })
        };
        before.iter().flatten().map(time).collect()
    }

    fn counters(&self) -> Counters {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { allocations, pipelines, launches, readbacks } = &self.counts;
        Counters {
            allocations: of(allocations),
            pipelines: of(pipelines),
            bind_groups: 0,
            launches: of(launches),
            submissions: of(launches),
            readbacks: of(readbacks),
        }
    }

    fn destroy(&self) {
        self.context.lose();
    }
}

/// All cards that the driver lists.
///
/// # Errors
/// Those of [`driver::driver`].
pub(super) fn cards() -> Result<Vec<Card>> {
    driver::cards()
}

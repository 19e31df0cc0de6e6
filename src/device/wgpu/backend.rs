//! The wgpu backend proper.

use super::adapters;
use super::cache::PipelineCache;
use super::image::Image;
use super::pipelines::{self, BindGroups, Layout, Pipeline, Pipelines, one_line, raw};
use super::poll::poll;
use super::queue::{Queue, staging};
use crate::device::profile::KernelTime;
use crate::device::{AllocError, Backend, Caps, Counters, DeviceClass, DeviceOptions, Feature};
use crate::device::{Grid, KernelSpec, Launch, Pending, RawBuffer, Slice};
use crate::error::{Error, Result};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};

/// A device opened through wgpu.
pub struct WgpuBackend {
    caps: Caps,
    device: wgpu::Device,
    state: Mutex<State>,
    trouble: Arc<Mutex<Option<Trouble>>>,
    counts: Counts,
    /// Where the API has one and the user wants it.
    cache: Option<PipelineCache>,
}

struct State {
    queue: Queue,
    pipelines: Pipelines,
    bind_groups: BindGroups,
}

/// What the API reported outside of any call.
enum Trouble {
    Lost(String),
    Rejected(String),
}

#[derive(Default)]
struct Counts {
    allocations: AtomicU64,
    pipelines: AtomicU64,
    launches: AtomicU64,
    readbacks: AtomicU64,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl WgpuBackend {
    /// Opens the adapter that `options` choose, with the limits it offers.
    ///
    /// # Errors
    /// [`Error::NoDevice`] where there is none or the driver refuses.
    pub fn open(options: &DeviceOptions) -> Result<Self> {
        let adapter = adapters::choose(options)?;
        let info = adapter.get_info();
        let limits = limits(&adapter, options);
        let wanted = [
            (Feature::F16, wgpu::Features::SHADER_F16),
            (Feature::Subgroup, wgpu::Features::SUBGROUP),
            (Feature::CoopMatrix, adapters::MATRIX_UNITS),
            (Feature::Timestamps, wgpu::Features::TIMESTAMP_QUERY),
            (Feature::Int64, wgpu::Features::SHADER_INT64),
        ];
        let offered = adapters::offered(&adapter);
        let features = wanted
            .iter()
            .filter(|(f, flag)| !options.disable.contains(f) && offered.contains(*flag))
            .fold(offered & wgpu::Features::PIPELINE_CACHE, |all, (_, flag)| all | *flag);
        let experimental = if features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX) {
            // SAFETY: cooperative matrices are used only by kernels that pass a self-test on this device
            unsafe { wgpu::ExperimentalFeatures::enabled() }
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("rugosa"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: experimental,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        }))
        .map_err(|e| Error::NoDevice {
            reason: format!("{}: the driver refuses to open it: {}", info.name, one_line(&e)),
        })?;

        let trouble = Arc::new(Mutex::new(None));
        let slot = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| note(&slot, Trouble::Rejected(one_line(&e)))));
        let slot = trouble.clone();
        device.set_device_lost_callback(move |reason, message| {
            // also where we let go of it ourselves: nobody asks any more then
            let text = format!("{reason:?} {message}");
            note(&slot, Trouble::Lost(text.split_whitespace().collect::<Vec<_>>().join(" ")));
        });

        let class = options.class.unwrap_or_else(|| adapters::class(&info));
        let caps = Caps {
            name: info.name.clone(),
            driver: adapters::driver(&info),
            api: format!("{:?}", info.backend),
            class,
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            max_binding: limits.max_storage_buffer_binding_size,
            max_buffer: limits.max_buffer_size,
            max_workgroup_memory: limits.max_compute_workgroup_storage_size,
            max_workgroup_size: limits.max_compute_invocations_per_workgroup,
            max_groups_per_dimension: limits.max_compute_workgroups_per_dimension,
            storage_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
            features: adapters::features(features, class)
                .into_iter()
                .filter(|f| !options.disable.contains(f))
                .collect(),
            fragment: adapters::fragment(&adapter)
                .filter(|_| features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
            memory: adapters::memory(&adapter).filter(|_| class == DeviceClass::Discrete),
        };
        let slowness = match class {
            DeviceClass::Software => 80.0,
            DeviceClass::Integrated => 4.0,
            DeviceClass::Discrete => 0.3,
        };
        let state = State {
            queue: Queue::new(device.clone(), queue, slowness, 0.25f64.powi(options.quarterings.min(16) as i32)),
            pipelines: Pipelines::default(),
            bind_groups: BindGroups::default(),
        };
        let cache = PipelineCache::open(&device, &info);
        Ok(WgpuBackend { caps, device, state: Mutex::new(state), trouble, counts: Counts::default(), cache })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The first thing the API complained about since the last look.
    fn check(&self) -> Result<()> {
        trouble(&self.trouble, &self.device, &self.caps.name).map_or(Ok(()), Err)
    }

    fn polled(&self, result: Result<(), String>) -> Result<()> {
        self.check()?;
        result.map_err(|reason| Error::DeviceLost { device: self.caps.name.clone(), reason })
    }

    fn pipeline(&self, state: &mut State, spec: &KernelSpec) -> Result<Arc<Pipeline>> {
        if let Some(found) = state.pipelines.get(spec) {
            return Ok(found);
        }
        let layout = state.pipelines.layout(&self.device, spec);
        let pipeline = self.compile(layout, spec)?;
        Ok(state.pipelines.insert(spec.clone(), pipeline))
    }

    fn compile(&self, layout: Arc<Layout>, spec: &KernelSpec) -> Result<Pipeline> {
        self.counts.pipelines.fetch_add(1, Ordering::Relaxed);
        pipelines::compile(&self.device, self.cache.as_ref().map(PipelineCache::handle), layout, spec)
    }

    /// `bytes` bytes of memory, in what `create` makes of the device's.
    fn take<T: Send + Sync + 'static>(&self, bytes: u64, create: impl FnOnce() -> T) -> Result<RawBuffer, AllocError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let created = create();
        let invalid = pollster::block_on(validation.pop());
        if pollster::block_on(memory.pop()).is_some() {
            return Err(AllocError::OutOfMemory);
        }
        if let Some(e) = invalid {
            return Err(AllocError::Other(Error::invalid("device memory", one_line(&e))));
        }
        // a lost device reports nothing to scopes
        self.check().map_err(AllocError::Other)?;
        self.counts.allocations.fetch_add(1, Ordering::Relaxed);
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(RawBuffer { id, size: bytes, handle: Arc::new(created) })
    }

    /// Keeps what the driver has compiled for the next process.
    fn save_cache(&self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

/// The error of the first trouble since the last look, if there was one. What a lost device rejects is no fault of what was asked of it.
fn trouble(slot: &Mutex<Option<Trouble>>, device: &wgpu::Device, name: &str) -> Option<Error> {
    let first = slot.lock().unwrap_or_else(|e| e.into_inner()).take()?;
    if matches!(first, Trouble::Rejected(_)) {
        let _ = poll(device, wgpu::PollType::wait_indefinitely()); // a loss shows itself here at the latest
    }
    let mut slot = slot.lock().unwrap_or_else(|e| e.into_inner());
    let lost = |reason: String| Error::DeviceLost { device: name.to_owned(), reason };
    match (first, &*slot) {
        (_, Some(Trouble::Lost(reason))) => Some(lost(reason.clone())),
        (Trouble::Lost(reason), _) => {
            *slot = Some(Trouble::Lost(reason.clone())); // it stays lost
            Some(lost(reason))
        }
        (Trouble::Rejected(reason), _) => Some(Error::Kernel { name: "(queue)".into(), reason }),
    }
}

fn note(slot: &Mutex<Option<Trouble>>, trouble: Trouble) {
    let mut slot = slot.lock().unwrap_or_else(|e| e.into_inner());
    if slot.is_none() || matches!(trouble, Trouble::Lost(_)) {
        *slot = Some(trouble);
    }
}

fn limits(adapter: &wgpu::Adapter, options: &DeviceOptions) -> wgpu::Limits {
    let mut limits = if options.default_limits { wgpu::Limits::default() } else { adapter.limits() };
    if let Some(most) = options.max_binding {
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(most);
    }
    if adapter.get_info().backend == wgpu::Backend::Metal {
        // bindings of 4 GiB and over compute wrongly there
        limits.max_storage_buffer_binding_size = limits.max_storage_buffer_binding_size.min(2 << 30);
    }
    limits
}

impl Backend for WgpuBackend {
    fn caps(&self) -> &Caps {
        &self.caps
    }

    fn alloc(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        self.take(bytes, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })
    }

    fn image(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        self.take(bytes, || Image::new(&self.device, bytes))
    }

    fn copy_to_image(&self, from: &Slice, to: &RawBuffer) -> Result<()> {
        let image =
            to.handle.downcast_ref::<Image>().ok_or_else(|| Error::shape("device", "no image of this backend"))?;
        image.copy_from(self.state().queue.encoder(), raw(from)?, from.offset, from.len);
        Ok(())
    }

    fn forget(&self, raw: &[RawBuffer]) {
        self.state().bind_groups.forget(raw);
    }

    fn upload(&self, to: &Slice, data: &[u8]) -> Result<()> {
        if data.len() as u64 > to.len {
            return Err(Error::shape("upload", format!("{} bytes into {}", data.len(), to.len)));
        }
        let mut state = self.state();
        // a queue write lands before anything that is recorded but not submitted
        let submitted = state.queue.submit();
        self.polled(submitted)?;
        let buffer = raw(to)?;
        let whole = data.len() & !3;
        if whole > 0 {
            state.queue.queue.write_buffer(buffer, to.offset, &data[..whole]);
        }
        if whole < data.len() {
            let mut word = [0u8; 4];
            word[..data.len() - whole].copy_from_slice(&data[whole..]);
            state.queue.queue.write_buffer(buffer, to.offset + whole as u64, &word);
        }
        self.check()
    }

    fn download(&self, from: &Slice) -> Result<Box<dyn Pending>> {
        let size = from.len.next_multiple_of(4);
        let mut state = self.state();
        let target = staging(&self.device, size);
        state.queue.encoder().copy_buffer_to_buffer(raw(from)?, from.offset, &target, 0, size);
        let submitted = state.queue.submit();
        self.polled(submitted)?;
        self.counts.readbacks.fetch_add(1, Ordering::Relaxed);
        let (send, receive) = mpsc::channel();
        target.slice(..).map_async(wgpu::MapMode::Read, move |r| {
            let _ = send.send(r); // nobody listens once the read-back is dropped
        });
        Ok(Box::new(Readback {
            device: self.device.clone(),
            name: self.caps.name.clone(),
            target,
            receive,
            submission: state.queue.last.clone(),
            number: state.queue.submissions,
            ended: state.queue.ended.clone(),
            len: from.len as usize,
            trouble: self.trouble.clone(),
        }))
    }

    fn copy(&self, from: &Slice, to: &Slice) -> Result<()> {
        if from.len > to.len {
            return Err(Error::shape("copy", format!("{} bytes into {}", from.len, to.len)));
        }
        let mut state = self.state();
        let len = from.len.next_multiple_of(4);
        state.queue.encoder().copy_buffer_to_buffer(raw(from)?, from.offset, raw(to)?, to.offset, len);
        Ok(())
    }

    fn clear(&self, to: &Slice) -> Result<()> {
        let mut state = self.state();
        state.queue.encoder().clear_buffer(raw(to)?, to.offset, Some(to.len));
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let kernel = launch.spec.kernel;
        debug_assert_eq!(launch.params.len(), kernel.params_bytes, "{}", kernel.name);
        debug_assert_eq!(launch.bindings.len(), kernel.bindings.len(), "{}", kernel.name);
        let groups = u32::try_from(launch.groups)
            .map_err(|_| Error::shape(kernel.name, format!("{} workgroups are too many", launch.groups)))?;
        if groups == 0 {
            return Ok(());
        }
        self.counts.launches.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        let state = &mut *state;
        let pipeline = self.pipeline(state, launch.spec)?;
        let group = state.bind_groups.get(
            &self.device,
            &pipeline.layout,
            launch.bindings,
            &state.queue.params_buffer,
            (kernel.params_bytes as u64).next_multiple_of(16),
        )?;
        let pieces = state.queue.pieces(launch.cost, launch.groups) as u32;
        let cost = crate::device::Cost {
            flops: launch.cost.flops / f64::from(pieces),
            bytes: launch.cost.bytes / f64::from(pieces),
        };
        let each = groups.div_ceil(pieces);
        let mut base = 0;
        while base < groups {
            if state.queue.is_full() {
                let submitted = state.queue.submit();
                self.polled(submitted)?;
            }
            let piece = Grid { base, groups };
            let count = each.min(groups - base);
            let x = count.min(self.caps.max_groups_per_dimension);
            let grid = (x, count.div_ceil(x));
            state.queue.dispatch(kernel.name, &pipeline, &group, (piece, launch.params), grid, cost);
            // a folded grid may run past `count`: the next piece starts where this one really ended
            base = base.saturating_add(x * count.div_ceil(x));
        }
        Ok(())
    }

    fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        let next = AtomicUsize::new(0);
        // the lock is not held while the driver compiles
        let work = || -> Result<()> {
            while let Some(spec) = specs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let layout = {
                    let mut state = self.state();
                    let missing = state.pipelines.get(spec).is_none();
                    missing.then(|| state.pipelines.layout(&self.device, spec))
                };
                if let Some(layout) = layout {
                    let pipeline = self.compile(layout, spec)?;
                    self.state().pipelines.insert(spec.clone(), pipeline);
                }
                if !compiled() {
                    next.store(specs.len(), Ordering::Relaxed);
                }
            }
            Ok(())
        };
        // threads of their own: a compilation takes seconds, and would stall whoever shares a pool with it
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(specs.len());
        let done = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let panicked = || Error::Kernel { name: "(compiler)".into(), reason: "the driver failed".into() };
            workers.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(panicked()))).collect::<Result<Vec<()>>>()
        });
        self.save_cache();
        done.map(drop)
    }

    fn submit(&self) -> Result<()> {
        let submitted = self.state().queue.submit();
        self.polled(submitted)
    }

    fn wait(&self) -> Result<()> {
        let mut state = self.state();
        let done = state.queue.submit().and_then(|()| state.queue.drain());
        drop(state);
        self.polled(done)
    }

    fn profile(&self, on: bool) -> Result<Vec<KernelTime>> {
        self.wait()?;
        let mut state = self.state();
        if !on {
            return Ok(state.queue.stop_timer());
        }
        if !self.caps.has(Feature::Timestamps) {
            return Err(Error::invalid("profile", format!("{} has no timestamps", self.caps.name)));
        }
        state.queue.start_timer();
        Ok(Vec::new())
    }

    fn destroy(&self) {
        self.device.destroy();
    }

    fn counters(&self) -> Counters {
        let state = self.state();
        Counters {
            allocations: self.counts.allocations.load(Ordering::Relaxed),
            pipelines: self.counts.pipelines.load(Ordering::Relaxed),
            bind_groups: state.bind_groups.created,
            launches: self.counts.launches.load(Ordering::Relaxed),
            submissions: state.queue.submissions,
            readbacks: self.counts.readbacks.load(Ordering::Relaxed),
        }
    }
}

struct Readback {
    device: wgpu::Device,
    name: String,
    target: wgpu::Buffer,
    receive: mpsc::Receiver<Result<(), wgpu::BufferAsyncError>>,
    /// Waiting for it does not wait for what was submitted behind it.
    submission: Option<wgpu::SubmissionIndex>,
    number: u64,
    ended: Arc<AtomicU64>,
    len: usize,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Pending for Readback {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        let lost = |reason: String| {
            let known = trouble(&self.trouble, &self.device, &self.name);
            known.unwrap_or_else(|| Error::DeviceLost { device: self.name.clone(), reason })
        };
        let mapped = loop {
            match self.receive.try_recv() {
                Ok(result) => break result,
                Err(mpsc::TryRecvError::Disconnected) => return Err(lost("read-back dropped".into())),
                Err(mpsc::TryRecvError::Empty) => {
                    let wait = wgpu::PollType::Wait { submission_index: self.submission.clone(), timeout: None };
                    poll(&self.device, wait).map_err(lost)?;
                }
            }
        };
        mapped.map_err(|e| lost(e.to_string()))?;
        self.ended.fetch_max(self.number, Ordering::Relaxed);
        let view = self.target.slice(..).get_mapped_range().map_err(|e| lost(e.to_string()))?;
        Ok(view[..self.len].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first call behind the loss may be one whose buffers the API rejects.
    #[test]
    fn what_a_lost_device_rejects_is_its_loss() {
        let backend = WgpuBackend::open(&DeviceOptions::from_env(None)).unwrap();
        let raw = backend.alloc(1024).unwrap();
        let whole = Slice { raw: raw.clone(), offset: 0, len: raw.size, half: false };
        backend.upload(&whole, &[1; 1024]).unwrap();
        backend.wait().unwrap();
        backend.device.destroy();
        let error = backend.download(&whole).and_then(|pending| pending.wait()).unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error}");
    }

    #[test]
    fn a_lost_device_is_an_error_of_every_call_and_no_panic() {
        let backend = WgpuBackend::open(&DeviceOptions::from_env(None)).unwrap();
        let whole = |raw: &RawBuffer| Slice { raw: raw.clone(), offset: 0, len: raw.size, half: false };
        let (a, b) = (whole(&backend.alloc(1024).unwrap()), whole(&backend.alloc(1024).unwrap()));
        backend.upload(&a, &[1; 1024]).unwrap();
        let image = backend.image(1 << 14).unwrap();
        let under_way = backend.download(&a).unwrap();
        backend.device.destroy();
        drop(under_way.wait()); // either way it ends
        let lost = |result: Result<()>| match result {
            Err(e @ Error::DeviceLost { .. }) => {
                let text = e.to_string();
                assert!(
                    text.contains(&backend.caps.name) && text.contains("⟨device⟩") && !text.contains('\n'),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        };
        lost(backend.upload(&a, &[1; 4]));
        let _ = backend.copy(&a, &b).and_then(|()| backend.clear(&b)); // recorded only
        let _ = backend.copy_to_image(&a, &image);
        lost(backend.submit());
        lost(backend.wait());
        lost(backend.download(&a).and_then(|p| p.wait()).map(drop));
        for taken in [backend.alloc(1024), backend.image(1 << 14)] {
            lost(taken.map(drop).map_err(|e| match e {
                AllocError::Other(e) => e,
                AllocError::OutOfMemory => panic!("not lost"),
            }));
        }
        lost(backend.profile(false).map(drop));
    }
}

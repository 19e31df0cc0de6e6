//! A device that computes wrongly does not pass: each kernel's launches are left out in turn, and a row must notice.

use crate::common::*;
use rugosa::cases::startup::prove_in;
use rugosa::cases::{Level, table};
use rugosa::device::profile::KernelTime;
use rugosa::device::wgpu::WgpuBackend;
use rugosa::device::{
    AllocError, Backend, Caps, Counters, Device, DeviceOptions, Kernel, KernelSpec, Launch, Pending, RawBuffer, Slice,
};
use rugosa::error::{Error, Result};
use rugosa::kernels::KERNELS;
use rugosa::kernels::elementwise::scale;
use rugosa::kernels::optimizer::{AdamW, Clip, StepCount, adamw_step};
use rugosa::tensor::Tensor;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// The backend of the device under test, which leaves the launches of one kernel out, or launches another in its place.
struct Backdoor {
    inner: WgpuBackend,
    faulty: Faulty,
}

/// A kernel by name, and what is launched in its place.
pub type Faulty = Arc<Mutex<Option<(&'static str, Option<&'static Kernel>)>>>;

impl Backend for Backdoor {
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        match *self.faulty.lock().unwrap() {
            Some((name, None)) if name == launch.spec.kernel.name => Ok(()),
            Some((name, Some(other))) if name == launch.spec.kernel.name => {
                let spec = KernelSpec::new(other, launch.spec.consts.clone());
                self.inner.launch(&Launch { spec: &spec, ..*launch })
            }
            _ => self.inner.launch(launch),
        }
    }

    fn caps(&self) -> &Caps {
        self.inner.caps()
    }
    fn alloc(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        self.inner.alloc(bytes)
    }
    fn image(&self, bytes: u64) -> Result<RawBuffer, AllocError> {
        self.inner.image(bytes)
    }
    fn copy_to_image(&self, from: &Slice, to: &RawBuffer) -> Result<()> {
        self.inner.copy_to_image(from, to)
    }
    fn forget(&self, raw: &[RawBuffer]) {
        self.inner.forget(raw)
    }
    fn upload(&self, to: &Slice, data: &[u8]) -> Result<()> {
        self.inner.upload(to, data)
    }
    fn download(&self, from: &Slice) -> Result<Box<dyn Pending>> {
        self.inner.download(from)
    }
    fn copy(&self, from: &Slice, to: &Slice) -> Result<()> {
        self.inner.copy(from, to)
    }
    fn clear(&self, to: &Slice) -> Result<()> {
        self.inner.clear(to)
    }
    fn prepare(&self, specs: &[KernelSpec], compiled: &(dyn Fn() -> bool + Sync)) -> Result<()> {
        self.inner.prepare(specs, compiled)
    }
    fn submit(&self) -> Result<()> {
        self.inner.submit()
    }
    fn wait(&self) -> Result<()> {
        self.inner.wait()
    }
    fn profile(&self, on: bool) -> Result<Vec<KernelTime>> {
        self.inner.profile(on)
    }
    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

/// A device that has no fault until one is put in.
pub fn faulty(options: &DeviceOptions) -> (Device, Faulty) {
    let faulty = Faulty::default();
    let inner = WgpuBackend::open(options).unwrap();
    (Device::new(Box::new(Backdoor { inner, faulty: faulty.clone() })), faulty)
}

/// Launches `other`, if there is one, in place of the kernel `name`.
pub fn swap(faulty: &Faulty, name: &'static str, other: Option<&'static Kernel>) {
    *faulty.lock().unwrap() = other.map(|other| (name, Some(other)));
}

#[test]
fn every_kernel_that_does_nothing_is_noticed() {
    let (device, skipped) = faulty(&DeviceOptions::from_env(None));
    let rows: Vec<_> = table().into_iter().filter(|r| r.level <= Level::Quick).collect();
    let mut unused = BTreeSet::new();
    for kernel in KERNELS {
        *skipped.lock().unwrap() = Some((kernel.name, None));
        let (mut launched, mut noticed) = (false, false);
        for row in rows.iter().filter(|r| r.kernels.iter().any(|k| k.name == kernel.name)) {
            let outcome = row.run(&device).unwrap();
            launched |= outcome.launched.contains(kernel.name);
            if outcome.fault.is_some() {
                assert!(row.suspects(&outcome).contains(kernel.name), "{}: {}", kernel.name, row.suspects(&outcome));
                noticed = true;
                break;
            }
        }
        assert_eq!(noticed, launched, "{}: launched {launched}, its absence noticed {noticed}", kernel.name);
        // what the device cannot run is not missed
        if !launched && kernel.needs.iter().all(|feature| device.caps().has(*feature)) {
            unused.insert(kernel.name);
        }
    }
    // the fast path takes one of these away
    let either = ["matmul", "rosa_linear", "sddmm", "densify", "sparse_add", "low_rank", "attention"];
    assert!(unused.iter().all(|k| either.iter().any(|e| k.starts_with(e))), "no row launches {unused:?}");
}

/// What a tiny part of a run launches.
fn of_a_step() -> Vec<KernelSpec> {
    let (dev, n) = (device(), 100);
    dev.note_launches(true);
    let [x, grad, m, v] = [0; 4].map(|_| Tensor::zeros(dev, &[n], "test").unwrap());
    let norm = Tensor::zeros(dev, &[2], "test").unwrap();
    let adamw = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, grad_scale: 1.0, bf16: false };
    let count = StepCount::new(dev).unwrap();
    adamw_step(&x, &grad, [&m, &v], &count, &adamw, Some(Clip { norm: &norm, max_norm: 1.0 })).unwrap();
    scale(&x, 0.5).unwrap();
    dev.launched_kernels()
}

#[test]
fn what_a_run_launches_is_proved_once_and_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("new");
    let (device, skipped) = faulty(&DeviceOptions::from_env(None));
    let kernels = of_a_step();
    let prove = |kernels: &[KernelSpec], cache: Option<&Path>| prove_in(&device, kernels, cache);
    *skipped.lock().unwrap() = Some(("adamw", None));
    let error = prove(&kernels, Some(&cache)).unwrap_err();
    let Error::Kernel { name, reason } = &error else { panic!("{error}") };
    assert!(name.contains("adamw"), "{error}");
    for part in [device.caps().name.as_str(), "computes wrongly", "adamw ", "bound", "RUGOSA_SELFTEST=off"] {
        assert!(reason.contains(part), "{part} in {error}");
    }
    assert!(!error.to_string().contains('\n'));
    // what the run does not launch is not asked for
    let others: Vec<_> = kernels.iter().filter(|spec| spec.kernel.name != "adamw").cloned().collect();
    assert_eq!(prove(&others, Some(&cache)).unwrap().proved, others.len());

    *skipped.lock().unwrap() = None;
    let trust = prove(&kernels, Some(&cache)).unwrap();
    assert_eq!((trust.remembered, trust.proved, trust.rows), (others.len(), kernels.len() - others.len(), 1));
    assert_eq!(trust.unproved, []);
    let trust = prove(&kernels, Some(&cache)).unwrap();
    assert_eq!((trust.remembered, trust.rows, trust.line()), (kernels.len(), 0, None));
    // another text of a shader is another specialisation
    let changed = |spec: &KernelSpec| {
        let source: &str = Box::leak(format!("{}\n", spec.kernel.source).into_boxed_str());
        let kernel = Kernel { source, ..Kernel { ..*spec.kernel } };
        KernelSpec::new(Box::leak(Box::new(kernel)), spec.consts.clone())
    };
    let changed: Vec<_> = kernels.iter().map(changed).collect();
    let trust = prove(&changed, Some(&cache)).unwrap();
    assert_eq!((trust.remembered, trust.proved), (0, kernels.len()));
    // where no note can be written, nothing is remembered and nothing fails
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for cache in [Some(file.join("x")), None] {
        (0..2).for_each(|_| assert_eq!(prove(&kernels, cache.as_deref()).unwrap().proved, kernels.len()));
    }
}

/// A word that is wrong by a little more than the bound, a guard that was touched, an element that was left out.
#[test]
fn guards_and_gaps_are_faults() {
    let g = rugosa::cases::Guarded::new(device(), &[3]).unwrap();
    assert_eq!(g.words().unwrap().unwrap_err(), "element 0 of 3 was not written");
    g.tensor.write(&[1.0f32, 2.0, 3.0]).unwrap();
    assert_eq!(g.words().unwrap().unwrap(), [1.0f32, 2.0, 3.0].map(f32::to_bits));
}

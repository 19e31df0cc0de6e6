//! A device that computes wrongly does not pass: each kernel's launches are left out in turn, and a row must notice.

use crate::common::*;
use rugosa::cases::startup::{Trust, trust_in};
use rugosa::cases::{Level, table};
use rugosa::device::profile::KernelTime;
use rugosa::device::wgpu::WgpuBackend;
use rugosa::device::{
    AllocError, Backend, Caps, Counters, Device, DeviceOptions, Kernel, KernelSpec, Launch, Pending, RawBuffer, Slice,
};
use rugosa::error::{Error, Result};
use rugosa::kernels::KERNELS;
use std::collections::BTreeSet;
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

#[test]
fn a_device_is_trusted_once_and_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("new");
    let (device, skipped) = faulty(&DeviceOptions::from_env(None));
    *skipped.lock().unwrap() = Some(("adamw", None));
    let error = trust_in(&device, Some(&cache)).unwrap_err();
    let Error::Kernel { name, reason } = &error else { panic!("{error}") };
    assert!(name.contains("adamw"), "{error}");
    for part in [device.caps().name.as_str(), "computes wrongly", "bound", "RUGOSA_SELFTEST=off"] {
        assert!(reason.contains(part), "{part} in {error}");
    }
    assert!(!error.to_string().contains('\n'));

    *skipped.lock().unwrap() = None;
    let passed = trust_in(&device, Some(&cache)).unwrap();
    assert!(matches!(passed, Trust::Passed(n) if n >= 6), "{passed:?}");
    assert_eq!(trust_in(&device, Some(&cache)).unwrap(), Trust::Remembered);
    // a note about something else is none
    for note in std::fs::read_dir(&cache).unwrap() {
        std::fs::write(note.unwrap().path(), "rugosa 0.0.0\n").unwrap();
    }
    assert_eq!(trust_in(&device, Some(&cache)).unwrap(), passed);
    // where no note can be written, nothing is remembered and nothing fails
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(trust_in(&device, Some(&file.join("x"))).unwrap(), passed);
    assert_eq!(trust_in(&device, None).unwrap(), passed);
}

/// A word that is wrong by a little more than the bound, a guard that was touched, an element that was left out.
#[test]
fn guards_and_gaps_are_faults() {
    let g = rugosa::cases::Guarded::new(device(), &[3]).unwrap();
    assert_eq!(g.words().unwrap().unwrap_err(), "element 0 of 3 was not written");
    g.tensor.write(&[1.0f32, 2.0, 3.0]).unwrap();
    assert_eq!(g.words().unwrap().unwrap(), [1.0f32, 2.0, 3.0].map(f32::to_bits));
}

//! CUDA's driver: its functions, one card's context and its stream.

use super::library::{functions, load};
use crate::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

const NAMES: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
/// The oldest driver whose functions are used here, as it numbers itself: CUDA 12.0.
const OLDEST_DRIVER: i32 = 12_000;
/// Matrix units of 16 × 16 × 16 with f32 sums, and instructions that load them.
pub(super) const COOP_CAPABILITY: (i32, i32) = (8, 0);
/// The oldest cards that NVRTC 13 makes code for.
pub(super) const OLDEST_CAPABILITY: (i32, i32) = (7, 5);

pub(super) type Handle = *mut c_void;

functions! {
    Api {
        init = "cuInit" (u32);
        version = "cuDriverGetVersion" (*mut c_int);
        count = "cuDeviceGetCount" (*mut c_int);
        device = "cuDeviceGet" (*mut c_int, c_int);
        name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
        attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
        total = "cuDeviceTotalMem_v2" (*mut usize, c_int);
        retain = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
        release = "cuDevicePrimaryCtxRelease_v2" (c_int);
        set_current = "cuCtxSetCurrent" (Handle);
        alloc = "cuMemAlloc_v2" (*mut u64, usize);
        free = "cuMemFree_v2" (u64);
        host_alloc = "cuMemHostAlloc" (*mut *mut c_void, usize, u32);
        host_free = "cuMemFreeHost" (*mut c_void);
        to_device = "cuMemcpyHtoDAsync_v2" (u64, *const c_void, usize, Handle);
        to_host = "cuMemcpyDtoHAsync_v2" (*mut c_void, u64, usize, Handle);
        copy = "cuMemcpyDtoDAsync_v2" (u64, u64, usize, Handle);
        fill = "cuMemsetD32Async" (u64, u32, usize, Handle);
        load = "cuModuleLoadData" (*mut Handle, *const c_void);
        unload = "cuModuleUnload" (Handle);
        function = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
        launch = "cuLaunchKernel" (Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void);
        stream = "cuStreamCreate" (*mut Handle, u32);
        stream_destroy = "cuStreamDestroy_v2" (Handle);
        synchronize = "cuStreamSynchronize" (Handle);
        event = "cuEventCreate" (*mut Handle, u32);
        event_destroy = "cuEventDestroy_v2" (Handle);
        record = "cuEventRecord" (Handle, Handle);
        event_synchronize = "cuEventSynchronize" (Handle);
        elapsed = "cuEventElapsedTime" (*mut f32, Handle, Handle);
        error_name = "cuGetErrorName" (c_int, *mut *const c_char);
        error_text = "cuGetErrorString" (c_int, *mut *const c_char);
    }
}

pub(super) const OUT_OF_MEMORY: i32 = 2;
const NO_BINARY: i32 = 209;
/// Codes that say that a call was wrong, not that the context is lost.
const REFUSALS: [i32; 9] = [1, 200, NO_BINARY, 218, 221, 222, 400, 500, 701];
/// cuDeviceGetAttribute's numbers.
const MAJOR: c_int = 75;
const MINOR: c_int = 76;
const INTEGRATED: c_int = 18;

/// The driver of this machine, set up.
///
/// # Errors
/// [`Error::NoDevice`] where there is none or it is too old, with the way out.
pub(super) fn driver() -> Result<&'static Api> {
    static DRIVER: OnceLock<std::result::Result<Api, String>> = OnceLock::new();
    let found = DRIVER.get_or_init(|| {
        let library =
            load(NAMES).ok_or("no NVIDIA driver is found; install it, or choose another device (`rugosa devices`)")?;
        let api = Api::of(library).map_err(too_old)?;
        let mut version = 0;
        // SAFETY: the calls write one number at most, where they are told to
        unsafe {
            match (api.init)(0) {
                0 => {}
                100 => return Err("the driver sees no NVIDIA card; choose another device (`rugosa devices`)".into()),
                code => return Err(format!("the driver does not start: {}", text(&api, code))),
            }
            (api.version)(&mut version);
        }
        if version < OLDEST_DRIVER {
            Err(too_old(&format!("CUDA {}.{}", version / 1000, version % 1000 / 10)))
        } else {
            Ok(api)
        }
    });
    found.as_ref().map_err(|reason| Error::NoDevice { reason: format!("CUDA: {reason}") })
}

fn too_old(what: &str) -> String {
    format!(
        "the NVIDIA driver is too old ({what}): version 525 or newer is needed; the card's Vulkan path does without (`rugosa devices`)"
    )
}

/// What the driver calls an error.
fn text(api: &Api, code: i32) -> String {
    let of = |read: unsafe extern "C" fn(c_int, *mut *const c_char) -> i32| {
        let mut text = std::ptr::null();
        // SAFETY: the driver's texts live as long as it does, and end with a zero
        unsafe {
            if read(code, &mut text) != 0 || text.is_null() {
                return String::new();
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    format!("{} ({code}) {}", of(api.error_name), of(api.error_text))
}

/// A card, as the driver lists it.
#[derive(Clone, Debug)]
pub(super) struct Card {
    pub number: i32,
    pub name: String,
    /// Major and minor.
    pub capability: (i32, i32),
    /// Bytes.
    pub memory: u64,
    pub is_integrated: bool,
    /// "CUDA 13.0".
    pub driver: String,
}

/// All cards.
///
/// # Errors
/// Those of [`driver`].
pub(super) fn cards() -> Result<Vec<Card>> {
    let api = driver()?;
    let (mut count, mut version) = (0, 0);
    // SAFETY: both write one number
    unsafe {
        (api.count)(&mut count);
        (api.version)(&mut version);
    }
    let driver = format!("CUDA {}.{}", version / 1000, version % 1000 / 10);
    Ok((0..count).map(|number| card(api, number, &driver)).collect())
}

fn card(api: &Api, number: c_int, driver: &str) -> Card {
    let mut device = 0;
    let mut name = [0u8; 256];
    let mut memory = 0usize;
    let attribute = |device, which| {
        let mut value = 0;
        // SAFETY: writes one number
        unsafe { (api.attribute)(&mut value, which, device) };
        value
    };
    // SAFETY: each writes what it is given room for; the last byte of the name stays zero
    unsafe {
        (api.device)(&mut device, number);
        (api.name)(name.as_mut_ptr().cast(), name.len() as c_int - 1, device);
        (api.total)(&mut memory, device);
    }
    let name = CStr::from_bytes_until_nul(&name).map_or_else(|_| String::new(), |n| n.to_string_lossy().into_owned());
    Card {
        number,
        name,
        capability: (attribute(device, MAJOR), attribute(device, MINOR)),
        memory: memory as u64,
        is_integrated: attribute(device, INTEGRATED) != 0,
        driver: driver.into(),
    }
}

/// A card's context, and the one stream on which everything is done in order.
#[derive(Debug)]
pub(super) struct Context {
    pub api: &'static Api,
    pub name: String,
    context: Handle,
    device: c_int,
    pub stream: Handle,
    lost: AtomicBool,
}

// SAFETY: handles of the driver may be used from any thread; each call makes the context the thread's own first
unsafe impl Send for Context {}
// SAFETY: as above
unsafe impl Sync for Context {}

impl Context {
    pub fn open(card: &Card) -> Result<Context> {
        let api = driver()?;
        let (mut device, mut context, mut stream) = (0, null_mut(), null_mut());
        // SAFETY: each writes one handle; NON_BLOCKING (1) keeps the stream apart from the default one
        let code = unsafe {
            [
                (api.device)(&mut device, card.number),
                (api.retain)(&mut context, device),
                (api.set_current)(context),
                (api.stream)(&mut stream, 1),
            ]
        };
        match code.into_iter().find(|c| *c != 0) {
            Some(code) => Err(Error::NoDevice {
                reason: format!("{}: the driver refuses to open it: {}", card.name, text(api, code)),
            }),
            None => Ok(Context { api, name: card.name.clone(), context, device, stream, lost: AtomicBool::new(false) }),
        }
    }

    /// Makes the context the calling thread's.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] once it is.
    pub fn enter(&self) -> Result<&'static Api> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(self.lost("the context is lost".into()));
        }
        // SAFETY: the context lives as long as self
        self.check(unsafe { (self.api.set_current)(self.context) })?;
        Ok(self.api)
    }

    /// The error that a code stands for; one that the driver does not recover from loses the device.
    pub fn check(&self, code: i32) -> Result<()> {
        match code {
            0 => Ok(()),
            NO_BINARY => {
                let oldest =
                    format!("compute capability {}.{} or newer is needed", OLDEST_CAPABILITY.0, OLDEST_CAPABILITY.1);
                Err(Error::Kernel { name: "(driver)".into(), reason: format!("{}: {oldest}", text(self.api, code)) })
            }
            code if REFUSALS.contains(&code) || code == OUT_OF_MEMORY => {
                Err(Error::Kernel { name: "(driver)".into(), reason: text(self.api, code) })
            }
            code => {
                self.lose();
                Err(self.lost(text(self.api, code)))
            }
        }
    }

    /// From now on every call says that the device is lost.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub fn lost(&self, reason: String) -> Error {
        Error::DeviceLost { device: self.name.clone(), reason }
    }

    /// Waits until all that was asked for is done.
    pub fn synchronize(&self) -> Result<()> {
        let api = self.enter()?;
        // SAFETY: the stream lives as long as self
        self.check(unsafe { (api.synchronize)(self.stream) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing uses the stream any more; a lost context refuses, and is given back all the same
        unsafe {
            (self.api.set_current)(self.context);
            (self.api.stream_destroy)(self.stream);
            (self.api.release)(self.device);
        }
    }
}

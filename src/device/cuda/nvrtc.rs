//! CUDA's compiler for programs that are running.

use super::library::{functions, load, load_parts};
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

const NAMES: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
};

/// What the name of the part begins with that NVRTC loads by itself.
const PARTS: &str = if cfg!(windows) { "nvrtc-builtins" } else { "libnvrtc-builtins" };

type Program = *mut c_void;

functions! {
    Api {
        version = "nvrtcVersion" (*mut c_int, *mut c_int);
        create = "nvrtcCreateProgram" (*mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
        compile = "nvrtcCompileProgram" (Program, c_int, *const *const c_char);
        destroy = "nvrtcDestroyProgram" (*mut Program);
        log_size = "nvrtcGetProgramLogSize" (Program, *mut usize);
        log = "nvrtcGetProgramLog" (Program, *mut c_char);
        code_size = "nvrtcGetCUBINSize" (Program, *mut usize);
        code = "nvrtcGetCUBIN" (Program, *mut c_char);
        ptx_size = "nvrtcGetPTXSize" (Program, *mut usize);
        ptx = "nvrtcGetPTX" (Program, *mut c_char);
        arch_count = "nvrtcGetNumSupportedArchs" (*mut c_int);
        archs = "nvrtcGetSupportedArchs" (*mut c_int);
    }
}

/// The compiler; it can be used by several threads at once.
#[derive(Debug)]
pub struct Compiler {
    api: Api,
    /// Major and minor.
    pub version: (i32, i32),
    /// Compute capabilities that it makes machine code for, as 10 · major + minor, ascending.
    archs: Vec<i32>,
}

/// The compiler of this machine.
///
/// # Errors
/// [`Error::NoDevice`] where there is none, with the way to get it.
pub fn compiler() -> Result<&'static Compiler> {
    static COMPILER: OnceLock<std::result::Result<Compiler, String>> = OnceLock::new();
    let found = COMPILER.get_or_init(|| {
        let way_out = "install CUDA's toolkit or the Python package nvidia-cuda-nvrtc, whose folder RUGOSA_CUDA names, \
                       or choose a device of another API (`rugosa devices`)";
        load_parts(PARTS);
        let library = load(NAMES).ok_or_else(|| format!("no {} is found: {way_out}", NAMES[0]))?;
        let api =
            Api::of(library).map_err(|symbol| format!("the NVRTC here is too old (it lacks {symbol}): {way_out}"))?;
        Ok(Compiler::new(api))
    });
    found.as_ref().map_err(|reason| Error::NoDevice { reason: format!("CUDA: {reason}") })
}

impl Compiler {
    fn new(api: Api) -> Compiler {
        let (mut version, mut count) = ((0, 0), 0);
        // SAFETY: both write one number each where they are told to; the list has as many as were counted
        let archs = unsafe {
            (api.version)(&mut version.0, &mut version.1);
            (api.arch_count)(&mut count);
            let mut archs = vec![0; count.max(0) as usize];
            (api.archs)(archs.as_mut_ptr());
            archs
        };
        Compiler { api, version, archs }
    }

    /// Compiles `text` for cards of compute capability `major.minor`: to machine code, or for cards that are newer than the
    /// compiler to PTX, which the driver compiles.
    ///
    /// # Errors
    /// [`Error::Kernel`] named `name` with what the compiler says.
    pub fn compile(&self, name: &str, text: &str, (major, minor): (i32, i32)) -> Result<Vec<u8>> {
        let fail = |reason: String| Error::Kernel { name: name.into(), reason };
        let card = 10 * major + minor;
        let is_known = self.archs.contains(&card);
        let newest = self.archs.iter().copied().filter(|a| *a <= card).max();
        let arch = newest.ok_or_else(|| {
            fail(format!("NVRTC {:?} has no code for compute capability {major}.{minor}", self.version))
        })?;
        let kind = if is_known { "sm" } else { "compute" };
        let options = [
            format!("--gpu-architecture={kind}_{arch}"),
            "--std=c++17".into(),
            "--disable-warnings".into(),
            "--extra-device-vectorization".into(),
        ];
        let options = options.map(|o| CString::new(o).unwrap_or_default());
        let text = CString::new(text).map_err(|e| fail(e.to_string()))?;
        let pointers = options.each_ref().map(|o| o.as_ptr());
        let mut program: Program = null_mut();
        // SAFETY: every pointer lives through its call, buffers have the sizes that were asked for, and the program is destroyed
        // behind its last use
        unsafe {
            if (self.api.create)(&mut program, text.as_ptr(), c"kernel.cu".as_ptr(), 0, null(), null()) != 0 {
                return Err(fail("NVRTC refuses the text".into()));
            }
            let compiled = (self.api.compile)(program, pointers.len() as c_int, pointers.as_ptr()) == 0;
            let result = if !compiled {
                Err(fail(first_error(&self.read(program, self.api.log_size, self.api.log))))
            } else if is_known {
                Ok(self.read(program, self.api.code_size, self.api.code))
            } else {
                Ok(self.read(program, self.api.ptx_size, self.api.ptx))
            };
            (self.api.destroy)(&mut program);
            result
        }
    }

    /// What `read` writes to a buffer of the size that `size` says.
    ///
    /// # Safety
    /// Both are functions of this library that belong together, and `program` was created by it.
    unsafe fn read(
        &self,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> i32,
        read: unsafe extern "C" fn(Program, *mut c_char) -> i32,
    ) -> Vec<u8> {
        let mut len = 0;
        // SAFETY: the caller's
        unsafe {
            size(program, &mut len);
            let mut bytes = vec![0u8; len];
            read(program, bytes.as_mut_ptr().cast());
            bytes
        }
    }
}

/// The first error of a log, in one line.
fn first_error(log: &[u8]) -> String {
    let log = CStr::from_bytes_until_nul(log).map_or_else(|_| String::new(), |l| l.to_string_lossy().into_owned());
    let line = log.lines().find(|l| l.contains("error")).or(log.lines().next()).unwrap_or("NVRTC gives no reason");
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

//! Dense products by cuBLASLt.
//!
//! The library counts columns first, so it computes the transpose: `Cᵀ = op(B)ᵀ · op(A)ᵀ`, where a row-major matrix is a
//! column-major one of its transpose. Algorithms are those of the library's heuristics, which depend on the product alone, and none
//! sums in an order that changes: a run repeats bit for bit.

use super::driver::{Context, Handle};
use super::library::{functions, load};
use super::memory::Memory;
use crate::device::AllocError;
use crate::device::gemm::{Gemm, GemmOperand};
use crate::device::hash::FastMap;
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::ptr::{from_ref, null_mut};
use std::sync::Arc;

const NAMES: &[&str] = if cfg!(windows) {
    &["cublasLt64_13.dll", "cublasLt64_12.dll"]
} else {
    &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]
};
/// Bytes that the library's kernels may use for themselves: what it asks for on Hopper.
const WORKSPACE: u64 = 32 << 20;

functions! {
    Api {
        create = "cublasLtCreate" (*mut Handle);
        destroy = "cublasLtDestroy" (Handle);
        product = "cublasLtMatmulDescCreate" (*mut Handle, i32, i32);
        set_product = "cublasLtMatmulDescSetAttribute" (Handle, i32, *const c_void, usize);
        drop_product = "cublasLtMatmulDescDestroy" (Handle);
        layout = "cublasLtMatrixLayoutCreate" (*mut Handle, i32, u64, u64, i64);
        drop_layout = "cublasLtMatrixLayoutDestroy" (Handle);
        preference = "cublasLtMatmulPreferenceCreate" (*mut Handle);
        set_preference = "cublasLtMatmulPreferenceSetAttribute" (Handle, i32, *const c_void, usize);
        drop_preference = "cublasLtMatmulPreferenceDestroy" (Handle);
        heuristic = "cublasLtMatmulAlgoGetHeuristic" (Handle, Handle, Handle, Handle, Handle, Handle, Handle, i32, *mut Found, *mut i32);
        multiply = "cublasLtMatmul" (
            Handle, Handle, *const c_void, *const c_void, Handle, *const c_void, Handle, *const c_void, *const c_void, Handle,
            *mut c_void, Handle, *const [u64; 8], *mut c_void, usize, Handle,
        );
    }
}

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Found {
    algorithm: [u64; 8],
    _workspace: usize,
    state: i32,
    _waves: f32,
    _reserved: [i32; 4],
}

// cublasComputeType_t, cudaDataType_t, and the attributes' numbers
const COMPUTE_F32: i32 = 68;
const COMPUTE_TF32: i32 = 77;
const R_32F: i32 = 0;
const R_16F: i32 = 2;
const PRODUCT_TRANSPOSES_A: i32 = 3;
const PRODUCT_TRANSPOSES_B: i32 = 4;
const PRODUCT_EPILOGUE: i32 = 7;
const PRODUCT_BIAS: i32 = 8;
const EPILOGUE_BIAS: i32 = 4;
const PREFERS_WORKSPACE: i32 = 1;
const PREFERS_REDUCTIONS: i32 = 3;
const PREFERS_ALIGNMENT: [i32; 4] = [5, 6, 7, 8];
/// Parts of k are added up in workspace, in order: not in place, by whoever comes first.
const IN_WORKSPACE: u32 = 2;

/// What an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    shape: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    half: bool,
    rounds: bool,
    bias: bool,
    accumulate: bool,
    /// Bytes that addresses of A, B and C are a multiple of.
    alignment: [u32; 3],
}

/// A product that is ready to be launched.
struct Ready {
    product: Handle,
    layouts: [Handle; 3],
    found: Found,
}

/// The library, opened for a context.
pub(super) struct Blas {
    api: Api,
    context: Arc<Context>,
    handle: Handle,
    workspace: Memory,
    ready: FastMap<Key, Ready>,
}

// SAFETY: handles of the library may be used from any thread, one at a time
unsafe impl Send for Blas {}

impl Blas {
    /// The library, where there is one.
    pub fn open(context: &Arc<Context>) -> Result<Option<Blas>> {
        let Some(Ok(api)) = load(NAMES).map(Api::of) else { return Ok(None) };
        context.enter()?;
        let workspace = Memory::new(context, WORKSPACE).map_err(|e| match e {
            AllocError::Other(e) => e,
            AllocError::OutOfMemory => context.lost("no memory is left for cuBLASLt".into()),
        })?;
        let mut handle = null_mut();
        // SAFETY: writes one handle
        let code = unsafe { (api.create)(&mut handle) };
        let blas = Blas { api, context: context.clone(), handle, workspace, ready: FastMap::default() };
        if code == 0 { Ok(Some(blas)) } else { Ok(None) }
    }

    /// Puts the product on the stream; the addresses are those of its operands' first elements, and the bias's.
    pub fn multiply(&mut self, gemm: &Gemm, [a, b, c]: [u64; 3], bias: Option<u64>) -> Result<()> {
        self.context.enter()?;
        let key = key(gemm, [a, b, c], bias.is_some());
        if !self.ready.contains_key(&key) {
            let ready = self.prepare(&key)?;
            self.ready.insert(key, ready);
        }
        let Some(ready) = self.ready.get(&key) else { return Ok(()) };
        let beta = if gemm.accumulate { 1.0f32 } else { 0.0 };
        let pointer = |address: u64| address as *mut c_void;
        let [for_b, for_a, for_c] = ready.layouts;
        // SAFETY: operands lie in their buffers (the device has checked it), handles were made by this library, and the workspace is as
        // large as was said; products follow one another on one stream, so they can share it
        let code = unsafe {
            let set = match bias {
                Some(bias) => (self.api.set_product)(ready.product, PRODUCT_BIAS, from_ref(&bias).cast(), 8),
                None => 0,
            };
            let (alpha, beta) = (from_ref(&gemm.scale).cast(), from_ref(&beta).cast());
            let workspace = pointer(self.workspace.at);
            match set {
                0 => (self.api.multiply)(
                    self.handle,
                    ready.product,
                    alpha,
                    pointer(b),
                    for_b,
                    pointer(a),
                    for_a,
                    beta,
                    pointer(c),
                    for_c,
                    pointer(c),
                    for_c,
                    &ready.found.algorithm,
                    workspace,
                    WORKSPACE as usize,
                    self.context.stream,
                ),
                code => code,
            }
        };
        said(code, &key)
    }

    /// Describes a product to the library and takes the algorithm that it holds for the fastest.
    fn prepare(&self, key: &Key) -> Result<Ready> {
        let [m, n, k] = key.shape.map(|l| l as u64);
        let (element, compute) = match (key.half, key.rounds) {
            (true, _) => (R_16F, COMPUTE_F32),
            (false, true) => (R_32F, COMPUTE_TF32),
            (false, false) => (R_32F, COMPUTE_F32),
        };
        let dims = |transposed: bool, [rows, cols]: [u64; 2]| if transposed { (rows, cols) } else { (cols, rows) };
        let mut ready = Ready { product: null_mut(), layouts: [null_mut(); 3], found: Found::default() };
        let (mut preference, mut count) = (null_mut(), 0);
        let api = &self.api;
        let attribute = |value: &i32| from_ref::<i32>(value).cast::<c_void>();
        // SAFETY: each call writes one handle or reads the four or eight bytes that it is pointed to; the results' layout is the library's
        let code = unsafe {
            let [b, a, c] = ready.layouts.each_mut();
            let (b_dims, a_dims) = (dims(key.transposed[1], [k, n]), dims(key.transposed[0], [m, k]));
            let mut codes = vec![
                (api.product)(&mut ready.product, compute, R_32F),
                (api.layout)(b, element, b_dims.0, b_dims.1, key.strides[1] as i64),
                (api.layout)(a, element, a_dims.0, a_dims.1, key.strides[0] as i64),
                (api.layout)(c, R_32F, n, m, key.strides[2] as i64),
                (api.set_product)(ready.product, PRODUCT_TRANSPOSES_A, attribute(&key.transposed[1].into()), 4),
                (api.set_product)(ready.product, PRODUCT_TRANSPOSES_B, attribute(&key.transposed[0].into()), 4),
                (api.preference)(&mut preference),
                (api.set_preference)(preference, PREFERS_WORKSPACE, from_ref(&WORKSPACE).cast(), 8),
                (api.set_preference)(preference, PREFERS_REDUCTIONS, from_ref(&IN_WORKSPACE).cast(), 4),
            ];
            let [a, b, c] = key.alignment;
            for (which, bytes) in PREFERS_ALIGNMENT.into_iter().zip([b, a, c, c]) {
                codes.push((api.set_preference)(preference, which, from_ref(&bytes).cast(), 4));
            }
            if key.bias {
                codes.push((api.set_product)(ready.product, PRODUCT_EPILOGUE, attribute(&EPILOGUE_BIAS), 4));
            }
            let [b, a, c] = ready.layouts;
            codes.push((api.heuristic)(
                self.handle,
                ready.product,
                b,
                a,
                c,
                c,
                preference,
                1,
                &mut ready.found,
                &mut count,
            ));
            (api.drop_preference)(preference);
            codes.into_iter().find(|code| *code != 0).unwrap_or(ready.found.state)
        };
        said(code, key)?;
        if count == 0 { said(NOT_SUPPORTED, key).map(|()| ready) } else { Ok(ready) }
    }
}

const NOT_SUPPORTED: i32 = 15;

/// The error that a code of the library stands for.
fn said(code: i32, key: &Key) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(Error::Kernel { name: "gemm".into(), reason: format!("cuBLASLt refuses {key:?} with {code}") }),
    }
}

fn key(gemm: &Gemm, addresses: [u64; 3], bias: bool) -> Key {
    Key {
        shape: gemm.shape,
        strides: [&gemm.a, &gemm.b, &gemm.c].map(|o: &GemmOperand| o.stride),
        transposed: [gemm.a.transposed, gemm.b.transposed],
        half: gemm.a.slice.half,
        rounds: gemm.rounds,
        bias,
        accumulate: gemm.accumulate,
        alignment: addresses.map(|a| 1 << a.trailing_zeros().min(8)),
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: nobody else has the handles
            unsafe {
                for ready in self.ready.values() {
                    (self.api.drop_product)(ready.product);
                    ready.layouts.iter().for_each(|layout| _ = (self.api.drop_layout)(*layout));
                }
                (self.api.destroy)(self.handle);
            }
        }
    }
}

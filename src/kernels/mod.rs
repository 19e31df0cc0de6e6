//! The host half of every shader: shapes checked, parameters filled, variants chosen, outputs allocated.
//!
//! A kernel is a row of [`KERNELS`], a `repr(C)` struct of parameters that mirrors the shader's `Params`, and functions
//! on [`Tensor`](crate::tensor::Tensor)s. Functions allocate their outputs unless they are given one to write or to
//! accumulate into; all of them only record, nothing waits.

pub mod matmul;
mod simd;
pub mod sparse;

use crate::device::{Cost, Device, Kernel, KernelSpec, Launch, Slice};
use crate::error::Result;
use bytemuck::Pod;

/// Every kernel. `tests/architecture.rs` renders, parses and checks each specialisation that `variants` lists.
pub static KERNELS: &[&Kernel] = &[
    &matmul::MATMUL,
    &matmul::ROSA_LINEAR,
    &matmul::SUM_PARTS,
    &simd::MATMUL_SIMD,
    &simd::ROSA_LINEAR_SIMD,
    &simd::DENSIFY,
    &simd::SCATTER_ADD,
    &sparse::SAMPLED,
];

/// Every specialisation that the host half can ask for, on any device class.
pub fn variants() -> Vec<KernelSpec> {
    [matmul::variants(), simd::variants(), sparse::variants()].concat()
}

/// Declares a kernel: its name, its file under `shaders/`, its parameters and its storage bindings in order.
macro_rules! kernel {
    ($(#[$doc:meta])* $id:ident, $name:literal, $file:literal, $params:ty, [$($binding:expr),* $(,)?]) => {
        $(#[$doc])*
        pub static $id: $crate::device::Kernel = $crate::device::Kernel {
            name: $name,
            source: include_str!(concat!("../../shaders/", $file)),
            file: $file,
            bindings: &[$($binding),*],
            params_bytes: size_of::<$params>(),
        };
    };
}
use kernel;

/// Launches `spec` on `groups` workgroups.
fn launch<P: Pod>(
    device: &Device,
    spec: &KernelSpec,
    bindings: &[Slice],
    params: &P,
    groups: u64,
    cost: Cost,
) -> Result<()> {
    device.launch(&Launch { spec, bindings, params: bytemuck::bytes_of(params), groups, cost })
}

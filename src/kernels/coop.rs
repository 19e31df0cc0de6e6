//! Products on matrix units: `shaders/matmul_coop.wgsl`.

use super::matmul::{Layout, MatmulParams};
use super::kernel;
use crate::device::KernelSpec;
use crate::device::spec::{read, write};

kernel!(
    /// [`super::matmul::MATMUL`] on matrix units.
    MATMUL_COOP, "matmul_coop", "matmul_coop.wgsl", MatmulParams, [read("a"), read("w"), write("c")],
    needs F16 CoopMatrix
);
kernel!(
    /// [`super::matmul::ROSA_LINEAR`] on matrix units.
    ROSA_LINEAR_COOP, "rosa_linear_coop", "matmul_coop.wgsl", MatmulParams,
    [read("a"), read("w"), read("s_index"), read("s_values"), read("u"), read("v"), read("bias"), write("c")],
    needs F16 CoopMatrix
);

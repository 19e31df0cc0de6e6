//! The host half of every shader: shapes checked, parameters filled, variants chosen, outputs allocated.
//!
//! A kernel is a row of [`KERNELS`], a `repr(C)` struct of parameters that mirrors the shader's `Params`, and functions
//! on [`Tensor`](crate::tensor::Tensor)s. Functions allocate their outputs unless they are given one to write or to
//! accumulate into; all of them only record, nothing waits.

pub mod attention;
pub mod attention_coop;
pub mod attention_decode;
mod attention_plan;
mod attention_self_test;
mod attention_shape;
pub mod attention_simd;
pub mod attention_tiled;
pub mod center;
pub mod coop;
pub mod covering;
pub mod decode;
pub mod dropout;
pub mod elementwise;
pub mod embedding;
pub mod heads;
pub mod in_weight;
mod library;
mod library_self_test;
pub mod loss;
pub mod low_rank;
mod low_rank_blocks;
pub mod low_rank_coop;
mod low_rank_plan;
mod low_rank_self_test;
pub mod matmul;
pub mod merged;
pub mod norm;
pub mod optimizer;
mod output;
mod pairing;
pub mod parts;
pub mod plan;
pub mod plan_log;
#[cfg(test)]
mod plan_tests;
pub mod precision;
pub mod problem;
pub mod product;
pub mod reduce;
pub mod rope;
pub mod sampled;
pub mod sddmm_plan;
pub mod sharded;
pub mod short_conv;
pub(crate) mod simd;
pub mod sparse;
pub mod sparse_index;
pub mod spmm;
mod streaming_plan;
pub mod target;
pub mod tile;
pub mod topk;
mod tuned;
pub mod weight_plan;

pub use output::To;

use crate::device::{Cost, Device, Kernel, KernelSpec, Launch, Slice};
use crate::error::Result;
use bytemuck::Pod;

/// Every kernel. `tests/architecture` renders, parses and checks a [covering](covering::covering) set of the specialisations that
/// `variants` lists.
pub static KERNELS: &[&Kernel] = &[
    &center::CENTER,
    &coop::MATMUL_COOP,
    &coop::ROSA_LINEAR_COOP,
    &coop::SDDMM_COOP,
    &decode::DECODE,
    &decode::DECODE_F32,
    &dropout::DROPOUT,
    &elementwise::ADD,
    &elementwise::ADD_INTO,
    &elementwise::GLU,
    &elementwise::GLU_BACKWARD,
    &elementwise::GLU_BOTH,
    &elementwise::GLU_BOTH_BACKWARD,
    &elementwise::GLU_BOTH_KEPT,
    &elementwise::ROUND,
    &elementwise::SCALE,
    &embedding::COLUMNS,
    &embedding::GATHER,
    &embedding::SCATTER_ADD,
    &heads::ROPE_SPLIT,
    &heads::ROPE_MERGE,
    &heads::NORM_SPLIT,
    &heads::NORM_MERGE,
    &in_weight::SPARSE_TAKE,
    &in_weight::SPARSE_WRITE,
    &in_weight::SPARSE_WRITE_BOTH,
    &loss::ARGMAX,
    &loss::CROSS_ENTROPY,
    &loss::CROSS_ENTROPY_GRAD,
    &low_rank::GATHER,
    &low_rank::GRADIENT,
    &low_rank::PROJECT,
    &low_rank::SPREAD,
    &low_rank_coop::PROJECT_COOP,
    &low_rank_coop::GRADIENT_COOP,
    &low_rank_coop::GRADIENTS_COOP,
    &matmul::MATMUL,
    &matmul::ROSA_LINEAR,
    &matmul::SDDMM_TILE,
    &parts::SUM_PARTS,
    &parts::SUM_PARTS_BOTH,
    &norm::RMSNORM,
    &norm::ADD_RMSNORM,
    &norm::RMSNORM_BACKWARD,
    &norm::RMSNORM_BACKWARD_ROUND,
    &norm::RMSNORM_SIMD,
    &norm::ADD_RMSNORM_SIMD,
    &norm::RMSNORM_BACKWARD_SIMD,
    &norm::RMSNORM_WEIGHT,
    &optimizer::ADAMW,
    &optimizer::COUNT,
    &reduce::REDUCE_PARTS,
    &reduce::REDUCE_TOTAL,
    &rope::ROPE,
    &short_conv::SHORT_CONV,
    &short_conv::SHORT_CONV_BACKWARD,
    &short_conv::SHORT_CONV_CACHED,
    &short_conv::SHORT_CONV_STORE,
    &short_conv::SHORT_CONV_WEIGHT,
    &simd::MATMUL_SIMD,
    &simd::ROSA_LINEAR_SIMD,
    &merged::DENSIFY,
    &merged::SPARSE_ADD,
    &sampled::SDDMM_ROWS,
    &sampled::TRANSPOSE,
    &sparse::SAMPLED,
    &spmm::SPMM,
    &attention::FORWARD,
    &attention::BACKWARD_Q,
    &attention::BACKWARD_KV,
    &attention::DELTA,
    &attention_coop::FORWARD_COOP,
    &attention_coop::BACKWARD_Q_COOP,
    &attention_coop::BACKWARD_KV_COOP,
    &attention_simd::FORWARD_SIMD,
    &attention_simd::BACKWARD_Q_SIMD,
    &attention_simd::BACKWARD_KV_SIMD,
    &attention_decode::DECODE,
    &attention_decode::KV_STORE,
    &topk::HISTOGRAM,
    &topk::MASK,
    &topk::SCORE,
    &topk::SELECT,
    &topk::TIES,
    &topk::TIES_BEFORE,
];

/// Every specialisation that the host half can ask for, on any device class.
pub fn variants() -> Vec<KernelSpec> {
    [
        attention::variants(),
        attention_coop::variants(),
        attention_decode::variants(),
        attention_simd::variants(),
        attention_tiled::variants(),
        center::variants(),
        coop::variants(),
        decode::variants(),
        dropout::variants(),
        elementwise::variants(),
        embedding::variants(),
        heads::variants(),
        in_weight::variants(),
        loss::variants(),
        low_rank::variants(),
        low_rank_coop::variants(),
        matmul::variants(),
        merged::variants(),
        norm::variants(),
        optimizer::variants(),
        parts::variants(),
        reduce::variants(),
        rope::variants(),
        short_conv::variants(),
        simd::variants(),
        sampled::variants(),
        sparse::variants(),
        spmm::variants(),
        topk::variants(),
    ]
    .concat()
}

/// Declares a kernel: its name, its file under `shaders/`, its parameters, its storage bindings in order, and the
/// optional features that it cannot do without.
macro_rules! kernel {
    ($(#[$doc:meta])* $id:ident, $name:literal, $file:literal, $params:ty, [$($binding:expr),* $(,)?]
        $(, needs $($feature:ident)*)?) => {
        $(#[$doc])*
        pub static $id: $crate::device::Kernel = $crate::device::Kernel {
            name: $name,
            source: include_str!(concat!("../../shaders/", $file)),
            file: $file,
            bindings: &[$($binding),*],
            params_bytes: size_of::<$params>(),
            needs: &[$($($crate::device::Feature::$feature),*)?],
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::shader::{dump_to, file_name, render};
    use std::collections::BTreeMap;

    #[test]
    fn each_variant_has_a_file_of_its_own() {
        let mut names = BTreeMap::new();
        for spec in variants() {
            if let Some(other) = names.insert(file_name(&spec), spec.clone()) {
                assert_eq!(other, spec, "two variants in one file");
            }
        }
    }

    #[test]
    fn dumps_are_whole_texts() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        let spec = &variants()[0];
        let text = render(spec).unwrap();
        (0..2).for_each(|_| dump_to(&inner, spec, &text).unwrap());
        let files: Vec<_> = std::fs::read_dir(&inner).unwrap().map(|f| f.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), text);
        let file = files[0].join("c");
        assert!(dump_to(&file, spec, &text).unwrap_err().to_string().contains(files[0].to_str().unwrap()));
    }
}

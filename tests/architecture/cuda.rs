//! Every kernel's way to CUDA, which needs no card.

use super::assert_none;
use rayon::prelude::*;
use rugosa::device::KernelSpec;
use rugosa::device::cuda::{nvrtc, writer};
use rugosa::kernels::covering::covering;
use rugosa::kernels::variants;

/// What a card of this compute capability is given: Hopper's.
const CAPABILITY: (i32, i32) = (9, 0);

fn specs() -> Vec<KernelSpec> {
    covering(&variants()).into_iter().filter(writer::applies).collect()
}

#[test]
fn every_kernel_has_a_cuda_form() {
    let fault = |spec: &KernelSpec| writer::translate(spec).err().map(|e| format!("{:?}: {e}", spec.consts));
    assert_none(specs().par_iter().filter_map(fault).collect());
}

/// Seconds for a few of each kernel's specialisations; all of them take NVRTC many minutes.
#[test]
fn nvrtc_takes_every_kernel() {
    let compiler = match nvrtc::compiler() {
        Ok(compiler) => compiler,
        Err(e) => return eprintln!("left out: {e}"),
    };
    let all = std::env::var_os("RUGOSA_TEST_CUDA_ALL").is_some();
    let mut specs = specs();
    if !all {
        specs.dedup_by(|a, b| a.kernel == b.kernel);
    }
    let fault = |spec: &KernelSpec| {
        let code = writer::translate(spec).and_then(|t| compiler.compile(spec.kernel.name, &t.text, CAPABILITY));
        code.err().map(|e| format!("{:?}: {e}", spec.consts))
    };
    assert_none(specs.par_iter().filter_map(fault).collect());
}

//! Every kernel's way to CUDA, which needs no card.

use super::assert_none;
use rayon::prelude::*;
use rugosa::device::KernelSpec;
use rugosa::device::cuda::{nvrtc, writer};
use rugosa::device::spec::{Binding, Kernel, read, write};
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

const TEXT: &str = "struct Params { base: u32, groups: u32, n: u32, }
    @group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> c: array<u32>;
    @group(0) @binding(2) var<uniform> p: Params;
    fn twice(x: u32) -> u32 { return 2u * x + a[0]; }
    @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lid: u32) {
        for (var i = lid; i < p.n; i += 64u) {
            if (a[i] == 7u) { continue; }
            c[i] = twice(a[i]);
        }
    }";

fn translated(text: &str) -> Result<writer::Translation, String> {
    let source = Box::leak(text.to_owned().into_boxed_str());
    const BINDINGS: &[Binding] = &[read("a"), write("c")];
    let kernel =
        Kernel { name: "sample", source, file: "sample.wgsl", bindings: BINDINGS, params_bytes: 12, needs: &[] };
    writer::translate(&KernelSpec::new(Box::leak(Box::new(kernel)), [])).map_err(|e| e.to_string())
}

#[test]
fn a_kernel_gets_its_bindings_in_order_and_hands_them_on() {
    let translation = translated(TEXT).unwrap();
    let text = translation.text;
    assert_eq!((translation.threads, translation.entry.as_str()), (64, "rugosa_sample"));
    for part in [
        "rugosa_sample(const u32* __restrict__ a_, u32* __restrict__ c_, const __grid_constant__ Params_ p_) {",
        "FN u32 twice_(const u32 x_, const u32* __restrict__ a_) {",
        "__launch_bounds__(64)",
        "goto next_1;",
        "sizeof(Params_) == 12",
    ] {
        assert!(text.contains(part), "{part} in\n{}", text.split("multiply_add").last().unwrap_or_default());
    }
}

#[test]
fn what_the_writer_does_not_know_is_an_error_that_names_it() {
    for (from, to, expected) in [
        ("2u * x", "reverseBits(x)", "no CUDA form of ReverseBits"),
        ("a[0]", "arrayLength(&a)", "no CUDA form of ArrayLength"),
        ("n: u32,", "n: vec3<u32>, m: u32,", "no CUDA form of StructMember"),
        ("workgroup_size(64)", "workgroup_size(8, 8)", "no CUDA form of [8, 8, 1]"),
    ] {
        assert!(TEXT.contains(from), "{from}");
        let text = TEXT.replace(from, to).replace("p.n;", if from.starts_with('n') { "p.m;" } else { "p.n;" });
        let error = translated(&text).err().unwrap_or_default();
        assert!(error.contains(expected) && !error.contains('\n'), "{from} -> {to}: {error}");
    }
}

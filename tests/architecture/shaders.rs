//! Every shader variant: its interface against its row in KERNELS, and its way to every platform's language.

use super::{assert_none, sources};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, StorageAccess, TypeInner};
use rayon::prelude::*;
use rugosa::cases::gradients::{WITHOUT_BACKWARD, gradients};
use rugosa::device::Feature;
use rugosa::device::shader::{FRAGMENTS, render};
use rugosa::device::spec::{Access, Grid, Kernel, KernelSpec, read, write};
use rugosa::kernels::covering::covering;
use rugosa::kernels::{KERNELS, variants};
use rugosa::quant;
use std::collections::BTreeSet;

/// What every device gives: WebGPU's default limits.
const MOST_STORAGE_BINDINGS: usize = 8;
const MOST_THREADS: u32 = 256;
const MOST_WORKGROUP_BYTES: u32 = 16384;
/// Specialisations that are rendered, validated and translated here: seconds of each test run.
const MOST_CHECKED: usize = 4000;
/// None of the optional features; unpacking of f16 belongs to the core of WGSL, and naga has a name for it only because
/// old OpenGL lacks it.
const CAPABILITIES: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

#[test]
fn the_table_and_the_folder_agree() {
    let texts: Vec<(String, String)> = (sources("shaders").into_iter())
        .map(|s| (s.path.trim_start_matches("shaders/").to_string(), s.text))
        .filter(|(path, _)| path.ends_with(".wgsl"))
        .collect();
    let files: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let kernels: Vec<(&str, &str)> = KERNELS.iter().map(|k| (k.file, k.source)).collect();
    let (lib, files): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| f.0.starts_with("lib/"));
    let fragments: Vec<_> = FRAGMENTS.iter().copied().chain(quant::fragments().map(|f| (f.name, f.text))).collect();
    assert_none([differences("KERNELS", &kernels, &files), differences("FRAGMENTS", &fragments, &lib)].concat());
}

#[test]
fn missing_and_stale_files_are_found() {
    let files = [("a.wgsl", "1"), ("b.wgsl", "2")];
    assert!(differences("T", &[("a.wgsl", "1"), ("b.wgsl", "2"), ("a.wgsl", "1")], &files).is_empty());
    assert_eq!(differences("T", &files[..1], &files), ["shaders/b.wgsl: not in T"]);
    assert_eq!(differences("T", &files, &files[..1]), ["T: shaders/b.wgsl is no file"]);
    assert_eq!(differences("T", &[("a.wgsl", "2")], &files[..1]), ["T: shaders/a.wgsl has another text"]);
}

/// Where a table of names and texts departs from the files.
fn differences(table: &str, rows: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<String> {
    let missing =
        files.iter().filter(|f| rows.iter().all(|r| r.0 != f.0)).map(|f| format!("shaders/{}: not in {table}", f.0));
    let stale = rows.iter().filter_map(|row| match files.iter().find(|f| f.0 == row.0) {
        None => Some(format!("{table}: shaders/{} is no file", row.0)),
        Some(file) if file.1 != row.1 => Some(format!("{table}: shaders/{} has another text", row.0)),
        Some(_) => None,
    });
    missing.chain(stale).collect()
}

#[test]
fn kernels_have_unique_names_and_variants() {
    let all = variants();
    let specs: Vec<&KernelSpec> = all.iter().collect();
    assert_none(table_faults(KERNELS, &specs));
}

#[test]
fn faults_of_the_table_are_found() {
    let spec = |k: &'static Kernel| KernelSpec::new(k, []);
    let (good, other) = (spec(&GOOD), spec(&WRONG_NAME));
    assert!(table_faults(&[&GOOD], &[&good]).is_empty());
    assert_eq!(table_faults(&[&GOOD], &[]), ["good: no variant"]);
    assert_eq!(table_faults(&[&GOOD, &GOOD], &[&good]), ["good: twice in KERNELS"]);
    assert_eq!(table_faults(&[&GOOD], &[&good, &other]), ["wrong name: has a variant but is not in KERNELS"]);
}

fn table_faults(kernels: &[&Kernel], variants: &[&KernelSpec]) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut broken: Vec<String> =
        kernels.iter().filter(|k| !names.insert(k.name)).map(|k| format!("{}: twice in KERNELS", k.name)).collect();
    let used: BTreeSet<&str> = variants.iter().map(|v| v.kernel.name).collect();
    broken.extend(names.difference(&used).map(|n| format!("{n}: no variant")));
    broken.extend(used.difference(&names).map(|n| format!("{n}: has a variant but is not in KERNELS")));
    broken
}

#[test]
fn every_kernel_has_a_row_in_the_case_table() {
    let listed: BTreeSet<&str> =
        rugosa::cases::table().iter().flat_map(|row| row.kernels.iter().map(|k| k.name)).collect();
    assert_none(without_rows(KERNELS, &listed));
    assert_eq!(without_rows(&[&GOOD], &listed), ["good: no row in src/cases"]);
}

fn without_rows(kernels: &[&Kernel], listed: &BTreeSet<&str>) -> Vec<String> {
    kernels.iter().filter(|k| !listed.contains(k.name)).map(|k| format!("{}: no row in src/cases", k.name)).collect()
}

#[test]
fn every_kernel_with_a_backward_has_a_row_of_the_finite_differences() {
    let rows = gradients();
    let differentiated: BTreeSet<&str> = rows.iter().flat_map(|row| row.kernels.iter().map(|k| k.name)).collect();
    let exempt: BTreeSet<&str> = WITHOUT_BACKWARD.iter().map(|(k, _)| k.name).collect();
    assert_none(without_gradients(KERNELS, &differentiated, &exempt));
    let fault = |differentiated: &[&'static str], exempt: &[&'static str]| {
        without_gradients(&[&GOOD], &differentiated.iter().copied().collect(), &exempt.iter().copied().collect())
    };
    let nowhere = "good: neither in a row of src/cases/gradients.rs nor in its WITHOUT_BACKWARD";
    assert_eq!(fault(&[], &[]), [nowhere]);
    assert_eq!(fault(&["good"], &["good"]), ["good: has a row of the finite differences and is in WITHOUT_BACKWARD"]);
    assert!(fault(&["good"], &[]).is_empty() && fault(&[], &["good"]).is_empty());
}

fn without_gradients(kernels: &[&Kernel], rows: &BTreeSet<&str>, exempt: &BTreeSet<&str>) -> Vec<String> {
    let fault = |k: &&Kernel| match (rows.contains(k.name), exempt.contains(k.name)) {
        (false, false) => {
            Some(format!("{}: neither in a row of src/cases/gradients.rs nor in its WITHOUT_BACKWARD", k.name))
        }
        (true, true) => Some(format!("{}: has a row of the finite differences and is in WITHOUT_BACKWARD", k.name)),
        _ => None,
    };
    kernels.iter().filter_map(fault).collect()
}

#[test]
fn every_operation_has_a_row_of_the_finite_differences() {
    let rows = gradients();
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.op).collect();
    let files = sources("src/autograd/ops");
    let names: Vec<&str> =
        files.iter().filter_map(|f| f.path.strip_prefix("src/autograd/ops/")?.strip_suffix(".rs")).collect();
    assert_none(operations_without_rows(&names, &listed));
    assert_eq!(
        operations_without_rows(&["mod", "a"], &["b"].into()),
        ["a: no row in src/cases/gradients.rs", "b: a row without src/autograd/ops/b.rs"]
    );
}

/// `names`: the files of the operations, of which `mod` is none.
fn operations_without_rows(names: &[&str], listed: &BTreeSet<&str>) -> Vec<String> {
    let missing = names.iter().filter(|n| **n != "mod" && !listed.contains(**n));
    let mut broken: Vec<String> = missing.map(|n| format!("{n}: no row in src/cases/gradients.rs")).collect();
    broken.extend(
        listed.iter().filter(|l| !names.contains(l)).map(|l| format!("{l}: a row without src/autograd/ops/{l}.rs")),
    );
    broken
}

#[test]
fn every_variant_is_what_its_kernel_says_and_translates() {
    let (all, checked) = (variants(), covering(&variants()));
    println!(
        "{} specialisations are checked, in which all pairs of values of the {} that there are occur",
        checked.len(),
        all.len()
    );
    assert!(
        checked.len() < MOST_CHECKED,
        "{} of {} specialisations are more than {MOST_CHECKED}",
        checked.len(),
        all.len()
    );
    let fault = |spec: &KernelSpec| check(spec).err().map(|e| format!("{} {:?}: {e}", spec.kernel.name, spec.consts));
    assert_none(checked.par_iter().filter_map(fault).collect());
}

fn check(spec: &KernelSpec) -> Result<(), String> {
    let text = render(spec).map_err(|e| e.to_string())?;
    let module = naga::front::wgsl::parse_str(&text).map_err(|e| e.emit_to_string(&text))?;
    let capabilities = CAPABILITIES | spec.needs().into_iter().map(capabilities).collect();
    let info =
        Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|e| e.emit_to_string(&text))?;
    check_interface(spec, &module, &info)?;
    if spec.needs().is_empty() { translate(&module, &info) } else { to_spirv(&module, &info) }
}

/// What naga lets a kernel say that is launched only where a device has the feature. Such kernels have a portable twin,
/// and the features are sought on Vulkan alone.
fn capabilities(feature: Feature) -> Capabilities {
    match feature {
        Feature::F16 => Capabilities::SHADER_FLOAT16,
        Feature::Subgroup => Capabilities::SUBGROUP,
        Feature::CoopMatrix => {
            Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP_BARRIER
        }
        Feature::Int64 => Capabilities::SHADER_INT64,
        // storage images that are only read are part of WebGPU, and a library asks nothing of shaders
        Feature::Timestamps | Feature::Images | Feature::Gemm => Capabilities::empty(),
    }
}

/// Entry point, workgroup, bindings and parameters.
fn check_interface(spec: &KernelSpec, module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let kernel = spec.kernel;
    let [entry] = module.entry_points.as_slice() else {
        return Err(format!("{} entry points", module.entry_points.len()));
    };
    if entry.name != "main" || entry.stage != ShaderStage::Compute {
        return Err(format!("the entry point is {} of stage {:?}", entry.name, entry.stage));
    }
    let threads: u32 = entry.workgroup_size.iter().product();
    if !(1..=MOST_THREADS).contains(&threads) {
        return Err(format!("{threads} threads a workgroup"));
    }

    let context = module.to_ctx();
    let (mut shared, mut bound) = (0, Vec::new());
    for (handle, global) in module.global_variables.iter() {
        let name = global.name.as_deref().unwrap_or_default();
        match global.space {
            AddressSpace::WorkGroup if !info.get_entry_point(0)[handle].is_empty() => {
                // drivers lay variables out one by one, aligned to vec4 at most
                shared += module.types[global.ty].inner.size(context).next_multiple_of(16);
            }
            AddressSpace::WorkGroup | AddressSpace::Private => {}
            AddressSpace::Storage { .. } | AddressSpace::Uniform | AddressSpace::Handle => {
                let at = global.binding.ok_or_else(|| format!("{name} has no binding"))?;
                if at.group != 0 {
                    return Err(format!("{name} is in group {}", at.group));
                }
                bound.push((at.binding as usize, name, global));
            }
            other => return Err(format!("{name} is in the address space {other:?}")),
        }
    }
    let most = if kernel.needs.contains(&Feature::CoopMatrix) { 48 << 10 } else { MOST_WORKGROUP_BYTES };
    if shared > most {
        return Err(format!("{shared} bytes of workgroup memory"));
    }

    bound.sort_by_key(|b| b.0);
    let numbers: Vec<usize> = bound.iter().map(|b| b.0).collect();
    if numbers != (0..=kernel.bindings.len()).collect::<Vec<_>>() {
        return Err(format!("bindings {numbers:?} for {} storage buffers and p", kernel.bindings.len()));
    }
    if kernel.bindings.len() > MOST_STORAGE_BINDINGS {
        return Err(format!("{} storage buffers", kernel.bindings.len()));
    }
    for (binding, (at, name, global)) in kernel.bindings.iter().zip(&bound) {
        let access = match (global.space, &module.types[global.ty].inner) {
            (AddressSpace::Storage { access }, _) if !spec.reads_image(*at) => access,
            (AddressSpace::Handle, TypeInner::Image { class: naga::ImageClass::Storage { format, access }, .. })
                if spec.reads_image(*at) && *format == naga::StorageFormat::Rgba32Float =>
            {
                *access
            }
            (space, _) => return Err(format!("binding {at}, {name}, is in {space:?}")),
        };
        let access = if access.contains(StorageAccess::STORE) { Access::ReadWrite } else { Access::Read };
        if (binding.name, binding.access) != (*name, access) {
            return Err(format!(
                "binding {at} is {name}, {access:?}; KERNELS says {}, {:?}",
                binding.name, binding.access
            ));
        }
    }
    let (_, name, params) = bound[bound.len() - 1];
    if params.space != AddressSpace::Uniform || name != "p" {
        return Err(format!("the last binding is {name}, not the parameters p"));
    }
    let TypeInner::Struct { members, span } = &module.types[params.ty].inner else {
        return Err("p is no struct".into());
    };
    let u32_named = |i: usize, expected: &str, offset: u32| {
        let u32_type = TypeInner::Scalar(naga::Scalar::U32);
        members.get(i).is_some_and(|m| {
            m.name.as_deref() == Some(expected) && m.offset == offset && module.types[m.ty].inner == u32_type
        })
    };
    if !u32_named(0, "base", 0) || !u32_named(1, "groups", 4) {
        return Err("p does not start with base: u32, groups: u32".into());
    }
    if *span as usize != kernel.params_bytes {
        return Err(format!("p has {span} bytes, {} on the host", kernel.params_bytes));
    }
    Ok(())
}

/// To Vulkan's, Metal's and DX12's language, with the settings that pipelines are compiled with.
fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    to_spirv(module, info)?;
    to_metal_and_hlsl(module, info)
}

fn to_spirv(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let spv_options = spv::Options {
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let entry = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(module, info, &spv_options, Some(&entry)).map_err(|e| format!("SPIR-V: {e}"))?;
    if words.is_empty() { Err("an empty translation".into()) } else { Ok(()) }
}

fn to_metal_and_hlsl(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let msl_options = msl::Options {
        lang_version: (2, 4),
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        ..Default::default()
    };
    let (metal, _) = msl::write_string(module, info, &msl_options, &msl::PipelineOptions::default())
        .map_err(|e| format!("MSL: {e}"))?;

    let hlsl_options = hlsl::Options {
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: false,
        restrict_indexing: false,
        ..Default::default()
    };
    let mut hlsl_text = String::new();
    hlsl::Writer::new(&mut hlsl_text, &hlsl_options, &hlsl::PipelineOptions::default())
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    if !metal.contains("kernel void") || !hlsl_text.contains("numthreads") {
        return Err("a translation without an entry point".into());
    }
    Ok(())
}

const GOOD_TEXT: &str = "struct Params { base: u32, groups: u32, n: u32, }
    @group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read_write> c: array<f32>;
    @group(0) @binding(2) var<uniform> p: Params;
    var<workgroup> t: array<f32, 64>;
    var<workgroup> idle: array<f32, 8192>;
    @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lid: u32) {
        t[lid] = a[lid];
        if (lid < p.n) { c[lid] = t[lid]; }
    }";

const GOOD: Kernel = Kernel {
    name: "good",
    source: GOOD_TEXT,
    file: "good.wgsl",
    bindings: &[read("a"), write("c")],
    params_bytes: size_of::<Grid>() + 4,
    needs: &[],
};
static WRONG_NAME: Kernel = Kernel { name: "wrong name", bindings: &[read("b"), write("c")], ..GOOD };
static WRONG_ACCESS: Kernel = Kernel { bindings: &[read("a"), read("c")], ..GOOD };
static WRONG_COUNT: Kernel = Kernel { bindings: &[read("a")], ..GOOD };
static WRONG_BYTES: Kernel = Kernel { params_bytes: 16, ..GOOD };

#[test]
fn a_sound_kernel_passes() {
    check(&KernelSpec::new(&GOOD, [])).unwrap();
}

#[test]
fn faults_of_the_host_half_are_found() {
    let fault = |kernel: &'static Kernel| check(&KernelSpec::new(kernel, [])).unwrap_err();
    assert_eq!(fault(&WRONG_NAME), "binding 0 is a, Read; KERNELS says b, Read");
    assert_eq!(fault(&WRONG_ACCESS), "binding 1 is c, ReadWrite; KERNELS says c, Read");
    assert!(fault(&WRONG_COUNT).contains("bindings [0, 1, 2]"));
    assert_eq!(fault(&WRONG_BYTES), "p has 12 bytes, 16 on the host");
}

#[test]
fn faults_of_the_shader_are_found() {
    let fault = |from: &str, to: &str| {
        assert!(GOOD_TEXT.contains(from), "{from}");
        let source = Box::leak(GOOD_TEXT.replace(from, to).into_boxed_str());
        check(&KernelSpec::new(Box::leak(Box::new(Kernel { source, ..GOOD })), [])).unwrap_err()
    };
    for (from, to, expected) in [
        ("c[lid] = t", "c[lid] == t", "expected"),
        ("t[lid];", "i32(t[lid]);", "c[lid] = i32"),
        ("fn main", "fn start", "the entry point is start"),
        ("array<f32, 64>", "array<f32, 4097>", "16400 bytes of workgroup memory"),
        ("workgroup_size(64)", "workgroup_size(32, 16)", "512 threads"),
        ("@binding(2)", "@binding(3)", "bindings [0, 1, 3]"),
        ("@group(0) @binding(0)", "@group(1) @binding(0)", "a is in group 1"),
        ("var<storage, read> a", "var<storage, read_write> a", "binding 0 is a, ReadWrite"),
        ("base: u32, groups: u32", "groups: u32, base: u32", "p does not start with"),
        ("base: u32, groups: u32", "base: i32, groups: u32", "p does not start with"),
        ("n: u32,", "n: u32, m: u32,", "p has 16 bytes"),
        ("var<uniform> p: Params;", "var<storage, read> p: Params;", "the last binding is p, not the parameters"),
        ("t[lid] = a[lid];", "t[lid] = subgroupAdd(a[lid]);", "subgroup"),
        ("struct Params", "enable f16; const half = 1h; struct Params", "float16"),
    ] {
        let error = fault(from, to).to_lowercase();
        assert!(error.contains(&expected.to_lowercase()), "{from} -> {to}: {error}");
    }
}

#[test]
fn faults_of_templates_are_found() {
    let source = "{% include \"lib/nothing.wgsl\" %}";
    let error = check(&KernelSpec::new(Box::leak(Box::new(Kernel { source, ..GOOD })), [])).unwrap_err();
    assert!(error.contains("good.wgsl") && error.contains("nothing"), "{error}");
}

#[test]
fn what_a_platform_cannot_say_is_found() {
    // matrix units have no way to DX12 yet
    let text = "enable wgpu_cooperative_matrix;
        @group(0) @binding(0) var<storage, read_write> c: array<f32>;
        @compute @workgroup_size(32) fn main() {
            let m = coopLoad<coop_mat8x8<f32, C>>(&c[0], 8u);
            coopStore(m, &c[0], 8u);
        }";
    let module = naga::front::wgsl::parse_str(text).unwrap();
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).unwrap();
    let error = translate(&module, &info).unwrap_err();
    assert!(error.contains("HLSL") || error.contains("MSL"), "{error}");
}

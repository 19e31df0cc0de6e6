//! Writes every shader variant to a folder: `cargo run --example shaders -- DIR`.
//!
//! `DIR/portable` holds those that any WebGPU takes, `DIR/optional` those that need features; each as WGSL, as the driver's
//! front end gets it, and as the SPIR-V that naga makes of it. `tests/portability/run.sh` hands them to other compilers.

use naga::back::spv;
use naga::valid::{Capabilities, ValidationFlags, Validator};
use rayon::prelude::*;
use rugosa::device::shader::{file_name, render};
use rugosa::device::{Feature, KernelSpec};
use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: shaders DIR")?);
    for name in ["portable", "optional"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let variants = rugosa::kernels::variants();
    variants.par_iter().try_for_each(|spec| write(&folder, spec).map_err(|e| format!("{spec:?}: {e}")))?;
    let portable = variants.iter().filter(|v| v.needs().is_empty()).count();
    println!("{portable} portable variants, {} with optional features", variants.len() - portable);
    Ok(())
}

fn write(folder: &Path, spec: &KernelSpec) -> Result<(), Box<dyn Error>> {
    let needs = spec.needs();
    let path = folder.join(if needs.is_empty() { "portable" } else { "optional" }).join(file_name(spec));
    let text = render(spec)?;
    std::fs::write(&path, &text)?;

    let module = naga::front::wgsl::parse_str(&text)?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module)?;
    let options = spv::Options {
        // as wgpu asks for it: subgroups came with 1.3, matrix units with 1.6
        lang_version: if needs.contains(&Feature::CoopMatrix) { (1, 6) } else { (1, 3) },
        force_loop_bounding: false,
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        ..Default::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(&module, &info, &options, Some(&entry))?;
    std::fs::write(path.with_extension("spv"), words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>())?;
    Ok(())
}

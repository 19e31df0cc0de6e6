//! Whatever a step of a real model's shape launches on whatever kind of device, a row of the case table launches too: no fast
//! path goes unproved. Found on devices that only count.

use super::shapes::Shape;
use super::step::{Adapter, StepCase, rehearse};
use crate::cases::MaskKind;
use crate::cases::cover::cover;
use crate::device::dry::DryBackend;
use crate::device::{Caps, Device, DeviceClass, Feature, KernelSpec, Precision};
use crate::dtype::DType;
use crate::train::config::Checkpointing;
use std::collections::HashSet;

/// A device of `class` with subgroups of `lanes`, and matrix units of so large fragments.
fn device(name: &str, class: DeviceClass, lanes: u32, fragment: Option<u32>, without: &[Feature]) -> Device {
    let is_missing = |f: &Feature| without.contains(f) || (*f == Feature::CoopMatrix && fragment.is_none());
    let features = Feature::ALL.into_iter().filter(|f| !is_missing(f)).collect();
    let caps = Caps {
        name: name.into(),
        class,
        subgroup_min: lanes,
        subgroup_max: lanes,
        max_workgroup_memory: 48 << 10,
        max_buffer: 4 << 30,
        max_binding: 4 << 30,
        fragment,
        features,
        ..DryBackend::caps_for_tests()
    };
    let device = Device::new(Box::new(DryBackend::new(caps)));
    device.set_precision(if fragment.is_some() { Precision::F16 } else { Precision::F32 });
    device
}

fn devices() -> Vec<Device> {
    let gpu = [Feature::Images, Feature::Gemm];
    let software = [Feature::Gemm];
    let plain = [Feature::Images, Feature::Gemm, Feature::F16, Feature::Subgroup, Feature::Int64];
    vec![
        device("NVIDIA's units", DeviceClass::Discrete, 32, Some(16), &gpu),
        device("NVIDIA's units and library", DeviceClass::Discrete, 32, Some(16), &[Feature::Images]),
        device("Apple's units", DeviceClass::Integrated, 32, Some(8), &gpu),
        device("Mesa's units", DeviceClass::Software, 8, Some(8), &software),
        device("a discrete GPU", DeviceClass::Discrete, 32, None, &gpu),
        device("an integrated GPU", DeviceClass::Integrated, 16, None, &gpu),
        device("a browser", DeviceClass::Discrete, 32, None, &plain),
        device("a software renderer", DeviceClass::Software, 8, None, &software),
        device("a poor software renderer", DeviceClass::Software, 4, None, &plain),
    ]
}

/// What steps of `shape` launch on `device`: every format of weights, kind of adapter, and many and few tokens.
fn wanted(device: &Device, shape: Shape) -> Vec<KernelSpec> {
    let shape: &'static Shape = Box::leak(Box::new(shape.shallow()));
    // Q4_K stands for the formats that have few rows
    let formats = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q4_K];
    let fits = |d: &DType| shape.linears().iter().all(|(_, _, inn)| inn.is_multiple_of(d.block_elements()));
    let mut all = HashSet::new();
    for weights in formats.into_iter().filter(fits) {
        for (adapter, batch_size, seq_len) in [
            (Adapter::Rosa, 8, 512),
            (Adapter::Rosa, 1, 256),
            (Adapter::Lora, 8, 512),
            (Adapter::Lora, 1, 100),
            (Adapter::Spa, 2, 256),
        ] {
            let case = StepCase {
                shape,
                adapter,
                weights,
                precision: device.precision(),
                rank: 16,
                density: 0.006,
                mask: MaskKind::Uniform,
                batch_size,
                seq_len,
                checkpointing: Checkpointing(1),
            };
            all.extend(rehearse(&case, device, device.precision()).unwrap().kernels);
        }
    }
    let mut all: Vec<KernelSpec> = all.into_iter().collect();
    all.sort_by_key(|spec| format!("{spec:?}"));
    all
}

#[test]
fn a_case_proves_every_kernel_of_a_step() {
    let mut missing = Vec::new();
    for device in devices() {
        for shape in ["smollm2-135m", "llama2-7b", "tiny"].map(|name| Shape::named(name).unwrap()) {
            let wanted = wanted(&device, *shape);
            let cover = cover(&device, &wanted);
            let (name, of) = (&device.caps().name, wanted.len());
            let proved = of - cover.missing.len();
            println!("{name}, {}: {proved} of {of} kernels in {} cases", shape.name, cover.checks.len());
            missing.extend(cover.missing.iter().map(|spec| format!("{name}, {}: {spec:?}", shape.name)));
        }
    }
    assert!(missing.is_empty(), "no case launches\n{}", missing.join("\n"));
}

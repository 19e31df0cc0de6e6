//! Whatever a run plans to launch in any of its phases, a row of the case table launches too, and proves it before the run.

use super::{Watcher, config, tiny};
use rugosa::cases::cover::cover;
use rugosa::cases::startup;
use rugosa::data::Dataset;
use rugosa::device::dry::DryBackend;
use rugosa::device::{Caps, Device, DeviceClass, Feature, KernelSpec, Precision};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::train::Session;
use rugosa::train::config::TrainConfig;
use rugosa::train::phase::Agenda;
use rugosa::train::plan::{Run, plan};
use std::collections::HashSet;

/// A software renderer without matrix units, and one with those of Mesa's. `src/bench/covered.rs` has GPUs.
fn devices() -> Vec<Device> {
    let own = crate::common::device().caps();
    let with = |class, lanes, fragment: Option<u32>| {
        let features = Feature::ALL.into_iter().filter(|f| *f != Feature::CoopMatrix || fragment.is_some());
        let features = features
            .filter(|f| *f != Feature::Gemm && (*f != Feature::Images || class == DeviceClass::Software))
            .collect();
        let (subgroup_min, subgroup_max, max_workgroup_memory) = (lanes, lanes, 48 << 10);
        let caps = Caps { class, subgroup_min, subgroup_max, max_workgroup_memory, fragment, features, ..own.clone() };
        let device = Device::new(Box::new(DryBackend::new(caps)));
        device.set_precision(if fragment.is_some() { Precision::F16 } else { Precision::F32 });
        device
    };
    vec![with(DeviceClass::Software, 8, None), with(DeviceClass::Software, 8, Some(8))]
}

fn planned(device: &Device, config: &TrainConfig) -> Vec<KernelSpec> {
    let checkpoint = Checkpoint::open(&config.model).unwrap();
    let vocab = checkpoint.config.vocab_size;
    let dataset = Dataset::open(&config.data, &config.data_options(), None, vocab).unwrap();
    let agenda = Agenda::new(config, false, config.steps.unwrap()).unwrap();
    let (caps, precision, tiles) = (device.caps(), device.precision(), device.tiles());
    let run = Run {
        config,
        checkpoint: &checkpoint,
        dataset: Some(&dataset),
        evaluation: None,
        agenda: &agenda,
        masks: None,
        caps,
        precision,
        tiles,
    };
    plan(&run).unwrap().kernels
}

#[test]
fn a_case_proves_every_kernel_of_a_plan() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 24, 12, 48);
    let common = "steps = 6\nbatch_size = 2\ngradient_accumulation_steps = 2\nseq_len = 64\nrank = 4\ndensity = 0.05\n";
    let ways = [
        ("rosa", "method = 'rosa'\nschedule = 'wl1'\ndropout = 0.1\nmax_grad_norm = 1.0"),
        ("mean", "method = 'rosa'\nschedule = 'wl1'\nmask_mode = 'mean'\nmask_grads = 2\ncheckpointing = 2"),
        ("lora", "method = 'lora'"),
        ("spa", "method = 'spa'"),
        ("full", "method = 'full'"),
    ];
    for device in devices() {
        let mut wanted = HashSet::new();
        for (name, more) in ways {
            let config = config(dir.path(), name, &format!("{common}{more}"));
            wanted.extend(planned(&device, &config));
        }
        let wanted: Vec<KernelSpec> = wanted.into_iter().collect();
        let cover = cover(&device, &wanted);
        let (class, precision) = (device.caps().class, device.precision());
        println!("{class:?} {precision:?}: {} kernels in {} cases", wanted.len(), cover.checks.len());
        let missing: Vec<String> = cover.missing.iter().map(|spec| format!("{spec:?}")).collect();
        assert!(missing.is_empty(), "{class:?} {precision:?}: no case launches\n{}", missing.join("\n"));
    }
}

/// On the device at hand, with notes that begin empty: all of a plan is proved, and then none of it again.
#[test]
fn what_a_plan_launches_is_proved_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 24, 12, 48);
    let text = "steps = 3\nbatch_size = 2\ngradient_accumulation_steps = 1\nseq_len = 64\nrank = 4\nmethod = 'rosa'\n\
                schedule = 'wl1'\ndensity = 0.05\n";
    let config = config(dir.path(), "proved", text);
    let mut watcher = Watcher::default();
    let session = Session::prepare(config.clone(), &mut watcher).unwrap();
    let device = session.device().clone();
    drop(session);
    let kernels = planned(&device, &config);
    let notes = dir.path().join("notes");
    let first = startup::prove_in(&device, &kernels, Some(&notes)).unwrap();
    println!("{:?}", first.line());
    assert_eq!((first.proved, first.remembered, first.unproved.len()), (kernels.len(), 0, 0));
    let second = startup::prove_in(&device, &kernels, Some(&notes)).unwrap();
    assert_eq!((second.proved, second.rows, second.remembered), (0, 0, kernels.len()));
}

//! Adapters that are kept in bf16.

use super::in_weight::{adapters, decoder};
use super::{Watcher, config, tiny};
use rugosa::device::{Device, DeviceOptions};
use rugosa::io::safetensors::SafetensorsFile;
use rugosa::train::Session;

fn is_bf16(v: &f32) -> bool {
    v.to_bits() & 0xffff == 0
}

/// Every number of the adapter that a run of these options leaves.
fn trained(text: &str) -> Vec<f32> {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    tiny::write_rows(dir.path(), 10, 6, 20);
    let text = format!(
        "{text}\nseq_len = 32\nschedule = 'wl1'\nmask_grads = 1\nsteps = 5\nlora_lr = 1e-2\nlr = 1e-2\nrank = 2\ndensity = 0.1"
    );
    let config = config(dir.path(), "out", &text);
    Session::prepare(config.clone(), &mut Watcher::default()).unwrap().run(&mut Watcher::default()).unwrap();
    let file = SafetensorsFile::open(&config.out.join("adapter_model.safetensors")).unwrap();
    // A, B and S; the rest are its indices
    file.names().filter_map(|name| file.get(name).unwrap().to_f32().ok()).flatten().collect()
}

#[test]
fn every_number_of_an_adapter_is_one_of_bf16_where_that_is_asked_for() {
    let values = trained("adapter_dtype = 'bf16'");
    assert!(values.iter().all(is_bf16) && values.iter().filter(|v| **v != 0.0).count() > values.len() / 2);
    assert!(!trained("").iter().all(is_bf16));
}

#[test]
fn adapters_start_rounded_too() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    let device = Device::open(&DeviceOptions::from_env(None)).unwrap();
    let model = decoder(&device, &dir.path().join("model"));
    let mut set = adapters(&device, &model);
    for bf16 in [false, true] {
        set.round_to_bf16(bf16);
        set.initialise(1, None).unwrap();
        let modules = set.export().unwrap();
        let a: Vec<f32> = modules.values().flat_map(|m| m.a.as_ref().unwrap().data.clone()).collect();
        assert!(a.len() > 100 && a.iter().all(is_bf16) == bf16);
    }
}

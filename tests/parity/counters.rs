//! What must not happen in the hot loop, counted.

use super::golden::*;
use super::program::{Start, rows};
use rugosa::device::{Counters, Device};
use rugosa::train::config::{Method, PartialConfig, TrainConfig};
use rugosa::train::metrics::StepMetrics;
use rugosa::train::{Observer, Session};

/// Counts at each step.
#[derive(Default)]
struct Watch {
    device: Option<Device>,
    counted: Vec<Counters>,
}

impl Observer for Watch {
    fn note(&mut self, _: &str) {}
    fn begin(&mut self, _: u64, _: u64) {}

    fn step(&mut self, _: &StepMetrics) {
        self.counted.extend(self.device.as_ref().map(Device::counters));
    }

    fn interrupted(&self) -> bool {
        false
    }
}

#[test]
fn steps_of_equal_shape_make_nothing_new() {
    let rosa = Tensors::open("rosa_llama");
    let (start, folder) = (Start::new(&rosa), tempfile::tempdir().unwrap());
    let data = folder.path().join("rows.jsonl");
    std::fs::write(&data, rows(&rosa, ["train0"; 10])).unwrap();
    for (name, dropout) in [("plain", 0.0), ("dropout", 0.1)] {
        let flags = PartialConfig {
            model: Some(tiny_llama()),
            data: Some(data.clone()),
            out: Some(folder.path().join(name)),
            method: Some(Method::Rosa),
            mask: Some(start.mask()),
            density: Some(0.02),
            dropout: Some(dropout),
            packing: Some(false),
            shuffle: Some(false),
            seq_len: Some(128),
            batch_size: Some(1),
            gradient_accumulation_steps: Some(2),
            steps: Some(9),
            ..PartialConfig::default()
        };
        let config = TrainConfig::resolve(PartialConfig::default(), flags).unwrap();
        let mut watch = Watch::default();
        let session = Session::prepare(config, &mut watch).unwrap();
        watch.device = Some(session.device().clone());
        session.run(&mut watch).unwrap();
        // a step is reported once the next one is recorded, so the first count is after two steps
        let [first, .., late, _] = watch.counted.as_slice() else { panic!("{} steps", watch.counted.len()) };
        let made = |c: &Counters| (c.allocations, c.pipelines, c.bind_groups);
        assert_eq!(made(late), made(first), "{name}: allocations, pipelines, bind groups after two steps");
        let steps = watch.counted.len() as u64 - 2;
        assert_eq!(late.readbacks - first.readbacks, 2 * steps, "{name}: loss and gradient norm of each step, no more");
        assert_eq!((late.launches - first.launches) % steps, 0, "{name}: every step launches the same");
    }
}

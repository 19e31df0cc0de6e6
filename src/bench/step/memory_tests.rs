//! What steps of real shapes hold at once, on devices that only count.

use super::{Adapter, Bench, Purpose, StepCase};
use crate::bench::shapes::Shape;
use crate::cases::MaskKind;
use crate::device::dry::DryBackend;
use crate::device::{Caps, Device, Feature, Ledger, Precision};
use crate::dtype::DType;
use crate::train::config::Checkpointing;

/// A GPU of NVIDIA's, as Vulkan shows it.
fn device() -> Device {
    let features = Feature::ALL.into_iter().filter(|f| *f != Feature::Images).collect();
    let caps = Caps {
        max_workgroup_memory: 48 << 10,
        max_buffer: 4 << 30,
        max_binding: 2 << 30,
        fragment: Some(16),
        features,
        ..DryBackend::caps_for_tests()
    };
    let device = Device::new(Box::new(DryBackend::new(caps)));
    device.set_precision(Precision::F16);
    device
}

/// Of two RoSA steps with r = 12 and d = 0.15 %.
fn ledger(shape: &str, weights: DType, [batch_size, seq_len]: [usize; 2], checkpointing: usize) -> Ledger {
    let device = device();
    let case = StepCase {
        shape: Shape::named(shape).unwrap(),
        adapter: Adapter::Rosa,
        weights,
        precision: Precision::F16,
        rank: 12,
        density: 0.0015,
        mask: MaskKind::Uniform,
        batch_size,
        seq_len,
        checkpointing: Checkpointing(checkpointing),
    };
    let mut bench = Bench::new(&case, &device, Precision::F16, Purpose::Rehearsal).unwrap();
    for _ in 0..2 {
        bench.step(|_| Ok(())).unwrap();
    }
    device.ledger()
}

#[test]
fn a_step_of_7b_takes_less_than_compiled_pytorch_with_lora() {
    let ledger = ledger("llama2-7b", DType::F16, [4, 512], 0);
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    for (what, row) in ledger.rows() {
        println!("{what:<16} {:7.3} GiB", gib(row.at_peak));
    }
    println!("{:.3} GiB, {:.3} reserved", gib(ledger.peak()), gib(ledger.peak_reserved()));
    assert!(gib(ledger.peak()) < 21.4);
}

//! Matrices that are too large for one binding: embedding, head and linears in shards of whole rows give the model that they give in
//! one piece. The limit is a small one, so that a tiny model exceeds it as large ones exceed WebGPU's.

use super::in_weight::{adapters, decoder};
use super::tiny;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{HeadLoss, head_loss};
use rugosa::cases::random_pattern;
use rugosa::data::{Batch, ExampleRef};
use rugosa::device::{Device, DeviceOptions};
use rugosa::error::Error;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::nn::DeviceBatch;
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::optim::{Group, Training};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;

/// Less than the head (75 KiB), gate and up (44 KiB each) and down (44 KiB, whose 46 rows of a shard are no multiple of 64).
const LIMIT: u64 = 32 << 10;
/// Few enough that their logits (300 words each) are within the limit too.
const TOKENS: usize = 27;

fn open(max_binding: Option<u64>, default_limits: bool) -> Device {
    let options = DeviceOptions::from_env(None);
    Device::open(&DeviceOptions { max_binding, default_limits, ..options }).unwrap()
}

/// The loss of a batch, and the gradients of all adapters by their modules: of A, of B, and of S.
fn gradients(device: &Device, folder: &Path) -> (f32, BTreeMap<String, [Vec<f32>; 3]>) {
    let model = decoder(device, &folder.join("model"));
    let mut set = adapters(device, &model);
    let mut rng = Rng::new(3, 0);
    let mut mask = |n, k| random_pattern(&mut rng, n, k, 0.05).unwrap();
    let masks = set.targets().iter().map(|t| &t.module);
    let masks = masks.map(|m| (m.name.clone(), mask(m.out_features, m.in_features))).collect();
    set.set_masks(&masks).unwrap();
    set.initialise(1, None).unwrap();
    for block in set.blocks().iter() {
        let values: Vec<f32> = block.value.read::<f32>().unwrap().iter().map(|v| v + 0.03).collect();
        block.value.write(&values).unwrap();
    }
    set.attach(&model, Training::only([Group::LowRank, Group::Sparse]), None).unwrap();

    let ids: Vec<u32> = (0..TOKENS as u32).map(|t| 3 + t * 9 % 297).collect();
    let labels: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let batch = Batch::new([ExampleRef { ids: &ids, labels: &labels, line: 0 }], 0);
    let on_device = DeviceBatch::upload(device, &batch, None).unwrap();
    let sum = Tensor::zeros(device, &[1], "test").unwrap();
    let mut tape = Tape::new(None);
    let hidden = model.hidden(&mut tape, &on_device.input, 0).unwrap();
    let loss = HeadLoss { scale: 1.0 / TOKENS as f32, gradient: 1.0, sum: &sum };
    head_loss(&mut tape, &hidden, &model.head, &on_device.targets, loss).unwrap();
    drop(hidden);
    tape.backward().unwrap();
    for block in set.blocks().iter() {
        block.value.write(&block.grad.read::<f32>().unwrap()).unwrap();
    }
    let all = set.export().unwrap().into_iter().map(|(name, m)| {
        let [a, b] = [m.a, m.b].map(|m| m.unwrap().data);
        (name, [a, b, m.sparse.unwrap().values])
    });
    (sum.read::<f32>().unwrap()[0], all.collect())
}

#[test]
fn a_model_in_shards_is_the_model_in_one_piece() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    let (whole, cut) = (open(None, false), open(Some(LIMIT), true));
    let model = decoder(&cut, &dir.path().join("model"));
    let shards: BTreeMap<String, usize> = model.linears().map(|l| (l.name(), l.shards().len())).collect();
    let of = |name: &str| shards[&format!("model.layers.1.{name}")];
    assert_eq!((of("mlp.gate_proj"), of("mlp.up_proj"), of("mlp.down_proj"), of("self_attn.o_proj")), (2, 2, 2, 1));
    assert_eq!((model.head.shards.len(), model.embedding.shards.len()), (3, 3));
    let (want, got) = (gradients(&whole, dir.path()), gradients(&cut, dir.path()));
    assert!((want.0 - got.0).abs() <= 1e-5 * want.0.abs(), "losses {} and {}", want.0, got.0);
    for (name, want) in &want.1 {
        for ((want, got), part) in want.iter().zip(&got.1[name]).zip(["A", "B", "S"]) {
            let most = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(most > 0.0 && want.len() == got.len(), "{name}: {part}");
            let off = want.iter().zip(got).fold(0.0f32, |m, (w, g)| m.max((w - g).abs()));
            assert!(off <= 3e-5 * most, "{name}: {part} is off by {off} of {most}");
        }
    }
}

#[test]
fn a_matrix_that_trains_is_refused_where_a_binding_does_not_hold_it() {
    let dir = tempfile::tempdir().unwrap();
    tiny::write_model(dir.path());
    let checkpoint = Checkpoint::open(&dir.path().join("model")).unwrap();
    let options = LoadOptions { trainable: true, stacked: false, positions: 64 };
    match load(&open(Some(LIMIT), false), &checkpoint, options) {
        Err(Error::TooLarge { what, limit, .. }) => assert_eq!((what.as_str(), limit), ("weights", LIMIT)),
        other => panic!("{:?}", other.map(drop)),
    }
}

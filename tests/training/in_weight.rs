//! Weights hold the sparse adapters that are attached to them, and are what they were afterwards.

use super::tiny;
use rugosa::adapters::targets::{PerModule, TargetModules, TargetRules, select};
use rugosa::adapters::{AdapterSet, module_shapes};
use rugosa::autograd::ops::Attachment;
use rugosa::cases::random_pattern;
use rugosa::csr::CsrPattern;
use rugosa::device::{Device, DeviceOptions, Precision};
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::safetensors::{OutTensor, write_safetensors};
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::nn::{Decoder, Linear};
use rugosa::optim::{Group, Training};
use rugosa::rng::Rng;
use rugosa::tensor::{Weight, WeightFormat};
use std::collections::BTreeMap;
use std::path::Path;

fn both() -> Training {
    Training::only([Group::LowRank, Group::Sparse])
}

fn open() -> Device {
    Device::open(&DeviceOptions::from_env(None)).unwrap()
}

pub(super) fn decoder(device: &Device, folder: &Path) -> Decoder {
    let checkpoint = Checkpoint::open(folder).unwrap();
    load(device, &checkpoint, LoadOptions { trainable: false, stacked: true, positions: 64 }).unwrap()
}

pub(super) fn adapters(device: &Device, model: &Decoder) -> AdapterSet {
    let rules = TargetRules {
        modules: TargetModules::default(),
        rank: 2,
        rank_pattern: PerModule::default(),
        alpha: 16.0,
        alpha_pattern: PerModule::default(),
        rslora: false,
        density: 0.05,
        density_pattern: PerModule::default(),
    };
    AdapterSet::new(device, select(&module_shapes(model), &rules).unwrap(), 0.0).unwrap()
}

/// Random masks for every target, values at zero.
fn set_masks(set: &mut AdapterSet, seed: u64) {
    let mut rng = Rng::new(seed, 0);
    let mut mask = |n, k| random_pattern(&mut rng, n, k, 0.05).unwrap();
    let masks: BTreeMap<String, CsrPattern> = (set.targets().iter())
        .map(|t| (t.module.name.clone(), mask(t.module.out_features, t.module.in_features)))
        .collect();
    set.set_masks(&masks).unwrap();
}

/// Other values of S, as an optimiser would leave them.
fn set_values(set: &mut AdapterSet, seed: u64) {
    let mut rng = Rng::new(seed, 1);
    for block in set.blocks().iter().filter(|b| b.group == Group::Sparse) {
        let values: Vec<f32> = (0..block.value.len()).map(|_| rng.normal() as f32).collect();
        block.value.write(&values).unwrap();
    }
}

/// The one shard of W.
fn whole(l: &Linear) -> Weight {
    l.shards().swap_remove(0).1
}

fn read(l: &Linear) -> Vec<f32> {
    let weight = whole(l);
    bytemuck::pod_collect_to_vec(&weight.device().download(&weight.slice()).unwrap())
}

fn bits(model: &Decoder) -> Vec<Vec<u32>> {
    model.linears().map(|l| read(l).into_iter().map(f32::to_bits).collect()).collect()
}

/// W, and S of `set` added in f32.
fn sums(model: &Decoder, w: &[Vec<u32>], set: &AdapterSet) -> Vec<Vec<u32>> {
    let tensors = set.export().unwrap();
    let of = |(l, w): (&Linear, &Vec<u32>)| {
        let mut w: Vec<f32> = w.iter().map(|w| f32::from_bits(*w)).collect();
        for m in l.modules() {
            let s = tensors[&m.name].sparse.as_ref().unwrap();
            for ((row, col), value) in s.pattern.entries().zip(&s.values) {
                w[(m.first_row + row as usize) * l.in_features() + col as usize] += value;
            }
        }
        w.into_iter().map(f32::to_bits).collect()
    };
    model.linears().zip(w).map(of).collect()
}

fn detach(model: &Decoder) {
    model.linears().for_each(|l| l.attach(Attachment::default()).unwrap());
}

#[test]
fn a_weight_holds_what_is_attached_and_is_what_it_was_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let device = open();
    let model = decoder(&device, &tiny::write_model(dir.path()));
    let before = bits(&model);
    let mut set = adapters(&device, &model);
    set_masks(&mut set, 1);
    set_values(&mut set, 1);
    let in_use = device.ledger().in_use();
    assert!(bits(&model) == before, "nothing is attached");
    set.attach(&model, both(), None).unwrap();
    let first = bits(&model);
    assert!(first == sums(&model, &before, &set) && first != before);

    // values change: by a step, and otherwise
    set_values(&mut set, 2);
    model.write_sparse().unwrap();
    let second = bits(&model);
    assert!(second == sums(&model, &before, &set) && second != first);
    set.initialise(1, None).unwrap();
    set.attach(&model, Training::only([Group::LowRank]), None).unwrap();
    assert!(bits(&model) == before, "S is zero");

    // another mask: the old one holds until the new one is attached
    set_values(&mut set, 3);
    set.attach(&model, both(), None).unwrap();
    let third = bits(&model);
    set_masks(&mut set, 2);
    set_values(&mut set, 4);
    assert!(bits(&model) == third);
    set.attach(&model, both(), None).unwrap();
    assert!(bits(&model) == sums(&model, &before, &set));

    // another set in its place, which outlives its owner
    let mut other = adapters(&device, &model);
    set_masks(&mut other, 3);
    set_values(&mut other, 5);
    other.attach(&model, both(), None).unwrap();
    let sum = sums(&model, &before, &other);
    drop((set, other));
    assert!(bits(&model) == sum);
    detach(&model);
    assert!(bits(&model) == before, "W is as it was");
    device.wait().unwrap();
    assert!(device.ledger().in_use() < in_use, "nothing is kept");
}

#[test]
fn a_weight_that_others_read_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let device = open();
    let model = decoder(&device, &tiny::write_model(dir.path()));
    let mut set = adapters(&device, &model);
    set_masks(&mut set, 1);
    set_values(&mut set, 1);
    set.attach(&model, both(), None).unwrap();
    let attached = |l: &Linear| l.attached().sparse.as_ref().map(|s| s.in_weight.is_some());
    assert!(model.linears().all(|l| attached(l) == Some(true)));

    let source = model.linears().next().unwrap();
    let sparse = source.attached().sparse.clone().unwrap();
    let (rows, cols) = (source.out_features(), source.in_features());
    let weight = Weight::empty(&device, WeightFormat::F32, rows, cols, "test").unwrap();
    let shared = Linear::new("shared", weight.clone(), None);
    let trains = Linear::new("trains", Weight::empty(&device, WeightFormat::F32, rows, cols, "test").unwrap(), None);
    trains.train_weight(whole(&trains), None);
    for l in [&shared, &trains] {
        device.clear(&whole(l).slice()).unwrap();
        l.attach(Attachment { sparse: Some(sparse.clone()), ..Attachment::default() }).unwrap();
        assert_eq!(attached(l), Some(false));
        assert!(read(l).iter().all(|w| w.to_bits() == 0));
    }
    drop(weight);
}

/// Numbers of the tiny model in BF16, the second value of `large` 10⁵.
fn write_bf16(folder: &Path, large: &str) {
    tiny::write_model(folder);
    let mut rng = Rng::named(3, "bf16");
    let values: Vec<(String, Vec<usize>, Vec<half::bf16>)> = (tiny::shapes().into_iter())
        .map(|(name, shape)| {
            let mut data: Vec<_> =
                (0..shape.iter().product()).map(|_| half::bf16::from_f32(0.1 * rng.normal() as f32)).collect();
            if name == large {
                data[1] = half::bf16::from_f32(1e5);
            }
            (name, shape, data)
        })
        .collect();
    let tensors: Vec<_> = values.iter().map(|(n, s, d)| OutTensor::bf16(n.clone(), s, d)).collect();
    write_safetensors(&folder.join("model/model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
}

#[test]
fn bf16_is_loaded_as_f16_where_products_round_to_it() {
    let dir = tempfile::tempdir().unwrap();
    write_bf16(dir.path(), "model.layers.1.self_attn.k_proj.weight");
    let device = open();
    let folder = dir.path().join("model");
    let as_stored = decoder(&device, &folder);
    device.set_precision(Precision::F16);
    let halves = decoder(&device, &folder);
    device.set_precision(Precision::F32);
    let formats = |m: &Decoder| m.linears().map(|l| whole(l).format()).collect::<Vec<_>>();
    assert!(formats(&as_stored).iter().all(|f| *f == WeightFormat::BF16));
    // q, k and v of the second layer lie in one matrix, which has a value that f16 has not
    let linears = halves.linears().zip(as_stored.linears());
    for ((i, (h, s)), format) in linears.enumerate().zip(formats(&halves)) {
        assert_eq!((h.modules(), i == 4), (s.modules(), format == WeightFormat::BF16), "{}", h.name());
        let [h, s] = [h, s].map(|l| device.download(&whole(l).slice()).unwrap());
        let pairs = h.chunks(2).zip(s.chunks(2)).map(|(h, s)| {
            let h = [h[0], h[1]];
            let s = half::bf16::from_le_bytes([s[0], s[1]]);
            (h, s.to_le_bytes(), half::f16::from_f32(s.to_f32()).to_le_bytes())
        });
        let mut pairs = pairs.filter(|(h, s, half)| h != if format == WeightFormat::BF16 { s } else { half });
        assert!(pairs.next().is_none());
    }
    // rows of the embedding are used as they are
    assert!(halves.embedding.shards.iter().all(|(_, w)| w.format() == WeightFormat::BF16));
    assert!(halves.head.shards.iter().all(|(_, w)| w.format() == WeightFormat::F16));
}

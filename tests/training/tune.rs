//! Tiles by measurement.

use rugosa::device::dry::DryBackend;
use rugosa::device::tiles::{Product, TileTable, file};
use rugosa::device::{Device, DeviceOptions, Feature};
use rugosa::dtype::DType;
use rugosa::kernels::To;
use rugosa::kernels::attention::{AttentionShape, Gradients, Ranges, Saved, attention_backward, attention_forward};
use rugosa::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};
use rugosa::train::tune::{Tuning, tune};
use std::time::{Duration, Instant};

/// Of a linear, and passes of attention.
const PRODUCTS: usize = 3 + 3;

/// A device whose products have tiles to choose from: not made in registers.
fn device() -> Device {
    let options = DeviceOptions { disable: vec![Feature::Int64, Feature::Gemm], ..DeviceOptions::from_env(None) };
    Device::open(&options).unwrap()
}

/// A fused linear in both directions and the gradient of its weight.
fn linear(device: &Device) -> [Tensor; 3] {
    let mut rng = Rng::named(3, "tune");
    let mut up = |shape: [usize; 2]| {
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(device, &shape, &values, "test").unwrap()
    };
    let (x, u, b, a) = (up([70, 96]), up([70, 4]), up([80, 4]), up([4, 96]));
    let w =
        Weight::upload(device, DType::F32, 80, 96, bytemuck::cast_slice(&up([80, 96]).read::<f32>().unwrap())).unwrap();
    let low_rank = |v| Fused { low_rank: Some((&u, 0, v)), ..Fused::default() };
    let y = rosa_linear(Layout::Nt, &x, &w, low_rank(&b), Out::default()).unwrap();
    let dx = rosa_linear(Layout::Nn, &y, &w, low_rank(&a), Out::default()).unwrap();
    let dw = matmul(Layout::Tn, &y, &x, Out::default()).unwrap();
    [y, dx, dw]
}

/// Attention in both directions, with heads that have a choice.
fn attention(device: &Device) -> [Tensor; 4] {
    const ENDS: [usize; 2] = [45, 70];
    let (heads, kv_heads, head_dim, tokens) = (4, 2, 64, ENDS[1]);
    let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.125, softcap: None, span: Some(ENDS[0]) };
    let mut rng = Rng::named(4, "tune");
    let mut up = |heads: usize| {
        let values: Vec<f32> = (0..tokens * heads * head_dim).map(|_| rng.normal() as f32).collect();
        Tensor::from_slice(device, &[tokens, heads * head_dim], &values, "test").unwrap()
    };
    let (q, k, v, d_out) = (up(heads), up(kv_heads), up(kv_heads), up(heads));
    let index = |of: fn(usize) -> usize| {
        let all: Vec<u32> = (0..tokens).map(|t| of(t) as u32).collect();
        Tensor::from_slice(device, &[tokens], &all, "test").unwrap()
    };
    let [first, next] = [index(|t| if t < ENDS[0] { 0 } else { ENDS[0] }), index(|t| t + 1)];
    let [own, last] = [index(|t| t), index(|t| ENDS[usize::from(t >= ENDS[0])])];
    let (keys, queries) = (Ranges { start: &first, end: &next }, Ranges { start: &own, end: &last });
    let (out, lse) = attention_forward(&q, &k, &v, keys, &shape, To::default(), To::default()).unwrap();
    let saved = Saved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
    let Gradients { dq, dk, dv } = attention_backward(saved, &d_out, keys, queries, &shape, None).unwrap();
    [out, dq, dk, dv]
}

/// Both.
fn run(device: &Device) -> Vec<Vec<f32>> {
    linear(device).iter().chain(&attention(device)).map(|t| t.read().unwrap()).collect()
}

fn products(device: &Device) -> Vec<Product> {
    let dry = Device::new(Box::new(DryBackend::new(device.caps().clone())));
    dry.note_products(true);
    run(&dry);
    dry.note_products(false)
}

#[test]
fn products_are_measured_once_and_give_the_same_numbers_but_for_rounding() {
    let device = device();
    let products = products(&device);
    assert_eq!(products.len(), PRODUCTS, "{products:?}");
    let want = run(&device);
    let before = device.ledger().in_use();
    let cache = tempfile::tempdir().unwrap();
    let long = Duration::from_secs(60);

    let first = tune(&device, &products, long, Some(cache.path())).unwrap();
    assert_eq!((first.measured, first.known, first.left), (PRODUCTS, 0, 0));
    let ledger = device.ledger();
    assert_eq!((ledger.in_use(), ledger.peak()), (before, before), "memory is free again, and not counted");
    let tiles = device.tiles();
    assert!(products.iter().all(|p| tiles.get(&p.key).is_some_and(|tile| p.tiles.contains(&tile))), "{tiles:?}");

    let again = tune(&device, &products, long, Some(cache.path())).unwrap();
    assert_eq!((again.measured, again.known), (0, PRODUCTS));
    assert_eq!(*device.tiles(), *tiles);
    assert_eq!(file::read(cache.path(), device.caps()), *tiles);

    // whatever was the fastest today: each tile in turn
    let most = products.iter().map(|p| p.tiles.len()).max().unwrap();
    for i in 0..most {
        let mut table = TileTable::default();
        products.iter().for_each(|p| table.set(p.key, p.tiles[i % p.tiles.len()]));
        device.set_tiles(table);
        for (got, want) in run(&device).iter().zip(&want) {
            let largest = want.iter().fold(0f32, |most, w| most.max(w.abs()));
            let worst = got.iter().zip(want).fold(0f32, |most, (g, w)| most.max((g - w).abs()));
            assert!(worst <= 1e-5 * largest, "{worst} of {largest}");
        }
    }
}

#[test]
fn the_time_is_kept() {
    let device = device();
    let products = products(&device);
    let cache = tempfile::tempdir().unwrap();
    let none = tune(&device, &products, Duration::ZERO, Some(cache.path())).unwrap();
    assert_eq!(Tuning { seconds: 0.0, ..none }, Tuning { left: PRODUCTS, ..Tuning::default() });
    assert!(device.tiles().is_empty() && std::fs::read_dir(cache.path()).unwrap().count() == 0);
    // but for what is under way: a compilation, or one product of these small ones
    let start = Instant::now();
    let few = tune(&device, &products, Duration::from_millis(1), None).unwrap();
    assert!(few.measured + few.left == PRODUCTS && start.elapsed() < Duration::from_secs(20), "{few:?}");
}

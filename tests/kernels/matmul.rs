//! Products: `C[m, n] (+)= scale · Σk op(A) · op(B)`, and the fused RoSA linear against its composed form in f64.

use crate::common::*;
use rugosa::cases::{Level, Row, stored};
use rugosa::csr::CsrPattern;
use rugosa::device::{Device, DeviceClass, DeviceOptions, Feature};
use rugosa::dtype::DType;
use rugosa::kernels::product::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::sparse::SparseIndex;
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};

fn reference(layout: Layout, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32]) -> Vec<Exact> {
    let mut c = vec![Exact::default(); m * n];
    for i in 0..m {
        for j in 0..n {
            for l in 0..k {
                let x = if layout == Layout::Tn { a[l * m + i] } else { a[i * k + l] };
                let y = if layout == Layout::Nt { b[j * k + l] } else { b[l * n + j] };
                c[i * n + j].add(f64::from(x) * f64::from(y));
            }
        }
    }
    c
}

#[test]
fn products_and_the_fused_linear() {
    run_rows(&["product", "rosa_linear", "sddmm"]);
}

#[test]
fn the_kernels_for_gpus_compute_the_same() {
    // each specialisation costs seconds of compilation on a software renderer: three formats stand for all
    let few = |row: &Row| match row.op {
        "rosa_linear" => ["F32", "BF16", "Q4_1"].iter().any(|d| row.what.contains(d)) && row.level <= Level::Quick,
        "product" => row.level <= Level::Quick,
        "low_rank_project" | "low_rank_gradient" | "low_rank_gradients" => row.level <= Level::Quick,
        op => op == "sddmm",
    };
    run_rows_on(&as_gpu(), few);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let dev = device();
    let a = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let b = Tensor::zeros(dev, &[5, 6], "test").unwrap();
    let err = matmul(Layout::Nt, &a, &b, Out::default()).unwrap_err().to_string();
    assert!(err.contains("[3, 4]") && err.contains("[5, 6]"), "{err}");
}

#[test]
fn a_product_repeats_bit_for_bit() {
    let dev = device();
    let mut rng = Rng::named(2, "repeat");
    let a = Tensor::from_slice(dev, &[1030, 65], &random(&mut rng, 1030 * 65), "test").unwrap();
    let b = Tensor::from_slice(dev, &[1030, 33], &random(&mut rng, 1030 * 33), "test").unwrap();
    let run = || matmul(Layout::Tn, &a, &b, Out::default()).unwrap().read::<u32>().unwrap();
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

/// Software renderers keep copies of operands; none outlives what it is a copy of.
#[test]
fn an_operand_is_read_as_it_is_now() {
    let dev = device();
    let (m, n, k) = (33, 40, 64);
    let mut rng = Rng::named(5, "changes");
    let up = |data: &[f32], shape: [usize; 2]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
    let b = random(&mut rng, n * k);
    let (other, a, tb) = (random(&mut rng, m * k), up(&random(&mut rng, m * k), [m, k]), up(&b, [n, k]));
    let expect = |what: &str, data: &[f32]| {
        let c = Guarded::new(dev, &[m, n]);
        matmul(Layout::Nt, &a, &tb, Out::into(&c.tensor)).unwrap();
        assert_close(what, &c.read(what), &reference(Layout::Nt, (m, n, k), data, &b));
    };
    let _ = matmul(Layout::Nt, &a, &tb, Out::default()).unwrap();
    dev.upload(&a.slice(), bytemuck::cast_slice(&other)).unwrap();
    expect("uploaded", &other);
    dev.clear(&a.slice()).unwrap();
    expect("cleared", &vec![0.0; m * k]);
    dev.copy(&up(&other, [m, k]).slice(), &a.slice()).unwrap();
    expect("copied", &other);
    rugosa::kernels::elementwise::add_into(&a, &up(&other, [m, k]), 1.0).unwrap();
    let twice: Vec<f32> = other.iter().map(|x| x + x).collect();
    expect("added to", &twice);
}

/// The same device, with the kernels and tiles of a GPU.
pub fn as_gpu() -> Device {
    let disable = vec![Feature::Subgroup, Feature::CoopMatrix];
    let options = DeviceOptions { disable, class: Some(DeviceClass::Discrete), ..DeviceOptions::from_env(None) };
    Device::open(&options).unwrap()
}

/// Longer sums than one launch on a software renderer takes: in parts, the adapter in one of them.
#[test]
fn sums_in_parts() {
    let dev = device();
    let mut rng = Rng::named(4, "long");
    let (k, n, r) = (81_920, 32, 3);
    for (dtype, m) in [(DType::F32, 3), (DType::F32, 33), (DType::BF16, 5), (DType::Q8_0, 17), (DType::Q4_0, 3)] {
        let (bytes, w) = stored(dtype, &random(&mut rng, k * n)).unwrap();
        let weight = Weight::upload(dev, dtype, k, n, &bytes).unwrap();
        let (dy, v, a) = (random(&mut rng, m * k), random(&mut rng, m * r), random(&mut rng, r * n));
        let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
        let (dy_on_device, v_on_device, a_on_device) = (up([m, k], &dy), up([m, r], &v), up([r, n], &a));
        let pattern = CsrPattern::from_flat(k, n, &[5, 32 * 40_000 + 7, (k * n) as u64 - 1]).unwrap();
        let index = SparseIndex::new(dev, &pattern).unwrap();
        let values = [3.0f32, -2.0, 0.5];
        let s = Tensor::from_slice(dev, &[3], &index.from_csr_order(&values), "test").unwrap();
        for adapted in [false, true] {
            let mut want = vec![Exact::default(); m * n];
            for (row, want) in want.chunks_mut(n).enumerate() {
                for (l, w) in w.chunks(n).enumerate() {
                    let dy = f64::from(dy[row * k + l]);
                    want.iter_mut().zip(w).for_each(|(e, w)| e.add(dy * f64::from(*w)));
                }
                if adapted {
                    for (col, e) in want.iter_mut().enumerate() {
                        (0..r).for_each(|i| e.add(f64::from(v[row * r + i]) * f64::from(a[i * n + col])));
                    }
                    for ((l, col), s) in pattern.entries().zip(values) {
                        want[col as usize].add(f64::from(dy[row * k + l as usize]) * f64::from(s));
                    }
                }
            }
            let fused = Fused {
                sparse: adapted.then_some((&index, &s)),
                low_rank: adapted.then_some((&v_on_device, 0, &a_on_device)),
                bias: None,
            };
            let what = format!("{dtype}, {m} rows, adapted {adapted}");
            let dx = Guarded::new(dev, &[m, n]);
            rosa_linear(Layout::Nn, &dy_on_device, &weight, fused, Out::into(&dx.tensor)).unwrap();
            assert_close(&what, &dx.read(&what), &want);
        }
    }
    // the dense product of the same length
    let (a, b) = (random(&mut rng, 5 * k), random(&mut rng, k * n));
    let (ta, tb) = (Tensor::from_slice(dev, &[5, k], &a, "test"), Tensor::from_slice(dev, &[k, n], &b, "test"));
    let c = Guarded::new(dev, &[5, n]);
    matmul(Layout::Nn, &ta.unwrap(), &tb.unwrap(), Out::into(&c.tensor)).unwrap();
    assert_close("matmul", &c.read("matmul"), &reference(Layout::Nn, (5, n, k), &a, &b));
}

/// llvmpipe ends a thread's loops after 65,535 iterations: the longest sum that a model asks for (the head's input
/// gradient over the vocabulary, in shards of 65,536 rows) must stay below, with and without subgroups.
#[test]
fn long_sums_are_whole() {
    let portable = DeviceOptions { disable: vec![Feature::Subgroup], ..DeviceOptions::from_env(None) };
    let portable = Device::open(&portable).unwrap();
    let (m, n, k) = (3, 8, 1 << 16);
    let mut rng = Rng::named(4, "long");
    let (a, b) = (random(&mut rng, m * k), random(&mut rng, n * k));
    let want = reference(Layout::Nn, (m, n, k), &a, &b);
    for dev in [device(), &portable] {
        let ta = Tensor::from_slice(dev, &[m, k], &a, "test").unwrap();
        let w = Weight::upload(dev, DType::F32, k, n, bytemuck::cast_slice(&b)).unwrap();
        let c = Guarded::new(dev, &[m, n]);
        rosa_linear(Layout::Nn, &ta, &w, Fused::default(), Out::into(&c.tensor)).unwrap();
        assert_close("long sum", &c.read("long sum"), &want);
    }
}

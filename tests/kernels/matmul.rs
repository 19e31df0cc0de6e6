//! Products: `C[m, n] (+)= scale · Σk op(A) · op(B)`, and the fused RoSA linear against its composed form in f64.

use crate::common::*;
use rugosa::device::{Device, DeviceOptions, Feature};
use rugosa::dtype::DType;
use rugosa::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
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

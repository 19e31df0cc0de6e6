//! Products: `C[m, n] (+)= scale · Σk op(A) · op(B)`, and the fused RoSA linear against its composed form in f64.

use crate::common::*;
use rugosa::csr::CsrPattern;
use rugosa::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::sparse::{SparseIndex, sddmm};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// (m, n, k): ones, odd, on and beside every tile's edge, long k (split), tall and flat.
const SIZES: &[(usize, usize, usize)] = &[
    (1, 1, 1),
    (7, 5, 3),
    (31, 33, 65),
    (33, 31, 7),
    (65, 129, 33),
    (64, 64, 64),
    (128, 136, 48),
    (130, 8, 512),
    (4, 130, 1030),
    (1, 68, 128),
    (12, 16, 700),
];

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
fn products_in_every_layout() {
    let dev = device();
    let mut rng = Rng::named(1, "products");
    for &(m, n, k) in SIZES {
        let (a, b, c0) = (random(&mut rng, m * k), random(&mut rng, n * k), random(&mut rng, m * n));
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let what = format!("{layout:?} {m}x{n}x{k}");
            let (a_shape, b_shape) = match layout {
                Layout::Nt => ([m, k], [n, k]),
                Layout::Nn => ([m, k], [k, n]),
                Layout::Tn => ([k, m], [k, n]),
            };
            let ta = Tensor::from_slice(dev, &a_shape, &a, "test").unwrap();
            let tb = Tensor::from_slice(dev, &b_shape, &b, "test").unwrap();
            let want = reference(layout, (m, n, k), &a, &b);

            let c = Guarded::new(dev, &[m, n]);
            matmul(layout, &ta, &tb, Out::into(&c.tensor)).unwrap();
            assert_close(&what, &c.read(&what), &want);

            // accumulating, scaled by a power of two so that the reference stays simple
            let c = Guarded::holding(dev, &[m, n], &c0);
            matmul(layout, &ta, &tb, Out { scale: 0.5, ..Out::add_to(&c.tensor) }).unwrap();
            let want: Vec<_> = want
                .iter()
                .zip(&c0)
                .map(|(w, c)| Exact {
                    value: 0.5 * w.value + f64::from(*c),
                    magnitude: 0.5 * w.magnitude + f64::from(c.abs()),
                    terms: w.terms + 1,
                })
                .collect();
            assert_close(&format!("{what} +="), &c.read(&what), &want);
        }
    }
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

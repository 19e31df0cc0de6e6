//! Products: `C[m, n] (+)= scale · Σk op(A) · op(B)`, and the fused RoSA linear against its composed form in f64.

use crate::common::*;
use rugosa::csr::CsrPattern;
use rugosa::device::{Device, DeviceClass, DeviceOptions, Feature};
use rugosa::dtype::DType;
use rugosa::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::sparse::{SparseIndex, sddmm};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};

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
    (200, 8, 576),
    (576, 8, 200),
    (8, 576, 200),
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

/// One fused case: shapes of X, W, the adapter's rank and density.
struct Case {
    tokens: usize,
    out: usize,
    inn: usize,
    rank: usize,
    density: f64,
}

const FUSED: &[Case] = &[
    Case { tokens: 1, out: 1, inn: 1, rank: 1, density: 1.0 },
    Case { tokens: 7, out: 33, inn: 31, rank: 3, density: 0.2 },
    Case { tokens: 33, out: 65, inn: 129, rank: 5, density: 0.02 },
    Case { tokens: 65, out: 96, inn: 64, rank: 8, density: 0.3 },
    Case { tokens: 130, out: 160, inn: 192, rank: 20, density: 0.011 },
    Case { tokens: 5, out: 100, inn: 68, rank: 4, density: 1.0 },
];

/// Random positions, some rows and columns favoured as RoSA's masks favour them.
pub fn pattern(rng: &mut Rng, rows: usize, cols: usize, density: f64) -> CsrPattern {
    let flat: Vec<u64> = (0..(rows * cols) as u64)
        .filter(|i| {
            let favoured = (i / cols as u64).is_multiple_of(7) || (i % cols as u64).is_multiple_of(11);
            rng.uniform() < if favoured { 4.0 * density } else { density }
        })
        .collect();
    CsrPattern::from_flat(rows, cols, &flat).unwrap()
}

/// The bytes of a matrix in a file's format, and the values that they stand for.
pub fn stored(dtype: DType, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let bytes = rugosa::quant::quantise(dtype, values).unwrap();
    let mut back = vec![0.0; values.len()];
    rugosa::quant::dequantise(dtype, &bytes, &mut back).unwrap();
    (bytes, back)
}

#[test]
fn the_fused_linear_equals_its_composed_form() {
    fused_cases(device(), FUSED, &FORMATS);
}

#[test]
fn the_kernels_for_gpus_compute_the_same() {
    // each specialisation costs seconds of compilation on a software renderer: two shapes and three formats stand for all
    fused_cases(&as_gpu(), &FUSED[2..4], &[DType::F32, DType::BF16, DType::Q4_1]);
}

/// The same device, with the kernels and tiles of a GPU.
fn as_gpu() -> Device {
    let disable = vec![Feature::Subgroup, Feature::CoopMatrix];
    let options = DeviceOptions { disable, class: Some(DeviceClass::Discrete), ..DeviceOptions::from_env(None) };
    Device::open(&options).unwrap()
}

/// With many tokens the masked product is split along them; its tiles are of 32, 64 and 128.
#[test]
fn the_masked_product_in_every_tile() {
    let dev = &as_gpu();
    let mut rng = Rng::named(5, "masked");
    for (t, n, k) in [(70, 33, 31), (600, 64, 100), (130, 200, 132), (300, 260, 257), (1030, 256, 260)] {
        let pattern = pattern(&mut rng, n, k, 0.02);
        let index = SparseIndex::new(dev, &pattern).unwrap();
        let (dy, x, start) = (random(&mut rng, t * n), random(&mut rng, t * k), random(&mut rng, pattern.nnz()));
        let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
        let ds = Guarded::holding(dev, &[start.len()], &index.from_csr_order(&start));
        sddmm(&up([t, n], &dy), &up([t, k], &x), &index, &ds.tensor).unwrap();
        let want: Vec<Exact> = (pattern.entries().zip(&start))
            .map(|((row, col), s)| {
                let mut e = Exact::of(f64::from(*s));
                (0..t).for_each(|l| e.add(f64::from(dy[l * n + row as usize]) * f64::from(x[l * k + col as usize])));
                e
            })
            .collect();
        assert_close(&format!("{t} {n} {k}"), &index.to_csr_order(&ds.read("dS")), &want);
    }
}

const FORMATS: [DType; 6] = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];

fn fused_cases(dev: &Device, cases: &[Case], formats: &[DType]) {
    let mut rng = Rng::named(3, "fused");
    for case in cases {
        let Case { tokens: t, out: n, inn: k, rank: r, density } = *case;
        for &dtype in formats.iter().filter(|d| k % d.block_elements() == 0) {
            let (bytes, w) = stored(dtype, &random(&mut rng, n * k));
            let weight = Weight::upload(dev, dtype, n, k, &bytes).unwrap();
            let pattern = pattern(&mut rng, n, k, density);
            let index = SparseIndex::new(dev, &pattern).unwrap();
            let s = random(&mut rng, pattern.nnz());
            let s_values = Tensor::from_slice(dev, &[s.len()], &index.from_csr_order(&s), "test").unwrap();
            let mut s_dense = vec![0.0f32; n * k];
            for ((row, col), v) in pattern.entries().zip(&s) {
                s_dense[row as usize * k + col as usize] = *v;
            }
            let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
            let (x, dy) = (random(&mut rng, t * k), random(&mut rng, t * n));
            // U and V are columns 2.. of wider tensors
            let (u, v) = (random(&mut rng, t * (r + 3)), random(&mut rng, t * (r + 3)));
            let (a, b, bias) = (random(&mut rng, r * k), random(&mut rng, n * r), random(&mut rng, n));
            let (tu, tv) = (up([t, r + 3], &u), up([t, r + 3], &v));
            let (ta, tb) = (up([r, k], &a), up([n, r], &b));
            let tbias = Tensor::from_slice(dev, &[n], &bias, "test").unwrap();

            for (sparse, low_rank) in [(false, false), (true, false), (false, true), (true, true)] {
                let what = format!("{dtype} [{t}, {k}] x [{n}, {k}] rank {r} sparse {sparse} low-rank {low_rank}");
                let term = |x: f32, row: usize, col: usize, e: &mut Exact| {
                    let (w, s) = (f64::from(w[row * k + col]), f64::from(s_dense[row * k + col]));
                    let s = if sparse { s } else { 0.0 };
                    e.value += f64::from(x) * (w + s);
                    e.magnitude += f64::from(x.abs()) * (w.abs() + s.abs());
                    e.terms += 1;
                };
                let forward: Vec<Exact> = (0..t * n)
                    .map(|i| {
                        let (row, col) = (i / n, i % n);
                        let mut e = Exact::of(f64::from(bias[col]));
                        (0..k).for_each(|l| term(x[row * k + l], col, l, &mut e));
                        if low_rank {
                            (0..r).for_each(|l| e.add(f64::from(u[row * (r + 3) + 2 + l]) * f64::from(b[col * r + l])));
                        }
                        e
                    })
                    .collect();
                let fused = |column_of, right| Fused {
                    sparse: sparse.then_some((&index, &s_values)),
                    low_rank: low_rank.then_some((column_of, 2, right)),
                    bias: None,
                };
                let y = Guarded::new(dev, &[t, n]);
                let f = Fused { bias: Some(&tbias), ..fused(&tu, &tb) };
                rosa_linear(Layout::Nt, &up([t, k], &x), &weight, f, Out::into(&y.tensor)).unwrap();
                assert_close(&format!("forward {what}"), &y.read(&what), &forward);

                let start = random(&mut rng, t * k);
                let backward: Vec<Exact> = (0..t * k)
                    .map(|i| {
                        let (row, col) = (i / k, i % k);
                        let mut e = Exact::of(f64::from(start[i]));
                        (0..n).for_each(|l| term(dy[row * n + l], l, col, &mut e));
                        if low_rank {
                            (0..r).for_each(|l| e.add(f64::from(v[row * (r + 3) + 2 + l]) * f64::from(a[l * k + col])));
                        }
                        e
                    })
                    .collect();
                let dx = Guarded::holding(dev, &[t, k], &start);
                rosa_linear(Layout::Nn, &up([t, n], &dy), &weight, fused(&tv, &ta), Out::add_to(&dx.tensor)).unwrap();
                assert_close(&format!("backward {what}"), &dx.read(&what), &backward);
            }

            let want: Vec<Exact> = (pattern.entries())
                .map(|(row, col)| {
                    let mut e = Exact::default();
                    (0..t).for_each(|l| {
                        e.add(f64::from(dy[l * n + row as usize]) * f64::from(x[l * k + col as usize]));
                    });
                    e
                })
                .collect();
            let ds = Guarded::new(dev, &[s.len()]);
            ds.tensor.clear().unwrap();
            sddmm(&up([t, n], &dy), &up([t, k], &x), &index, &ds.tensor).unwrap();
            assert_close("dS", &index.to_csr_order(&ds.read("dS")), &want);
        }
    }
}

/// Longer sums than one launch on a software renderer takes: in parts, the adapter in one of them.
#[test]
fn sums_in_parts() {
    let dev = device();
    let mut rng = Rng::named(4, "long");
    let (k, n, r) = (81_920, 32, 3);
    for (dtype, m) in [(DType::F32, 3), (DType::F32, 33), (DType::BF16, 5), (DType::Q8_0, 17), (DType::Q4_0, 3)] {
        let (bytes, w) = stored(dtype, &random(&mut rng, k * n));
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

//! Products on matrix units against the f64 reference, with the bounds of f16 operands. Where the device has none, the
//! tests say so and pass, unless RUGOSA_REQUIRE lists `coop`: the shaders themselves are checked by `tests/architecture` everywhere.

use crate::common::*;
use rugosa::cases::attention_reference::{Case, Data};
use rugosa::cases::{Level, Row, random_pattern, stored, table};
use rugosa::device::{Device, DeviceClass, DeviceOptions, Feature, Precision};
use rugosa::dtype::DType;
use rugosa::kernels::To;
use rugosa::kernels::attention::{Saved, attention_backward, attention_forward};
use rugosa::kernels::attention_coop;
use rugosa::kernels::coop;
use rugosa::kernels::low_rank::{gradient_rows, project_rows};
use rugosa::kernels::low_rank_coop;
use rugosa::kernels::parts::Sums;
use rugosa::kernels::precision;
use rugosa::kernels::product::{self, Operand};
use rugosa::kernels::product::{Fused, Layout, Out, rosa_linear};
use rugosa::kernels::sparse::{SddmmAlgorithm, SparseIndex, sddmm_by};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};

/// The device with matrix units; a test that needs them says that it is left out without.
fn or_left_out(test: &str) -> Option<&'static Device> {
    units().or_else(|| {
        left_out(Feature::CoopMatrix, test);
        None
    })
}

/// Each operand is rounded to f16 (2⁻¹¹ of it at most), a weight with S twice. Errors of n independent terms grow as √n.
fn assert_close_f16(what: &str, got: &[f32], want: &[(usize, Exact)]) {
    for (i, w) in want {
        let error = (f64::from(got[*i]) - w.value).abs();
        let bound = w.bound() + w.magnitude / 2048.0 * (12.0 / (w.terms as f64).sqrt()).min(3.0);
        assert!(error <= bound, "{what}: element {i} is {}, expected {} ± {bound}", got[*i], w.value);
    }
}

/// Every element of a small output, some of a large one.
fn sample(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(if len > 100_000 { 379 } else { 1 })
}

#[test]
fn products_of_halves_and_floats_in_every_layout() {
    let Some(dev) = or_left_out("products_of_halves_and_floats_in_every_layout") else { return };
    let mut rng = Rng::named(1, "units");
    for (m, n, k) in [(40, 48, 8), (72, 64, 200), (128, 136, 96), (64, 72, 4096), (1288, 1288, 72)] {
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let (a, b) = (random(&mut rng, m * k), random(&mut rng, n * k));
            let (a_bytes, a) = stored(DType::F16, &a).unwrap();
            let (b_bytes, b) = stored(DType::F16, &b).unwrap();
            let (ar, ac) = if layout == Layout::Tn { (k, m) } else { (m, k) };
            let (br, bc) = if layout == Layout::Nt { (n, k) } else { (k, n) };
            let (ta, tb) =
                (Tensor::from_slice(dev, &[ar, ac], &a, "test"), Tensor::from_slice(dev, &[br, bc], &b, "test"));
            let (ta, tb) = (ta.unwrap(), tb.unwrap());
            let wa = Weight::upload(dev, DType::F16, ar, ac, &a_bytes).unwrap();
            let wb = Weight::upload(dev, DType::F16, br, bc, &b_bytes).unwrap();
            let start = random(&mut rng, m * n);
            let want: Vec<(usize, Exact)> = sample(m * n)
                .map(|i| {
                    let (row, col) = (i / n, i % n);
                    let mut e = Exact::of(f64::from(start[i]));
                    for l in 0..k {
                        let x = if layout == Layout::Tn { a[l * m + row] } else { a[row * k + l] };
                        let y = if layout == Layout::Nt { b[col * k + l] } else { b[l * n + col] };
                        e.add(0.5 * f64::from(x) * f64::from(y));
                    }
                    (i, e)
                })
                .collect();
            for (left, right) in [
                (Operand::Tensor(&ta), Operand::Tensor(&tb)),
                (Operand::Tensor(&ta), Operand::Weight(&wb)),
                (Operand::Weight(&wa), Operand::Tensor(&tb)),
                (Operand::Weight(&wa), Operand::Weight(&wb)),
            ] {
                let what = format!("{layout:?} {m}x{n}x{k}");
                let c = Guarded::holding(dev, &[m, n], &start);
                product::matmul_on_units(layout, left, right, dev, Out { scale: 0.5, ..Out::add_to(&c.tensor) })
                    .unwrap();
                assert_close_f16(&what, &c.read(&what), &want);
            }
        }
    }
}

#[test]
fn the_fused_linear_in_every_format() {
    let Some(dev) = or_left_out("the_fused_linear_in_every_format") else { return };
    let mut rng = Rng::named(2, "units");
    let all = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_1];
    // (tokens, out, in, rank, density, formats)
    type Case<'a> = (usize, usize, usize, usize, f64, &'a [DType]);
    let software = dev.caps().class == DeviceClass::Software;
    let cases: [Case; 5] = [
        (33, 40, 72, 3, 0.2, &all[..3]),
        (65, 96, 64, 8, 0.3, &all),
        (130, 160, 192, 20, 0.011, &all),
        (40, 104, 32, 40, 1.0, &all),
        (1288, 1312, 1312, 8, 0.02, &[DType::F32, DType::Q4_1]),
    ];
    for (i, (t, n, k, r, density, formats)) in cases.into_iter().enumerate() {
        // software renderers compile each variant for seconds: every format there once, the other sizes with weights of f32
        let formats = if software && i != 1 { &formats[..1] } else { formats };
        for &dtype in formats {
            let (bytes, w) = stored(dtype, &random(&mut rng, n * k)).unwrap();
            let weight = Weight::upload(dev, dtype, n, k, &bytes).unwrap();
            let pattern = random_pattern(&mut rng, n, k, density).unwrap();
            let index = SparseIndex::new(dev, &pattern).unwrap();
            let s = random(&mut rng, pattern.nnz());
            let s_values = Tensor::from_slice(dev, &[s.len()], &index.from_csr_order(&s), "test").unwrap();
            let mut dense = w.iter().map(|w| (f64::from(*w), 0.0)).collect::<Vec<_>>();
            for ((row, col), v) in pattern.entries().zip(&s) {
                dense[row as usize * k + col as usize].1 = f64::from(*v);
            }
            let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
            let bias = random(&mut rng, n);
            let tbias = Tensor::from_slice(dev, &[n], &bias, "test").unwrap();
            for layout in [Layout::Nt, Layout::Nn] {
                let (inner, outer) = if layout == Layout::Nt { (k, n) } else { (n, k) };
                let (x, u, v) =
                    (random(&mut rng, t * inner), random(&mut rng, t * (r + 3)), random(&mut rng, r * outer));
                let start = random(&mut rng, t * outer);
                let tv = up(if layout == Layout::Nt { [n, r] } else { [r, k] }, &v);
                let (tx, tu) = (up([t, inner], &x), up([t, r + 3], &u));
                for (sparse, low_rank) in [(false, false), (true, false), (false, true), (true, true)] {
                    let what =
                        format!("{layout:?} {dtype} {t} x [{n}, {k}] rank {r} sparse {sparse} low-rank {low_rank}");
                    let want: Vec<(usize, Exact)> = sample(t * outer)
                        .map(|i| {
                            let (row, col) = (i / outer, i % outer);
                            let base = if layout == Layout::Nt { bias[col] } else { start[i] };
                            let mut e = Exact::of(f64::from(base));
                            for l in 0..inner {
                                let (w, s) = dense[if layout == Layout::Nt { col * k + l } else { l * k + col }];
                                let s = if sparse { s } else { 0.0 };
                                e.add(f64::from(x[row * inner + l]) * (w + s));
                                e.magnitude +=
                                    f64::from(x[row * inner + l]).abs() * (w.abs() + s.abs() - (w + s).abs());
                            }
                            for l in 0..if low_rank { r } else { 0 } {
                                let right = v[if layout == Layout::Nt { col * r + l } else { l * k + col }];
                                e.add(f64::from(u[row * (r + 3) + 2 + l]) * f64::from(right));
                            }
                            (i, e)
                        })
                        .collect();
                    let fused = Fused {
                        sparse: sparse.then_some((&index, &s_values)),
                        low_rank: low_rank.then_some((&tu, 2, &tv)),
                        bias: (layout == Layout::Nt).then_some(&tbias),
                    };
                    let y = Guarded::holding(dev, &[t, outer], &start);
                    let accumulate = layout == Layout::Nn;
                    rosa_linear(layout, &tx, &weight, fused, Out { accumulate, ..Out::into(&y.tensor) }).unwrap();
                    assert_close_f16(&what, &y.read(&what), &want);
                }
            }
        }
    }
}

#[test]
fn a_device_without_matrix_units_says_so() {
    let options = DeviceOptions { disable: vec![Feature::CoopMatrix], ..DeviceOptions::from_env(None) };
    let dev = Device::open(&options).unwrap();
    assert_eq!(precision::enable(&dev).unwrap(), Precision::F32);
    let a = Tensor::zeros(&dev, &[32, 32], "test").unwrap();
    let err = product::matmul_on_units(Layout::Nt, Operand::Tensor(&a), Operand::Tensor(&a), &dev, Out::default())
        .unwrap_err();
    assert!(err.to_string().contains("no matrix units"), "{err}");
}

/// Rows of the case table that have a kernel on units launch it there, and hold the bounds of f16 operands. Software renderers
/// compile each head size for half a minute, so there it is a few.
#[test]
fn attention_forward_and_backward() {
    let Some(dev) = or_left_out("attention_forward_and_backward") else { return };
    let most = if dev.caps().class == DeviceClass::Software { Level::Quick } else { Level::Full };
    let units = |r: &&Row| ["attention", "attention_backward"].contains(&r.op) && r.level <= most;
    for row in table().iter().filter(units) {
        let outcome = row.run(dev).unwrap();
        assert_eq!(outcome.fault, None, "{} {}", row.op, row.what);
        assert!(outcome.launched.iter().any(|k| k.ends_with("_coop")), "{} {}", row.op, row.what);
        println!("{} {}: error over bound {:.3}", row.op, row.what, outcome.worst);
    }
}

/// Rows of the case table whose operands come as f32 and as f16 hold with both: the fused linear in both directions, over
/// weights of whole numbers and of blocks, and the sparse gradient in both ways.
#[test]
fn operands_of_halves_give_what_floats_give() {
    let Some(dev) = or_left_out("operands_of_halves_give_what_floats_give") else { return };
    let of = |what: &str| table().into_iter().find(|r| r.what == what).unwrap_or_else(|| panic!("no row {what}"));
    let linear =
        |layout: &str, dtype: &str| of(&format!("{layout} {dtype} [65, 64] W [96, 64] rank 8 sparse low-rank"));
    for (row, kernels) in [
        (linear("Nt", "F32"), &["rosa_linear_coop"][..]),
        (linear("Nn", "F32"), &["rosa_linear_coop"]),
        (linear("Nt", "Q4_1"), &["rosa_linear_coop"]),
        (of("[70, 40] x [70, 48]"), &["sddmm_coop", "sddmm_rows", "transpose"]),
    ] {
        let outcome = row.run(dev).unwrap();
        assert_eq!(outcome.fault, None, "{} {}", row.op, row.what);
        assert!(
            kernels.iter().all(|k| outcome.launched.contains(k)),
            "{} {}: {:?}",
            row.op,
            row.what,
            outcome.launched
        );
    }
}

/// Rows that units can take: 32 tokens and more, features and blocks of multiples of 8; on software renderers a few, in f16.
#[test]
fn thin_products_of_low_rank_adapters() {
    let Some(dev) = or_left_out("thin_products_of_low_rank_adapters") else { return };
    let software = dev.caps().class == DeviceClass::Software;
    let (most, least) = if software { (Level::Quick, 2) } else { (Level::Full, 12) };
    for op in ["low_rank_project", "low_rank_gradient", "low_rank_gradients"] {
        let mut launched = 0;
        for row in table().iter().filter(|r| r.op == op && r.level <= most) {
            let outcome = row.run(dev).unwrap();
            assert_eq!(outcome.fault, None, "{} {}", row.op, row.what);
            launched += u32::from(outcome.launched.iter().any(|k| k.ends_with("_coop")));
            println!("{} {}: error over bound {:.3}", row.op, row.what, outcome.worst);
        }
        assert!(launched >= least, "{op}: {launched} rows on units");
    }
}

#[test]
fn thin_products_repeat_bit_for_bit() {
    let Some(dev) = or_left_out("thin_products_repeat_bit_for_bit") else { return };
    let mut rng = Rng::named(4, "thin units");
    let mut up = |shape: [usize; 2]| {
        let data = random(&mut rng, shape[0] * shape[1]);
        Tensor::from_slice(dev, &shape, &data, "test").unwrap()
    };
    let (x, a, v) = (up([520, 2064]), up([12, 2064]), up([520, 12]));
    let run = || {
        let da = Tensor::zeros(dev, &[12, 2064], "test").unwrap();
        let mut sums = Sums::default();
        gradient_rows(&v, &x, &da, &mut sums).unwrap();
        sums.finish().unwrap();
        [project_rows(&x, &a, 2.0, To::default()).unwrap(), da].map(|t| t.read::<u32>().unwrap())
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

#[test]
fn attention_repeats_bit_for_bit() {
    let Some(dev) = or_left_out("attention_repeats_bit_for_bit") else { return };
    let case = Case { segments: &[70, 31], heads: 6, kv_heads: 2, head_dim: 24, window: usize::MAX, softcap: None };
    let data = Data::new(case, 93);
    let up = data.upload(dev).unwrap();
    let run = || {
        let (out, lse) =
            attention_forward(&up.q, &up.k, &up.v, up.keys(), &data.shape(), To::default(), To::default()).unwrap();
        let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &out, lse: &lse };
        let g = attention_backward(saved, &up.d_out, up.keys(), up.queries(), &data.shape(), None).unwrap();
        [out, lse, g.dq, g.dk, g.dv].map(|t| t.read::<u32>().unwrap())
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

#[test]
fn the_masked_product_keeps_its_entries() {
    let Some(dev) = or_left_out("the_masked_product_keeps_its_entries") else { return };
    let mut rng = Rng::named(3, "masked units");
    for (t, n, k) in [(70, 40, 48), (64, 64, 72), (300, 264, 200), (1030, 1288, 136)] {
        let pattern = random_pattern(&mut rng, n, k, 0.02).unwrap();
        let index = SparseIndex::new(dev, &pattern).unwrap();
        let (_, dy) = stored(DType::F16, &random(&mut rng, t * n)).unwrap();
        let (_, x) = stored(DType::F16, &random(&mut rng, t * k)).unwrap();
        let start = random(&mut rng, pattern.nnz());
        let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
        let ds = Guarded::holding(dev, &[start.len()], &index.from_csr_order(&start));
        sddmm_by(SddmmAlgorithm::Tile, &up([t, n], &dy), &up([t, k], &x), &index, &ds.tensor).unwrap();
        // operands are halves already, so only the sum rounds
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

/// What the units of a device are sure to have: 32 KiB with fragments of 8, 48 KiB with fragments of 16.
#[test]
fn workgroup_memory_suffices() {
    let all = [coop::variants(), attention_coop::variants(), low_rank_coop::variants()];
    for spec in all.concat() {
        let text = rugosa::device::shader::render(&spec).unwrap();
        let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{:?}\n{e}", spec.consts));
        let shared: u32 = (module.global_variables.iter())
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()).next_multiple_of(16))
            .sum();
        let most = if spec.get("FRAG") == Some(8) { 32 << 10 } else { 48 << 10 };
        assert!(shared <= most, "{} {:?} takes {shared} bytes", spec.kernel.name, spec.consts);
    }
}

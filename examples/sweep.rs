use rugosa::device::*;
use rugosa::dtype::DType;
use rugosa::error::Result;
use rugosa::kernels::coop::*;
use rugosa::kernels::matmul::*;
use rugosa::rng::Rng;
use rugosa::tensor::*;
fn params(m: u32, n: u32, k: u32, ws: u32) -> Vec<u8> {
    let w = [
        0,
        0,
        m,
        n,
        k,
        n,
        0,
        1,
        k.next_multiple_of(64),
        1.0f32.to_bits(),
        0,
        ws,
        0,
        0,
        if false { 0 } else { k },
        0,
        0,
    ];
    bytemuck::cast_slice(&w).to_vec()
}
fn run(
    dev: &Device,
    name: &str,
    spec: &KernelSpec,
    bind: &[Slice],
    p: &[u8],
    groups: u64,
    flops: f64,
    check: impl Fn() -> Result<f64>,
) -> Result<()> {
    if std::env::var("CHECK").is_ok() {
        let text = rugosa::device::shader::render(spec)?;
        let module = match naga::front::wgsl::parse_str(&text) {
            Ok(m) => m,
            Err(e) => {
                println!("{}", e.emit_to_string(&text));
                std::process::exit(1);
            }
        };
        let info =
            match naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all())
                .validate(&module)
            {
                Ok(i) => i,
                Err(e) => {
                    println!("{name} {}", e.emit_to_string(&text));
                    std::process::exit(1);
                }
            };
        let o = naga::back::spv::Options {
            force_loop_bounding: false,
            zero_initialize_workgroup_memory: naga::back::spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..Default::default()
        };
        naga::back::spv::write_vec(&module, &info, &o, None).unwrap();
        println!("{name} fine");
        return Ok(());
    }
    let t = std::time::Instant::now();
    if let Err(e) = dev.prepare(std::slice::from_ref(spec)) {
        println!("{name}: {e}");
        return Ok(());
    }
    let compile = t.elapsed().as_secs_f64();
    let cost = Cost { flops: flops / 100.0, bytes: 0.0 };
    let go = || dev.launch(&Launch { spec, bindings: bind, params: p, groups, cost });
    let warm = std::time::Instant::now();
    while warm.elapsed().as_secs_f64() < 0.25 {
        for _ in 0..20 {
            go()?;
        }
        dev.wait()?;
    }
    let t = std::time::Instant::now();
    for _ in 0..20 {
        go()?;
    }
    dev.wait()?;
    let wall = t.elapsed().as_secs_f64() / 20.0;
    dev.profile(true)?;
    for _ in 0..15 {
        go()?;
    }
    dev.wait()?;
    let mut times: Vec<f64> = dev.profile(false)?.iter().map(|t| t.time.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let med = times[times.len() / 2];
    println!(
        "{name:<60} {:>7.1} TFLOP/s (wall {:>6.1}) compile {compile:.2} s err {:.1e}",
        flops / med / 1e12,
        flops / wall / 1e12,
        check()?
    );
    Ok(())
}
fn main() -> Result<()> {
    let dev = Device::open(&DeviceOptions::from_env(None))?;
    println!("{:?}", dev.caps());
    let which = std::env::args().nth(1).unwrap_or_default();
    let s = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(4096usize);
    let mut rng = Rng::named(1, "sweep");
    let a: Vec<f32> = (0..s * s).map(|_| half::f16::from_f32(rng.uniform() as f32 - 0.5).to_f32()).collect();
    let b: Vec<f32> = (0..s * s).map(|_| half::f16::from_f32(rng.uniform() as f32 - 0.5).to_f32()).collect();
    let ta = Tensor::from_slice(&dev, &[s, s], &a, "x")?;
    let tb = Tensor::from_slice(&dev, &[s, s], &b, "x")?;
    let weight =
        |d: DType, v: &[f32]| -> Result<Weight> { Weight::upload(&dev, d, s, s, &rugosa::quant::quantise(d, v)?) };
    let a16 = weight(DType::F16, &a)?;
    let fmts = [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_1];
    let ws: Vec<Weight> = fmts.iter().map(|d| weight(*d, &b)).collect::<Result<_>>()?;
    let c = Tensor::empty(&dev, &[s, s], "x")?;
    let dummy = dev.dummy()?;
    let flops = 2.0 * (s as f64).powi(3);
    let check = |layout: u32| -> Result<f64> {
        let got: Vec<f32> = c.read()?;
        let mut worst = 0.0f64;
        for t in 0..40usize {
            let (i, j) = ((t * 7919) % s, (t * 104729 + 13) % s);
            let mut w = 0.0;
            for l in 0..s {
                let x = if layout == 2 { a[l * s + i] } else { a[i * s + l] };
                let y = if layout == 0 { b[j * s + l] } else { b[l * s + j] };
                w += x as f64 * y as f64;
            }
            worst = worst.max((w - got[i * s + j] as f64).abs());
        }
        c.clear()?;
        Ok(worst)
    };
    let p = params(s as u32, s as u32, s as u32, 0);
    if which.contains("coop") {
        let cfgs = [
            (128, 128, 32, 2, 2, 1, 8),
            (128, 128, 64, 2, 4, 1, 8),
            (128, 128, 32, 2, 2, 2, 8),
            (128, 128, 32, 2, 4, 2, 8),
            (128, 128, 32, 2, 4, 1, 8),
            (256, 128, 32, 4, 2, 1, 8),
            (128, 256, 32, 2, 4, 1, 8),
            (128, 128, 64, 2, 2, 1, 8),
            (256, 128, 16, 4, 2, 2, 8),
            (128, 128, 16, 2, 2, 2, 8),
            (128, 128, 64, 4, 2, 1, 8),
            (128, 128, 48, 2, 2, 1, 8),
            (128, 128, 48, 2, 4, 1, 8),
            (64, 256, 32, 1, 4, 1, 8),
            (128, 192, 32, 2, 3, 1, 8),
            (192, 128, 32, 3, 2, 1, 8),
            (128, 256, 32, 2, 4, 1, 16),
            (64, 128, 32, 1, 2, 2, 8),
            (64, 128, 32, 1, 2, 1, 8),
            (64, 128, 64, 1, 2, 1, 8),
        ];
        for load in 0..1 {
            let source = MATMUL_COOP.source.to_string();
            let kernel: &'static Kernel = Box::leak(Box::new(Kernel {
                name: ["l0", "l1", "l2", "l3"][load],
                source: Box::leak(source.into_boxed_str()),
                file: "x",
                bindings: MATMUL_COOP.bindings,
                params_bytes: MATMUL_COOP.params_bytes,
                needs: MATMUL_COOP.needs,
            }));
            for (i, (bm, bn, bk, sm, sn, buf, band)) in cfgs.into_iter().enumerate() {
                let _ = i;
                let spec = KernelSpec::new(
                    kernel,
                    vec![
                        ("BM", bm),
                        ("BN", bn),
                        ("BK", bk),
                        ("SM", sm),
                        ("SN", sn),
                        ("BAND", band),
                        ("BUFFERS", buf),
                        ("TAIL", 0),
                        ("LAYOUT", 0),
                        ("AFMT", 1),
                        ("WFMT", 1),
                        ("FUSED", 0),
                        ("ACCUMULATE", 0),
                    ],
                );
                let g = (s as u64).div_ceil(bm as u64) * (s as u64).div_ceil(bn as u64);
                run(
                    &dev,
                    &format!("coop f16 Nt load {load} {bm}x{bn}x{bk} sg {sm}x{sn} buf {buf} band {band}"),
                    &spec,
                    &[a16.slice(), ws[1].slice(), c.slice()],
                    &p,
                    g,
                    flops,
                    || check(0),
                )?;
            }
        }
    }
    if which.contains("layouts") {
        for (bm, bn, bk, sm, sn, buf, band) in [(128, 128, 32, 2, 2, 1, 8), (128, 128, 64, 2, 4, 1, 8)] {
            for layout in 0..3u32 {
                for afmt in 0..2u32 {
                    for wf in 0..5usize {
                        if layout == 2 && wf > 1 {
                            continue;
                        }
                        if afmt == 1 && wf > 1 {
                            continue;
                        }
                        let mut consts = vec![
                            ("BM", bm),
                            ("BN", bn),
                            ("BK", bk),
                            ("SM", sm),
                            ("SN", sn),
                            ("BAND", band),
                            ("BUFFERS", buf),
                            ("TAIL", 0),
                            ("LAYOUT", layout),
                            ("AFMT", afmt),
                            ("WFMT", wf as u32),
                            ("ACCUMULATE", 0),
                        ];
                        let fused = layout < 2;
                        if fused {
                            consts.extend([("FUSED", 1), ("SPARSE", 0), ("LOWRANK", 0), ("BIAS", 0)]);
                        } else {
                            consts.push(("FUSED", 0));
                        }
                        let spec = KernelSpec::new(if fused { &ROSA_LINEAR_COOP } else { &MATMUL_COOP }, consts);
                        let g = (s as u64).div_ceil(bm as u64) * (s as u64).div_ceil(bn as u64);
                        let left = if afmt == 1 { a16.slice() } else { ta.slice() };
                        let bind: Vec<Slice> = if fused {
                            let mut v = vec![left, ws[wf].slice()];
                            v.extend(std::iter::repeat_n(dummy.clone(), 5));
                            v.push(c.slice());
                            v
                        } else {
                            vec![left, ws[wf].slice(), c.slice()]
                        };
                        let p = params(s as u32, s as u32, s as u32, ws[wf].scales_at());
                        run(
                            &dev,
                            &format!("coop layout {layout} a {afmt} w {} {bm}x{bn}x{bk} buf {buf}", fmts[wf]),
                            &spec,
                            &bind,
                            &p,
                            g,
                            flops,
                            || check(layout),
                        )?;
                    }
                }
            }
        }
    }
    if which.contains("f32") {
        for (bm, bn, bk, tm, tn, pre, unroll) in [
            (128, 128, 16, 16, 8, 0, 1),
            (128, 128, 16, 16, 8, 2, 1),
            (128, 128, 16, 16, 8, 2, 2),
            (128, 128, 16, 8, 8, 2, 1),
            (128, 128, 16, 8, 8, 2, 2),
            (128, 128, 16, 8, 8, 2, 4),
            (128, 128, 16, 8, 8, 2, 8),
            (128, 128, 16, 16, 8, 2, 8),
            (64, 64, 16, 8, 4, 1, 1),
            (64, 64, 16, 4, 8, 1, 1),
            (64, 64, 16, 4, 8, 2, 1),
        ] {
            for layout in 0..3u32 {
                if layout > 0 && (bm, bn, bk) != (128, 128, 16) {
                    continue;
                }

                let spec = KernelSpec::new(
                    &MATMUL,
                    vec![
                        ("BM", bm),
                        ("BN", bn),
                        ("BK", bk),
                        ("TM", tm),
                        ("TN", tn),
                        ("PREFETCH", pre),
                        ("UNROLL", unroll),
                        ("LAYOUT", layout),
                        ("VEC", 1),
                        ("ACCUMULATE", 0),
                        ("FUSED", 0),
                    ],
                );
                let g = (s as u64).div_ceil(bm as u64) * (s as u64).div_ceil(bn as u64);
                run(
                    &dev,
                    &format!("f32 layout {layout} {bm}x{bn}x{bk} {tm}x{tn} prefetch {pre} unroll {unroll}"),
                    &spec,
                    &[ta.slice(), tb.slice(), c.slice()],
                    &p,
                    g,
                    flops,
                    || check(layout),
                )?;
            }
        }
    }
    Ok(())
}

//! Times the sparse gradient: `cargo bench --bench sddmm -- [FILTER…]`.
//!
//! Each case is a mask of a weight: the matrices and densities that the original's kernels were measured at, and linears
//! of models at those of their training. For both precisions (f16 where there are matrix units) each line gives a way: the
//! median wall time of a call among many, and the device's time of its kernels where it has timestamps.

use rugosa::cases::{MaskKind, random_mask};
use rugosa::device::{Device, DeviceOptions, Feature, Precision, profile};
use rugosa::error::Result;
use rugosa::kernels::precision;
use rugosa::kernels::sampled::Sampling;
use rugosa::kernels::sparse::{SddmmAlgorithm, SparseIndex, sddmm_by, sddmm_sampled};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;
use std::time::Instant;

/// (tokens, out, in, entries of a million, where they lie)
const CASES: [(usize, usize, usize, usize, MaskKind); 14] = [
    (2048, 4096, 4096, 6000, MaskKind::Uniform),
    (2048, 4096, 4096, 6000, MaskKind::Clustered),
    (2048, 4096, 4096, 18000, MaskKind::Clustered),
    (2048, 11_008, 4096, 6000, MaskKind::Uniform),
    (512, 4096, 11_008, 6000, MaskKind::Uniform),
    (2048, 12_288, 4096, 1500, MaskKind::Clustered),
    (2048, 22_016, 4096, 1500, MaskKind::Clustered),
    (2048, 4096, 11_008, 1500, MaskKind::Clustered),
    (4096, 16_384, 2048, 1500, MaskKind::Clustered),
    (4096, 2048, 8192, 1500, MaskKind::Clustered),
    (4096, 960, 576, 11500, MaskKind::Clustered),
    (4096, 576, 576, 11500, MaskKind::Clustered),
    (4096, 3072, 576, 11500, MaskKind::Clustered),
    (4096, 576, 1536, 11500, MaskKind::Clustered),
];

fn main() -> Result<()> {
    let device = Device::open(&DeviceOptions::from_env(None))?;
    println!("{} ({}), {:?}", device.caps().name, device.caps().driver, device.caps().features);
    // cargo adds the flag
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let mut rng = Rng::named(1, "bench");
    let halves = precision::enable(&device)? == Precision::F16;
    for (tokens, out, inn, share, kind) in CASES {
        let name = format!("[{tokens}] W [{out}, {inn}] {} % {kind:?}", share as f64 / 1e4);
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            continue;
        }
        let pattern = random_mask(kind, out, inn, out * inn * share / 1_000_000 + 1, &mut rng)?;
        let index = SparseIndex::new(&device, &pattern)?;
        let mut random = |shape: &[usize]| {
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| rng.uniform() as f32 - 0.5).collect();
            Tensor::from_slice(&device, shape, &data, "bench")
        };
        let (dy, x, ds) = (random(&[tokens, out])?, random(&[tokens, inn])?, random(&[pattern.nnz()])?);
        for precision in [Precision::F16, Precision::F32] {
            if precision == Precision::F16 && !halves {
                continue;
            }
            device.set_precision(precision);
            println!("\n{name} {precision:?}, {} entries", pattern.nnz());
            time(&device, "tile", &|| sddmm_by(SddmmAlgorithm::Tile, &dy, &x, &index, &ds))?;
            let chosen = Sampling::choose(&device, tokens, &index);
            time(&device, &format!("{chosen:?}"), &|| sddmm_sampled(chosen, &dy, &x, &index, &ds))?;
            let ways = [8, 16, 32].into_iter().flat_map(|lanes| [1, 2].map(|unroll| (lanes, unroll, chosen.slice)));
            let slices = [512, 1024].map(|slice| (chosen.lanes, 1, slice));
            for (lanes, unroll, slice) in ways.chain(slices) {
                let sampling = Sampling { lanes, unroll, slice, ..chosen };
                let name = format!("lanes {lanes} unroll {unroll} slice {slice}");
                time(&device, &name, &|| sddmm_sampled(sampling, &dy, &x, &index, &ds))?;
            }
        }
    }
    Ok(())
}

fn time(device: &Device, name: &str, run: &dyn Fn() -> Result<()>) -> Result<()> {
    let timed = |calls: usize| -> Result<f64> {
        device.wait()?;
        let start = Instant::now();
        (0..calls).try_for_each(|_| run())?;
        device.wait()?;
        Ok(start.elapsed().as_secs_f64() / calls as f64)
    };
    timed(1)?;
    let calls = (0.01 / timed(2)?).ceil().clamp(1.0, 100.0) as usize;
    let mut times = (0..7).map(|_| timed(calls)).collect::<Result<Vec<f64>>>()?;
    times.sort_by(f64::total_cmp);
    let mut kernels = String::new();
    if device.caps().has(Feature::Timestamps) {
        device.profile(true)?;
        (0..10).try_for_each(|_| run())?;
        device.wait()?;
        for (kernel, total) in profile::totals(&device.profile(false)?) {
            let (ms, rate) = (total.seconds * 1e2, total.bytes / total.seconds / 1e12);
            kernels +=
                &format!("  {kernel} {ms:.4} ms, {:.1} TFLOP/s, {rate:.2} TB/s", total.flops / total.seconds / 1e12);
        }
    }
    println!("{name:<60} {:>8.4} ms{kernels}", times[times.len() / 2] * 1e3);
    Ok(())
}

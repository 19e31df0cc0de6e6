//! Times the products: `cargo run --release --example bench_matmul -- [--f16] [FILTER…]`.
//!
//! `--f16` lets them run on matrix units. On a GPU the linears are those of a 7B model too. A case is run when its name contains one of the filters. Each line gives the first call (with the compilation of its
//! pipeline), the median and the best of the later ones, and the rate at the median. Wall time with a wait; launches
//! that are short are timed several at once.

use rugosa::csr::CsrPattern;
use rugosa::device::{Device, DeviceClass, DeviceOptions, Precision};
use rugosa::dtype::DType;
use rugosa::error::Result;
use rugosa::kernels::coop::{self, Operand};
use rugosa::kernels::matmul::{Fused, Layout, Out, matmul, rosa_linear};
use rugosa::kernels::sparse::{SparseIndex, sddmm};
use rugosa::rng::Rng;
use rugosa::tensor::{Tensor, Weight};
use std::time::Instant;

/// (out, in) of the linears of SmolLM2-135M, and its head.
const LINEARS: [(usize, usize); 5] = [(576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576)];
const TOKENS: usize = 256;
/// (tokens, out, in) of two linears of a 7B model.
const LARGE: [(usize, usize, usize); 2] = [(2048, 4096, 4096), (2048, 11008, 4096)];

struct Bench {
    device: Device,
    filters: Vec<String>,
    /// (tokens, out, in)
    shapes: Vec<(usize, usize, usize)>,
    rng: Rng,
}

fn main() -> Result<()> {
    let device = Device::open(&DeviceOptions::from_env(None))?;
    println!("{} ({}), {:?}", device.caps().name, device.caps().driver, device.caps().features);
    println!("{:<44} {:>9} {:>10} {:>10} {:>10}", "case", "first ms", "median ms", "best ms", "GFLOP/s");
    let (flags, filters): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|a| a == "--f16");
    if !flags.is_empty() {
        println!("precision {:?}", coop::enable(&device)?);
    }
    let mut shapes: Vec<_> = LINEARS.iter().map(|&(out, inn)| (TOKENS, out, inn)).collect();
    if device.caps().class != DeviceClass::Software {
        shapes.extend(LARGE);
    }
    let mut bench = Bench { device, filters, shapes, rng: Rng::named(1, "bench") };
    bench.dense()?;
    bench.halves()?;
    bench.skinny()?;
    bench.linears()?;
    bench.sampled()
}

impl Bench {
    fn random(&mut self, shape: &[usize]) -> Result<Tensor> {
        let data: Vec<f32> = (0..shape.iter().product()).map(|_| self.rng.uniform() as f32 - 0.5).collect();
        Tensor::from_slice(&self.device, shape, &data, "bench")
    }

    fn wants(&self, name: &str) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|f| name.contains(f.as_str()))
    }

    fn time(&self, name: &str, flops: f64, run: impl Fn() -> Result<()>) -> Result<()> {
        let timed = |launches: usize| -> Result<f64> {
            self.device.wait()?;
            let start = Instant::now();
            for _ in 0..launches {
                run()?;
            }
            self.device.wait()?;
            Ok(start.elapsed().as_secs_f64() / launches as f64)
        };
        let first = timed(1)?;
        // a GPU takes a while to come up to its clock
        let (warm, mut once) = (Instant::now(), timed(1)?);
        while warm.elapsed().as_millis() < 200 {
            once = timed(1)?;
        }
        let launches = (0.02 / once).ceil().clamp(1.0, 200.0) as usize;
        let repeats = ((0.5 / (once * launches as f64)) as usize).clamp(5, 25);
        let mut times = (0..repeats).map(|_| timed(launches)).collect::<Result<Vec<f64>>>()?;
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        let ms = 1e3;
        println!(
            "{name:<44} {:>9.1} {:>10.3} {:>10.3} {:>10.1}",
            first * ms,
            median * ms,
            times[0] * ms,
            flops / median / 1e9
        );
        Ok(())
    }

    /// Square products; 4096 on a GPU only.
    fn dense(&mut self) -> Result<()> {
        for size in [512, 1024, 4096] {
            for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
                let name = format!("dense {layout:?} {size}");
                if !self.wants(&name) || size > 1024 && self.filters.is_empty() {
                    continue;
                }
                let (a, b, c) = (self.random(&[size, size])?, self.random(&[size, size])?, self.random(&[size, size])?);
                let flops = 2.0 * (size as f64).powi(3);
                self.time(&name, flops, || matmul(layout, &a, &b, Out::into(&c)).map(drop))?;
            }
        }
        Ok(())
    }

    /// Products of operands stored as f16, on matrix units.
    fn halves(&mut self) -> Result<()> {
        let size = 4096;
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let name = format!("halves {layout:?} {size}");
            if !self.wants(&name) || self.device.precision() != Precision::F16 {
                continue;
            }
            let values: Vec<f32> = (0..size * size).map(|_| self.rng.uniform() as f32 - 0.5).collect();
            let bytes = rugosa::quant::quantise(DType::F16, &values)?;
            let a = Weight::upload(&self.device, DType::F16, size, size, &bytes)?;
            let b = Weight::upload(&self.device, DType::F16, size, size, &bytes)?;
            let c = Tensor::empty(&self.device, &[size, size], "bench")?;
            let flops = 2.0 * (size as f64).powi(3);
            self.time(&name, flops, || {
                coop::matmul(layout, Operand::F16(&a), Operand::F16(&b), &self.device, Out::into(&c)).map(drop)
            })?;
        }
        Ok(())
    }

    /// U = X·Aᵀ, dB = dYᵀ·U, dA = Vᵀ·X with rank 8.
    fn skinny(&mut self) -> Result<()> {
        let (rank, inn) = (8, 576);
        let (x, a, u) = (self.random(&[TOKENS, inn])?, self.random(&[rank, inn])?, self.random(&[TOKENS, rank])?);
        let flops = 2.0 * (TOKENS * inn * rank) as f64;
        type Case<'a> = (&'a str, Layout, &'a Tensor, &'a Tensor);
        let cases: [Case; 3] = [
            ("skinny U = X·Aᵀ", Layout::Nt, &x, &a),
            ("skinny dB = dYᵀ·U", Layout::Tn, &x, &u),
            ("skinny dA = Vᵀ·X", Layout::Tn, &u, &x),
        ];
        for (name, layout, left, right) in cases {
            if self.wants(name) {
                self.time(name, flops, || matmul(layout, left, right, Out::default()).map(drop))?;
            }
        }
        Ok(())
    }

    /// Fused linears: plain, with S at 1 %, and with S at 1 % and rank 8.
    fn linears(&mut self) -> Result<()> {
        for (tokens, out, inn) in self.shapes.clone() {
            for dtype in [DType::F32, DType::F16, DType::Q8_0, DType::Q4_1] {
                for layout in [Layout::Nt, Layout::Nn] {
                    for kind in ["frozen", "sparse", "rosa"] {
                        let name = format!("{kind} {dtype} {layout:?} {tokens} x {inn} -> {out}");
                        if self.wants(&name) && (out < 20_000 || kind == "frozen") {
                            self.linear(&name, layout, dtype, (tokens, out, inn), kind)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn linear(
        &mut self,
        name: &str,
        layout: Layout,
        dtype: DType,
        (tokens, out, inn): (usize, usize, usize),
        kind: &str,
    ) -> Result<()> {
        let rank = 8;
        let values: Vec<f32> = (0..out * inn).map(|_| self.rng.uniform() as f32 - 0.5).collect();
        let bytes = rugosa::quant::quantise(dtype, &values)?;
        let weight = Weight::upload(&self.device, dtype, out, inn, &bytes)?;
        let (x_cols, y_cols) = if layout == Layout::Nt { (inn, out) } else { (out, inn) };
        let (x, y) = (self.random(&[tokens, x_cols])?, self.random(&[tokens, y_cols])?);
        let (index, s) = self.mask(out, inn)?;
        let right = self.random(&if layout == Layout::Nt { [out, rank] } else { [rank, inn] })?;
        let u = self.random(&[tokens, rank])?;
        let fused = Fused {
            sparse: (kind != "frozen").then_some((&index, &s)),
            low_rank: (kind == "rosa").then_some((&u, 0, &right)),
            bias: None,
        };
        let flops = 2.0 * (tokens * out) as f64 * inn as f64;
        self.time(name, flops, || rosa_linear(layout, &x, &weight, fused, Out::into(&y)).map(drop))
    }

    /// A mask of 1 %, and values for it.
    fn mask(&mut self, rows: usize, cols: usize) -> Result<(SparseIndex, Tensor)> {
        let flat: Vec<u64> = (0..(rows * cols) as u64).filter(|_| self.rng.uniform() < 0.01).collect();
        let pattern = CsrPattern::from_flat(rows, cols, &flat)?;
        let values = self.random(&[pattern.nnz()])?;
        Ok((SparseIndex::new(&self.device, &pattern)?, values))
    }

    /// dS at the mask.
    fn sampled(&mut self) -> Result<()> {
        for (tokens, out, inn) in self.shapes.clone() {
            if out > 20_000 {
                continue;
            }
            let name = format!("sddmm 1 % {tokens} x [{out}, {inn}]");
            if self.wants(&name) {
                let (dy, x) = (self.random(&[tokens, out])?, self.random(&[tokens, inn])?);
                let (index, ds) = self.mask(out, inn)?;
                let flops = 2.0 * (tokens * index.nnz()) as f64;
                self.time(&name, flops, || sddmm(&dy, &x, &index, &ds))?;
            }
        }
        Ok(())
    }
}

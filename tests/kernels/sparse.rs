//! The sparse gradient's ways: which one is taken, what they come to, and the memory of their index.

use super::matmul::as_gpu;
use crate::common::*;
use rugosa::cases::random_pattern;
use rugosa::csr::CsrPattern;
use rugosa::device::dry::DryBackend;
use rugosa::device::{Device, Precision};
use rugosa::error::Result;
use rugosa::kernels::sampled::Sampling;
use rugosa::kernels::sparse::{SddmmAlgorithm, SparseIndex, sddmm, sddmm_by, sddmm_sampled};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// Operands on a device, and what dS must be in CSR order.
struct Case {
    dy: Tensor,
    x: Tensor,
    index: SparseIndex,
    want: Vec<Exact>,
}

impl Case {
    fn new(dev: &Device, (tokens, n, k): (usize, usize, usize), density: f64) -> Case {
        let mut rng = Rng::named(1, "ways");
        let pattern = random_pattern(&mut rng, n, k, density).unwrap();
        let (dy, x) = (random(&mut rng, tokens * n), random(&mut rng, tokens * k));
        let want = (pattern.entries())
            .map(|(row, col)| {
                let term = |t| f64::from(dy[t * n + row as usize]) * f64::from(x[t * k + col as usize]);
                Exact::sum((0..tokens).map(term))
            })
            .collect();
        let up = |shape: [usize; 2], data: &[f32]| Tensor::from_slice(dev, &shape, data, "test").unwrap();
        Case { dy: up([tokens, n], &dy), x: up([tokens, k], &x), index: SparseIndex::new(dev, &pattern).unwrap(), want }
    }

    /// dS in CSR order, as `way` makes it.
    fn run(&self, way: impl Fn(&Tensor, &Tensor, &SparseIndex, &Tensor) -> Result<()>) -> Vec<f32> {
        let ds = Tensor::zeros(self.dy.device(), &[self.index.nnz()], "test").unwrap();
        way(&self.dy, &self.x, &self.index, &ds).unwrap();
        self.index.to_csr_order(&ds.read().unwrap())
    }
}

#[test]
fn thin_masks_are_sampled_on_a_gpu() {
    let dev = as_gpu();
    for (shape, density, kernel) in [
        ((260, 1024, 1100), 0.0005, "sddmm_rows"),
        ((260, 256, 260), 0.0005, "sddmm_rows"),
        ((300, 512, 520), 1.0, "sddmm_tile"),
    ] {
        let case = Case::new(&dev, shape, density);
        dev.note_launches(true);
        let got = case.run(sddmm);
        let launched = dev.note_launches(false);
        assert!(launched.iter().any(|s| s.kernel.name == kernel), "{shape:?} {density}: {launched:?}");
        assert_close(&format!("{shape:?}"), &got, &case.want);
    }
}

#[test]
fn every_way_comes_to_the_same_and_repeats() {
    let dev = as_gpu();
    let case = Case::new(&dev, (300, 130, 200), 0.02);
    for way in [SddmmAlgorithm::Sampled, SddmmAlgorithm::Tile] {
        let run = || case.run(|dy, x, index, ds| sddmm_by(way, dy, x, index, ds));
        let first = run();
        assert_close(&format!("{way:?}"), &first, &case.want);
        assert!((0..3).all(|_| run() == first), "{way:?}");
    }
    // the kernel that the CPU's renderers take, and the one for GPUs, on the device as it is
    let case = Case::new(device(), (300, 130, 200), 0.02);
    assert_close("entries", &case.run(sddmm), &case.want);
    let sampling = Sampling { half: false, lanes: 8, unroll: 1, slice: 128 };
    let got = case.run(|dy, x, index, ds| sddmm_sampled(sampling, dy, x, index, ds));
    assert_close("in slices", &got, &case.want);
}

#[test]
fn values_beyond_f16_are_noticed() {
    let dev = device();
    let pattern = CsrPattern::from_flat(2, 2, &[0, 3]).unwrap();
    let index = SparseIndex::new(dev, &pattern).unwrap();
    let up = |data: [f32; 2]| Tensor::from_slice(dev, &[1, 2], &data, "test").unwrap();
    let ds = Tensor::zeros(dev, &[2], "test").unwrap();
    let sampling = Sampling { half: true, lanes: 32, unroll: 2, slice: 64 };
    sddmm_sampled(sampling, &up([1e6, 2.0]), &up([1.0, 3.0]), &index, &ds).unwrap();
    // WGSL leaves open what becomes of them: infinities on most drivers, NaN on SwiftShader; never a number that looks sound
    let got = index.to_csr_order(&ds.read().unwrap());
    assert!(!got[0].is_finite() && got[1] == 6.0, "{got:?}");
}

#[test]
fn a_sampling_without_a_kernel_is_refused() {
    let dev = device();
    let index = SparseIndex::new(dev, &CsrPattern::from_flat(2, 2, &[0]).unwrap()).unwrap();
    let (t, ds) = (Tensor::zeros(dev, &[1, 2], "test").unwrap(), Tensor::zeros(dev, &[1], "test").unwrap());
    let good = Sampling { half: true, lanes: 8, unroll: 1, slice: 64 };
    for bad in [
        Sampling { lanes: 3, ..good },
        Sampling { unroll: 4, ..good },
        Sampling { slice: 0, ..good },
        Sampling { slice: 65, ..good },
    ] {
        let error = sddmm_sampled(bad, &t, &t, &index, &ds).unwrap_err().to_string();
        assert!(error.contains("no kernel") && error.contains(&format!("{bad:?}")), "{error}");
    }
    let wide = SparseIndex::new(dev, &CsrPattern::new(1, 1 << 22, vec![0, 1], vec![5]).unwrap()).unwrap();
    let (dy, x) = (Tensor::zeros(dev, &[1, 1], "test").unwrap(), Tensor::zeros(dev, &[1, 1 << 22], "test").unwrap());
    let error = sddmm_sampled(good, &dy, &x, &wide, &ds).unwrap_err().to_string();
    assert!(error.contains("4194304 columns"), "{error}");
}

/// Bytes of the index in a device's ledger.
fn index_bytes(dev: &Device) -> u64 {
    dev.ledger().rows().find(|r| r.0 == "sparse index").map_or(0, |r| r.1.in_use)
}

#[test]
fn an_index_that_is_not_known_yet_counts_enough() {
    for class in [device(), &as_gpu()] {
        let dry = || Device::new(Box::new(DryBackend::new(class.caps().clone())));
        let mut rng = Rng::named(3, "ways");
        // some entries a row, less than one, and many
        for (n, k, density) in [(300, 700, 0.01), (3000, 100, 0.002), (64, 4000, 0.2)] {
            let pattern = random_pattern(&mut rng, n, k, density).unwrap();
            let (planned, seen) = (dry(), dry());
            let kept = (
                SparseIndex::unknown(&planned, n, k, pattern.nnz()).unwrap(),
                SparseIndex::new(&seen, &pattern).unwrap(),
            );
            let (planned, seen) = (index_bytes(&planned), index_bytes(&seen));
            assert!(seen <= planned && planned <= 2 * seen, "{n} {k}: {planned} and {seen} bytes");
            drop(kept);
        }
    }
}

/// On a device that only counts: what is copied does not outgrow a binding, and long batches are cut.
#[test]
fn copies_stay_within_the_limits() {
    let mut caps = as_gpu().caps().clone();
    caps.max_binding = 128 << 20;
    let dev = Device::new(Box::new(DryBackend::new(caps)));
    dev.set_precision(Precision::F16);
    let pattern = CsrPattern::from_flat(4096, 4096, &(0..4000).map(|i| i * 4000).collect::<Vec<_>>()).unwrap();
    let index = SparseIndex::new(&dev, &pattern).unwrap();
    for tokens in [64, 2048, 16_384] {
        let Sampling { half, slice, .. } = Sampling::choose(&dev, tokens, &index);
        assert!(half && slice * 4096 * 2 <= 128 << 20 && slice <= tokens, "{tokens}: {slice}");
    }
}

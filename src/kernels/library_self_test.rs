//! A test of a backend's library of products, before it is used.

use super::product::{Layout, Out, matmul};
use super::target::Target;
use crate::device::{Device, Precision};
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::{Element, Tensor};
use half::f16;

/// Compares products of f16 with sums that are exact; says what departs. A device without a library has nothing to test.
pub(super) fn self_test(device: &Device) -> Result<Option<String>> {
    if !Target::of(device).has_gemm {
        return Ok(None);
    }
    let (m, n, k) = (72, 104, 64);
    let mut rng = Rng::named(2, "library");
    let mut sixteenths = |len: usize| (0..len).map(|_| (rng.below(33) as f32 - 16.0) / 16.0).collect::<Vec<f32>>();
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        let (a, b) = (sixteenths(m * k), sixteenths(n * k));
        let at = |transposed: bool, row: usize, col: usize, rows: usize, cols: usize| {
            if transposed { col * rows + row } else { row * cols + col }
        };
        let term = |i: usize, j: usize, l: usize| {
            a[at(layout == Layout::Tn, i, l, m, k)] * b[at(layout == Layout::Nt, l, j, k, n)]
        };
        let half = |transposed: bool, [rows, cols]: [usize; 2], values: &[f32]| -> Result<Tensor> {
            let shape = if transposed { [cols, rows] } else { [rows, cols] };
            let tensor = Tensor::empty_of(Element::F16, device, &shape, "self-test")?;
            tensor.write(&values.iter().copied().map(f16::from_f32).collect::<Vec<_>>())?;
            Ok(tensor)
        };
        let [x, y] = [half(layout == Layout::Tn, [m, k], &a)?, half(layout == Layout::Nt, [k, n], &b)?];
        device.set_precision(Precision::F16);
        let product = matmul(layout, &x, &y, Out::scaled(0.5));
        device.set_precision(Precision::F32);
        let got = product?.read::<f32>()?;
        let want = |i: usize| (0..k).map(|l| term(i / n, i % n, l)).sum::<f32>() * 0.5;
        if let Some(i) = (0..m * n).find(|&i| got[i] != want(i)) {
            let name = &device.caps().name;
            return Ok(Some(format!("{name} computes {} for {} ({layout:?} {m}x{n}x{k})", got[i], want(i))));
        }
    }
    Ok(None)
}

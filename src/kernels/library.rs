//! Products by a library of the backend's ([`Device::gemm`](crate::device::Device::gemm)), which adds what our kernels fuse in turns:
//! the low-rank part goes to the output first, and the product of the weight is added to it, for a product that long hides the reading
//! of what it adds to.

use super::elementwise::round;
use super::output::To;
use super::problem::Problem;
use super::product::{Fused, Layout, Out, matmul};
use super::target::Target;
use crate::device::gemm::{Gemm, GemmOperand};
use crate::device::{Device, Precision, Slice};
use crate::error::Result;
use crate::rng::Rng;
use crate::tensor::{Element, Tensor, Weight, WeightFormat};
use half::f16;

/// `c (+)= scale · op(A) · op(B)`.
pub(super) fn dense(problem: &Problem, [a, b]: [Slice; 2], c: &Tensor, out: &Out<'_>) -> Result<()> {
    c.device().gemm(&product(problem, a, b, c, out))
}

/// `c (+)= scale · (X·op(W) + U·op(V)) + bias`.
pub(super) fn linear(
    problem: &Problem,
    x: &Tensor,
    w: &Weight,
    fused: &Fused<'_>,
    c: &Tensor,
    out: &Out<'_>,
) -> Result<()> {
    let device = c.device();
    let w = Slice { half: w.format() == WeightFormat::F16, ..w.slice() };
    // matrix units would round it when they load it
    let rounded = (w.half && x.element() == Element::F32).then(|| round(x, To::Half("scratch"))).transpose()?;
    let mut gemm = product(problem, rounded.as_ref().unwrap_or(x).slice(), w, c, out);
    if let (Some((u, column, v)), Some(low_rank)) = (fused.low_rank, problem.low_rank()) {
        let [m, n, _] = problem.shape;
        let v_stride = if problem.layout == Layout::Nt { low_rank.rank } else { n };
        device.gemm(&Gemm {
            shape: [m, n, low_rank.rank],
            a: GemmOperand { slice: u.slice(), stride: low_rank.stride, column, transposed: false },
            b: GemmOperand { slice: v.slice(), stride: v_stride, column: 0, transposed: problem.layout == Layout::Nt },
            // where W's products round, so do matrix units what they are given of U and V
            rounds: gemm.a.slice.half,
            ..gemm.clone()
        })?;
        gemm.accumulate = true;
    }
    gemm.bias = fused.bias.map(Tensor::slice);
    device.gemm(&gemm)
}

fn product(problem: &Problem, a: Slice, b: Slice, c: &Tensor, out: &Out<'_>) -> Gemm {
    let (layout, [a_stride, b_stride], (stride, column)) = (problem.layout, problem.row_lengths, problem.stride_column);
    Gemm {
        shape: problem.shape,
        a: GemmOperand { slice: a, stride: a_stride, column: 0, transposed: layout == Layout::Tn },
        b: GemmOperand { slice: b, stride: b_stride, column: 0, transposed: layout == Layout::Nt },
        c: GemmOperand { slice: c.slice(), stride, column, transposed: false },
        bias: None,
        scale: out.scale,
        accumulate: out.accumulate,
        rounds: false,
    }
}

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

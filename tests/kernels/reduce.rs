//! Sums over tensors, the global norm and its flag.

use crate::common::*;
use rugosa::kernels::reduce::{sum, sum_of_squares, sum_rows};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// One share, several, a last one that is short, more than the most workgroups cover in one stride; odd and even.
const SIZES: &[usize] = &[0, 1, 7, 33, 129, 8192, 20_001, 70_000, 4_200_000];

fn exact(terms: impl Iterator<Item = f64>) -> Exact {
    let mut e = Exact::default();
    terms.for_each(|t| e.add(t));
    e
}

#[test]
fn sums_and_norms() {
    run_rows(&["sum", "sum_of_squares"]);
}

#[test]
fn sums_of_rows() {
    let dev = device();
    let mut rng = Rng::named(3, "rows");
    // the last one is more than a software renderer adds in one go
    for (rows, cols) in [(1, 1), (7, 33), (129, 65), (33, 256), (70_001, 3)] {
        let (x, before) = (random(&mut rng, rows * cols), random(&mut rng, cols));
        let tx = Tensor::from_slice(dev, &[rows, cols], &x, "test").unwrap();
        let out = Guarded::holding(dev, &[cols], &before);
        sum_rows(&tx, &out.tensor).unwrap();
        let column = |c: usize| (0..rows).map(move |r| r * cols + c);
        let want: Vec<Exact> =
            (0..cols).map(|c| exact(column(c).map(|i| f64::from(x[i])).chain([f64::from(before[c])]))).collect();
        assert_close(&format!("rows [{rows}, {cols}]"), &out.read("sum_rows"), &want);
    }
    let x = Tensor::from_slice(dev, &[2, 3], &[0.0f32; 6], "test").unwrap();
    let out = Tensor::from_slice(dev, &[2], &[0.0f32; 2], "test").unwrap();
    assert!(sum_rows(&x, &out).is_err());
}

#[test]
fn global_norm_and_its_flag() {
    let dev = device();
    let mut rng = Rng::named(2, "norm");
    let values: Vec<Vec<f32>> = SIZES[..8].iter().map(|n| random(&mut rng, *n)).collect();
    let run = |values: &[Vec<f32>]| {
        let tensors: Vec<_> = values.iter().map(|v| Tensor::from_slice(dev, &[v.len()], v, "test").unwrap()).collect();
        let out = Guarded::new(dev, &[2]);
        sum_of_squares(&tensors.iter().collect::<Vec<_>>(), &out.tensor).unwrap();
        out.read("norm")
    };
    let want = exact(values.iter().flatten().map(|v| f64::from(*v).powi(2)));
    let got = run(&values);
    assert_close("norm", &got, &[want, Exact::of(0.0)]);
    assert!((0..3).all(|_| run(&values) == got), "it repeats bit for bit");
    assert_eq!(run(&[]), [0.0, 0.0]);

    for (bad, at) in [(f32::NAN, (0, 0)), (f32::INFINITY, (3, 128)), (f32::NEG_INFINITY, (6, 20_000)), (1e30, (2, 5))] {
        let mut values = values[1..].to_vec();
        let at = if at.0 == 0 { (0, 0) } else { (at.0 - 1, at.1) };
        let len = values[at.0].len();
        values[at.0][at.1.min(len - 1)] = bad;
        assert_eq!(run(&values)[1], 1.0, "{bad} (1e30 overflows when squared)");
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let x = Tensor::zeros(dev, &[4], "test").unwrap();
    let out = Tensor::zeros(dev, &[3], "test").unwrap();
    assert!(sum(&x, &out, 3, false).unwrap_err().to_string().contains("slot 3 of [3]"));
    assert!(sum(&x, &x, 0, false).is_err());
    assert!(sum_of_squares(&[&x], &out).unwrap_err().to_string().contains("expected [2]"));
}

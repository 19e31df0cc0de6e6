//! RMSNorm: `y = x·rstd·g`, its input and weight gradients.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::norm::{RmsNorm, rmsnorm_backward, rmsnorm_forward};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

/// (rows, cols): both widths of loads, fewer and more columns than threads, several parts of rows.
const SIZES: &[(usize, usize)] =
    &[(1, 1), (7, 8), (31, 65), (33, 31), (5, 129), (3, 576), (65, 64), (300, 12), (2, 1030)];

/// Rounds more than once on the way: the sum for rstd, its root, the quotient and the products.
fn loose(mut e: Exact, factor: f64) -> Exact {
    e.magnitude *= factor;
    e
}

#[test]
fn forward_and_backward() {
    let dev = device();
    let mut rng = Rng::named(1, "norm");
    for &(rows, cols) in SIZES {
        for unit_offset in [false, true] {
            let what = format!("{rows}x{cols} unit {unit_offset}");
            let norm = RmsNorm { eps: 1e-5, unit_offset };
            let (x, dy) = (random(&mut rng, rows * cols), random(&mut rng, rows * cols));
            let (w, dw0, dx0) = (random(&mut rng, cols), random(&mut rng, cols), random(&mut rng, rows * cols));
            let gain = |c: usize| f64::from(w[c]) + if unit_offset { 1.0 } else { 0.0 };

            let (mut y, mut rstd) = (Vec::new(), Vec::new());
            let (mut dx, mut dw) = (Vec::new(), vec![Exact::default(); cols]);
            for (c, d) in dw.iter_mut().enumerate() {
                d.add(dw0[c].into());
            }
            for t in 0..rows {
                let at = |v: &[f32], c: usize| f64::from(v[t * cols + c]);
                let mean = (0..cols).map(|c| at(&x, c).powi(2)).sum::<f64>() / cols as f64;
                let r = 1.0 / (mean + f64::from(norm.eps)).sqrt();
                rstd.push(loose(Exact::of(r), (cols as f64).sqrt()));
                let mut dot = Exact::default();
                (0..cols).for_each(|c| dot.add(at(&dy, c) * gain(c) * at(&x, c) * r / cols as f64));
                for (c, dw) in dw.iter_mut().enumerate() {
                    y.push(loose(Exact::of(at(&x, c) * r * gain(c)), (cols as f64).sqrt()));
                    let (direct, through) = (r * at(&dy, c) * gain(c), r * at(&x, c) * r);
                    let mut d = Exact { terms: cols, ..Exact::default() };
                    d.value = direct - through * dot.value;
                    d.magnitude = 2.0 * (direct.abs() + through.abs() * dot.magnitude);
                    dx.push(d);
                    dw.add(at(&dy, c) * at(&x, c) * r);
                }
            }
            dw.iter_mut().for_each(|d| *d = loose(*d, 2.0));

            let tensor = |v: &[f32]| Tensor::from_slice(dev, &[rows, cols], v, "test").unwrap();
            let (tx, tdy) = (tensor(&x), tensor(&dy));
            let tw = Tensor::from_slice(dev, &[cols], &w, "test").unwrap();
            let (gy, gr) = (Guarded::new(dev, &[rows, cols]), Guarded::new(dev, &[rows]));
            rmsnorm_forward(&tx, &tw, norm, To::Into(&gy.tensor), To::Into(&gr.tensor)).unwrap();
            assert_close(&format!("{what} y"), &gy.read("y"), &y);
            assert_close(&format!("{what} rstd"), &gr.read("rstd"), &rstd);

            let gdw = Guarded::holding(dev, &[cols], &dw0);
            let gdx = Guarded::new(dev, &[rows, cols]);
            let back = |to: To<'_>, dw| rmsnorm_backward(&tdy, &tx, &tw, &gr.tensor, norm, to, dw).unwrap();
            back(To::Into(&gdx.tensor), Some(&gdw.tensor));
            assert_close(&format!("{what} dx"), &gdx.read("dx"), &dx);
            assert_close(&format!("{what} dw"), &gdw.read("dw"), &dw);

            let gdx = Guarded::holding(dev, &[rows, cols], &dx0);
            back(To::AddTo(&gdx.tensor), None);
            for (d, d0) in dx.iter_mut().zip(&dx0) {
                d.add(f64::from(*d0));
            }
            assert_close(&format!("{what} dx +="), &gdx.read("dx"), &dx);
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let norm = RmsNorm { eps: 1e-5, unit_offset: false };
    let x = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let w = Tensor::zeros(dev, &[5], "test").unwrap();
    let error = |w: &Tensor, y: To<'_>| rmsnorm_forward(&x, w, norm, y, To::default()).unwrap_err().to_string();
    assert!(error(&w, To::default()).contains("w has shape [5], expected [4]"));
    let w = Tensor::zeros(dev, &[4], "test").unwrap();
    assert!(error(&w, To::Into(&x)).contains("same buffer"));
    let y = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    assert!(error(&w, To::AddTo(&y)).contains("only overwrite"));
    assert!(error(&w, To::Into(&w)).contains("the output has shape [4]"));
}

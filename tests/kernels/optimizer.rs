//! AdamW against torch's formula in f64, over several steps.

use crate::common::*;
use rugosa::kernels::optimizer::{AdamW, Clip, adamw_step};
use rugosa::kernels::reduce::sum_of_squares;
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

const ADAMW: AdamW =
    AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 1.0 };

/// torch.optim.AdamW, one element, in f64.
fn reference(a: &AdamW, factor: f64, grad: f64, [param, m, v]: [f64; 3]) -> [f64; 3] {
    let g = grad * f64::from(a.grad_scale) * factor;
    let param = param * (1.0 - a.lr * a.weight_decay);
    let m = m + (1.0 - a.beta1) * (g - m);
    let v = a.beta2 * v + (1.0 - a.beta2) * g * g;
    let (c1, c2) = (1.0 - a.beta1.powf(a.step as f64), 1.0 - a.beta2.powf(a.step as f64));
    [param - a.lr / c1 * m / (v.sqrt() / c2.sqrt() + a.eps), m, v]
}

#[test]
fn several_steps() {
    let dev = device();
    let mut rng = Rng::named(1, "adamw");
    for n in [1, 7, 31, 33, 64, 129, 1024, 2049] {
        for (max_norm, grad_scale) in [(None, 1.0), (Some(0.5f32), 1.0), (Some(1e9), -0.25), (Some(f32::INFINITY), 3.0)]
        {
            let what = format!("{n} {max_norm:?} {grad_scale}");
            let start = random(&mut rng, n);
            let mut state: Vec<[f64; 3]> = start.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
            let param = Guarded::holding(dev, &[n], &start);
            let (m, v) = (Guarded::holding(dev, &[n], &vec![0.0; n]), Guarded::holding(dev, &[n], &vec![0.0; n]));
            let norm = Guarded::new(dev, &[2]);
            let mut moved = 0.0;
            for step in 1..=4 {
                let mut grad = random(&mut rng, n);
                grad[0] = 0.0; // no movement but the decay, and no division by zero
                let length =
                    grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() * f64::from(grad_scale).abs();
                let tg = Tensor::from_slice(dev, &[n], &grad, "test").unwrap();
                sum_of_squares(&[&tg], &norm.tensor).unwrap();
                let a = AdamW { step, grad_scale, ..ADAMW };
                let clip = max_norm.map(|max_norm| Clip { norm: &norm.tensor, max_norm });
                adamw_step(&param.tensor, &tg, &m.tensor, &v.tensor, &a, clip).unwrap();
                let factor = max_norm.map_or(1.0, |max| (f64::from(max) / (length + 1e-6)).min(1.0));
                for (s, g) in state.iter_mut().zip(&grad) {
                    *s = reference(&a, factor, f64::from(*g), *s);
                }
                // a quotient near 1 times the rate, off by the roundings of both moments
                moved += 10.0 * a.lr;
            }
            // roundings gather over the steps; moments are sums of terms of mixed sign, of the gradients' size
            let want = |i: usize, extra: f64| -> Vec<Exact> {
                state.iter().map(|s| Exact { value: s[i], magnitude: 3.0 * s[i].abs() + extra, terms: 8 }).collect()
            };
            let size = f64::from(grad_scale.abs());
            assert_close(&format!("{what} m"), &m.read("m"), &want(1, size));
            assert_close(&format!("{what} v"), &v.read("v"), &want(2, 0.0));
            assert_close(&format!("{what} param"), &param.read("param"), &want(0, moved));
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let dev = device();
    let (start, grad) = ([1.0f32, -2.0, 3.0], [1.0, f32::NAN, 2.0]);
    let param = Guarded::holding(dev, &[3], &start);
    let (m, v) = (Guarded::holding(dev, &[3], &[0.1; 3]), Guarded::holding(dev, &[3], &[0.2; 3]));
    let grad = Tensor::from_slice(dev, &[3], &grad, "test").unwrap();
    let norm = Tensor::zeros(dev, &[2], "test").unwrap();
    sum_of_squares(&[&grad], &norm).unwrap();
    let clip = Clip { norm: &norm, max_norm: 1.0 };
    adamw_step(&param.tensor, &grad, &m.tensor, &v.tensor, &ADAMW, Some(clip)).unwrap();
    assert_eq!(param.read("param"), start);
    assert_eq!(m.read("m"), [0.1; 3]);
    assert_eq!(v.read("v"), [0.2; 3]);
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let t = |n: usize| Tensor::zeros(dev, &[n], "test").unwrap();
    let step = |p: &Tensor, g: &Tensor, m: &Tensor, a: &AdamW| adamw_step(p, g, m, &t(4), a, None);
    let p = t(4);
    assert!(step(&p, &t(4), &t(4), &ADAMW).is_ok());
    assert!(step(&p, &t(3), &t(4), &ADAMW).unwrap_err().to_string().contains("grad has shape [3]"));
    assert!(step(&p, &t(4), &t(3), &ADAMW).unwrap_err().to_string().contains("m has shape [3]"));
    assert!(step(&p, &p, &t(4), &ADAMW).unwrap_err().to_string().contains("same buffer"));
    assert!(step(&p, &t(4), &p, &ADAMW).is_err());
    let error = step(&p, &t(4), &t(4), &AdamW { step: 0, ..ADAMW }).unwrap_err();
    assert!(error.to_string().contains("from 1"), "{error}");
}

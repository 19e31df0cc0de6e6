//! Sums, scaling, gated activations.

use crate::common::*;
use rugosa::kernels::To;
use rugosa::kernels::elementwise::{Activation, add, add_into, glu_backward, glu_forward, scale};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

const SIZES: &[usize] = &[1, 7, 31, 33, 64, 65, 129, 1024, 2052, 4099];

fn exact(values: impl Iterator<Item = [f64; 2]>) -> Vec<Exact> {
    let sum = |terms: [f64; 2]| {
        let mut e = Exact::default();
        terms.iter().for_each(|t| e.add(*t));
        e
    };
    values.map(sum).collect()
}

#[test]
fn sums_and_scaling() {
    let dev = device();
    let mut rng = Rng::named(1, "elementwise");
    for &n in SIZES {
        let (a, b) = (random(&mut rng, n), random(&mut rng, n));
        let tensor = |v: &[f32]| Tensor::from_slice(dev, &[n], v, "test").unwrap();
        let pairs = || a.iter().zip(&b).map(|(a, b)| [f64::from(*a), f64::from(*b)]);

        let c = Guarded::new(dev, &[n]);
        add(&tensor(&a), &tensor(&b), To::Into(&c.tensor)).unwrap();
        assert_close(&format!("add {n}"), &c.read("c"), &exact(pairs()));

        let c = Guarded::holding(dev, &[n], &a);
        add_into(&c.tensor, &tensor(&b), -0.3).unwrap();
        let want = exact(pairs().map(|[a, b]| [a, f64::from(-0.3f32) * b]));
        assert_close(&format!("add_into {n}"), &c.read("a"), &want);

        let c = Guarded::holding(dev, &[n], &a);
        scale(&c.tensor, 1.7).unwrap();
        let want = exact(pairs().map(|[a, _]| [a * f64::from(1.7f32), 0.0]));
        assert_close(&format!("scale {n}"), &c.read("a"), &want);
    }
}

fn value_and_slope(activation: Activation, z: f64) -> (f64, f64) {
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-z).exp());
            (z * s, s * (1.0 + z * (1.0 - s)))
        }
        Activation::GeluTanh => {
            let k = (2.0 / std::f64::consts::PI).sqrt();
            let t = (k * (z + 0.044715 * z.powi(3))).tanh();
            let slope = 0.5 * (1.0 + t) + 0.5 * z * (1.0 - t * t) * k * (1.0 + 3.0 * 0.044715 * z * z);
            (0.5 * z * (1.0 + t), slope)
        }
    }
}

/// The exponential's argument is rounded, and WGSL allows it an error of 3 + 2|x| units in the last place; both reach
/// the result through σ or 1 − σ, relative to the larger of the result and its cancelling parts.
fn loose(z: f64, value: f64, parts: f64) -> Exact {
    let argument = 1.6 * (z.abs() + 0.044715 * z.abs().powi(3));
    Exact { value, magnitude: (value.abs() + parts) * (2.0 + argument.min(90.0)), terms: 1 }
}

#[test]
fn gated_activations() {
    let dev = device();
    let mut rng = Rng::named(2, "glu");
    for &n in SIZES {
        let mut gate: Vec<f32> = random(&mut rng, n).iter().map(|z| 3.0 * z).collect();
        // where naive forms overflow
        for (g, extreme) in gate.iter_mut().skip(1).zip([-1000.0, 1000.0, -90.0, 90.0, 0.0, -20.0]) {
            *g = extreme;
        }
        let (up, dh) = (random(&mut rng, n), random(&mut rng, n));
        let tensor = |v: &[f32]| Tensor::from_slice(dev, &[n], v, "test").unwrap();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let (mut h, mut dgate, mut dup) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..n {
                let (z, u, d) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dh[i]));
                let (value, slope) = value_and_slope(activation, z);
                // the kernel's σ stops at e⁻⁸⁰, so z·σ is off by |z|·10⁻³⁵; the reference's 1 + tanh cancels at 10⁻¹⁶
                let tail = z.abs() * 1e-27 + if activation == Activation::Silu { 0.0 } else { z.abs() * 1e-9 };
                h.push(loose(z, value * u, tail * u.abs()));
                dup.push(loose(z, value * d, tail * d.abs()));
                let parts = (value * (1.0 + z * z).min(slope.abs() + 3.0)).abs() + tail * (1.0 + z * z);
                dgate.push(loose(z, slope * u * d, parts * (u * d).abs()));
            }
            let what = format!("{activation:?} {n}");
            let gh = Guarded::new(dev, &[n]);
            glu_forward(activation, &tensor(&gate), &tensor(&up), To::Into(&gh.tensor)).unwrap();
            assert_close(&format!("{what} h"), &gh.read("h"), &h);
            let (gg, gu) = (Guarded::new(dev, &[n]), Guarded::new(dev, &[n]));
            let to = (To::Into(&gg.tensor), To::Into(&gu.tensor));
            glu_backward(activation, &tensor(&dh), &tensor(&gate), &tensor(&up), to.0, to.1).unwrap();
            assert_close(&format!("{what} dup"), &gu.read("dup"), &dup);
            assert_close(&format!("{what} dgate"), &gg.read("dgate"), &dgate);
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let dev = device();
    let a = Tensor::zeros(dev, &[3, 4], "test").unwrap();
    let b = Tensor::zeros(dev, &[4, 3], "test").unwrap();
    for error in [
        add(&a, &b, To::default()).unwrap_err(),
        add_into(&a, &b, 1.0).unwrap_err(),
        glu_forward(Activation::Silu, &a, &b, To::default()).unwrap_err(),
        glu_backward(Activation::Silu, &a, &a, &b, To::default(), To::default()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("[4, 3]"), "{error}");
    }
    assert!(add_into(&a, &a, 1.0).is_err());
}

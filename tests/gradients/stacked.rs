//! What takes the results of stacked linears apart.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{Activation, HeadNorms, Norm, Stored, gated_both, split};
use rugosa::io::config::RopeScaling;
use rugosa::kernels::heads::Heads;
use rugosa::kernels::rope::RopeTable;
use rugosa::rng::Rng;
use rugosa::tensor::{Element, Tensor};

/// `unit_offset`: heads of q and k are normed, by `1 + w` or by `w`.
pub fn check_split(shape: [usize; 4], unit_offset: Option<bool>, element: Element) {
    let [tokens, heads, kv_heads, head_dim] = shape;
    let rng = &mut Rng::named(1, "split");
    let positions: Vec<u32> = (0..tokens).map(|_| rng.below(10) as u32).collect();
    let inv_freq = RopeScaling::None.frequencies(100.0, head_dim, false);
    let table = RopeTable::new(device(), &inv_freq, 10, 1.0).unwrap();
    let at = Tensor::from_slice(device(), &[tokens], &positions, "test").unwrap();
    let widths = [heads, kv_heads, kv_heads].map(|h| h * head_dim);
    let all: usize = widths.iter().sum();
    let x = random(rng, tokens * all);
    let dys = widths.map(|w| random(rng, tokens * w));
    let (eps, weights) = (1e-3f32, [(); 2].map(|()| random(rng, head_dim)));
    // q, k and v one behind the other
    let forward = |inputs: &Inputs| -> Vec<f64> {
        let mut parts = vec![Vec::new(); 3];
        for (row, position) in inputs[0].chunks(all).zip(&positions) {
            let mut first = 0;
            for (i, w) in widths.into_iter().enumerate() {
                for head in row[first..first + w].chunks(head_dim) {
                    let mut head = head.to_vec();
                    if let (Some(unit), Some(w)) = (unit_offset, weights.get(i)) {
                        let squares = head.iter().map(|x| x * x).sum::<f64>();
                        let rms = (squares / head_dim as f64 + f64::from(eps)).sqrt();
                        let gain = |w: &f32| f64::from(*w) + f64::from(u8::from(unit));
                        head.iter_mut().zip(w).for_each(|(x, w)| *x *= gain(w) / rms);
                    }
                    let (a, b) = head.split_at(head_dim / 2);
                    let turn = |j: usize| if i < 2 { f64::from(*position) * inv_freq[j] } else { 0.0 };
                    let (cos, sin) = (|j| f64::cos(turn(j)), |j| f64::sin(turn(j)));
                    parts[i].extend((0..a.len()).map(|j| a[j] * cos(j) - b[j] * sin(j)));
                    parts[i].extend((0..a.len()).map(|j| b[j] * cos(j) + a[j] * sin(j)));
                }
                first += w;
            }
        }
        parts.concat()
    };
    let norms = unit_offset.map(|unit_offset| {
        let [q, k] =
            weights.each_ref().map(|w| Norm { weight: param(&[head_dim], w, false), eps, unit_offset, centred: false });
        HeadNorms::new(q, k).unwrap()
    });
    let terms = if norms.is_some() { 2 * head_dim } else { 2 };
    // all three used, and each one alone: nothing comes from the others then
    for used in [[true; 3], [true, false, false], [false, true, false], [false, false, true]] {
        let weights: Vec<f32> =
            dys.iter().zip(used).flat_map(|(dy, on)| dy.iter().map(move |d| if on { *d } else { 0.0 })).collect();
        let reference = differences(&vec![wide(&x)], &weights, forward);
        let mut tape = Tape::new(None);
        let x = input(&mut tape, &[tokens, all], &x, true);
        let layout = Heads { heads, kv_heads, table: &table, positions: &at };
        let parts = split(&mut tape, &x, norms.as_ref(), layout, Element::F32, element).unwrap();
        assert_eq!(x.value.is_shared(), norms.is_some(), "only what norms heads reads the rows again");
        let got: Vec<f32> = parts.iter().flat_map(|p| p.value.read::<f32>().unwrap()).collect();
        assert_near("Y", &got, &forward(&vec![wide(&x.value.read::<f32>().unwrap())]), terms, 16.0);
        for (i, part) in parts.iter().enumerate().filter(|(i, _)| used[*i]) {
            tape.seed(part, up(&[tokens, widths[i]], &dys[i])).unwrap();
        }
        tape.backward().unwrap();
        assert_near_of(element, &format!("dX {used:?}"), &arrived(&mut tape, &x), &reference[0], terms, 16.0);
    }
}

/// Weights of head norms that train get no gradient here: an error, not a run that leaves them as they are.
#[test]
fn head_norms_that_train_are_refused() {
    let norm = |train| Norm { weight: param(&[4], &[1.0; 4], train), eps: 1e-5, unit_offset: false, centred: false };
    let norms = HeadNorms::new(norm(false), norm(true)).unwrap();
    let table = RopeTable::new(device(), &[1.0, 0.1], 1, 1.0).unwrap();
    let at = Tensor::zeros(device(), &[1], "test").unwrap();
    let mut tape = Tape::new(None);
    let x = input(&mut tape, &[1, 12], &[1.0; 12], true);
    let layout = Heads { heads: 1, kv_heads: 1, table: &table, positions: &at };
    let error = split(&mut tape, &x, Some(&norms), layout, Element::F32, Element::F32).unwrap_err().to_string();
    assert!(error.contains("head norms"), "{error}");
}

pub fn check_both(rows: usize, cols: usize, activation: Activation, element: Element) {
    let rng = &mut Rng::named(2, "both");
    let (mut x, dy) = (random(rng, rows * 2 * cols), random(rng, rows * cols));
    if element == Element::F16 {
        // gate and up are rounded first, and a rounding has no slope
        x.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
    }
    let f = move |z: f64| match activation {
        Activation::Silu => z / (1.0 + (-z).exp()),
        Activation::GeluTanh => {
            0.5 * z * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044715 * z.powi(3))).tanh())
        }
        Activation::Relu => z.max(0.0),
    };
    let forward = |inputs: &Inputs| -> Vec<f64> {
        inputs[0].chunks(2 * cols).flat_map(|r| (0..cols).map(move |j| f(r[j]) * r[cols + j])).collect()
    };
    let inputs = vec![wide(&x)];
    let reference = differences(&inputs, &dy, forward);
    let mut tape = Tape::new(None);
    let x = input(&mut tape, &[rows, 2 * cols], &x, true);
    let y = gated_both(&mut tape, &x, activation, Stored { h: element, gradients: element }).unwrap();
    assert_near_of(element, "Y", &read(&y.value), &forward(&inputs), 1, 32.0);
    tape.seed(&y, up(&[rows, cols], &dy)).unwrap();
    tape.backward().unwrap();
    assert_near_of(element, "dX", &arrived(&mut tape, &x), &reference[0], 1, 32.0);
}

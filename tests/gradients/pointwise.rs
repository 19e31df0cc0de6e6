//! Norms, rotary positions, gates, residual connections and the embedding.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::ops::{
    Activation, EmbeddingTable, Norm, Stored, add, add_rmsnorm, bias_gradient, center, embed, gated, rmsnorm, rope,
    scale,
};
use rugosa::autograd::{Tape, Var};
use rugosa::io::config::RopeScaling;
use rugosa::kernels::rope::RopeTable;
use rugosa::rng::Rng;
use rugosa::tensor::{Element, Tensor, Weight};

pub fn check_norm(rows: usize, heads: usize, width: usize, unit_offset: bool, element: Element) {
    let rng = &mut Rng::named(1, "rmsnorm");
    let eps = 1e-3f32;
    let n = rows * heads * width;
    let (x, w, dy) = (random(rng, n), random(rng, width), random(rng, n));
    let forward = |at: &Inputs| -> Vec<f64> {
        let factor = |i: usize| at[1][i] + if unit_offset { 1.0 } else { 0.0 };
        let normed = |x: &[f64]| -> Vec<f64> {
            let square = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
            let rms = (square + f64::from(eps)).sqrt();
            x.iter().enumerate().map(|(i, x)| x / rms * factor(i)).collect()
        };
        at[0].chunks(width).flat_map(normed).collect()
    };
    let inputs = vec![wide(&x), wide(&w)];
    let (y, reference) = (forward(&inputs), differences(&inputs, &dy, forward));
    for (tracked, trains) in [(true, true), (true, false), (false, true), (false, false)] {
        let what = format!("[{rows}, {heads} x {width}] {element:?}, offset {unit_offset}, {tracked} {trains}");
        let norm = Norm { weight: param(&[width], &w, trains), eps, unit_offset, centred: false };
        let mut tape = Tape::new(None);
        let x = input(&mut tape, &[rows, heads * width], &x, tracked);
        let out = rmsnorm(&mut tape, &x, &norm, element).unwrap();
        assert_eq!(out.value.element(), element, "{what}");
        assert_near_of(element, &format!("Y {what}"), &read(&out.value), &y, width, 16.0);
        assert_eq!(out.is_tracked(), tracked || trains, "{what}");
        if !out.is_tracked() {
            continue;
        }
        tape.seed(&out, up(&[rows, heads * width], &dy)).unwrap();
        tape.backward().unwrap();
        if tracked {
            let dx = arrived(&mut tape, &x);
            assert_near(&format!("dX {what}"), &dx, &reference[0], 2 * width, 16.0);
        }
        if let Some(dw) = &norm.weight.grad {
            assert_near(&format!("dw {what}"), &added(dw), &reference[1], rows * heads, 16.0);
        }
    }
}

/// The sum has a use beside the norm, as the residual stream has; or none; or the norm has none.
pub fn check_add_norm(shape: [usize; 2], y_element: Element, db_element: Element) {
    let rng = &mut Rng::named(5, "add_rmsnorm");
    let eps = 1e-3f32;
    let [rows, width] = shape;
    let [a, b, dx, dy] = [(); 4].map(|()| random(rng, rows * width));
    let w = random(rng, width);
    let forward = |at: &Inputs| -> Vec<f64> {
        let sum: Vec<f64> = at[0].iter().zip(&at[1]).map(|(a, b)| a + b).collect();
        let normed = sum.chunks(width).flat_map(|x| {
            let rms = (x.iter().map(|x| x * x).sum::<f64>() / width as f64 + f64::from(eps)).sqrt();
            x.iter().enumerate().map(|(i, x)| x / rms * at[2][i]).collect::<Vec<_>>()
        });
        let normed: Vec<f64> = normed.collect();
        sum.into_iter().chain(normed).collect()
    };
    let inputs = vec![wide(&a), wide(&b), wide(&w)];
    let values = forward(&inputs);
    let (x, y) = values.split_at(rows * width);
    for (by_sum, by_norm) in [(true, true), (false, true), (true, false)] {
        let only = |used: bool, d: &[f32]| if used { d.to_vec() } else { vec![0.0; d.len()] };
        let reference = differences(&inputs, &[only(by_sum, &dx), only(by_norm, &dy)].concat(), forward);
        let what = format!("{shape:?} {y_element:?}, dB {db_element:?}, {by_sum} {by_norm}");
        let norm = Norm { weight: param(&[width], &w, true), eps, unit_offset: false, centred: false };
        let mut tape = Tape::new(None);
        let (a, b) = (input(&mut tape, &shape, &a, true), input(&mut tape, &shape, &b, true));
        let [sum, out] = add_rmsnorm(&mut tape, [&a, &b], &norm, y_element, db_element).unwrap();
        assert!(!a.value.is_shared() && !b.value.is_shared(), "{what}: the backward keeps the sum, not its parts");
        assert_near(&format!("X {what}"), &read(&sum.value), x, 2, 4.0);
        assert_near_of(y_element, &format!("Y {what}"), &read(&out.value), y, width, 16.0);
        let seed = up(&shape, &dx);
        if by_sum {
            tape.seed(&sum, seed.clone()).unwrap();
        }
        if by_norm {
            tape.seed(&out, up(&shape, &dy)).unwrap();
        }
        tape.backward().unwrap();
        let db = tape.take(&b).unwrap();
        assert_eq!(db.element(), db_element, "{what}");
        assert_near_of(db_element, &format!("dB {what}"), &read(&db), &reference[1], 2 * width, 16.0);
        assert_near(&format!("dA {what}"), &arrived(&mut tape, &a), &reference[0], 2 * width, 16.0);
        assert_near(&format!("dw {what}"), &added(norm.weight.grad.as_ref().unwrap()), &reference[2], rows, 16.0);
        assert_eq!(seed.read::<f32>().unwrap(), dx, "a gradient that others hold was changed in place");
    }
}

pub fn check_rope(heads: usize, head_dim: usize) {
    let rng = &mut Rng::named(2, "rope");
    let positions = [0u32, 1, 2, 0, 1, 63, 31];
    let (n, half) = (positions.len() * heads * head_dim, head_dim / 2);
    let frequencies = RopeScaling::None.frequencies(10_000.0, head_dim, false);
    let (x, dy) = (random(rng, n), random(rng, n));
    let forward = |at: &Inputs| -> Vec<f64> {
        let mut y = at[0].clone();
        for (i, head) in y.chunks_mut(head_dim).enumerate() {
            for j in 0..half {
                let (sin, cos) = (f64::from(positions[i / heads]) * frequencies[j]).sin_cos();
                let (a, b) = (head[j], head[j + half]);
                (head[j], head[j + half]) = (a * cos - b * sin, b * cos + a * sin);
            }
        }
        y
    };
    let inputs = vec![wide(&x)];
    let (y, reference) = (forward(&inputs), differences(&inputs, &dy, forward));
    let table = RopeTable::new(device(), &frequencies, 64, 1.0).unwrap();
    let at = Tensor::from_slice(device(), &[positions.len()], &positions, "test").unwrap();
    let mut tape = Tape::new(None);
    let shape = [positions.len(), heads * head_dim];
    let x = input(&mut tape, &shape, &x, true);
    let out = rope(&mut tape, &x, &table, &at, Element::F32).unwrap();
    assert_near("Y", &out.value.read().unwrap(), &y, 2, 8.0);
    tape.seed(&out, up(&shape, &dy)).unwrap();
    tape.backward().unwrap();
    assert_near("dX", &arrived(&mut tape, &x), &reference[0], 2, 8.0);
}

pub fn check_gate(shape: [usize; 2], activation: Activation, element: Element) {
    let rng = &mut Rng::named(3, "gates");
    let n = shape[0] * shape[1];
    // far out too, where sigmoids saturate
    let gate: Vec<f32> = random(rng, n).iter().map(|g| 3.0 * g).collect();
    let (upward, dh) = (random(rng, n), random(rng, n));
    let forward = |at: &Inputs| -> Vec<f64> {
        let act = |z: f64| match activation {
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::GeluTanh => {
                0.5 * z * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z.powi(3))).tanh())
            }
            Activation::Relu => z.max(0.0),
        };
        at[0].iter().zip(&at[1]).map(|(g, u)| act(*g) * u).collect()
    };
    let inputs = vec![wide(&gate), wide(&upward)];
    let (h, reference) = (forward(&inputs), differences(&inputs, &dh, forward));
    for (g, u) in [(true, true), (true, false), (false, true), (false, false)] {
        let what = format!("{activation:?} {shape:?} {element:?} {g} {u}");
        let stored = Stored { h: element, gradients: element };
        let mut tape = Tape::new(None);
        let gate = input(&mut tape, &shape, &gate, g);
        let upward = input(&mut tape, &shape, &upward, u);
        let out = gated(&mut tape, &gate, &upward, activation, stored).unwrap();
        // exp(-a) is good to 3 + 2|a| ulp, with |a| up to about 20 where it counts
        assert_near_of(element, &format!("h {what}"), &read(&out.value), &h, 1, 48.0);
        assert_eq!(out.is_tracked(), g || u, "{what}");
        if out.is_tracked() {
            tape.seed(&out, up(&shape, &dh)).unwrap();
            tape.backward().unwrap();
        }
        for (name, var, want, tracked) in [("gate", &gate, &reference[0], g), ("up", &upward, &reference[1], u)] {
            let found = tape.take(var).map(|t| read(&t));
            assert_eq!(found.is_some(), tracked, "d {name} {what}");
            if let Some(d) = found {
                assert_near_of(element, &format!("d {name} {what}"), &d, want, 1, 48.0);
            }
        }
    }
}

pub fn check_center(shape: [usize; 2]) {
    let rng = &mut Rng::named(5, "center");
    let [x, dy] = [(); 2].map(|()| random(rng, shape[0] * shape[1]));
    let forward = |at: &Inputs| -> Vec<f64> {
        let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len() as f64;
        at[0].chunks(shape[1]).flat_map(|row| row.iter().map(move |x| x - mean(row))).collect()
    };
    check_one(shape, (&x, &dy), forward, |tape, x| center(tape, &x).unwrap(), shape[1]);
}

pub fn check_scale(shape: [usize; 2], factor: f32) {
    let rng = &mut Rng::named(6, "scale");
    let [x, dy] = [(); 2].map(|()| random(rng, shape[0] * shape[1]));
    let forward = |at: &Inputs| -> Vec<f64> { at[0].iter().map(|x| x * f64::from(factor)).collect() };
    check_one(shape, (&x, &dy), forward, |tape, x| scale(tape, x, factor).unwrap(), 1);
}

/// An operation on one input, whose results are sums of so many terms.
fn check_one(
    shape: [usize; 2],
    (x, dy): (&[f32], &[f32]),
    forward: impl Fn(&Inputs) -> Vec<f64>,
    op: impl Fn(&mut Tape, Var) -> Var,
    terms: usize,
) {
    let inputs = vec![wide(x)];
    let (y, reference) = (forward(&inputs), differences(&inputs, dy, &forward));
    let mut tape = Tape::new(None);
    let own = input(&mut tape, &shape, x, true);
    let out = op(&mut tape, own.clone());
    assert_near("Y", &out.value.read().unwrap(), &y, terms, 16.0);
    assert_eq!(own.value.read::<f32>().unwrap(), x, "an input that others hold was changed in place");
    let seed = up(&shape, dy);
    tape.seed(&out, seed.clone()).unwrap();
    tape.backward().unwrap();
    assert_near("dX", &arrived(&mut tape, &own), &reference[0], terms, 16.0);
    assert_eq!(seed.read::<f32>().unwrap(), dy, "a gradient that others hold was changed in place");
}

/// x + x·(…) + x: one activation that several operations use, with gradients that arrive as one shared tensor.
pub fn check_residual(shape: [usize; 2]) {
    let rng = &mut Rng::named(4, "add");
    let [a, b, dy] = [(); 3].map(|()| random(rng, shape[0] * shape[1]));
    let forward = |at: &Inputs| -> Vec<f64> {
        let silu = |z: f64| z / (1.0 + (-z).exp());
        let both = |(a, b): (&f64, &f64)| {
            let sum = a + b;
            (sum + silu(sum) * a) + sum
        };
        at[0].iter().zip(&at[1]).map(both).collect()
    };
    let inputs = vec![wide(&a), wide(&b)];
    let (y, reference) = (forward(&inputs), differences(&inputs, &dy, forward));
    let mut tape = Tape::new(None);
    let (a, b) = (input(&mut tape, &shape, &a, true), input(&mut tape, &shape, &b, true));
    let sum = add(&mut tape, &a, &b).unwrap();
    let middle = gated(&mut tape, &sum, &a, Activation::Silu, Stored::default()).unwrap();
    let out = add(&mut tape, &sum, &middle).unwrap();
    let out = add(&mut tape, &out, &sum).unwrap();
    assert_near("Y", &out.value.read().unwrap(), &y, 3, 32.0);
    let seed = up(&shape, &dy);
    tape.seed(&out, seed.clone()).unwrap();
    tape.backward().unwrap();
    assert_near("dA", &arrived(&mut tape, &a), &reference[0], 5, 32.0);
    assert_near("dB", &arrived(&mut tape, &b), &reference[1], 4, 32.0);
    assert_eq!(seed.read::<f32>().unwrap(), dy, "a gradient that others hold was changed in place");
}

#[test]
fn an_activation_with_itself() {
    let (x, dy) = ([1.0f32, -2.0, 3.0], [0.5f32, 4.0, -8.0]);
    let mut tape = Tape::new(None);
    let x = input(&mut tape, &[1, 3], &x, true);
    let out = add(&mut tape, &x, &x).unwrap();
    tape.seed(&out, up(&[1, 3], &dy)).unwrap();
    tape.backward().unwrap();
    assert_eq!(arrived(&mut tape, &x), [1.0, 8.0, -16.0]);
}

pub fn check_embedding(vocab: usize, hidden: usize, scale: f32) {
    let rng = &mut Rng::named(5, "embed");
    let table = random(rng, vocab * hidden);
    // rows that come often, once, and never
    let last = vocab as u32 - 1;
    let tokens: Vec<u32> = [vec![5; 40], vec![0, last, 7, 5, 0, last - 1]].concat();
    let dy = random(rng, tokens.len() * hidden);
    let forward = |at: &Inputs| -> Vec<f64> {
        let row = |t: &u32| at[0][*t as usize * hidden..][..hidden].iter().map(|v| v * f64::from(scale));
        tokens.iter().flat_map(row).collect()
    };
    let inputs = vec![wide(&table)];
    let (y, reference) = (forward(&inputs), differences(&inputs, &dy, forward));
    let ids = Tensor::from_slice(device(), &[tokens.len()], &tokens, "test").unwrap();
    for (cuts, trains) in [(vec![0], true), (vec![0], false), (vec![0, 7, vocab - 1], false)] {
        let ends = cuts.iter().skip(1).copied().chain([vocab]);
        let shards = cuts.iter().copied().zip(ends).map(|(first, end): (usize, usize)| {
            let part = up(&[end - first, hidden], &table[first * hidden..end * hidden]);
            (first, Weight::from_tensor(&part).unwrap())
        });
        let grad = trains.then(|| started(&[vocab, hidden]));
        let table = EmbeddingTable { shards: shards.collect(), grad: grad.clone(), scale };
        let mut tape = Tape::new(None);
        let out = embed(&mut tape, &table, &ids).unwrap();
        assert_near("Y", &out.value.read().unwrap(), &y, 1, 2.0);
        assert_eq!(out.is_tracked(), trains);
        let Some(grad) = grad else { continue };
        tape.seed(&out, up(&[tokens.len(), hidden], &dy)).unwrap();
        tape.backward().unwrap();
        assert_near("d table", &added(&grad), &reference[0], 41, 4.0);
    }
}

/// Σ of the rows; Y is X as it is.
pub fn check_bias(shape: [usize; 2]) {
    let rng = &mut Rng::named(6, "bias");
    let [rows, cols] = shape;
    let (x, bias, dy) = (random(rng, rows * cols), random(rng, cols), random(rng, rows * cols));
    let forward = |at: &Inputs| at[0].iter().enumerate().map(|(i, x)| x + at[1][i % cols]).collect();
    let reference = differences(&vec![wide(&x), wide(&bias)], &dy, forward);
    for tracked in [true, false] {
        let grad = started(&[cols]);
        let mut tape = Tape::new(None);
        let input = input(&mut tape, &shape, &x, tracked);
        let y = bias_gradient(&mut tape, &input, &grad);
        assert_eq!(y.value.read::<f32>().unwrap(), x);
        tape.seed(&y, up(&shape, &dy)).unwrap();
        tape.backward().unwrap();
        assert_near("d bias", &added(&grad), &reference[1], rows, 4.0);
        assert_eq!(tape.take(&input).map(|t| t.read().unwrap()), tracked.then(|| dy.clone()));
    }
}

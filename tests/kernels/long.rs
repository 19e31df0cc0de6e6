//! Attention over sequences so long that a software renderer would end a kernel's loops: a few outputs, for all would
//! take the reference too long.

use crate::common::*;
use rugosa::device::DeviceClass;
use rugosa::kernels::To;
use rugosa::kernels::attention::{AttentionShape, Ranges, Saved, attention_backward, attention_forward};
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

const HEADS: usize = 4;
/// Wider than what is done in registers, where a loop of 65,535 rounds goes over half a million columns.
const HEAD_DIM: usize = 256;
const N: usize = 1536;

#[test]
fn every_query_counts_for_the_first_key() {
    let (dev, rng) = (device(), &mut Rng::named(1, "long"));
    let shape =
        AttentionShape { heads: HEADS, kv_heads: 1, head_dim: HEAD_DIM, scale: 0.03, softcap: None, span: None };
    let width = HEADS * HEAD_DIM;
    let index = |v: Vec<u32>| Tensor::from_slice(dev, &[N], &v, "test").unwrap();
    let (zeros, own) = (index(vec![0; N]), index((0..N as u32).collect()));
    let (next, all) = (index((1..=N as u32).collect()), index(vec![N as u32; N]));
    let (q, k, v) = (random(rng, N * width), random(rng, N * HEAD_DIM), random(rng, N * HEAD_DIM));
    let d_out = random(rng, N * width);
    let up = |data: &[f32]| Tensor::from_slice(dev, &[N, data.len() / N], data, "test").unwrap();
    let (tq, tk, tv) = (up(&q), up(&k), up(&v));
    let keys = Ranges { start: &zeros, end: &next };
    let (out, lse) = attention_forward(&tq, &tk, &tv, keys, &shape, To::default(), To::default()).unwrap();
    let saved = Saved { q: &tq, k: &tk, v: &tv, out: &out, lse: &lse };
    let queries = Ranges { start: &own, end: &all };
    let got = attention_backward(saved, &up(&d_out), keys, queries, &shape, None).unwrap();

    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let head = |all: &'_ [f32], t: usize, h: usize| all[t * width + h * HEAD_DIM..][..HEAD_DIM].to_vec();
    let row = |all: &[f32], key: usize| all[key * HEAD_DIM..][..HEAD_DIM].to_vec();
    let softmax = |t: usize, h: usize| -> Vec<f64> {
        let q = head(&q, t, h);
        let e: Vec<f64> = (0..=t).map(|key| (f64::from(shape.scale) * dot(&q, &row(&k, key))).exp()).collect();
        let total: f64 = e.iter().sum();
        e.iter().map(|e| e / total).collect()
    };
    // dV and dK of key 0, which all queries see
    let (mut dv, mut dk) = (vec![Exact::default(); HEAD_DIM], vec![Exact::default(); HEAD_DIM]);
    // dQ of the last query, which sees all keys
    let mut dq = vec![Exact::default(); HEAD_DIM];
    for t in 0..N {
        for h in 0..HEADS {
            let (p, d) = (softmax(t, h), head(&d_out, t, h));
            let dp: Vec<f64> = (0..=t).map(|key| dot(&d, &row(&v, key))).collect();
            let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
            let ds = |key: usize| f64::from(shape.scale) * p[key] * (dp[key] - delta);
            (0..HEAD_DIM).for_each(|e| dv[e].add(p[0] * f64::from(d[e])));
            let q = head(&q, t, h);
            (0..HEAD_DIM).for_each(|e| dk[e].add(ds(0) * f64::from(q[e])));
            if (t, h) == (N - 1, 0) {
                (0..=t)
                    .for_each(|key| (0..HEAD_DIM).for_each(|e| dq[e].add(ds(key) * f64::from(k[key * HEAD_DIM + e]))));
            }
        }
    }
    let first = |t: &Tensor, at: usize| t.read::<f32>().unwrap()[at..][..HEAD_DIM].to_vec();
    assert_close("dV of the first key", &first(&got.dv, 0), &dv);
    assert_close("dK of the first key", &first(&got.dk, 0), &dk);
    assert_close("dQ of the last query", &first(&got.dq, (N - 1) * width), &dq);
}

#[test]
fn what_a_software_renderer_cannot_do_is_refused() {
    let dev = device();
    let n = 20_000;
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim: HEAD_DIM, scale: 1.0, softcap: None, span: None };
    let x = Tensor::zeros(dev, &[n, HEAD_DIM], "test").unwrap();
    let none = Tensor::zeros(dev, &[n], "test").unwrap();
    let result =
        attention_forward(&x, &x, &x, Ranges { start: &none, end: &none }, &shape, To::default(), To::default());
    if dev.caps().class == DeviceClass::Software {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("20000 tokens at once") && error.contains("⟨seq_len⟩"), "{error}");
    } else {
        assert!(result.is_ok());
    }
}

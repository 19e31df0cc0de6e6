//! Attention over packed segments: grouped heads, soft cap, window.

use super::difference::*;
use crate::common::random;
use rugosa::autograd::Tape;
use rugosa::autograd::ops::{AttentionInputs, attention};
use rugosa::cases::attention_reference::Case;
use rugosa::kernels::attention::AttentionShape;
use rugosa::rng::Rng;
use rugosa::tensor::{Element, Tensor};

/// Out in f64; `start[t] ..= t` are the keys that token t sees.
fn forward(at: &Inputs, s: &AttentionShape, start: &[u32]) -> Vec<f64> {
    let [q, k, v] = at.as_slice() else { panic!("q, k and v") };
    let (d, group) = (s.head_dim, s.heads / s.kv_heads);
    let (q_width, kv_width) = (s.heads * d, s.kv_heads * d);
    let mut out = vec![0.0; q.len()];
    for (t, &start) in start.iter().enumerate() {
        for h in 0..s.heads {
            let q = &q[t * q_width + h * d..][..d];
            let head = |all: &[f64], key: usize| all[key * kv_width + h / group * d..][..d].to_vec();
            let score = |key: usize| {
                let dot: f64 = q.iter().zip(head(k, key)).map(|(q, k)| q * k).sum();
                let x = f64::from(s.scale) * dot;
                s.softcap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh())
            };
            let seen = start as usize..t + 1;
            let weights: Vec<f64> = seen.clone().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (key, w) in seen.zip(&weights) {
                let v = head(v, key);
                out[t * q_width + h * d..][..d].iter_mut().zip(v).for_each(|(o, v)| *o += w / total * v);
            }
        }
    }
    out
}

/// Gradients of queries, keys and values.
pub fn check(case: Case) {
    let rng = &mut Rng::named(1, "attention");
    let Case { segments, heads, kv_heads, head_dim, window, softcap } = case;
    let n: usize = segments.iter().sum();
    let shape = AttentionShape { heads, kv_heads, head_dim, scale: 0.35, softcap, span: None };
    let (mut start, mut end) = (Vec::new(), Vec::new());
    for &length in segments {
        let first = start.len();
        for t in first..first + length {
            start.push(first.max((t + 1).saturating_sub(window)) as u32);
            end.push((first + length).min(t.saturating_add(window)) as u32);
        }
    }
    let index = |v: Vec<u32>| Tensor::from_slice(device(), &[n], &v, "test").unwrap();
    let inputs_on_device = AttentionInputs {
        kv_start: index(start.clone()),
        kv_end: index((1..=n as u32).collect()),
        q_start: index((0..n as u32).collect()),
        q_end: index(end),
        span: window.min(segments.iter().copied().max().unwrap_or(0)),
    };
    let (q_shape, kv_shape) = ([n, heads * head_dim], [n, kv_heads * head_dim]);
    let (q, k, v) = (random(rng, n * q_shape[1]), random(rng, n * kv_shape[1]), random(rng, n * kv_shape[1]));
    let dy = random(rng, q.len());
    let inputs = vec![wide(&q), wide(&k), wide(&v)];
    let run = |at: &Inputs| forward(at, &shape, &start);
    let (out, reference) = (run(&inputs), differences(&inputs, &dy, run));
    let ways = [[true, true, true], [true, false, false], [false, false, true], [false; 3]];
    // matrix units make outputs of f16 too
    let elements = [Element::F32, Element::F16].into_iter().take(if is_on_units() { 2 } else { 1 });
    for (element, tracked) in elements.flat_map(|e| ways.map(|tracked| (e, tracked))) {
        let what = format!("{case:?} {element:?} {tracked:?}");
        let mut tape = Tape::new(None);
        let vars = [
            input(&mut tape, &q_shape, &q, tracked[0]),
            input(&mut tape, &kv_shape, &k, tracked[1]),
            input(&mut tape, &kv_shape, &v, tracked[2]),
        ];
        let y = attention(&mut tape, &vars[0], &vars[1], &vars[2], &inputs_on_device, shape, element).unwrap();
        // scores reach about 5: exp is good to 3 + 2·5 ulp, twice in a softmax; its backward subtracts
        assert_near_of(element, &format!("out {what}"), &read(&y.value), &out, n + head_dim, 48.0);
        assert_eq!(y.is_tracked(), tracked.contains(&true), "{what}");
        if y.is_tracked() {
            tape.seed(&y, up(&q_shape, &dy)).unwrap();
            tape.backward().unwrap();
        }
        for ((var, want), (name, tracked)) in vars.iter().zip(&reference).zip(["dQ", "dK", "dV"].iter().zip(tracked)) {
            let found = tape.take(var).map(|t| t.read().unwrap());
            assert_eq!(found.is_some(), tracked, "{name} {what}");
            if let Some(d) = found {
                assert_near(&format!("{name} {what}"), &d, want, n * heads + head_dim, 48.0);
            }
        }
    }
}

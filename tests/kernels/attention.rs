//! Attention forward, backward and decode against f64, on packed sequences, windows, and every kind of head.

mod reference;

use crate::common::*;
use reference::{Case, Data, Near, assert_near};
use rugosa::kernels::attention::*;
use rugosa::rng::Rng;
use rugosa::tensor::Tensor;

const PLAIN: Case = Case { segments: &[33], heads: 2, kv_heads: 2, head_dim: 16, window: usize::MAX, softcap: None };

/// Every head size that takes another way through the shader, ratios of heads, lengths on and beside the tiles' edges,
/// several segments, windows, softcap.
const CASES: &[Case] = &[
    PLAIN,
    Case { segments: &[1], heads: 3, kv_heads: 1, head_dim: 64, ..PLAIN },
    Case { segments: &[7], heads: 4, kv_heads: 4, head_dim: 8, ..PLAIN },
    Case { segments: &[31], heads: 4, kv_heads: 2, head_dim: 24, ..PLAIN },
    Case { segments: &[65], heads: 4, kv_heads: 1, head_dim: 80, ..PLAIN },
    Case { segments: &[129], heads: 3, kv_heads: 1, head_dim: 64, ..PLAIN },
    Case { segments: &[64], heads: 2, kv_heads: 1, head_dim: 96, ..PLAIN },
    Case { segments: &[40], heads: 2, kv_heads: 2, head_dim: 128, ..PLAIN },
    Case { segments: &[35], heads: 2, kv_heads: 1, head_dim: 256, ..PLAIN },
    Case { segments: &[33], heads: 8, kv_heads: 1, head_dim: 16, ..PLAIN },
    Case { segments: &[5, 1, 37, 19, 3], heads: 6, kv_heads: 2, head_dim: 64, ..PLAIN },
    Case { segments: &[130, 31], window: 9, head_dim: 24, ..PLAIN },
    Case { segments: &[45, 20], window: 32, heads: 4, kv_heads: 2, softcap: Some(5.0), ..PLAIN },
    Case { segments: &[33], head_dim: 256, heads: 2, kv_heads: 1, softcap: Some(1.5), ..PLAIN },
];

fn rounded(values: &[Near]) -> Vec<f32> {
    values.iter().map(|v| v.value as f32).collect()
}

fn check_forward(data: &Data) {
    let up = data.upload();
    let (out, lse) = (Guarded::new(device(), up.q.shape()), Guarded::new(device(), &[data.tokens, data.case.heads]));
    attention_forward(&up.q, &up.k, &up.v, up.keys(), &data.shape(), Some((&out.tensor, &lse.tensor))).unwrap();
    let (want_out, want_lse) = data.forward();
    assert_near(&format!("out of {}", data.what()), &out.read("out"), &want_out);
    assert_near(&format!("lse of {}", data.what()), &lse.read("lse"), &want_lse);
}

fn check_backward(data: &Data) {
    let up = data.upload();
    let (out, lse) = data.forward();
    let (out, lse) = (rounded(&out), rounded(&lse));
    let t_out = Tensor::from_slice(device(), up.q.shape(), &out, "test").unwrap();
    let t_lse = Tensor::from_slice(device(), &[data.tokens, data.case.heads], &lse, "test").unwrap();
    let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &t_out, lse: &t_lse };
    let guards = [&up.q, &up.k, &up.v].map(|t| Guarded::new(device(), t.shape()));
    let [dq, dk, dv] = guards.each_ref().map(|g| g.tensor.clone());
    let to = Gradients { dq, dk, dv };
    attention_backward(saved, &up.d_out, up.keys(), up.queries(), &data.shape(), Some(&to)).unwrap();
    for ((guard, want), name) in guards.iter().zip(data.backward(&out, &lse)).zip(["dq", "dk", "dv"]) {
        assert_near(&format!("{name} of {}", data.what()), &guard.read(name), &want);
    }
}

#[test]
fn forward_against_f64() {
    for (i, &case) in CASES.iter().enumerate() {
        check_forward(&Data::new(case, i as u64));
    }
}

#[test]
fn backward_against_f64() {
    for (i, &case) in CASES.iter().enumerate() {
        check_backward(&Data::new(case, i as u64));
    }
}

/// Scores far apart and far from zero: what a softmax without its running maximum gets wrong.
#[test]
fn large_scores_do_not_overflow() {
    let mut data = Data::new(Case { segments: &[70], head_dim: 64, ..PLAIN }, 90);
    data.q.iter_mut().for_each(|q| *q *= 30.0);
    check_forward(&data);
    check_backward(&data);
}

/// Some queries see nothing, ranges end past the keys, and some keys are seen by nobody.
#[test]
fn empty_ranges_give_zero_and_no_nan() {
    let mut data = Data::new(Case { segments: &[41], heads: 4, ..PLAIN }, 91);
    for t in [0, 5, 6, 17, 40] {
        (data.keys.0[t], data.keys.1[t]) = (7, if t == 5 { 3 } else { 7 });
    }
    data.keys.1[39] = 1000;
    for t in 0..41 {
        data.keys.0[t] = data.keys.0[t].max(3);
        data.queries.0[t] = 0;
        data.queries.1[t] = if t < 3 { 0 } else { 1000 };
    }
    check_forward(&data);
    check_backward(&data);

    // a whole block that sees nothing
    data.keys.0.fill(9);
    data.keys.1.fill(9);
    check_forward(&data);
    check_backward(&data);
}

/// A block of queries over many blocks of keys, the other way round, and keys of other sequences in between.
#[test]
fn fewer_queries_than_keys() {
    let mut data = Data::new(Case { segments: &[150], heads: 6, ..PLAIN }, 92);
    data.tokens = 3;
    let wide = 3 * data.case.heads * data.case.head_dim;
    data.q.truncate(wide);
    data.d_out.truncate(wide);
    data.keys = (vec![0, 100, 40], vec![150, 101, 99]);
    data.queries = (vec![0; 150], vec![3; 150]);
    check_forward(&data);
    check_backward(&data);
}

#[test]
fn attention_repeats_bit_for_bit() {
    let data = Data::new(Case { segments: &[70, 31], heads: 6, kv_heads: 2, head_dim: 24, ..PLAIN }, 93);
    let up = data.upload();
    let run = || {
        let (out, lse) = attention_forward(&up.q, &up.k, &up.v, up.keys(), &data.shape(), None).unwrap();
        let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &out, lse: &lse };
        let g = attention_backward(saved, &up.d_out, up.keys(), up.queries(), &data.shape(), None).unwrap();
        [out, lse, g.dq, g.dk, g.dv].map(|t| t.read::<u32>().unwrap())
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

/// Each row has a range of its own in the cache; what lies outside of all ranges is not read.
#[test]
fn decode_against_f64() {
    let ranges: &[(u32, u32)] = &[(0, 1), (200, 265), (1, 130), (131, 138), (138, 138), (263, 900)];
    for (i, &case) in CASES.iter().enumerate() {
        let case = Case { segments: &[265], ..case };
        let mut data = Data::new(case, 200 + i as u64);
        data.tokens = ranges.len();
        data.q.truncate(ranges.len() * case.heads * case.head_dim);
        data.d_out.truncate(data.q.len());
        data.keys = (ranges.iter().map(|r| r.0).collect(), ranges.iter().map(|r| r.1).collect());
        let (want, _) = data.forward();
        let width = case.kv_heads * case.head_dim;
        let up = data.upload();
        for unseen in [&mut data.k, &mut data.v] {
            unseen[140 * width..200 * width].fill(f32::NAN);
        }
        up.k.write(&data.k).unwrap();
        up.v.write(&data.v).unwrap();
        let run = || {
            let out = Guarded::new(device(), up.q.shape());
            attention_decode(&up.q, &up.k, &up.v, up.keys(), &data.shape(), Some(&out.tensor)).unwrap();
            out.read("decode")
        };
        let first = run();
        assert_near(&format!("decode of {}", data.what()), &first, &want);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&run()), bits(&first));
    }
}

/// The last token's output is the same whether it comes from the whole sequence or from a cache.
#[test]
fn store_then_decode_equals_forward() {
    let data = Data::new(Case { segments: &[43], heads: 6, kv_heads: 2, head_dim: 64, ..PLAIN }, 94);
    let up = data.upload();
    // the cache holds the sequence from slot 5 on
    let slots: Vec<u32> = (5..48).collect();
    let slots = Tensor::from_slice(device(), &[43], &slots, "test").unwrap();
    let caches = [&up.k, &up.v].map(|src| {
        let cache = Tensor::zeros(device(), &[50, 128], "test").unwrap();
        kv_store(src, &slots, &cache).unwrap();
        cache
    });
    let last = Tensor::from_slice(device(), &[1, 384], &data.q[42 * 384..], "test").unwrap();
    let u = |x: u32| Tensor::from_slice(device(), &[1], &[x], "test").unwrap();
    let (start, end) = (u(5), u(48));
    let keys = Ranges { start: &start, end: &end };
    let out = attention_decode(&last, &caches[0], &caches[1], keys, &data.shape(), None).unwrap();
    assert_near("last token", &out.read::<f32>().unwrap(), &data.forward().0[42 * 384..]);
}

#[test]
fn store_writes_its_slots_and_no_other() {
    let mut rng = Rng::named(1, "store");
    for (rows, width, cache_rows) in [(1, 8, 1), (7, 24, 31), (33, 136, 65)] {
        let (src, old) = (random(&mut rng, rows * width), random(&mut rng, cache_rows * width));
        // all but the first row's slots are in the cache
        let mut slots: Vec<u32> = (0..cache_rows as u32).collect();
        rng.shuffle(&mut slots);
        slots.truncate(rows);
        if rows > 1 {
            slots[0] = cache_rows as u32;
        }
        let mut want = old.clone();
        for (r, &slot) in slots.iter().enumerate().filter(|(_, s)| (**s as usize) < cache_rows) {
            want[slot as usize * width..][..width].copy_from_slice(&src[r * width..][..width]);
        }
        let cache = Guarded::holding(device(), &[cache_rows, width], &old);
        let src = Tensor::from_slice(device(), &[rows, width], &src, "test").unwrap();
        let slots = Tensor::from_slice(device(), &[rows], &slots, "test").unwrap();
        kv_store(&src, &slots, &cache.tensor).unwrap();
        assert_eq!(cache.read("cache"), want);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let data = Data::new(PLAIN, 95);
    let up = data.upload();
    let run = |shape: AttentionShape| attention_forward(&up.q, &up.k, &up.v, up.keys(), &shape, None).map(|_| ());
    let refused = |shape: AttentionShape, words: &[&str]| {
        let message = run(shape).unwrap_err().to_string();
        assert!(words.iter().all(|w| message.contains(w)) && !message.contains('\n'), "{message}");
    };
    let good = data.shape();
    run(good).unwrap();
    refused(AttentionShape { head_dim: 12, ..good }, &["head_dim", "12"]);
    refused(AttentionShape { head_dim: 264, ..good }, &["head_dim", "264"]);
    refused(AttentionShape { heads: 3, ..good }, &["num_key_value_heads", "2", "3"]);
    refused(AttentionShape { kv_heads: 0, ..good }, &["num_key_value_heads"]);
    refused(AttentionShape { softcap: Some(0.0), ..good }, &["softcap"]);
    refused(AttentionShape { softcap: Some(f32::NAN), ..good }, &["softcap"]);
    refused(AttentionShape { heads: 4, ..good }, &["q has shape", "[33, 64]"]);
    refused(AttentionShape { kv_heads: 1, ..good }, &["k has shape", "[33, 16]"]);

    let short = Tensor::zeros(device(), &[32], "test").unwrap();
    let keys = Ranges { end: &short, ..up.keys() };
    let message = attention_forward(&up.q, &up.k, &up.v, keys, &good, None).unwrap_err().to_string();
    assert!(message.contains("keys.end") && message.contains("[33]"), "{message}");
    let message = attention_decode(&up.q, &up.k, &up.v, keys, &good, None).unwrap_err().to_string();
    assert!(message.contains("keys.end"), "{message}");
    let message =
        attention_forward(&up.q, &up.k, &up.v, up.keys(), &good, Some((&up.k, &short))).unwrap_err().to_string();
    assert!(message.contains("lse has shape"), "{message}");

    let (out, lse) = attention_forward(&up.q, &up.k, &up.v, up.keys(), &good, None).unwrap();
    let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &out, lse: &lse };
    let queries = Ranges { start: &short, ..up.queries() };
    let message = attention_backward(saved, &up.d_out, up.keys(), queries, &good, None).unwrap_err().to_string();
    assert!(message.contains("queries.start"), "{message}");
    let message = attention_backward(saved, &lse, up.keys(), up.queries(), &good, None).unwrap_err().to_string();
    assert!(message.contains("d_out has shape"), "{message}");

    let message = kv_store(&up.q, &short, &up.k).unwrap_err().to_string();
    assert!(message.contains("slots"), "{message}");
    let narrow = Tensor::zeros(device(), &[33, 6], "test").unwrap();
    let message = kv_store(&up.q, &up.keys[0], &narrow).unwrap_err().to_string();
    assert!(message.contains("cache has shape"), "{message}");
}

/// Every specialisation on every class of device, to every platform's language, within 16 KiB of workgroup memory.
#[test]
fn every_variant_is_valid_within_default_limits() {
    for spec in variants() {
        let text = rugosa::device::shader::render(&spec).unwrap();
        let module =
            naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{spec:?}\n{}", e.emit_to_string(&text)));
        let mut validator = naga::valid::Validator::new(Default::default(), naga::valid::Capabilities::empty());
        validator.validate(&module).unwrap_or_else(|e| panic!("{spec:?}\n{}", e.emit_to_string(&text)));
        let mut layouter = naga::proc::Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let shared: u32 = (module.global_variables.iter())
            .filter(|(_, v)| v.space == naga::AddressSpace::WorkGroup)
            .map(|(_, v)| layouter[v.ty].size.next_multiple_of(16))
            .sum();
        assert!(shared <= 16 << 10, "{spec:?} takes {shared} bytes");
        let threads = module.entry_points[0].workgroup_size;
        assert!(threads.iter().product::<u32>() <= 256, "{spec:?} {threads:?}");
    }
}

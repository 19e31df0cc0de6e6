//! Attention forward, backward and decode against f64, on packed sequences, windows, and every kind of head.

use crate::common::*;
use rugosa::cases::Near;
use rugosa::cases::attention_reference::{Case, Data};
use rugosa::device::Feature;
use rugosa::kernels::To;
use rugosa::kernels::attention::*;
use rugosa::tensor::Tensor;

const PLAIN: Case = Case { segments: &[33], heads: 2, kv_heads: 2, head_dim: 16, window: usize::MAX, softcap: None };

#[test]
fn forward_backward_decode_and_store() {
    run_rows(&["attention", "attention_backward", "attention_decode", "kv_store"]);
}

#[track_caller]
fn assert_near(what: &str, got: &[f32], want: &[Near]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(*g) - w.value).abs();
        assert!(error <= w.bound, "{what}: element {i} is {g}, expected {} ± {}", w.value, w.bound);
    }
}

#[test]
fn attention_repeats_bit_for_bit() {
    let data = Data::new(Case { segments: &[70, 31], heads: 6, kv_heads: 2, head_dim: 24, ..PLAIN }, 93);
    let up = data.upload(device()).unwrap();
    let run = || {
        let (out, lse) =
            attention_forward(&up.q, &up.k, &up.v, up.keys(), &data.shape(), To::default(), To::default()).unwrap();
        let saved = Saved { q: &up.q, k: &up.k, v: &up.v, out: &out, lse: &lse };
        let g = attention_backward(saved, &up.d_out, up.keys(), up.queries(), &data.shape(), None).unwrap();
        [out, lse, g.dq, g.dk, g.dv].map(|t| t.read::<u32>().unwrap())
    };
    let first = run();
    assert!((0..5).all(|_| run() == first));
}

/// The last token's output is the same whether it comes from the whole sequence or from a cache.
#[test]
fn store_then_decode_equals_forward() {
    let data = Data::new(Case { segments: &[43], heads: 6, kv_heads: 2, head_dim: 64, ..PLAIN }, 94);
    let up = data.upload(device()).unwrap();
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
fn what_does_not_fit_is_refused() {
    let data = Data::new(PLAIN, 95);
    let up = data.upload(device()).unwrap();
    let run = |shape: AttentionShape| {
        attention_forward(&up.q, &up.k, &up.v, up.keys(), &shape, To::default(), To::default()).map(|_| ())
    };
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
    let message =
        attention_forward(&up.q, &up.k, &up.v, keys, &good, To::default(), To::default()).unwrap_err().to_string();
    assert!(message.contains("keys.end") && message.contains("[33]"), "{message}");
    let message = attention_decode(&up.q, &up.k, &up.v, keys, &good, None).unwrap_err().to_string();
    assert!(message.contains("keys.end"), "{message}");
    let message = attention_forward(&up.q, &up.k, &up.v, up.keys(), &good, To::Into(&up.k), To::Into(&short))
        .unwrap_err()
        .to_string();
    assert!(message.contains("the output has shape [32]"), "{message}");

    let (out, lse) = attention_forward(&up.q, &up.k, &up.v, up.keys(), &good, To::default(), To::default()).unwrap();
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
        // unpacking of f16 belongs to the core of WGSL
        let mut capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        if spec.needs().contains(&Feature::Int64) {
            capabilities |= naga::valid::Capabilities::SHADER_INT64;
        }
        let mut validator = naga::valid::Validator::new(Default::default(), capabilities);
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

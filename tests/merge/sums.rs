//! What merged weights are.

use super::{values, write_adapter};
use crate::common::tiny;
use rugosa::dtype::DType;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::write::SHARD_BYTES;
use rugosa::merge::{OutType, Source, combine, write};
use rugosa::quant;

#[test]
fn weights_are_sums_that_are_rounded_once() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_model(dir.path());
    let base = Checkpoint::open(&model).unwrap();
    let paths = [1, 2].map(|seed| dir.path().join(format!("adapter{seed}")));
    let adapters: Vec<_> = paths.iter().zip(1..).map(|(path, seed)| write_adapter(path, &base, seed)).collect();
    let weights = [0.75, -0.5];
    let given: Vec<_> = paths.iter().cloned().zip(weights).collect();
    let source = Source::open(&model, &given).unwrap();
    for (to, name) in [(DType::F32, "a"), (DType::F16, "b"), (DType::BF16, "c")] {
        write(&source, &dir.path().join(name), Some(OutType::Plain(to)), SHARD_BYTES, &|| true).unwrap();
    }
    let [exact, half, brain] = ["a", "b", "c"].map(|name| Checkpoint::open(&dir.path().join(name)).unwrap());
    let combined = combine(&source.adapters).unwrap();
    for (name, shape) in base.required() {
        let merged = values(&exact, &name);
        let [rows, cols] = *shape.as_slice() else {
            assert_eq!(merged, values(&base, &name));
            continue;
        };
        let module = name.trim_end_matches(".weight");
        let mut want: Vec<f64> = values(&base, &name).into_iter().map(f64::from).collect();
        let mut one = want.clone();
        for (adapter, weight) in adapters.iter().zip(weights) {
            let Some(m) = adapter.modules.get(module) else { continue };
            add(&mut want, (rows, cols), m, (weight * 1.5, weight));
        }
        if let Some(m) = combined.modules.get(module) {
            assert_eq!(combined.config.scale(module), 1.0);
            add(&mut one, (rows, cols), m, (1.0, 1.0));
        }
        let most = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let found: Vec<f64> = merged.iter().map(|v| f64::from(*v)).collect();
        assert!(most(&want, &found) < 1e-7, "{name}: {}", most(&want, &found));
        assert!(most(&want, &one) < 1e-7, "{name}: {}", most(&want, &one));
        // once: what is f32 first and then rounded is no other
        for (other, to) in [(&half, DType::F16), (&brain, DType::BF16)] {
            let mut rounded = vec![0.0; merged.len()];
            quant::dequantise(to, &quant::quantise(to, &merged).unwrap(), &mut rounded).unwrap();
            assert_eq!(values(other, &name), rounded, "{name}");
        }
    }
}

/// Adds s·B·A and S, times these factors.
fn add(
    w: &mut [f64],
    (rows, cols): (usize, usize),
    m: &rugosa::io::adapter::ModuleTensors,
    (scale, sparse): (f64, f64),
) {
    let (a, b, s) = (m.a.as_ref().unwrap(), m.b.as_ref().unwrap(), m.sparse.as_ref().unwrap());
    for (n, k) in (0..rows).flat_map(|n| (0..cols).map(move |k| (n, k))) {
        let product: f64 =
            (0..a.rows).map(|r| f64::from(b.data[n * b.cols + r]) * f64::from(a.data[r * cols + k])).sum();
        w[n * cols + k] += scale * product;
    }
    for ((n, k), v) in s.pattern.entries().zip(&s.values) {
        w[n as usize * cols + k as usize] += sparse * f64::from(*v);
    }
}

#[test]
fn what_no_type_or_model_can_take_is_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let model = tiny::write_model(dir.path());
    let base = Checkpoint::open(&model).unwrap();
    let adapter = dir.path().join("adapter");
    write_adapter(&adapter, &base, 1);
    let source = Source::open(&model, &[(adapter.clone(), 1.0)]).unwrap();
    let out = dir.path().join("out");
    let refused = |to: &str, name: &str| {
        let out = dir.path().join(name);
        let message = write(&source, &out, Some(to.parse().unwrap()), SHARD_BYTES, &|| true).unwrap_err().to_string();
        assert!(!out.exists(), "{message}");
        message
    };
    assert!(refused("q8_0", "out").contains("is a type of GGUF files: give ⟨out⟩ NAME.gguf"));
    assert!(
        refused("nf4", "out").contains("mlp.down_proj.weight has rows of 176, no whole number of NF4 blocks of 64")
    );
    assert!(refused("q8_0", "out.gguf").contains("has rows of 176, no whole number of Q8_0 blocks of 32"));
    // a file needs a tokenizer, which this model has not
    assert!(refused("f16", "out.gguf").contains("tokenizer.json: is missing: a GGUF file has the tokenizer in it"));
    // an adapter of another model, by shapes
    let other = dir.path().join("other");
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    write_adapter(&other, &Checkpoint::open(&demo).unwrap(), 1);
    let message = Source::open(&model, &[(other, 1.0)]).unwrap_err().to_string();
    assert!(message.contains("the adapter is for another model (\"tiny\")"), "{message}");
    // twice the same adapter, and a place that is taken
    write(&source, &out, None, SHARD_BYTES, &|| true).unwrap();
    let message = write(&source, &out, None, SHARD_BYTES, &|| true).unwrap_err().to_string();
    assert!(message.contains("is there already, and stays as it is"), "{message}");
    let again = Source::open(&out, &[(adapter, 1.0)]).unwrap();
    let message = write(&again, &dir.path().join("twice"), None, SHARD_BYTES, &|| true).unwrap_err().to_string();
    assert!(message.contains("is merged into this model already"), "{message}");
    // a value that f16 cannot hold
    let large = Source::open(&model, &[(dir.path().join("adapter"), 1e7)]).unwrap();
    let message =
        write(&large, &dir.path().join("large"), Some("f16".parse().unwrap()), SHARD_BYTES, &|| true).unwrap_err();
    assert!(message.to_string().contains("which F16 cannot hold; choose ⟨type⟩ bf16 or f32"), "{message}");
    assert!(!dir.path().join("large").exists());
}

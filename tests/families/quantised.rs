//! Models whose weights are quantised in a folder of safetensors: bitsandbytes' NF4 (`tests/golden/make_nf4.py`) and FP8 in blocks.

use super::golden::*;
use super::model::logits;
use crate::common::device;
use rugosa::dtype::DType;
use rugosa::io::checkpoint::{Checkpoint, TensorView};
use rugosa::io::gguf::{GgufTensor, Metadata, Value, write_gguf};
use rugosa::io::safetensors::{Dtype, OutTensor, SafetensorsFile, write_safetensors};
use rugosa::nn::loader::{LoadOptions, load};
use rugosa::quant::{self, LoadFormat};
use rugosa::rng::Rng;
use rugosa::tensor::WeightFormat;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nf4-llama")
}

fn values(view: &TensorView<'_>) -> Vec<f32> {
    let mut values = vec![0.0; view.shape.iter().product()];
    quant::dequantise(view.dtype, &view.data, &mut values).unwrap();
    values
}

/// The tensors of a file, to be written again.
fn tensors(file: &SafetensorsFile) -> Vec<OutTensor<'_>> {
    let raw = file.names().map(|name| file.get(name).unwrap());
    raw.map(|t| OutTensor { name: t.name.into(), dtype: t.dtype, shape: t.shape.into(), data: Cow::Borrowed(t.data) })
        .collect()
}

/// A folder with these weights, its configuration that of the fixture with `change`.
fn folder(tensors: &[OutTensor<'_>], change: impl Fn(&mut serde_json::Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut config = serde_json::from_slice(&std::fs::read(fixture().join("config.json")).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    write_safetensors(&dir.path().join("model.safetensors"), tensors, &BTreeMap::new()).unwrap();
    dir
}

fn plain(config: &mut serde_json::Value) {
    config.as_object_mut().unwrap().remove("quantization_config");
}

#[test]
fn nf4_is_what_bitsandbytes_makes_of_it() {
    let model = Checkpoint::open(&fixture()).unwrap();
    assert!(model.notes.is_empty(), "{:?}", model.notes);
    let want = SafetensorsFile::open(&fixture().join("values.safetensors")).unwrap();
    let mut seen = BTreeMap::new();
    for name in want.names() {
        let view = model.tensor(name).unwrap();
        *seen.entry(view.dtype.name()).or_insert(0) += 1;
        // the map of quantised maxima is a unit in the last place off here and there, and these are below 1
        let most = if view.dtype == DType::NF4 { 0.0 } else { f32::EPSILON / 2.0 };
        let want = want.get(name).unwrap().to_f32().unwrap();
        let near = |(got, want): (&f32, &f32)| (got - want).abs() <= most;
        assert!(values(&view).iter().zip(&want).all(near), "{name}");
    }
    assert_eq!(seen, [("NF4", 3), ("NF4_DOUBLE", 4)].into());
}

#[test]
fn nf4_gives_the_logits_of_its_values() {
    let values = SafetensorsFile::open(&fixture().join("values.safetensors")).unwrap();
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let whole = tensors(&own).into_iter().filter(|t| t.dtype == Dtype::F32 && !t.name.contains("proj"));
    let whole: Vec<_> = whole.chain(tensors(&values)).collect();
    let dense = folder(&whole, plain);
    let batch = unlabelled(&[(0..40).map(|i| i * 7 % 48).collect(), vec![3, 1, 4]]);
    let run = |path: &Path, stacked| {
        let checkpoint = Checkpoint::open(path).unwrap();
        let model = load(device(), &checkpoint, LoadOptions { trainable: false, stacked, positions: 64 }).unwrap();
        let formats: Vec<_> = model.linears().map(|l| l.shards()[0].1.format()).collect();
        (logits(&model, &batch), formats)
    };
    let (want, _) = run(dense.path(), true);
    for stacked in [false, true] {
        let (got, formats) = run(&fixture(), stacked);
        for format in [WeightFormat::NF4, WeightFormat::NF4_DOUBLE] {
            assert!(formats.contains(&format), "{formats:?}");
        }
        let error = max_abs(&got, &want);
        assert!(error < 2e-5, "stacked {stacked}: logits differ by {error}");
    }
}

#[test]
fn damaged_nf4_is_named() {
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let down = "model.layers.0.mlp.down_proj.weight";
    let fails = |tensors: Vec<OutTensor<'_>>, parts: &[&str]| {
        let dir = folder(&tensors, |_| ());
        let loaded = Checkpoint::open(dir.path())
            .and_then(|c| load(device(), &c, LoadOptions { trainable: false, stacked: true, positions: 64 }).map(drop));
        let message = loaded.unwrap_err().to_string();
        assert!(parts.iter().all(|p| message.contains(p)) && !message.contains('\n'), "{message}");
    };
    let without = |part: &str| tensors(&own).into_iter().filter(|t| t.name != format!("{down}{part}")).collect();
    let with = |part: &str, change: &dyn Fn(&mut OutTensor<'_>)| {
        let mut all = tensors(&own);
        change(all.iter_mut().find(|t| t.name == format!("{down}{part}")).unwrap());
        all
    };
    fails(without(".absmax"), &[down, "has no .absmax beside it", "download"]);
    fails(without(".quant_state.bitsandbytes__nf4"), &[down, "nothing beside it says how it is quantised"]);
    let nan = with(".absmax", &|t| t.data.to_mut()[4 * 3..4 * 4].copy_from_slice(&f32::NAN.to_le_bytes()));
    fails(nan, &[down, "the scale of a block that is NaN", "row 1, column 64"]);
    let short = with(".absmax", &|t| {
        t.data.to_mut().truncate(4 * 100);
        t.shape = vec![100];
    });
    fails(short, &["down_proj.weight.absmax: ", "where 128 belong to the weight"]);
    let other = with(".quant_map", &|t| t.data.to_mut()[..4].copy_from_slice(&(-2f32).to_le_bytes()));
    fails(other, &[down, "other levels than NF4"]);
    let short = with("", &|t| {
        t.data.to_mut().truncate(64);
        t.shape = vec![64, 1];
    });
    fails(short, &[down, "has 64 bytes of codes for [64, 128]"]);
    let nothing = with(".quant_state.bitsandbytes__nf4", &|t| {
        let mut state: serde_json::Value = serde_json::from_slice(&t.data).unwrap();
        state["nested_blocksize"] = 0.into();
        t.data = Cow::Owned(state.to_string().into_bytes());
        t.shape = vec![t.data.len()];
    });
    fails(nothing, &[down, "nested_blocksize"]);
}

#[test]
fn codes_may_be_stored_as_numbers_of_another_type() {
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let down = "model.layers.0.mlp.down_proj.weight";
    let mut all = tensors(&own);
    let codes = all.iter_mut().find(|t| t.name == down).unwrap();
    (codes.dtype, codes.shape) = (Dtype::BF16, vec![codes.data.len() / 2, 1]);
    let dir = folder(&all, |_| ());
    let of = |folder: &Path| values(&Checkpoint::open(folder).unwrap().tensor(down).unwrap());
    assert_eq!(of(dir.path()), of(&fixture()));
}

#[test]
fn fp8_in_blocks_is_decoded_to_bf16() {
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let values = SafetensorsFile::open(&fixture().join("values.safetensors")).unwrap();
    let whole = tensors(&own).into_iter().filter(|t| t.dtype == Dtype::F32 && !t.name.contains("proj"));
    let whole: Vec<_> = whole.chain(tensors(&values)).collect();
    let down = "model.layers.0.mlp.down_proj.weight";
    let scale = [0.5f32];
    let scaled = |shape: &[usize]| {
        let mut all: Vec<OutTensor<'_>> = whole.iter().filter(|t| t.name != down).cloned().collect();
        // 1.5 and −1 by turns
        let codes = [0x3cu8, 0xb8].repeat(64 * 64);
        all.push(OutTensor { name: down.into(), dtype: Dtype::F8_E4M3, shape: vec![64, 128], data: codes.into() });
        all.push(OutTensor::f32(format!("{down}_scale_inv"), shape, &scale).into_owned());
        let method = serde_json::json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
        folder(&all, |config| config["quantization_config"] = method.clone())
    };
    let dir = scaled(&[1, 1]);
    let model = Checkpoint::open(dir.path()).unwrap();
    assert!(model.notes.is_empty(), "{:?}", model.notes);
    let view = model.tensor(down).unwrap();
    assert_eq!((view.dtype, values_of_two(&view)), (DType::BF16, [0.75, -0.5]));
    let dir = scaled(&[1, 1, 1]);
    assert_eq!(values_of_two(&Checkpoint::open(dir.path()).unwrap().tensor(down).unwrap()), [0.75, -0.5], "one number");
    let mut without: Vec<OutTensor<'_>> = whole.iter().filter(|t| t.name != down).cloned().collect();
    let codes = vec![0u8; 64 * 128];
    without.push(OutTensor { name: down.into(), dtype: Dtype::F8_E4M3, shape: vec![64, 128], data: codes.into() });
    let dir = folder(&without, plain);
    let message = Checkpoint::open(dir.path()).unwrap().tensor(down).unwrap_err().to_string();
    assert!(message.contains(down) && message.contains("no weight_scale_inv beside it"), "{message}");
}

#[test]
fn fp8_in_blocks_is_quantised_to_nf4_on_the_way_to_the_device() {
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let values_file = SafetensorsFile::open(&fixture().join("values.safetensors")).unwrap();
    let whole = tensors(&own).into_iter().filter(|t| t.dtype == Dtype::F32 && !t.name.contains("proj"));
    let down = "model.layers.0.mlp.down_proj.weight";
    let mut all: Vec<_> = whole.chain(tensors(&values_file)).filter(|t| t.name != down).collect();
    let codes: Vec<u8> = (0..64 * 128).map(|i| (i * 37 % 0x70) as u8 | ((i % 3 == 0) as u8) << 7).collect();
    let scale = [0.02f32];
    all.push(OutTensor { name: down.into(), dtype: Dtype::F8_E4M3, shape: vec![64, 128], data: codes.into() });
    all.push(OutTensor::f32(format!("{down}_scale_inv"), &[1, 1], &scale));
    let method = serde_json::json!({"quant_method": "fp8", "weight_block_size": [128, 128]});
    let dir = folder(&all, |config| config["quantization_config"] = method.clone());
    let plain = Checkpoint::open(dir.path()).unwrap();
    let decoded = values(&plain.tensor(down).unwrap());
    let mut model = Checkpoint::open(dir.path()).unwrap();
    quant::quantise_on_load(&mut model, LoadFormat::Nf4).unwrap();
    let view = model.tensor(down).unwrap();
    assert_eq!((view.dtype, &*view.data), (DType::NF4, &*quant::quantise(DType::NF4, &decoded).unwrap()));
    let options = LoadOptions { trainable: false, stacked: true, positions: 64 };
    let loaded = load(device(), &model, options).unwrap();
    assert!(loaded.linears().any(|l| l.shards().iter().any(|(_, w)| w.format() == WeightFormat::NF4)));
}

#[test]
fn weights_that_are_packed_in_other_ways_are_named_with_the_way_out() {
    let own = SafetensorsFile::open(&fixture().join("model.safetensors")).unwrap();
    let values = SafetensorsFile::open(&fixture().join("values.safetensors")).unwrap();
    let down = "model.layers.0.mlp.down_proj.weight";
    for (part, dtype, kind) in [
        ("qweight", Dtype::I32, "GPTQ or AWQ"),
        ("weight_packed", Dtype::I32, "compressed-tensors"),
        ("weight_blocks", Dtype::U8, "MXFP4"),
        ("weight", Dtype::U32, "the type U32"), // MLX's, without its configuration
    ] {
        let whole = tensors(&own).into_iter().filter(|t| t.dtype == Dtype::F32 && !t.name.contains("proj"));
        let mut all: Vec<_> = whole.chain(tensors(&values)).filter(|t| t.name != down).collect();
        let words = if dtype == Dtype::U8 { 4 } else { 1 };
        let data = Cow::Owned(vec![0u8; 64 * 16 * 4]);
        all.push(OutTensor { name: down.replace("weight", part), dtype, shape: vec![64, 16 * words], data });
        let dir = folder(&all, plain);
        let message = match Checkpoint::open(dir.path()).and_then(|model| model.tensor(down).map(drop)) {
            Err(error) => error.to_string(),
            Ok(()) => panic!("{part} was read"),
        };
        assert!(message.contains(down) && message.contains(kind) && !message.contains('\n'), "{message}");
        assert!(message.contains("use the unquantised model") || message.contains("convert the model"), "{message}");
    }
}

fn values_of_two(view: &TensorView<'_>) -> [f32; 2] {
    let all = values(view);
    assert!(all.chunks(2).all(|two| two == &all[..2]));
    [all[0], all[1]]
}

/// A model of two layers in a GGUF file, its matrices in the formats that `format_of` gives for their numbers.
fn write_mixed(path: &Path, format_of: impl Fn(usize) -> DType, values_of: impl Fn(usize) -> DType) {
    let (hidden, heads, vocab) = (256, 4, 48);
    let mut metadata: Metadata = [
        ("embedding_length", hidden),
        ("feed_forward_length", 512),
        ("block_count", 2),
        ("attention.head_count", heads),
        ("attention.head_count_kv", 2),
        ("context_length", 64),
    ]
    .map(|(key, size)| (format!("llama.{key}"), Value::U32(size as u32)))
    .into();
    metadata.insert("general.architecture".into(), Value::String("llama".into()));
    metadata.insert("llama.attention.layer_norm_rms_epsilon".into(), Value::F32(1e-5));
    let mut shapes = vec![("token_embd".to_string(), vocab, hidden), ("output".to_string(), vocab, hidden)];
    for layer in 0..2 {
        for (name, rows, cols) in [
            ("attn_q", hidden, hidden),
            ("attn_k", hidden / 2, hidden),
            ("attn_v", hidden / 2, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", 512, hidden),
            ("ffn_up", 512, hidden),
            ("ffn_down", hidden, 512),
        ] {
            shapes.push((format!("blk.{layer}.{name}"), rows, cols));
        }
    }
    let mut rng = Rng::named(1, "mixed");
    let matrices = shapes.into_iter().enumerate().map(|(i, (name, rows, cols))| {
        let drawn: Vec<f32> = (0..rows * cols).map(|_| 0.08 * rng.normal() as f32).collect();
        // what the file's format makes of the values of another
        let mut kept = vec![0.0; drawn.len()];
        quant::dequantise(values_of(i), &quant::quantise(values_of(i), &drawn).unwrap(), &mut kept).unwrap();
        let (dtype, own) = (format_of(i), if format_of(i) == DType::F32 { kept } else { drawn });
        let data = quant::quantise(dtype, &own).unwrap().into();
        GgufTensor { name: format!("{name}.weight"), dtype, shape: vec![rows, cols], data }
    });
    let mut tensors: Vec<_> = matrices.collect();
    for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm"] {
        let data = 1f32.to_le_bytes().repeat(hidden).into();
        tensors.push(GgufTensor { name: format!("{name}.weight"), dtype: DType::F32, shape: vec![hidden], data });
    }
    write_gguf(path, &metadata, &tensors).unwrap();
}

#[test]
fn mixed_formats_of_one_model_give_the_logits_of_their_values() {
    let dir = tempfile::tempdir().unwrap();
    let formats: Vec<DType> =
        DType::ALL.iter().copied().filter(|d| d.is_quantised() && d.gguf_type().is_some()).collect();
    let format_of = |i: usize| formats[i % formats.len()];
    let (mixed, dense) = (dir.path().join("mixed.gguf"), dir.path().join("dense.gguf"));
    write_mixed(&mixed, format_of, format_of);
    write_mixed(&dense, |_| DType::F32, format_of);
    let batch = unlabelled(&[(0..40).map(|i| i * 7 % 48).collect(), vec![3, 1, 4]]);
    let run = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        let options = LoadOptions { trainable: false, stacked: true, positions: 64 };
        logits(&load(device(), &checkpoint, options).unwrap(), &batch)
    };
    let (got, want) = (run(&mixed), run(&dense));
    let error = rel_l2(&got, &want);
    assert!(error < 2e-6, "logits differ by {error}");
}

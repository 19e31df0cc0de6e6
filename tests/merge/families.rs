//! Folder to GGUF and back, in every family.

use super::values;
use rugosa::dtype::DType;
use rugosa::error::Error;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::gguf::GgufFile;
use rugosa::io::write::SHARD_BYTES;
use rugosa::merge::{OutType, Source, write};
use std::cell::Cell;
use std::path::{Path, PathBuf};

const FAMILIES: [&str; 7] = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"];

/// The tiny model of a family with the demo's tokenizer beside it, whose vocabulary is smaller.
fn with_tokenizer(family: &str, to: &Path) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (model, demo) = (root.join(format!("tests/fixtures/golden/tiny-{family}")), root.join("assets/demo"));
    let folder = to.join(family);
    std::fs::create_dir(&folder).unwrap();
    for (from, name) in [
        (&model, "config.json"),
        (&model, "model.safetensors"),
        (&demo, "tokenizer.json"),
        (&demo, "tokenizer_config.json"),
    ] {
        std::fs::copy(from.join(name), folder.join(name)).unwrap();
    }
    folder
}

#[test]
fn a_model_is_the_same_as_a_folder_and_as_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let folder = with_tokenizer(family, dir.path());
        if family.starts_with("gemma") {
            // a scalar that GGUF files do not say is refused with the reason
            let out = dir.path().join("scalar.gguf");
            let source = Source::open(&folder, &[]).unwrap();
            let said = write(&source, &out, None, SHARD_BYTES, &|| true).unwrap_err().to_string();
            assert!(said.contains("query_pre_attn_scalar") && !out.exists(), "{family}: {said}");
            let path = folder.join("config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
            config["query_pre_attn_scalar"] = config["head_dim"].clone();
            std::fs::write(&path, config.to_string()).unwrap();
        }
        let source = Source::open(&folder, &[]).unwrap();
        let file = dir.path().join(format!("{family}.gguf"));
        let written = match write(&source, &file, None, SHARD_BYTES, &|| true) {
            Ok(written) => written,
            Err(e) => panic!("{family}: {e}"),
        };
        assert_eq!(written.matrices.values().sum::<usize>(), matrices(&source.checkpoint), "{family}");
        let back = dir.path().join(format!("{family}-back"));
        let gguf = Source::open(&file, &[]).unwrap();
        write(&gguf, &back, None, 1 << 16, &|| true).unwrap();
        let again = Checkpoint::open(&back).unwrap();
        for other in [&gguf.checkpoint, &again] {
            let (want, got) = (&source.checkpoint.config, &other.config);
            assert_eq!(
                (got.hidden_size, got.rope_scaling.clone(), got.rope_theta),
                (want.hidden_size, want.rope_scaling.clone(), want.rope_theta)
            );
            assert_eq!((got.sliding_window, &got.windowed), (want.sliding_window, &want.windowed), "{family}");
            assert_eq!(got.tie_word_embeddings, want.tie_word_embeddings, "{family}");
            for (name, _) in source.checkpoint.required() {
                assert_eq!(values(other, &name), values(&source.checkpoint, &name), "{family}: {name}");
            }
        }
        // and the file of the file is the same, byte for byte
        let copy = dir.path().join(format!("{family}-copy.gguf"));
        write(&gguf, &copy, Some(OutType::Same), SHARD_BYTES, &|| true).unwrap();
        let tensors = |path: &Path| {
            let file = GgufFile::open(path).unwrap();
            let names: Vec<String> = file.names().map(String::from).collect();
            names.iter().map(|n| file.tensor(n).unwrap().data.to_vec()).collect::<Vec<_>>()
        };
        assert!(tensors(&copy) == tensors(&file), "{family}");
    }
}

#[test]
fn who_asks_to_stop_finds_nothing_written() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&with_tokenizer("llama", dir.path()), &[]).unwrap();
    for out in ["out", "out.gguf"] {
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            asked.get() < 20
        };
        let ended = write(&source, &dir.path().join(out), Some(OutType::Plain(DType::F32)), SHARD_BYTES, &go_on);
        assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
        let mut left = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        assert!(left.all(|name| name == "llama"), "{out}");
    }
}

/// Of a model that sees, the part that does is kept as it lies.
#[test]
fn what_is_no_part_of_the_language_model_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let source = Source::open(&with_tokenizer("gemma3vision", dir.path()), &[]).unwrap();
    let tower = source.checkpoint.others().unwrap();
    assert!(tower.len() > 10);
    assert_eq!(source.checkpoint.other_parts(), ["multi_modal_projector", "vision_tower"]);
    let out = dir.path().join("out");
    write(&source, &out, Some(OutType::Plain(DType::BF16)), SHARD_BYTES, &|| true).unwrap();
    let again = Checkpoint::open(&out).unwrap();
    for tensor in &tower {
        let kept = again.other(tensor.name).unwrap();
        let same = (kept.dtype, kept.shape, kept.data) == (tensor.dtype, tensor.shape, tensor.data);
        assert!(same, "{}", tensor.name);
    }
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join("config.json")).unwrap()).unwrap();
    assert!(config["vision_config"].is_object());
}

fn matrices(checkpoint: &Checkpoint) -> usize {
    checkpoint.required().iter().filter(|(_, shape)| shape.len() == 2).count()
}

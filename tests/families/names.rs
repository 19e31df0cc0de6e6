//! Names of tensors: of whole models, of their bases, and of language models inside of others.

use super::golden::*;
use rugosa::io::checkpoint::Checkpoint;
use rugosa::io::safetensors::{OutTensor, SafetensorsFile, write_safetensors};
use std::collections::BTreeMap;
use std::path::Path;

/// The model of `family` with other names for its tensors; those without one are left out.
fn renamed(to: &Path, family: &str, rename: impl Fn(&str) -> Option<String>) {
    let source = SafetensorsFile::open(&folder(family).join("model.safetensors")).unwrap();
    let tensors: Vec<_> = (source.names())
        .filter_map(|name| {
            let raw = source.get(name).unwrap();
            Some((rename(name)?, raw.shape.to_vec(), raw.to_f32().unwrap()))
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(n, shape, values)| OutTensor::f32(n.clone(), shape, values)).collect();
    write_safetensors(&to.join("model.safetensors"), &tensors, &BTreeMap::new()).unwrap();
    std::fs::copy(folder(family).join("config.json"), to.join("config.json")).unwrap();
}

fn same_tensors(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.config, b.config);
    assert_eq!(a.names(), b.names());
    for name in a.names() {
        assert_eq!(a.tensor(name).unwrap().shape, b.tensor(name).unwrap().shape, "{name}");
    }
}

#[test]
fn what_is_no_language_is_left_alone_and_said_in_a_line() {
    for family in ["gemma3vision", "ministral3"] {
        let model = Checkpoint::open(&folder(family)).unwrap();
        let [note] = model.notes.as_slice() else { panic!("{:?}", model.notes) };
        assert!(note.contains("the language model is used; "), "{note}");
        assert!(note.contains(" tensors of multi_modal_projector, vision_tower are left alone"), "{note}");
        assert!(model.names().iter().all(|n| n.starts_with("model.language_model.") || *n == "lm_head.weight"));
    }
}

#[test]
fn wrapped_models_are_read_under_the_names_of_their_modules_too() {
    let dir = tempfile::tempdir().unwrap();
    renamed(dir.path(), "ministral3", |name| {
        let name = name.replacen("language_model.model.", "model.language_model.", 1);
        Some(name.replacen("language_model.lm_head", "lm_head", 1).replacen("vision_tower.", "model.vision_tower.", 1))
    });
    let model = Checkpoint::open(dir.path()).unwrap();
    same_tensors(&model, &Checkpoint::open(&folder("ministral3")).unwrap());
    assert!(model.notes[0].contains("multi_modal_projector, vision_tower are left alone"), "{:?}", model.notes);
}

#[test]
fn tensors_under_base_model_names_are_read() {
    let dir = tempfile::tempdir().unwrap();
    renamed(dir.path(), "granite", |name| name.strip_prefix("model.").map(str::to_owned));
    let model = Checkpoint::open(dir.path()).unwrap();
    same_tensors(&model, &Checkpoint::open(&folder("granite")).unwrap());
    assert!(model.notes.is_empty(), "{:?}", model.notes);
}

#[test]
fn a_tied_head_may_have_either_name() {
    let dir = tempfile::tempdir().unwrap();
    let head = |name: &str| {
        let is_table = name == "language_model.model.embed_tokens.weight";
        Some(if is_table { "language_model.lm_head.weight".to_owned() } else { name.to_owned() })
    };
    renamed(dir.path(), "gemma3vision", head);
    let model = Checkpoint::open(dir.path()).unwrap();
    let whole = Checkpoint::open(&folder("gemma3vision")).unwrap();
    let table = "model.language_model.embed_tokens.weight";
    assert_eq!(model.tensor(table).unwrap().shape, whole.tensor(table).unwrap().shape);
    assert!(model.config.tie_word_embeddings && whole.config.tie_word_embeddings);
}

#[test]
fn an_unknown_family_is_answered_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "qwen3_moe", "num_experts": 128, "moe_intermediate_size": 768, "hidden_size": 64}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let message = Checkpoint::open(dir.path()).unwrap_err().to_string();
    let expected = "the nearest that is: qwen3, whose decoder knows nothing of moe_intermediate_size, num_experts";
    assert!(message.contains(expected) && !message.contains('\n'), "{message}");
}

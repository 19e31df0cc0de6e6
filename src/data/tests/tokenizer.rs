use super::support::{self, BOS, EOS, SPECIAL, VOCAB, metadata, strings, tokenizer};
use crate::data::Tokenizer;
use crate::io::gguf::{Metadata, Value};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::Path;

const BPE: &str = include_str!("../../../tests/fixtures/tokenizer/bpe.json");
const SPM: &str = include_str!("../../../tests/fixtures/tokenizer/spm.json");

fn texts(v: &Json) -> Value {
    strings(v.as_array().unwrap().iter().map(|t| t.as_str().unwrap()))
}

fn numbers(v: &Json) -> Value {
    Value::Array(v.as_array().unwrap().iter().map(|n| Value::F32(n.as_f64().unwrap() as f32)).collect())
}

fn ids(v: &Json) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

fn gguf(fixture: &Json, model: &str, pre: &str) -> Tokenizer {
    gguf_with(fixture, model, pre, None)
}

/// The tokenizer of a fixture, with a chat template and an end token.
pub fn with_template(model: &str, template: &str) -> Tokenizer {
    let fixture: Json = serde_json::from_str(if model == "gpt2" { BPE } else { SPM }).unwrap();
    gguf_with(&fixture, model, "smollm", Some(template))
}

fn gguf_with(fixture: &Json, model: &str, pre: &str, template: Option<&str>) -> Tokenizer {
    let mut m = Metadata::new();
    if let Some(template) = template {
        m.insert("tokenizer.chat_template".into(), Value::String(template.into()));
        m.insert("tokenizer.ggml.eos_token_id".into(), Value::U32(2));
    }
    m.insert("tokenizer.ggml.model".into(), Value::String(model.into()));
    m.insert("tokenizer.ggml.pre".into(), Value::String(pre.into()));
    m.insert("tokenizer.ggml.tokens".into(), texts(&fixture["tokens"]));
    m.insert("tokenizer.ggml.token_type".into(), numbers(&fixture["types"]));
    if model == "gpt2" {
        m.insert("tokenizer.ggml.merges".into(), texts(&fixture["merges"]));
    } else {
        m.insert("tokenizer.ggml.scores".into(), numbers(&fixture["scores"]));
        m.insert("tokenizer.ggml.unknown_token_id".into(), Value::U32(0));
        m.insert("tokenizer.ggml.bos_token_id".into(), Value::U32(1));
    }
    Tokenizer::from_gguf(Path::new("fixture.gguf"), &m).unwrap()
}

/// Encodes every text as expected, and decodes it again, at once and token by token.
fn check(t: &Tokenizer, cases: &Json, normal: impl Fn(&str) -> String) {
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 60);
    for case in cases {
        let (text, want) = (case[0].as_str().unwrap(), ids(&case[1]));
        assert_eq!(t.encode(text, false).unwrap(), want, "{text:?}");
        assert_eq!(t.decode(&want, false).unwrap(), normal(text));
        let mut stream = t.stream(false);
        let mut said: String = want.iter().map(|&id| stream.push(id).unwrap()).collect();
        said += &stream.finish().unwrap();
        assert_eq!(said, normal(text));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn any_text_comes_back(text in any_text()) {
        let fixture: Json = serde_json::from_str(BPE).unwrap();
        for pre in ["gpt-2", "smollm", "llama-bpe", "tekken", "gpt-4o", "seed-coder", "deepseek-v3"] {
            let t = gguf(&fixture, "gpt2", pre);
            let ids = t.encode(&text, false).unwrap();
            prop_assert_eq!(&t.decode(&ids, false).unwrap(), &text, "{}", pre);
            let mut stream = t.stream(false);
            let mut said: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            said += &stream.finish().unwrap();
            prop_assert_eq!(&said, &text, "{} token by token", pre);
        }
    }
}

/// Words, blanks, digits, line breaks, accents, other scripts, emoji, and any character at all.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "the", " rose", "'s", "  ", "\n", "\t", "12345", "é", "東京", "🌹", "\r\n", "_", " \u{301}",
    ]);
    let piece = prop_oneof![word.prop_map(str::to_owned), any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

#[test]
fn byte_level_bpe_cuts_words_as_each_family_does() {
    let fixture: Json = serde_json::from_str(BPE).unwrap();
    for pre in ["gpt-2", "smollm", "llama-bpe", "tekken", "gpt-4o", "seed-coder", "deepseek-v3"] {
        check(&gguf(&fixture, "gpt2", pre), &fixture["cases"][pre], str::to_owned);
    }
    // Qwen composes characters first
    let composed = |text: &str| {
        ["á", "ć", "é", "ó", "ŕ", "ś"]
            .iter()
            .zip(["a", "c", "e", "o", "r", "s"])
            .fold(text.to_owned(), |t, (one, base)| t.replace(&format!("{base}\u{301}"), one))
    };
    check(&gguf(&fixture, "gpt2", "qwen2"), &fixture["cases"]["qwen2"], composed);
}

#[test]
fn sentence_piece_agrees_with_its_original() {
    let fixture: Json = serde_json::from_str(SPM).unwrap();
    let t = gguf(&fixture, "llama", "default");
    check(&t, &fixture["cases"], str::to_owned);
    assert_eq!(t.prefix_ids(), [1], "this kind adds BOS unless told otherwise");
}

#[test]
fn sentence_piece_without_a_space_in_front() {
    let fixture: Json = serde_json::from_str(SPM).unwrap();
    let with = gguf(&fixture, "llama", "default");
    let mut m = Metadata::new();
    for (key, value) in [("tokens", texts(&fixture["tokens"])), ("scores", numbers(&fixture["scores"]))] {
        m.insert(format!("tokenizer.ggml.{key}"), value);
    }
    m.insert("tokenizer.ggml.token_type".into(), numbers(&fixture["types"]));
    m.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
    m.insert("tokenizer.ggml.add_space_prefix".into(), Value::Bool(false));
    let without = Tokenizer::from_gguf(Path::new("a.gguf"), &m).unwrap();
    assert_eq!(without.encode(" the rose", false).unwrap(), with.encode("the rose", false).unwrap());
    let ids = without.encode("the rose", false).unwrap();
    assert_eq!(without.decode(&ids, false).unwrap(), "the rose");
}

#[test]
fn special_ids_and_what_surrounds_a_text() {
    let t = tokenizer(None, true);
    assert_eq!((t.bos(), t.eos(), t.pad(), t.unk()), (Some(BOS), Some(EOS), None, None));
    assert_eq!(t.vocab_size(), VOCAB);
    assert_eq!(t.end_of_turn(), [EOS, 259, 262], "EOS first, then <|im_end|> and <|eot_id|>");
    assert_eq!(t.encode("a</s>", true).unwrap(), [BOS, t.id("a").unwrap(), EOS]);
    assert_eq!(t.encode("a", false).unwrap().len(), 1);
    assert_eq!(t.decode(&[BOS, t.id("a").unwrap(), EOS], true).unwrap(), "a");
    assert_eq!(t.decode(&[BOS, t.id("a").unwrap(), EOS], false).unwrap(), "<s>a</s>");
}

#[test]
fn a_stream_holds_back_half_characters() {
    let t = tokenizer(None, false);
    let ids = t.encode("é😀", false).unwrap();
    let mut stream = t.stream(false);
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["", "é", "", "", "", "😀"]);
    let mut cut = t.stream(false);
    assert_eq!(cut.push(ids[0]).unwrap() + &cut.finish().unwrap(), "\u{fffd}");
}

#[test]
fn a_tokenizer_of_another_model_is_told() {
    let t = tokenizer(None, false);
    t.check_model(VOCAB).unwrap();
    t.check_model(VOCAB + 100).unwrap();
    let e = t.check_model(250).unwrap_err().to_string();
    assert!(e.contains("255") && e.contains("250") && e.contains("bytes.gguf") && e.contains("does not match"), "{e}");
}

#[test]
fn an_added_token_without_a_row_is_refused_where_it_is_used() {
    let t = tokenizer(None, false);
    let rows = VOCAB - 1;
    t.check_model(rows).unwrap();
    t.check_ids(&t.encode("a</s>", false).unwrap(), rows).unwrap();
    let e = t.check_ids(&t.encode("a<pad>", false).unwrap(), rows).unwrap_err();
    assert!(e.contains("\"<pad>\" has id 263") && e.contains("263 rows"), "{e}");

    let (_dir, path) = support::file("{\"text\": \"fine\"}\n{\"text\": \"a <pad> b\"}\n");
    let open = |rows| crate::data::Dataset::open(&path, &crate::data::DataOptions::default(), Some(&t), rows);
    open(VOCAB).unwrap();
    let e = open(rows).err().unwrap().to_string();
    assert!(e.contains("data.jsonl:2: ") && e.contains("<pad>"), "{e}");
    assert!(open(250).err().unwrap().to_string().contains("does not match the model"));
}

/// The special tokens of Phi-3, behind the vocabulary of the fixture, and how a family's file is called.
fn phi(architecture: &str) -> Tokenizer {
    let fixture: Json = serde_json::from_str(SPM).unwrap();
    let added = ["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"];
    let with = |list: &Json, more: [Json; 4]| Json::from([list.as_array().unwrap().as_slice(), &more].concat());
    let mut m = Metadata::new();
    m.insert("general.architecture".into(), Value::String(architecture.into()));
    m.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
    m.insert("tokenizer.ggml.tokens".into(), texts(&with(&fixture["tokens"], added.map(Json::from))));
    m.insert("tokenizer.ggml.scores".into(), numbers(&with(&fixture["scores"], [0, 0, 0, 0].map(Json::from))));
    m.insert("tokenizer.ggml.token_type".into(), numbers(&with(&fixture["types"], [3, 3, 3, 3].map(Json::from))));
    Tokenizer::from_gguf(Path::new("phi.gguf"), &m).unwrap()
}

#[test]
fn special_tokens_of_phi_3_swallow_the_blanks_behind_them() {
    let fixture: Json = serde_json::from_str(SPM).unwrap();
    let (phi3, llama) = (phi("phi3"), phi("llama"));
    for case in fixture["phi3"].as_array().unwrap() {
        let text = case[0].as_str().unwrap();
        assert_eq!(phi3.encode(text, false).unwrap(), ids(&case[1]), "phi3 {text:?}");
        assert_eq!(llama.encode(text, false).unwrap(), ids(&case[2]), "llama {text:?}");
    }
}

#[test]
fn special_tokens_of_phi_4_swallow_blanks_on_both_sides() {
    let mut m = metadata(None, false);
    m.insert("general.architecture".into(), Value::String("phi3".into()));
    let t = Tokenizer::from_gguf(Path::new("phi4.gguf"), &m).unwrap();
    let plain = tokenizer(None, false);
    assert_eq!(t.encode("a \n<|im_start|>  b", false).unwrap(), plain.encode("a<|im_start|>b", false).unwrap());
    assert_eq!(plain.encode("a <|im_start|>b", false).unwrap().len(), 4);
}

#[test]
fn bad_metadata_names_its_key() {
    let cases: Vec<(&str, Option<Value>, &str)> = vec![
        ("model", None, "tokenizer.ggml.model: is missing"),
        ("model", Some(Value::String("bert".into())), "supported are \"gpt2\" and \"llama\""),
        ("model", Some(Value::U32(1)), "tokenizer.ggml.model: is not a string"),
        ("pre", Some(Value::String("bloom".into())), "\"bloom\" is not supported; supported are default, gpt-2"),
        ("tokens", None, "tokenizer.ggml.tokens: is missing"),
        ("tokens", Some(strings([])), "tokenizer.ggml.tokens: is empty"),
        ("tokens", Some(Value::Array(vec![Value::U8(1)])), "tokenizer.ggml.tokens: is not an array of strings"),
        ("token_type", Some(Value::Array(vec![Value::I32(1)])), "has 1 entries for 264 tokens"),
        ("merges", None, "tokenizer.ggml.merges: is missing"),
        ("merges", Some(strings(["ab"])), "entry 0, \"ab\", is not two tokens"),
        ("merges", Some(strings(["a nothing"])), "`nothing` out of vocabulary"),
        ("bos_token_id", Some(Value::U32(264)), "bos_token_id: is 264, but there are 264 tokens"),
        ("eos_token_id", Some(Value::I32(-1)), "eos_token_id: is not a token id"),
        ("add_bos_token", Some(Value::U8(1)), "add_bos_token: is not a bool"),
    ];
    for (key, value, want) in cases {
        let mut m = metadata(None, false);
        let key = format!("tokenizer.ggml.{key}");
        match value {
            Some(v) => m.insert(key, v),
            None => m.remove(&key),
        };
        let e = Tokenizer::from_gguf(Path::new("x.gguf"), &m).err().expect(want).to_string();
        assert!(e.starts_with("x.gguf: ") && e.contains(want) && !e.contains('\n'), "{e}");
    }
    let mut m = metadata(None, false);
    m.insert("tokenizer.ggml.model".into(), Value::String("llama".into()));
    let e = Tokenizer::from_gguf(Path::new("x.gguf"), &m).err().unwrap().to_string();
    assert!(e.contains("tokenizer.ggml.scores: is missing"), "{e}");
}

/// A Hugging Face folder with the byte tokenizer, and a post-processor like Llama 3's.
fn folder() -> tempfile::TempDir {
    let t = tokenizer(None, false);
    let added: Vec<Json> = SPECIAL
        .iter()
        .map(|s| {
            json!({"id": t.id(s), "content": s, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let vocab: serde_json::Map<String, Json> = (0..VOCAB as u32).map(|id| (t.token(id).unwrap(), json!(id))).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": null, "normalizer": null, "pre_tokenizer": bytes, "decoder": bytes, "added_tokens": added,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
        "post_processor": {"type": "Sequence", "processors": [bytes, {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}}]},
    });
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>", "chat_template": support::CHATML});
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    std::fs::write(dir.path().join("special_tokens_map.json"), r#"{"pad_token": "<pad>", "eos_token": "</s>"}"#)
        .unwrap();
    std::fs::write(dir.path().join("generation_config.json"), r#"{"eos_token_id": [259, 257]}"#).unwrap();
    dir
}

#[test]
fn a_folder_gives_everything() {
    let dir = folder();
    let t = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!((t.bos(), t.eos(), t.pad()), (Some(BOS), Some(259), Some(263)), "the config wins over the map");
    assert_eq!(t.end_of_turn(), [259, 257, 262]);
    assert_eq!(t.prefix_ids(), [BOS]);
    assert_eq!(t.encode("Hi there", true).unwrap().len(), 9, "BOS, and no truncation");
    assert_eq!(t.chat_templates(), [("default".to_owned(), support::CHATML.to_owned())]);
    // borders are those of the text, not trimmed to words
    let starts: Vec<usize> = t.encode_with_starts("a b").unwrap().iter().map(|t| t.1).collect();
    assert_eq!(starts, [0, 1, 2]);

    std::fs::write(dir.path().join("chat_template.jinja"), "mine").unwrap();
    assert_eq!(Tokenizer::from_folder(dir.path()).unwrap().chat_templates()[0].1, "mine");
}

#[test]
fn broken_folders_are_named() {
    let dir = folder();
    std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    let e = Tokenizer::from_folder(dir.path()).err().unwrap().to_string();
    assert!(e.contains("tokenizer_config.json") && !e.contains('\n'), "{e}");
    std::fs::write(dir.path().join("tokenizer.json"), "{\"model\": {}}").unwrap();
    let e = Tokenizer::from_folder(dir.path()).err().unwrap().to_string();
    assert!(e.contains("tokenizer.json") && !e.contains('\n'), "{e}");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let e = Tokenizer::from_folder(dir.path()).err().unwrap();
    assert!(matches!(&e, crate::error::Error::Io { path, .. } if path.ends_with("tokenizer.json")), "{e}");
}

/// What is saved from a GGUF file puts the same tokens around a text, in files that others read too.
#[test]
fn what_is_saved_comes_back_with_its_surroundings() {
    let fixture: Json = serde_json::from_str(SPM).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let saved = gguf(&fixture, "llama", "default");
    assert_eq!(saved.prefix_ids(), [1]);
    saved.save(dir.path()).unwrap();
    let back = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!((back.bos(), back.prefix_ids()), (saved.bos(), saved.prefix_ids()));
    for text in ["a rose", "  <s>x", ""] {
        assert_eq!(back.encode(text, true).unwrap(), saved.encode(text, true).unwrap(), "{text:?}");
    }
    let json: Json = serde_json::from_slice(&std::fs::read(dir.path().join("tokenizer.json")).unwrap()).unwrap();
    let post = &json["post_processor"];
    assert_eq!((&post["type"], post["single"].as_array().map(Vec::len)), (&json!("TemplateProcessing"), Some(2)));
}

/// Through `tokenizer.json` and back into metadata.
fn again(t: &Tokenizer) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    t.save(dir.path()).unwrap();
    let saved = Tokenizer::from_folder(dir.path()).unwrap();
    let metadata = saved.to_gguf(t.vocab_size() + 3, &[]).unwrap();
    assert_eq!(
        metadata["tokenizer.ggml.tokens"].as_array().unwrap().last().unwrap().as_str().unwrap().find("[PAD"),
        Some(0)
    );
    Tokenizer::from_gguf(Path::new("again.gguf"), &metadata).unwrap()
}

#[test]
fn what_is_written_as_metadata_is_the_same_tokenizer() {
    let bpe: Json = serde_json::from_str(BPE).unwrap();
    for pre in ["smollm", "gpt-2", "llama-bpe", "dbrx", "qwen2", "stablelm2"] {
        let t = gguf(&bpe, "gpt2", pre);
        let other = again(&t);
        for case in bpe["cases"].as_object().unwrap().values().flat_map(|c| c.as_array().unwrap()) {
            let text = case[0].as_str().unwrap();
            assert_eq!(other.encode(text, true).unwrap(), t.encode(text, true).unwrap(), "{pre}: {text:?}");
        }
    }
    let spm: Json = serde_json::from_str(SPM).unwrap();
    let t = again(&gguf(&spm, "llama", "default"));
    for case in spm["cases"].as_array().unwrap() {
        assert_eq!(t.encode(case[0].as_str().unwrap(), false).unwrap(), ids(&case[1]), "{case}");
    }
    // special tokens and the chat template go along
    let t = tokenizer(Some(support::CHATML), true);
    let other = again(&t);
    assert_eq!((other.bos(), other.eos(), other.prefix_ids()), (t.bos(), t.eos(), t.prefix_ids()));
    assert_eq!(other.chat_templates(), t.chat_templates());
    let text = format!("{}a</s>", SPECIAL[3]);
    assert_eq!(other.encode(&text, true).unwrap(), t.encode(&text, true).unwrap());
}

//! Files that would end the program, fill the machine or take for ever: each is refused in a line, soon.

use super::support::{CHATML, VOCAB, file_named, tokenizer};
use crate::data::{DataOptions, Dataset, Tokenizer};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// A tokenizer of a few letters, `a` to `e`, with these parts put over it.
fn pipeline(parts: &Json) -> Json {
    let vocab: serde_json::Map<String, Json> =
        ["a", "b", "c", "d", "e", "<unk>"].iter().enumerate().map(|(i, t)| ((*t).into(), json!(i))).collect();
    let mut file = json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    });
    for (key, value) in parts.as_object().expect("parts") {
        file[key] = value.clone();
    }
    file
}

/// What is said of a folder with this `tokenizer.json`, which is used for a text and for ids.
fn said(file: &str) -> String {
    let (dir, _) = file_named("tokenizer.json", file);
    let started = Instant::now();
    let used = Tokenizer::from_folder(dir.path()).and_then(|t| {
        t.encode(&"abc dé ".repeat(99), true)?;
        t.decode(&[0, 1, 2, 3, 4, 5, 9_999_999], false)
    });
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}: {file:.300}");
    let message = used.map_or_else(|e| e.to_string(), |text| format!("is read: {text}"));
    assert!(!message.contains(char::is_control) && message.len() < 5_000, "{message}");
    message
}

/// A character map with this tree and these texts.
fn charsmap(tree: &[u32], texts: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = (4 * tree.len() as u32).to_le_bytes().to_vec();
    bytes.extend(tree.iter().flat_map(|unit| unit.to_le_bytes()));
    bytes.extend(texts.bytes());
    let digit = |group: &[u8], i: usize| {
        let word = group.iter().enumerate().fold(0u32, |w, (j, b)| w | u32::from(*b) << (16 - 8 * j));
        char::from(ALPHABET[(word >> (18 - 6 * i) & 63) as usize])
    };
    let groups = bytes.chunks(3).flat_map(|group| (0..4).map(move |i| (group, i)));
    groups.map(|(group, i)| if i <= group.len() { digit(group, i) } else { '=' }).collect()
}

fn nested(name: &str, kind: &str, depth: usize) -> Json {
    (0..depth).fold(json!({"type": "Lowercase"}), |inner, _| json!({"type": kind, name: [inner]}))
}

fn precompiled(map: String) -> Json {
    json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": map}})
}

fn replace(pattern: Json, content: &str) -> Json {
    json!({"type": "Replace", "pattern": pattern, "content": content})
}

fn model(model: Json) -> Json {
    json!({"model": model})
}

/// Of each pipeline what must be said: where that is a message, the file is not read; else it is read or refused in a line.
#[track_caller]
fn say(pipelines: impl IntoIterator<Item = (Json, &'static str)>) {
    for (parts, want) in pipelines {
        let file = pipeline(&parts).to_string();
        let said = said(&file);
        assert!(said.contains(want) && !(want.len() > 9 && said.starts_with("is read")), "{file:.400}: {said}");
    }
}

#[test]
fn tokenizers_whose_parts_do_not_fit_together_are_refused() {
    assert!(said(&pipeline(&json!({})).to_string()).starts_with("is read: "));
    let template = |special: Json| {
        json!({"post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": special,
        }})
    };
    // the crate panics over each of these
    say([
        (precompiled("AAAA".into()), "precompiled_charsmap that is damaged"),
        (precompiled("!".into()), "precompiled_charsmap that is damaged"),
        (precompiled(charsmap(&[u32::MAX; 4], "a\0")), ""),
        (precompiled(charsmap(&[0], "a\0")), ""),
        (template(json!({})), "its parts do not fit together"),
        (json!({"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}}), "tokenizer"),
        (json!({"pre_tokenizer": {"type": "FixedLength", "length": 0}}), ""),
        (
            model(
                json!({"type": "BPE", "vocab": {"a": 0, "éb": 1, "aéb": 2, "ab": 3}, "merges": [["a", "éb"]], "continuing_subword_prefix": "é"}),
            ),
            "",
        ),
        (
            model(
                json!({"type": "BPE", "vocab": {"a": 0, "éb": 1, "aéb": 2, "ab": 3}, "merges": [["a", "éb"]], "continuing_subword_prefix": "x"}),
            ),
            "its parts do not fit together",
        ),
        (model(json!({"type": "Unigram", "vocab": [], "unk_id": 7})), ""),
        (model(json!({"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": null})), ""),
        (
            model(json!({"type": "WordPiece", "vocab": {"a": 0}, "unk_token": "?", "continuing_subword_prefix": "é"})),
            "",
        ),
    ]);
}

#[test]
fn tokenizers_that_take_memory_or_time_without_end_are_refused() {
    let doubled: Vec<Json> = (0..40).map(|_| replace(json!({"String": "a"}), "aa")).collect();
    let bytes: Vec<Json> = (0..40)
        .map(|_| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}))
        .collect();
    say([
        (json!({"normalizer": replace(json!({"String": ""}), "x")}), "Replace whose pattern is empty"),
        (json!({"normalizer": replace(json!({"Regex": ""}), "x")}), ""),
        (json!({"normalizer": {"type": "Sequence", "normalizers": doubled}}), "normalizer: has"),
        (json!({"decoder": {"type": "Sequence", "decoders": doubled}}), "decoder: has"),
        (json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": bytes}}), "pre_tokenizer: has"),
        (json!({"normalizer": replace(json!({"Regex": "."}), &"x".repeat(20_000))}), "normalizer: has"),
        (precompiled(charsmap(&[0], &"x".repeat(300))), "makes 300 bytes of a character"),
        (json!({"normalizer": {"type": "Prepend", "prepend": "x".repeat(5_000)}}), "prepends 5000 bytes"),
        (json!({"normalizer": replace(json!({"Regex": "(a+)+$"}), "x")}), ""),
        (
            json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(?=(a|b|ab)*c)(?:a|ab|b)*?d\\1"}, "behavior": "Isolated", "invert": false}}),
            "",
        ),
        (
            json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(".repeat(50_000)}, "behavior": "Isolated", "invert": false}}),
            "content",
        ),
        (
            json!({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((a{1000}){1000}){1000}"}, "behavior": "Isolated", "invert": false}}),
            "",
        ),
        (
            model(
                json!({"type": "WordPiece", "vocab": {"a": 0, "?": 1}, "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1u64 << 40}),
            ),
            "max_input_chars_per_word",
        ),
        (
            model(json!({"type": "BPE", "vocab": {"a": 0, "x".repeat(5_000): 1}, "merges": []})),
            "token 1 has 5000 bytes",
        ),
        (
            json!({"added_tokens": [{"id": 9, "content": "x".repeat(17 << 20), "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]}),
            "added_tokens",
        ),
    ]);
}

#[test]
fn tokenizers_that_take_the_stack_or_are_no_tokenizers_are_refused() {
    say([
        (json!({"normalizer": nested("normalizers", "Sequence", 30)}), "nested more than 24 deep"),
        (json!({"pre_tokenizer": nested("pretokenizers", "Sequence", 30)}), "nested more than 24 deep"),
        (json!({"decoder": nested("decoders", "Sequence", 30)}), "nested more than 24 deep"),
        (json!({"post_processor": nested("processors", "Sequence", 30)}), "nested more than 24 deep"),
    ]);
    let deep = format!("{{\"normalizer\": {}1{}}}", "[".repeat(200_000), "]".repeat(200_000));
    assert!(said(&deep).contains("recursion limit"));
    assert!(said("{\"normalizer\": null, \"normalizer\": 1}").contains("duplicate field"));
    assert!(said("[]").contains("tokenizer.json: content: "));
    // an id at the edge of what 32 bits hold
    let far = pipeline(&json!({"model": {"type": "WordLevel", "vocab": {"a": u32::MAX, "b": 1}, "unk_token": "b"}}));
    assert!(said(&far.to_string()).starts_with("is read"));
}

#[test]
fn a_text_that_would_grow_too_large_is_not_encoded() {
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(900)});
    let (dir, _) = file_named("tokenizer.json", pipeline(&json!({"normalizer": replace})).to_string());
    let t = Tokenizer::from_folder(dir.path()).unwrap();
    let said = t.encode(&"a".repeat(300_000), false).unwrap_err().to_string();
    assert!(said.contains("could become 270300000 bytes"), "{said}");
    assert_eq!(t.encode("ab", false).unwrap().len(), 901);
}

#[test]
fn rows_without_an_end_are_refused() {
    let open = |name: &str, head: &str, length: u64| {
        let (_dir, path) = file_named(name, head);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        Dataset::open(&path, &DataOptions::default(), Some(&tokenizer(Some(CHATML), false)), VOCAB)
            .err()
            .expect("refused")
            .to_string()
    };
    // holes: they take no space on the disk
    let line = open("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"", 1 << 40);
    assert!(line.contains("a.jsonl:2: has over 67108864 bytes without a line break"), "{line}");
    let (_dir, path) = file_named("b.jsonl", "[".repeat(200_000));
    let t = tokenizer(Some(CHATML), false);
    let said = Dataset::open(&path, &DataOptions::default(), Some(&t), VOCAB).err().expect("refused").to_string();
    assert!(said.contains("never ends"), "{said}");
    for deep in [format!("{{\"text\": {}{}}}", "[".repeat(200_000), "]".repeat(200_000)), "{\"a\":".repeat(200_000)] {
        let (_dir, path) = file_named("c.jsonl", deep);
        let said = Dataset::open(&path, &DataOptions::default(), Some(&t), VOCAB).err().expect("refused").to_string();
        assert!(said.contains("recursion limit"), "{said}");
    }
}

#[test]
fn templates_cannot_make_the_search_for_answers_long() {
    // what opens a turn is as long as a text can be, and could be cut at every byte
    for template in [
        "{% for m in messages %}{{ '>' * 400000 }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ '>' * 400000 }}{% endif %}",
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'é>' * 300000 }}{% endif %}",
    ] {
        let t = tokenizer(Some(template), false);
        let row = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        let (_dir, path) = file_named("a.jsonl", row);
        let started = Instant::now();
        // accepted or refused: only that it ends
        let _ = Dataset::open(&path, &DataOptions::default(), Some(&t), VOCAB);
        assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    }
}

#[test]
fn tokens_around_a_text_are_counted_before_they_are_made() {
    let with = |pieces: usize, ids: usize| {
        let mut single = vec![json!({"SpecialToken": {"id": "<s>", "type_id": 0}}); pieces];
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        let special = json!({"<s>": {"id": "<s>", "ids": vec![0; ids], "tokens": vec!["a"; ids]}});
        let pair = [json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"Sequence": {"id": "B", "type_id": 0}})];
        let template = json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special});
        [template.clone(), json!({"type": "Sequence", "processors": [template]})]
    };
    for post_processor in with(200, 100) {
        let said = said(&pipeline(&json!({"post_processor": post_processor})).to_string());
        assert!(said.contains("post_processor") && said.contains("tokens around a text"), "{said}");
    }
    for post_processor in with(3, 2) {
        let said = said(&pipeline(&json!({"post_processor": post_processor})).to_string());
        assert!(!said.contains("tokens around a text"), "{said}");
    }
}

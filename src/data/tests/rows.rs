use super::support::{BOS, CHATML, EOS, VOCAB, file, learnt, tokenizer};
use crate::data::{DataOptions, Dataset, PromptFormat, RowKind, Tokenizer, preview};
use crate::error::{Error, Result};

fn open(content: impl AsRef<[u8]>, options: &DataOptions, t: Option<&Tokenizer>) -> Result<Dataset> {
    let (_dir, path) = file(content);
    Dataset::open(&path, options, t, VOCAB)
}

/// Pairs as they are, though there is a chat template.
fn raw() -> DataOptions {
    DataOptions { prompt_format: PromptFormat::Raw, ..DataOptions::default() }
}

fn chat() -> Tokenizer {
    tokenizer(Some(CHATML), true)
}

/// The only row's text and what is learnt of it.
fn one(row: &str, options: &DataOptions) -> (String, String) {
    let t = chat();
    let set = open(row, options, Some(&t)).unwrap();
    let e = set.example(0);
    (t.decode(e.ids, false).unwrap(), learnt(&t, e.labels))
}

#[test]
fn every_kind_of_row() {
    let o = raw();
    let both = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(one(r#"{"prompt": "Q: ", "response": "é", "id": 7}"#, &o), both("<s>Q: é</s>", "é</s>"));
    let renamed = DataOptions { prompt_field: "question".into(), response_field: "answer".into(), ..o.clone() };
    assert_eq!(one(r#"{"question": "Q", "answer": "A"}"#, &renamed), both("<s>Q A</s>", " A</s>"));
    let twice = DataOptions { bos_before_response: true, ..o.clone() };
    assert_eq!(one(r#"{"prompt": "Q: ", "response": "é"}"#, &twice), both("<s>Q: <s>é</s>", "<s>é</s>"));
    assert_eq!(one(r#"{"text": "ab"}"#, &o), both("<s>ab", "ab"));
    let (text, said) = one(r#"{"instruction": "Add {input}", "input": "1 {instruction}", "output": "2"}"#, &o);
    assert!(
        text.ends_with("### Instruction:\nAdd {input}\n\n### Input:\n1 {instruction}\n\n### Response:\n2</s>"),
        "{text}"
    );
    assert_eq!(said, "2</s>");
    for row in [r#"{"instruction": "Go", "input": " ", "output": "2"}"#, r#"{"instruction": "Go", "output": "2"}"#] {
        let (text, _) = one(row, &o);
        assert!(text.ends_with("### Instruction:\nGo\n\n### Response:\n2</s>") && !text.contains("Input"), "{text}");
    }
    let (text, said) =
        one(r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#, &o);
    assert!(text.contains("Be kind.") && said == "b<|im_end|>", "{text}");
    let parts =
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]},
                    {"role": "assistant", "content": "b"}]}"#
            .replace('\n', "");
    assert!(one(&parts, &o).0.contains("user\nxy<|im_end|>"));
}

#[test]
fn the_kind_can_be_said() {
    let row = r#"{"text": "ab", "prompt": "p", "response": "r"}"#;
    assert_eq!(one(row, &DataOptions::default()).1, "r<|im_end|>");
    assert_eq!(one(row, &DataOptions { kind: Some(RowKind::Text), ..Default::default() }).1, "ab");
}

#[test]
fn pretokenised_rows_need_no_tokenizer() {
    let rows = "{\"input_ids\": [5, 6, 7]}\n{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, -100, 7, -100]}\n\
                {\"input_ids\": [1, 2, 3, 4], \"labels\": [1, 2, 3, 4], \"attention_mask\": [0, 1, 1, 0]}\n";
    let set = open(rows, &DataOptions::default(), None).unwrap();
    let got: Vec<_> = set.examples().map(|e| (e.ids.to_vec(), e.labels.to_vec(), e.prompt_len())).collect();
    assert_eq!(
        got,
        [
            (vec![5, 6, 7], vec![-100, 6, 7], 1),
            (vec![5, 6, 7, 8], vec![-100, -100, 7, -100], 2),
            (vec![2, 3], vec![-100, 3], 1),
        ]
    );
}

#[test]
fn blank_lines_marks_and_carriage_returns_are_passed_over() {
    let set = open("\u{feff}{\"text\": \"ab\"}\r\n\r\n   \n{\"text\": \"cd\"}", &DataOptions::default(), Some(&chat()))
        .unwrap();
    assert_eq!(set.examples().map(|e| e.line).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(set.report().rows, 2);
}

#[test]
fn wrong_rows_are_named_by_file_and_line() {
    let long = format!(r#"{{"input_ids": [1, "{}"]}}"#, "x".repeat(500));
    let cases: &[(&str, &str)] = &[
        (r#"{"text": "ab""#, "malformed JSON at column 13: EOF while parsing an object"),
        (r#"["a"]"#, "a row must be a JSON object, this is a list"),
        (
            r#"{"txt": "a", "id": 3}"#,
            "unknown kind of row, its fields are [txt, id]; expected are messages or conversations, or prompt and response",
        ),
        (r#"{"prompt": "a"}"#, "unknown kind of row"),
        (r#"{"text": 3}"#, "field text must be a string, this is a number"),
        (r#"{"prompt": null, "response": "a"}"#, "field prompt must be a string, this is null"),
        (r#"{"prompt": "a", "response": ""}"#, "no token to learn: field response is empty"),
        (r#"{"text": ""}"#, "no token to learn"),
        (r#"{"instruction": "a", "input": [], "output": "b"}"#, "field input must be a string, this is a list"),
        (r#"{"messages": []}"#, "messages is empty"),
        (r#"{"messages": "a"}"#, "messages must be a list, this is a string"),
        (r#"{"messages": ["a"]}"#, "messages[0]: must be an object with role and content"),
        (r#"{"messages": [{"role": "user"}]}"#, "messages[0]: field content is missing"),
        (r#"{"messages": [{"content": "a"}]}"#, "messages[0]: field role is missing"),
        (
            r#"{"messages": [{"role": "user", "content": [{"image": 1}]}]}"#,
            "messages[0]: content holds a part that is no text",
        ),
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "no message has the role \"assistant\""),
        (r#"{"input_ids": []}"#, "no token to learn"),
        (r#"{"input_ids": [1, 2], "labels": [2, -100]}"#, "no token to learn"),
        (r#"{"input_ids": 3}"#, "field input_ids must be a list of integers, this is a number"),
        (r#"{"input_ids": [1, 264]}"#, "input_ids[1] is 264: a token id is an integer from 0 to 263"),
        (r#"{"input_ids": [1, 1.5]}"#, "input_ids[1] is 1.5"),
        (r#"{"input_ids": [1, 2], "labels": [1]}"#, "labels has 1 entries, input_ids has 2"),
        (r#"{"input_ids": [1, 2], "labels": [1, -1]}"#, "labels[1] is -1: a label is -100 or a token id"),
        (r#"{"input_ids": [1, 2], "attention_mask": [1]}"#, "attention_mask has 1 entries"),
        (r#"{"input_ids": [1, 2], "attention_mask": [1, 2]}"#, "attention_mask[1] is 2"),
        (&long, "input_ids[1] is \"xxx"),
    ];
    for (row, want) in cases {
        let content = format!("{{\"text\": \"fine\"}}\n\n{row}\n{{\"text\": 1}}\n");
        let e = open(content, &DataOptions::default(), Some(&chat())).err().expect(row);
        let Error::Row { path, line: 3, reason } = &e else { panic!("{e}") };
        assert!(path.ends_with("data.jsonl") && reason.contains(want), "{reason}");
        assert!(!reason.contains('\n') && reason.len() < 400, "{reason}");
    }
    let e = open(b"{\"text\": \"\xff\"}\n", &DataOptions::default(), Some(&chat())).err().unwrap();
    assert!(matches!(&e, Error::Row { line: 1, reason, .. } if reason.contains("not UTF-8")), "{e}");
}

#[test]
fn whole_sets_can_be_wrong() {
    let o = DataOptions::default();
    let e = |content: &str, o: &DataOptions, t: Option<&Tokenizer>| open(content, o, t).err().unwrap().to_string();
    let t = chat();
    assert!(e("\n \n", &o, Some(&t)).ends_with("data.jsonl: rows: there are none: the file is empty"));
    assert!(e(r#"{"text": "a"}"#, &o, None).contains("data.jsonl:1: this row needs a tokenizer"));
    let plain = tokenizer(None, false);
    let messages = r#"{"messages": [{"role": "assistant", "content": "b"}]}"#;
    assert!(e(messages, &o, Some(&plain)).contains("data.jsonl:1: bytes.gguf: chat_template: there is none"));
    let short = DataOptions { seq_len: 4, ..o.clone() };
    let lost = e(r#"{"prompt": "abcdef", "response": "g"}"#, &short, Some(&t));
    assert!(lost.contains("none of the 1 is left") && lost.contains("⟨seq_len⟩"), "{lost}");
    assert!(e("", &DataOptions { seq_len: 1, ..o.clone() }, Some(&t)).starts_with("seq_len: must be at least 2"));
    let same = DataOptions { prompt_field: "response".into(), ..o.clone() };
    assert!(e("", &same, Some(&t)).contains("same as response_field"));
    let missing = Dataset::open(std::path::Path::new("/nowhere/x.jsonl"), &o, Some(&t), VOCAB).err().unwrap();
    assert!(matches!(&missing, Error::Io { .. }) && missing.to_string().contains("x.jsonl"), "{missing}");
    let (_dir, path) = file("{\"text\": \"ab\"}");
    let e = Dataset::open(&path, &o, Some(&t), 100).err().unwrap().to_string();
    assert!(e.contains("does not match the model"), "{e}");
}

#[test]
fn previews_show_what_is_learnt() {
    let t = chat();
    let set = open(r#"{"prompt": "a\u001b[2J\n", "response": "é"}"#, &raw(), Some(&t)).unwrap();
    let plain = preview::render(Some(&t), set.example(0), false).unwrap();
    assert_eq!(plain, "<s>a\\u{1b}[2J\n‹é</s>›\nline 1: 10 tokens, 3 learnt\n");
    let colour = preview::render(Some(&t), set.example(0), true).unwrap();
    assert!(colour.contains("\u{1b}[1m\u{1b}[32mé</s>\u{1b}[0m") && !colour.contains('‹'), "{colour:?}");
    let ids = preview::render(None, set.example(0), false).unwrap();
    assert!(ids.starts_with(&BOS.to_string()) && ids.contains(&format!("{EOS}›\n")), "{ids}");
}

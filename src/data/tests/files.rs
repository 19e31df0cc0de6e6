//! What people give as data: each file is read rightly, or refused in one line that says what it is and what to do.

use super::support::{CHATML, VOCAB, file_named, learnt, tokenizer};
use crate::data::{DataOptions, Dataset, EmptyRows};

const USER_A: &str = r#"{"role": "user", "content": "a"}"#;

/// What is learnt of each row with `options`, or the error without the folder's name.
fn read_with(name: &str, content: impl AsRef<[u8]>, options: &DataOptions) -> Result<Vec<String>, String> {
    let t = tokenizer(Some(CHATML), false);
    let (dir, path) = file_named(name, content);
    match Dataset::open(&path, options, Some(&t), VOCAB) {
        Ok(set) => Ok(set.examples().map(|e| learnt(&t, e.labels)).collect()),
        Err(e) => {
            let e = e.to_string();
            assert!(!e.contains('\n') && e.len() < 500, "{e}");
            Err(e.replace(&format!("{}/", dir.path().display()), ""))
        }
    }
}

fn reads(name: &str, content: impl AsRef<[u8]>, want: &[&str]) {
    let shown = String::from_utf8_lossy(content.as_ref()).into_owned();
    assert_eq!(
        read_with(name, content, &DataOptions::default()).as_deref(),
        Ok(&*want.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()),
        "{shown}"
    );
}

fn refuses(name: &str, content: impl AsRef<[u8]>, parts: &[&str]) {
    let shown = String::from_utf8_lossy(content.as_ref()).into_owned();
    let e = read_with(name, content, &DataOptions::default()).expect_err(&shown);
    assert!(e.starts_with(name), "{e}");
    for part in parts {
        assert!(e.contains(part), "{e}: {part}");
    }
}

#[test]
fn json_in_other_forms_than_lines() {
    reads("a.json", r#"[{"text": "a b"}, {"text": "c d"}]"#, &[" b", " d"]);
    reads(
        "a.json",
        "\u{feff}\n[\n  {\n    \"instruction\": \"a\",\n    \"input\": \"\",\n    \"output\": \"b\"\n  }\n]\n",
        &["b<|im_end|>"],
    );
    reads("a.json", "{\n  \"instruction\": \"a\",\n  \"output\": \"b\"\n}\n", &["b<|im_end|>"]);
    reads("a.json", "{\n\"text\": \"ab\"\n}\n{\n\"text\": \"c[}\\\"d\"}", &["b", "[}\"d"]);
    reads("a.jsonl", "\u{feff}{\"text\":\"ab\"}\r\n{\"text\":\"cd\"}\r\n", &["b", "d"]);
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        text.encode_utf16().flat_map(|u| if big { u.to_be_bytes() } else { u.to_le_bytes() }).collect()
    };
    for big in [false, true] {
        reads("a.jsonl", utf16("\u{feff}{\"text\":\"héllo\"}\r\n{\"text\":\"cd\"}\n", big), &["éllo", "d"]);
        reads("a.jsonl", utf16("{\"text\":\"hello\"}\n", big), &["ello"]);
        reads("a.csv", utf16("\u{feff}prompt\tresponse\nHi\tYo\n", big), &["Yo<|im_end|>"]);
    }
    refuses(
        "a.json",
        "[\n{\"text\": \"a b\"},\n{\"text\": 3}]",
        &["a.json:3: entry 2 of the array: field text must be a string"],
    );
    refuses("a.json", "[\n{\"text\": \"a b\"}\n{\"text\": 3}]", &["a.json:3: a comma is missing behind entry 1"]);
    refuses("a.json", "[{\"text\": \"a b\"},\n]", &["a.json:2: a comma stands before the ]"]);
    refuses("a.json", "[{\"text\": \"a b\"},", &["cut off"]);
    refuses("a.json", "[{\"text\": \"a b\"}", &["cut off"]);
    refuses("a.json", "[{\"text\": \"ab\"}] x", &["something follows"]);
    refuses("a.json", "{\n\"text\": \"a b\"\n", &["a.json:1: the object that begins here never ends"]);
    refuses(
        "a.json",
        "[{\n\"text\": \"a\",\n\"text\": \"b\"}]",
        &["a.json:3: entry 1", "the key \"text\" stands twice"],
    );
    refuses("a.json", "[1, 2]", &["entry 1 of the array: a row must be a JSON object, this is a number"]);
    refuses(
        "a.json",
        "{\"data\": [{\"text\": \"a\"}]}",
        &["unknown kind of row", "the list in data, write that list alone"],
    );
    refuses("a.json", "[]", &["there are none"]);
    refuses("a.jsonl", "", &["there are none"]);
}

#[test]
fn tables() {
    reads("a.csv", "prompt,response\nHi,Yo\n", &["Yo<|im_end|>"]);
    reads(
        "a.txt",
        "id,instruction,output\r\n1,\"Say \"\"hi\"\",\nthen\",\"a,b\"\r\n\r\n2,x,y",
        &["a,b<|im_end|>", "y<|im_end|>"],
    );
    reads("a.csv", "prompt;response\nHi;1,5\n", &["1,5<|im_end|>"]);
    reads("a.tsv", "text\nab\ncd\n", &["b", "d"]);
    let cell = r#""[{""role"": ""user"", ""content"": ""a""}, {""role"": ""assistant"", ""content"": ""b""}]""#;
    reads("a.csv", format!("messages\n{cell}\n"), &["b<|im_end|>"]);
    refuses("a.csv", "messages\n\"[{'role': 'user'}]\"\n", &["a.csv:2: the cell of column messages is no JSON"]);
    refuses("a.csv", "prompt,response\nHi,Yo\nHi, you,Yo\n", &["a.csv:3: has 3 cells, the first line has 2 names"]);
    refuses("a.csv", "prompt,response\nHi,\"Yo\nHi,Yo\n", &["a.csv:2: a quote opens"]);
    refuses("a.csv", "text,text\na,b\n", &["\"text\" stands twice"]);
    refuses(
        "a.csv",
        "prompt,response\nHi,\n",
        &["a.csv:2: no token to learn: field response is empty", "⟨empty_rows⟩ skip"],
    );
    refuses("a.csv", "prompt,response\n", &["there are none"]);
    refuses("a.csv", b"prompt,response\nHi,caf\xe9\n", &["a.csv:2: is not UTF-8", "Latin-1"]);
}

#[test]
fn files_that_hold_no_rows_say_what_they_are() {
    let cases: &[(&[u8], &str, &str)] = &[
        (b"\x1f\x8b\x08\0", "is compressed with gzip", "gunzip"),
        #[cfg(feature = "parquet")]
        (b"PAR1\x15\x04", "this Parquet file is damaged", "download or write it again"),
        #[cfg(not(feature = "parquet"))]
        (b"PAR1\x15\x04", "is a Parquet file", "JSON lines"),
        (b"\x28\xb5\x2f\xfd\0", "zstd", "unpack"),
        (b"PK\x03\x04\x14", "ZIP archive or an Excel workbook", "CSV"),
        (b"ARROW1\0\0", "is an Arrow file", "JSON lines"),
        (b"\xff\xff\xff\xff\x10", "is an Arrow stream", "JSON lines"),
        (b"SQLite format 3\0", "SQLite", "JSON lines"),
        (b"\x80\x04\x95", "pickle", "JSON lines"),
        (b"\n <!DOCTYPE html>", "HTML", "download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        (b"GGUF\x03\0\0\0", "is a model", "⟨model⟩"),
        (b"\xff\xfe\0\0{\0\0\0", "UTF-32", "UTF-8"),
        (b"once upon a time", "begins with plain text", "one JSON object a line is wanted"),
        (b"\"a\"\n", "begins with a string", "one JSON object a line is wanted"),
        (b"\x07\x01\x02", "is no text", "one JSON object"),
    ];
    for (content, what, way_out) in cases {
        refuses("a.jsonl", content, &[what, way_out]);
    }
    let t = tokenizer(Some(CHATML), false);
    let dir = tempfile::tempdir().unwrap();
    let e = Dataset::open(dir.path(), &DataOptions::default(), Some(&t), VOCAB).err().unwrap().to_string();
    assert!(e.contains("is a folder"), "{e}");
}

#[test]
fn malformed_json_says_what_to_do() {
    for (row, parts) in [
        (r#"{"text":"a","score":NaN}"#, ["malformed JSON at column 21", "no NaN"]),
        (r#"{"text":"a","ok":True}"#, ["malformed JSON", "true and false"]),
        (r#"{'text': 'a'}"#, ["malformed JSON at column 2", "double quotes"]),
        (r#"{"text": 'a'}"#, ["malformed JSON", "double quotes"]),
        (r#"{"text":"a",}"#, ["malformed JSON", "trailing comma"]),
        (r#"{"text":"a"}{"text":"b"}"#, ["malformed JSON", "one object a line"]),
        (r#"{"text":"cut \ud83d emoji"}"#, ["malformed JSON", "half of a character"]),
        (r#"{"text":"cut \ude00 emoji"}"#, ["malformed JSON", "half of a character"]),
        (r#"{"text":"cut \ud83d\u0020"}"#, ["malformed JSON", "half of a character"]),
        (r#"{"text":"a","text":"b"}"#, ["column ", "the key \"text\" stands twice"]),
        (r#"{"a":{"b":1,"b":2},"text":"b"}"#, ["column ", "the key \"b\" stands twice"]),
    ] {
        refuses("a.jsonl", row, &[&["a.jsonl:1: "], parts.as_slice()].concat());
    }
    reads("a.jsonl", r#"{"text":"w \ud83d\ude00"}"#, &[" 😀"]);
    reads("a.jsonl", r#"{"text":"a\u0000b"}"#, &["\0b"]);
}

#[test]
fn conversations_of_other_tools() {
    reads(
        "a.jsonl",
        r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}"#,
        &["Yo<|im_end|>"],
    );
    reads(
        "a.jsonl",
        r#"{"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}"#,
        &["Yo<|im_end|>"],
    );
    reads(
        "a.jsonl",
        r#"{"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}"#,
        &["Yo<|im_end|>"],
    );
    reads("a.jsonl", format!(r#"{{"messages": [{USER_A}, {{"role": "model", "content": "b"}}]}}"#), &["b<|im_end|>"]);
    reads("a.jsonl", r#"{"prompt": "Hi", "completion": "Yo"}"#, &["Yo<|im_end|>"]);
    reads(
        "a.jsonl",
        format!(r#"{{"prompt": [{USER_A}], "completion": [{{"role": "assistant", "content": "Yo"}}]}}"#),
        &["Yo<|im_end|>"],
    );
    let quoted = serde_json::to_string(&format!(r#"[{USER_A}, {{"role": "assistant", "content": "b"}}]"#)).unwrap();
    reads("a.jsonl", format!(r#"{{"messages": {quoted}}}"#), &["b<|im_end|>"]);
    let system = r#"{"system": "Be brief.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]}"#;
    let t = tokenizer(Some(CHATML), false);
    let apart = r#"{"system": "Be brief.", "prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Yo"}]}"#;
    for system in [system, apart] {
        let (_dir, path) = file_named("a.jsonl", system);
        let set = Dataset::open(&path, &DataOptions::default(), Some(&t), VOCAB).unwrap();
        assert!(t.decode(set.example(0).ids, false).unwrap().starts_with("<|im_start|>system\nBe brief.<|im_end|>"));
    }
    refuses(
        "a.jsonl",
        r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "function_call", "value": "{}"}]}"#,
        &["conversations[1]: from is \"function_call\"", "tool_calls"],
    );
    refuses(
        "a.jsonl",
        r#"{"conversations": [{"from": "alien", "value": "Hi"}]}"#,
        &["conversations[0]: from is \"alien\"", "known are"],
    );
    refuses(
        "a.jsonl",
        format!(r#"{{"prompt": [{USER_A}], "completion": "Yo"}}"#),
        &["both must be strings, or both lists"],
    );
}

#[test]
fn a_prompt_of_messages_is_not_learnt() {
    let row = format!(
        r#"{{"prompt": [{USER_A}, {{"role": "assistant", "content": "old"}}, {USER_A}], "completion": [{{"role": "assistant", "content": "Yo"}}]}}"#
    );
    reads("a.jsonl", row, &["Yo<|im_end|>"]);
}

#[test]
fn keys_with_a_meaning_are_obeyed_or_refused() {
    refuses(
        "a.jsonl",
        r#"{"prompt": "Hi", "chosen": "Yo", "rejected": "No"}"#,
        &["preferences (DPO)", "rename chosen to response"],
    );
    let said = |text: &str| format!(r#"[{USER_A}, {{"role": "assistant", "content": "{text}"}}]"#);
    refuses(
        "a.jsonl",
        format!(r#"{{"chosen": {}, "rejected": {}}}"#, said("b"), said("c")),
        &["preferences (DPO)", "rename chosen to messages"],
    );
    refuses("a.jsonl", r#"{"prompt": "Hi", "completion": "Yo", "label": false}"#, &["field label", "KTO"]);
    refuses("a.jsonl", r#"{"prompt": "Hi", "response": "Yo", "images": ["x.png"]}"#, &["field images: only text"]);
    refuses("a.jsonl", r#"{"instruction": "Hi", "output": "Yo", "history": [["a", "b"]]}"#, &["field history"]);
    reads("a.jsonl", r#"{"instruction": "Hi", "output": "Yo", "history": [], "images": null}"#, &["Yo<|im_end|>"]);
    reads("a.jsonl", r#"{"input_ids": [1, 2, 3], "completion_mask": [0, 0, 1]}"#, &["$"]);
    reads("a.jsonl", r#"{"text": null, "messages": null, "prompt": "p", "response": "r"}"#, &["r<|im_end|>"]);
    for row in [
        r#"{"prompt": "a", "response": "b", "train": false}"#.to_owned(),
        r#"{"text": "a b", "weight": 0}"#.into(),
        r#"{"input_ids": [1, 2], "loss_weight": 0.5}"#.into(),
        format!(r#"{{"messages": {}, "train": false}}"#, said("b")),
    ] {
        refuses("a.jsonl", &row, &["rows have no weights", "remove the field, or the row"]);
    }
    reads("a.jsonl", r#"{"prompt": "a", "response": "b", "weight": 1, "train": true}"#, &["b<|im_end|>"]);
    refuses(
        "a.jsonl",
        r#"{"input_ids": [1, 2, 3], "position_ids": [0, 1, 2]}"#,
        &["field position_ids", "token by token"],
    );
    refuses("a.jsonl", r#"{"prompt": "a", "completion": "b", "completion_mask": [0, 1]}"#, &["field completion_mask"]);
    refuses("a.jsonl", r#"{"text": "a", "tools": [{"name": "x"}]}"#, &["field tools: a text has no place for it"]);
    reads("a.jsonl", format!(r#"{{"prompt": "p", "prompt_id": "x", "messages": {}}}"#, said("b")), &["b<|im_end|>"]);
    reads("a.jsonl", r#"{"instruction": "i", "input": null, "output": "o", "text": "formatted"}"#, &["o<|im_end|>"]);
    refuses(
        "a.jsonl",
        r#"{"prompt": "2+2", "response": 4}"#,
        &["field response must be a string, this is a number", "\"4\""],
    );
}

#[test]
fn rows_without_an_answer_end_the_run_or_are_left_out() {
    let rows = [
        r#"{"prompt": "a", "response": ""}"#.to_owned(),
        r#"{"prompt": "a", "response": " \n"}"#.into(),
        r#"{"prompt": "a", "response": null}"#.into(),
        r#"{"instruction": "Say hi", "input": "", "output": null}"#.into(),
        r#"{"text": ""}"#.into(),
        r#"{"input_ids": [1, 2, 3], "labels": [-100, -100, -100]}"#.into(),
        r#"{"input_ids": [1, 2, 3], "labels": [1, -100, -100]}"#.into(),
        format!(r#"{{"messages": [{USER_A}]}}"#),
        format!(r#"{{"messages": [{USER_A}, {{"role": "assistant", "content": ""}}]}}"#),
    ];
    let skip = DataOptions { empty_rows: EmptyRows::Skip, ..DataOptions::default() };
    for row in &rows {
        refuses("a.jsonl", row, &["a.jsonl:1: no token to learn: ", "⟨empty_rows⟩ skip"]);
        let e = read_with("a.jsonl", row, &skip).unwrap_err();
        assert!(e.contains("none of the 1 is left: none has an answer"), "{e}");
    }
    let all = rows.join("\n") + "\n{\"text\": \"ab\"}";
    let t = tokenizer(Some(CHATML), false);
    let (_dir, path) = file_named("a.jsonl", &all);
    let set = Dataset::open(&path, &skip, Some(&t), VOCAB).unwrap();
    assert_eq!((set.len(), set.report().rows, set.report().empty), (1, 10, 9));
    assert_eq!(set.example(0).line, 10);
    assert!(set.report().notes(512)[0].contains("9 rows without an answer left out, the first in line 1"));
    // a row that is wrong is wrong
    assert!(read_with("a.jsonl", r#"{"prompt": "a"}"#, &skip).is_err());
}

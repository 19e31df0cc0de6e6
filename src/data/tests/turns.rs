//! Turns that say nothing, and templates that render some rows only.

use super::support::{CHATML, VOCAB, file, learnt, metadata, tokenizer};
use crate::data::chat::Conversation;
use crate::data::{ChatTemplate, Dataset, Tokenizer, TrainOn};
use serde_json::{Value as Json, json};

#[test]
fn a_null_content_is_a_turn_without_words() {
    let rows = |content: &str| {
        let t = tokenizer(Some(CHATML), false);
        let row = format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"a\"}}, {{\"role\": \"assistant\", \"content\": {content}}}]}}"
        );
        let (_dir, path) = file(row);
        let set = Dataset::open(&path, &Default::default(), Some(&t), VOCAB);
        set.map(|set| learnt(&t, set.example(0).labels)).map_err(|e| e.to_string())
    };
    assert_eq!(rows("null"), Ok("<|im_end|>".to_owned()));
    assert!(rows("\"\"").unwrap_err().contains("no token to learn"));
}

#[test]
fn a_turn_of_sharegpt_that_is_null_is_named() {
    let t = tokenizer(Some(CHATML), false);
    let row = r#"{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": null}]}"#;
    let (_dir, path) = file(row);
    let e = Dataset::open(&path, &Default::default(), Some(&t), VOCAB).err().unwrap().to_string();
    assert!(e.contains("data.jsonl:1: conversations[1]: value is null; write what is said in this turn"), "{e}");
}

#[test]
fn a_template_for_tools_alone_refuses_rows_without() {
    let mut m = metadata(None, false);
    m.insert("tokenizer.chat_template.tool_use".into(), crate::io::gguf::Value::String(CHATML.into()));
    let t = Tokenizer::from_gguf(std::path::Path::new("bytes.gguf"), &m).unwrap();
    let template = ChatTemplate::new(&t).unwrap();
    let tokens = |row: Json| {
        let row = Conversation::of_row(row.as_object().unwrap()).unwrap();
        template.tokens(&t, &row, TrainOn::All).map(|tokens| learnt(&t, &tokens.labels))
    };
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let e = tokens(json!({"messages": messages})).unwrap_err();
    assert!(e.contains("the only one is named tool_use, for rows with tools, and this has none; copy it to"), "{e}");
    assert_eq!(tokens(json!({"messages": messages, "tools": [{"name": "f"}]})).unwrap(), "b<|im_end|>");
}

#[test]
fn the_last_turn_keeps_the_blank_that_a_template_puts_before_an_answer() {
    // the system prompt goes into the last user's turn, so that only the prompt of inference has it
    let template = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ (messages[0].content ~ '\n\n' if loop.last and messages[0].role == 'system' else '') ~ m.content }}[/INST]\
        {% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}";
    let messages = [
        json!({"role": "system", "content": "s"}),
        json!({"role": "user", "content": "a"}),
        json!({"role": "assistant", "content": "b"}),
    ];
    let t = tokenizer(Some(template), false);
    let row = Conversation::of_row(json!({"messages": messages}).as_object().unwrap()).unwrap();
    let tokens = ChatTemplate::new(&t).unwrap().tokens(&t, &row, TrainOn::All).unwrap();
    assert_eq!(t.decode(&tokens.ids, false).unwrap(), "[INST] s\n\na[/INST] b</s>");
    assert_eq!(learnt(&t, &tokens.labels), " b</s>");
}

/// In a process of its own: the environment is read once.
#[test]
fn a_time_that_is_none_is_named_without_a_device() {
    const BAD: &str = "last week";
    if crate::env::system("SOURCE_DATE_EPOCH").is_some_and(|v| v == BAD) {
        let e = ChatTemplate::new(&tokenizer(Some(CHATML), false)).err().expect("refused").to_string();
        assert!(e.contains("SOURCE_DATE_EPOCH"), "{e}");
        return;
    }
    let name = "data::tests::turns::a_time_that_is_none_is_named_without_a_device";
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let done = again.args(["--exact", name]).env("SOURCE_DATE_EPOCH", BAD).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

use super::support::{CHATML, EOS, learnt, tokenizer};
use crate::data::{ChatTemplate, IGNORED, Message, Tokenizer};
use serde_json::{Value as Json, json};

const LLAMA3: &str = "{{- bos_token }}
{%- if tools is not none %}{{ raise_exception('no tools here') }}{% endif %}
{#- a comment #}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
";

const ZEPHYR: &str = "{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}";

/// The last turn begins with an empty thought that earlier turns lose.
const THINKING: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}\
    {% if m.role == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}\
    {{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn talk(turns: &[(&str, &str)]) -> Vec<Json> {
    turns.iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

fn turns() -> Vec<Json> {
    talk(&[("user", "Hi"), ("assistant", " Hello é! "), ("user", "2+2?"), ("assistant", "4")])
}

/// The rendered text and what of it is learnt.
fn run(template: &str, messages: &[Json]) -> Result<(String, String), String> {
    let t = tokenizer(Some(template), true);
    let chat = ChatTemplate::new(&t).map_err(|e| e.to_string())?;
    let tokens = chat.tokens(&t, messages, None)?;
    let text = t.decode(&tokens.ids, false).unwrap();
    assert_eq!(tokens.ids, t.encode(&text, false).unwrap(), "the ids are those of the whole text");
    assert!(tokens.labels.iter().zip(&tokens.ids).all(|(&l, &id)| l == IGNORED || l == id as i32));
    Ok((text, learnt(&t, &tokens.labels)))
}

#[test]
fn chatml_learns_every_answer_with_its_end() {
    let (text, said) = run(CHATML, &turns()).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Hello é! \
         <|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n"
    );
    assert_eq!(said, " Hello é! <|im_end|>4<|im_end|>");
}

#[test]
fn llama3_trims_contents_and_writes_bos_once() {
    let (text, said) = run(LLAMA3, &turns()).unwrap();
    assert!(text.starts_with("<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"), "{text}");
    assert_eq!(text.matches("<s>").count(), 1);
    assert_eq!(said, "Hello é!<|eot_id|>4<|eot_id|>");
}

#[test]
fn zephyr_puts_its_blocks_on_lines_of_their_own() {
    let (text, said) = run(ZEPHYR, &turns()).unwrap();
    assert_eq!(
        text, "<|user|>\nHi</s>\n<|assistant|>\n Hello é! </s>\n<|user|>\n2+2?</s>\n<|assistant|>\n4</s>\n",
        "blocks on lines of their own leave nothing behind"
    );
    assert_eq!(said, " Hello é! </s>4</s>");
}

#[test]
fn a_turn_that_changes_when_others_follow_is_found_by_its_content() {
    let (text, said) = run(THINKING, &turns()).unwrap();
    assert!(text.contains("assistant\n Hello é! <|im_end|>"), "{text}");
    assert_eq!(said, " Hello é! <|im_end|><think>\n\n</think>\n\n4<|im_end|>");
}

#[test]
fn a_template_that_forgets_earlier_turns_is_refused() {
    let last_only = "{{ messages[-1].role + ': ' + messages[-1].content + eos_token }}";
    let e = run(last_only, &turns()).unwrap_err();
    assert!(e.starts_with("turn 2 (assistant): the chat template renders this turn differently"), "{e}");
}

#[test]
fn a_template_without_an_end_of_turn_learns_the_whole_turn() {
    let plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}\
                 {% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";
    assert_eq!(run(plain, &turns()).unwrap().1, " Hello é! \n4\n");
}

#[test]
fn errors_name_the_line() {
    let e = run("a\n{% for %}", &turns()).unwrap_err();
    assert!(e.starts_with("bytes.gguf: chat_template: line 2: ") && !e.contains('\n'), "{e}");
    let e = run(LLAMA3, &talk(&[("judge", "x"), ("assistant", "y")])).unwrap_err();
    assert!(e.contains("line 6: unknown role judge"), "{e}");
    let e = run("{{ messages[9].content.x }}", &turns()).unwrap_err();
    assert!(e.contains("line 1: "), "{e}");
    let e =
        run("{% for i in range(99999) %}{% for j in range(99999) %}a{% endfor %}{% endfor %}", &turns()).unwrap_err();
    assert!(e.contains("too many steps"), "{e}");
    let e = ChatTemplate::new(&tokenizer(None, true)).err().unwrap().to_string();
    assert!(e.contains("bytes.gguf: chat_template: there is none; use rows with prompt and response"), "{e}");
}

fn render(template: &str, messages: &[Message], open: bool) -> String {
    let t: Tokenizer = tokenizer(Some(template), false);
    ChatTemplate::new(&t).unwrap().render(messages, open).unwrap()
}

#[test]
fn a_prompt_for_generation() {
    let hi = [Message { role: "user".into(), content: "Hi <b>&'\"".into() }];
    assert!(render(CHATML, &hi, true).ends_with("user\nHi <b>&'\"<|im_end|>\n<|im_start|>assistant\n"));
    // what Python's json.dumps says, and not what Jinja's filter does to HTML
    assert_eq!(render("{{ messages | tojson }}", &hi, false), r#"[{"role": "user", "content": "Hi <b>&'\""}]"#);
    assert_eq!(
        render("{{ {'é': [1, none, true]} | tojson(indent=2) }}", &hi, false),
        "{\n  \"é\": [\n    1,\n    null,\n    true\n  ]\n}"
    );
    assert_eq!(render("{{ none }} {{ true }} {{ nothing }}{{ tools }}", &hi, false), "None True None");
    assert_eq!(render("{{ messages[0].content.split(' ')[0].upper() }}", &hi, false), "HI");
    assert_eq!(render("{% generation %}{{ eos_token }}{% endgeneration %}", &hi, false), "</s>");
    let year = render("{{ strftime_now('%Y') }}", &hi, false);
    assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{year}");
    assert_eq!(tokenizer(None, false).eos(), Some(EOS));
}

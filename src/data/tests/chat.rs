use super::support::{CHATML, EOS, learnt, metadata, tokenizer};
use crate::data::chat::Conversation;
use crate::data::{ChatTemplate, IGNORED, Message, Tokenizer, TrainOn};
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
    let (text, said, _) = row(template, json!({"messages": messages}), TrainOn::All)?;
    Ok((text, said))
}

/// The same of a whole row, with the notes.
fn row(template: &str, row: Json, on: TrainOn) -> Result<(String, String, Vec<String>), String> {
    of_tokenizer(&tokenizer(Some(template), true), row, on)
}

fn of_tokenizer(t: &Tokenizer, row: Json, on: TrainOn) -> Result<(String, String, Vec<String>), String> {
    let chat = ChatTemplate::new(t).map_err(|e| e.to_string())?;
    let tokens = chat.tokens(t, &Conversation::of_row(row.as_object().unwrap())?, on)?;
    let text = t.decode(&tokens.ids, false).unwrap();
    assert_eq!(tokens.ids, t.encode(&text, false).unwrap(), "the ids are those of the whole text");
    assert!(tokens.labels.iter().zip(&tokens.ids).all(|(&l, &id)| l == IGNORED || l == id as i32));
    Ok((text, learnt(t, &tokens.labels), chat.notes()))
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
fn a_template_that_forgets_earlier_turns_learns_what_is_there_and_says_so() {
    let last_only = "{{ messages[-1].role + ': ' + messages[-1].content + eos_token }}";
    let (text, said, notes) = row(last_only, json!({"messages": turns()}), TrainOn::All).unwrap();
    assert_eq!((&*text, &*said), ("assistant: 4</s>", "4</s>"));
    assert!(
        notes.iter().any(|n| n.starts_with("1 assistant turn: not learnt, since the chat template leaves")),
        "{notes:?}"
    );
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
    assert_eq!(render("{{ bos_token is defined }}{{ mask_token is defined }}", &hi, false), "TrueFalse");
    let year = render("{{ strftime_now('%Y') }}", &hi, false);
    assert!(year.len() == 4 && year.parse::<u32>().is_ok(), "{year}");
    assert_eq!(tokenizer(None, false).eos(), Some(EOS));
}

/// Trims, drops thoughts of all turns, and invites with a thought: as the R1 distills do.
const R1: &str = "{% for m in messages %}{% if m.role == 'user' %}{{ '<U>' + m.content }}{% endif %}\
    {% if m.role == 'assistant' %}{{ '<A>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}";

/// The system prompt goes into the last user's turn; nothing invites the assistant.
const MISTRAL: &str = "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}\
    {% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}\
    {% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
    {% if m.role == 'user' %}{% if loop.index0 == rest | length - (rest | length % 2 == 0 and 2 or 1) and system is defined %}\
    {{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}\
    {% else %}{% if m.tool_calls is defined %}{{ '[CALLS]' + m.tool_calls | tojson + eos_token }}\
    {% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endif %}{% endfor %}";

/// ChatML with tools and thoughts that earlier turns lose: as Qwen3 does.
const QWEN3: &str = "{% if tools %}{{ '<|im_start|>system\n' }}{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|im_end|>\n' }}\
    {% endif %}{% set ns = namespace(last=0) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.last %}\
    {% set ns.last = messages | length - loop.index0 - 1 %}{% endif %}{% endfor %}{% for m in messages %}\
    {% set content = m.content if m.content is string else '' %}{% if m.role == 'assistant' %}\
    {% set thought = '' %}{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}\
    {% elif '</think>' in content %}{% set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\
    {% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ '<|im_start|>assistant\n' }}\
    {% if loop.index0 > ns.last and (loop.last or thought) %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{% endif %}\
    {{ content }}{% for call in m.tool_calls or [] %}{% set call = call.function %}\
    {{ '\n<call>' + call.name + ' ' + call.arguments | tojson + '</call>' }}{% endfor %}{{ '<|im_end|>\n' }}\
    {% else %}{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endif %}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn call(arguments: Json) -> Json {
    json!([{"type": "function", "function": {"name": "open", "arguments": arguments}}])
}

#[test]
fn thoughts_that_the_template_drops_are_not_looked_for() {
    let talk = talk(&[
        ("user", "a"),
        ("assistant", "<think>\nhm\n</think>\n\nb"),
        ("user", "c"),
        ("assistant", "<think>\nho\n</think>\n\nd"),
    ]);
    let (_, said, notes) = row(QWEN3, json!({"messages": talk}), TrainOn::All).unwrap();
    assert_eq!(said, "b<|im_end|><think>\nho\n</think>\n\nd<|im_end|>");
    assert!(notes.iter().any(|n| n.starts_with("1 assistant turn: the chat template leaves out a part")), "{notes:?}");
    let (text, said) = run(R1, &talk).unwrap();
    assert_eq!(
        (&*text, &*said),
        ("<U>a<A>\n\nb</s><U>c<A>\n\nd</s>", "\n\nb</s>\n\nd</s>"),
        "the prompt ends in <think>"
    );
    let (_, said, _) = row(
        QWEN3,
        json!({"messages": [{"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning": "hm"}]}),
        TrainOn::All,
    )
    .unwrap();
    assert_eq!(said, "<think>\nhm\n</think>\n\nb<|im_end|>", "a thought under any of its names");
}

#[test]
fn tool_calls_are_learnt_and_answers_of_tools_are_not() {
    let messages = json!([{"role": "user", "content": "Open"}, {"role": "assistant", "content": null, "tool_calls": call(json!({"gate": "north"}))},
        {"role": "tool", "content": "open"}, {"role": "assistant", "content": "open"}]);
    let (text, said, _) = row(QWEN3, json!({"messages": messages, "tools": [{"name": "open"}]}), TrainOn::All).unwrap();
    assert!(text.starts_with("<|im_start|>system\n{\"name\": \"open\"}<|im_end|>\n"), "{text}");
    assert_eq!(said, "\n<call>open {\"gate\": \"north\"}</call><|im_end|><think>\n\n</think>\n\nopen<|im_end|>");
    let (same, ..) =
        row(QWEN3, json!({"messages": messages, "tools": "[{\"name\": \"open\"}]"}), TrainOn::All).unwrap();
    assert_eq!(text, same, "tools as a JSON text");
    let quoted = json!([messages[0], {"role": "assistant", "tool_calls": call(json!("{\"gate\": 1}"))}]);
    let (_, said, notes) = row(QWEN3, json!({"messages": quoted}), TrainOn::All).unwrap();
    assert!(said.contains(r#"<call>open "{\"gate\": 1}"</call>"#), "as transformers does it: {said}");
    assert!(notes.iter().any(|n| n.contains("quotes once more; give them as objects")), "{notes:?}");
}

#[test]
fn nulls_are_absent_keys() {
    let (text, said) = run(
        "{% for m in messages %}{{ m.role ~ '|' ~ m.content ~ '|' ~ ('tool_calls' in m) ~ eos_token }}{% endfor %}",
        &[
            json!({"role": "user", "content": "Hi", "tool_calls": null, "name": null}),
            json!({"role": "assistant", "content": null, "tool_calls": null}),
        ],
    )
    .unwrap();
    assert_eq!((&*text, &*said), ("user|Hi|False</s>assistant||False</s>", "|False</s>"));
    let empty = [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": null})];
    assert_eq!(run(CHATML, &empty).unwrap().1, "<|im_end|>", "a template that adds to the content gets an empty one");
    let nested = json!({"messages": [{"role": "user", "content": "a", "x": [{"p": null, "q": 1}]}, {"role": "assistant", "content": "b"}],
        "tools": [{"name": "t", "description": null}], "documents": null, "chat_template_kwargs": null});
    let shown = "{{ messages[0].x | tojson ~ tools | tojson }}{{ messages[1].content }}";
    assert_eq!(row(shown, nested, TrainOn::All).unwrap().0, "[{\"q\": 1}][{\"name\": \"t\"}]b");
}

#[test]
fn an_assistant_may_begin_and_a_system_prompt_may_move() {
    let first = talk(&[("assistant", "Welcome."), ("user", "Hi."), ("assistant", "Tea?")]);
    assert_eq!(run(LLAMA3, &first).unwrap().1, "Welcome.<|eot_id|>Tea?<|eot_id|>");
    assert_eq!(run(CHATML, &first).unwrap().1, "Welcome.<|im_end|>Tea?<|im_end|>");
    let moved = talk(&[
        ("system", "Be terse."),
        ("user", "One?"),
        ("assistant", "Uno."),
        ("user", "Two?"),
        ("assistant", "Dos."),
    ]);
    let (text, said) = run(MISTRAL, &moved).unwrap();
    assert_eq!(text, "<s>[INST] One?[/INST] Uno.</s>[INST] Be terse.\n\nTwo?[/INST] Dos.</s>");
    assert_eq!(said, " Uno.</s> Dos.</s>", "the blank is not in the prompt, so it is learnt");
    let calls = [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "tool_calls": [{"f": 1}]})];
    assert_eq!(run(MISTRAL, &calls).unwrap().1, "[CALLS][{\"f\": 1}]</s>");
}

#[test]
fn words_that_stand_elsewhere_too_are_told_apart() {
    let same = talk(&[
        ("user", "assistant"),
        ("assistant", "user"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("user", ""),
        ("assistant", "<|im_end|>x"),
    ]);
    let (text, said) = run(CHATML, &same).unwrap();
    assert!(text.contains("<|im_start|>user\nassistant<|im_end|>\n<|im_start|>assistant\nuser<|im_end|>"), "{text}");
    assert_eq!(said, "user<|im_end|>assistant<|im_end|><|im_end|>x<|im_end|>");
    let empty = talk(&[("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")]);
    assert_eq!(run(CHATML, &empty).unwrap().1, "<|im_end|>c<|im_end|>", "an empty answer is its end");
}

#[test]
fn weights_mask_turns_and_the_last_can_be_chosen() {
    let talk = |a: Json, b: Json| {
        let mut messages = [
            json!({"role": "user", "content": "q"}),
            json!({"role": "assistant", "content": "a"}),
            json!({"role": "user", "content": "r"}),
            json!({"role": "assistant", "content": "b"}),
        ];
        for (i, extra) in [(1, a), (3, b)] {
            messages[i].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        }
        json!({"messages": messages})
    };
    let said = |a, b, on| row(CHATML, talk(a, b), on).map(|r| r.1);
    assert_eq!(said(json!({"weight": 0}), json!({"weight": 1}), TrainOn::All).unwrap(), "b<|im_end|>");
    assert_eq!(said(json!({"train": false}), json!({"weight": null}), TrainOn::All).unwrap(), "b<|im_end|>");
    assert_eq!(said(json!({"weight": 1.0}), json!({"weight": 0.0}), TrainOn::All).unwrap(), "a<|im_end|>");
    assert_eq!(said(json!({}), json!({}), TrainOn::Last).unwrap(), "b<|im_end|>");
    let e = said(json!({}), json!({"weight": 0.5}), TrainOn::All).unwrap_err();
    assert!(e.contains("messages[3]: weight is 0.5: a turn is learnt or not"), "{e}");
    let e = said(json!({}), json!({"train": false}), TrainOn::Last).unwrap_err();
    assert!(e.contains("masks every turn"), "{e}");
    let e = row(
        CHATML,
        json!({"messages": [{"role": "user", "content": "a", "train": true}, {"role": "assistant", "content": "b"}]}),
        TrainOn::All,
    );
    assert!(e.unwrap_err().contains("messages[0]: train is true, but only the assistant's turns"));
}

#[test]
fn generation_marks_say_what_is_learnt() {
    let template = "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}\
        {% endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let (_, said, notes) = row(template, json!({"messages": turns()}), TrainOn::All).unwrap();
    assert_eq!(said, " Hello é! </s>4</s>");
    assert_eq!(notes, ["1 conversation: learnt is what the chat template puts between {% generation %} marks"]);
    assert_eq!(row(template, json!({"messages": turns()}), TrainOn::Last).unwrap().1, "4</s>");
}

#[test]
fn what_a_row_adds_reaches_the_template_or_is_refused() {
    let with = |extra: Json| {
        let mut made = json!({"messages": talk(&[("user", "a"), ("assistant", "b")])});
        made.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        row(
            "{{ enable_thinking }}{{ documents | tojson }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
            made,
            TrainOn::All,
        )
    };
    let shown =
        with(json!({"chat_template_kwargs": {"enable_thinking": false}, "documents": [{"title": "t"}], "id": 7}))
            .unwrap()
            .0;
    assert_eq!(shown, "False[{\"title\": \"t\"}]a</s>b</s>");
    assert_eq!(with(json!({"system": "s"})).unwrap().0, "nulls</s>a</s>b</s>");
    for (extra, want) in [
        (json!({"functions": [{}]}), "field functions has no place in a conversation: give tools"),
        (json!({"parallel_tool_calls": false}), "no chat template is told so"),
        (json!({"images": ["x"]}), "pictures are not supported"),
        (json!({"weight": 0.5}), "rows have no weights"),
        (json!({"tools": "open"}), "tools is a string, but no JSON"),
        (json!({"tools": {"a": 1}}), "tools must be a list of tools, this is an object"),
        (json!({"chat_template_kwargs": {"tools": []}}), "chat_template_kwargs: tools can't be set there"),
    ] {
        let e = with(extra).unwrap_err();
        assert!(e.contains(want) && !e.contains('\n'), "{e}");
    }
}

#[test]
fn of_several_templates_tool_use_is_for_tools() {
    let list = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]);
    let dir = tempfile::tempdir().unwrap();
    tokenizer(Some("x"), false).save(dir.path()).unwrap();
    let names = |t: &Tokenizer| -> Vec<String> { t.chat_templates().iter().map(|(n, _)| n.clone()).collect() };
    let config = |list: &Json| {
        std::fs::write(
            dir.path().join("tokenizer_config.json"),
            json!({"eos_token": "</s>", "chat_template": list}).to_string(),
        )
    };
    config(&list).unwrap();
    let t = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(names(&t), ["default", "tool_use"]);
    t.save(dir.path()).unwrap();
    assert_eq!(names(&Tokenizer::from_folder(dir.path()).unwrap()), ["default", "tool_use"], "written and read back");
    let show = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
    config(&json!([{"name": "default", "template": show}, {"name": "tool_use", "template": format!("tools {show}")}]))
        .unwrap();
    let messages = talk(&[("user", "a"), ("assistant", "b")]);
    let text = |row| of_tokenizer(&Tokenizer::from_folder(dir.path()).unwrap(), row, TrainOn::All).unwrap().0;
    assert_eq!(text(json!({"messages": messages})), "a</s>b</s>");
    assert_eq!(text(json!({"messages": messages, "tools": [{"name": "f"}]})), "tools a</s>b</s>");
    // files win over the list
    std::fs::write(dir.path().join("chat_template.jinja"), show).unwrap();
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), format!("file {show}")).unwrap();
    assert_eq!(text(json!({"messages": messages, "tools": [{"name": "f"}]})), "file a</s>b</s>");
    assert_eq!(text(json!({"messages": messages})), "a</s>b</s>");
    // keys of GGUF
    let mut m = metadata(Some(show), false);
    m.insert("tokenizer.chat_template.tool_use".into(), crate::io::gguf::Value::String(format!("gguf {show}")));
    let t = Tokenizer::from_gguf(std::path::Path::new("x.gguf"), &m).unwrap();
    assert_eq!(
        of_tokenizer(&t, json!({"messages": messages, "tools": [{"name": "f"}]}), TrainOn::All).unwrap().0,
        "gguf a</s>b</s>"
    );
}

#[test]
fn a_turn_that_is_not_rendered_is_the_prompt_and_the_answer() {
    let asks_only = "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}{{ raise_exception('end with the user') }}{% endif %}\
        {{ '<' + m.role + '>' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}";
    let (text, said, notes) = row(asks_only, json!({"messages": turns()}), TrainOn::All).unwrap();
    assert_eq!(text, "<user>Hi</s><assistant> Hello é! </s><user>2+2?</s><assistant>4</s>");
    assert_eq!(said, "4</s>");
    assert!(notes[0].starts_with("1 conversation: only the last turn is learnt"), "{notes:?}");
    let e = run(asks_only, &[json!({"role": "user", "content": "a"}), json!({"role": "assistant", "tool_calls": []})])
        .unwrap_err();
    assert!(e.contains("end with the user"), "{e}");
}

#[test]
fn contents_of_parts_are_joined_where_the_template_knows_texts_only() {
    let parts = |role: &str| json!({"role": role, "content": [{"type": "text", "text": "a "}, {"type": "text", "text": "b", "image_url": null}]});
    assert_eq!(run(CHATML, &[parts("user"), parts("assistant")]).unwrap().1, "a b<|im_end|>");
    assert_eq!(
        run("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", &[parts("user"), parts("assistant")])
            .unwrap()
            .0,
        "a b</s>a b</s>"
    );
    let by_part =
        "{% for m in messages %}{% for p in m.content %}{{ p.text | trim }}{% endfor %}{{ eos_token }}{% endfor %}";
    assert_eq!(run(by_part, &[parts("user"), parts("assistant")]).unwrap().0, "ab</s>ab</s>");
    let lists_only = "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{{ eos_token }}{% endfor %}";
    assert_eq!(
        run(lists_only, &talk(&[("user", "a"), ("assistant", "b")])).unwrap(),
        ("a</s>b</s>".into(), "b</s>".into())
    );
    let picture = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]});
    let e = run(CHATML, &[picture, parts("assistant")]).unwrap_err();
    assert_eq!(e, "messages[0]: content holds a part that is no text (image_url)");
}

#[test]
fn two_thousand_turns_are_rendered_a_few_times_and_not_once_a_turn() {
    let turns: Vec<Json> = (0..2000)
        .map(|i| json!({"role": if i % 2 == 0 { "user" } else { "assistant" }, "content": format!("turn {i}")}))
        .collect();
    for template in [CHATML, LLAMA3, QWEN3, MISTRAL] {
        let (_, said) = run(template, &turns).unwrap();
        assert_eq!(said.matches("turn ").count(), 1000);
    }
}

/// The system prompt goes into the user's turn that is the very last message, so that only the prompt of inference has it.
const NEMO: &str = "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}\
    {% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}\
    {% if loop.last and system is defined %}{{ '[INST]' + system + '\\n\\n' + m.content + '[/INST]' }}\
    {% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}";

#[test]
fn a_system_prompt_that_only_the_prompt_of_inference_has_is_there() {
    let one = talk(&[("system", "Be terse."), ("user", "One?"), ("assistant", "Uno.")]);
    let (text, said, notes) = row(NEMO, json!({"messages": one}), TrainOn::All).unwrap();
    assert_eq!((&*text, &*said), ("<s>[INST]Be terse.\n\nOne?[/INST]Uno.</s>", "Uno.</s>"));
    assert!(notes.iter().any(|n| n.starts_with("1 conversation: only the last turn is learnt")), "{notes:?}");
    let two = [one.clone(), talk(&[("user", "Two?"), ("assistant", "Due.")])].concat();
    let (text, said, _) = row(NEMO, json!({"messages": two}), TrainOn::All).unwrap();
    assert_eq!(
        (&*text, &*said),
        ("<s>[INST]One?[/INST]Uno.</s>[INST]Be terse.\n\nTwo?[/INST]Due.</s>", "Due.</s>"),
        "as inference has it"
    );
    // what no prompt has is said
    let lost = talk(&[("developer", "Be terse."), ("user", "One?"), ("assistant", "Uno.")]);
    let (_, said, notes) = row(R1, json!({"messages": lost}), TrainOn::All).unwrap();
    assert_eq!(said, "\n\nUno.</s>".trim_start_matches('\n'));
    assert!(notes.iter().any(|n| n.starts_with("1 message: warning: the chat template leaves it out")), "{notes:?}");
}

#[test]
fn keys_of_messages_that_mean_something_are_obeyed_or_refused() {
    let with = |key: &str, value: Json| {
        let mut said = json!({"role": "assistant", "content": "b"});
        said[key] = value;
        json!({"messages": [{"role": "user", "content": "a"}, said, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]})
    };
    for key in ["loss_mask", "learn", "trainable", "loss_weight"] {
        let (_, said, _) = row(CHATML, with(key, json!(0)), TrainOn::All).unwrap();
        assert_eq!(said, "d<|im_end|>", "{key}");
    }
    for (key, value) in [("refusal", json!("no")), ("prefix", json!(true)), ("masked", json!(true)), ("mask", json!(0))]
    {
        let reason = row(CHATML, with(key, value), TrainOn::All).unwrap_err();
        assert!(reason.contains(&format!("field {key} is not supported")), "{reason}");
    }
    assert!(row(CHATML, with("refusal", Json::Null), TrainOn::All).is_ok());
    let capital = json!({"messages": [{"role": "user", "content": "a"}, {"role": "Assistant", "content": "b"}]});
    assert!(row(CHATML, capital, TrainOn::All).unwrap_err().contains("would not be learnt; write it assistant"));
    // a null that somebody wrote into a call's arguments is said
    let calls = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": call(json!({"unit": null}))}]);
    let (_, said, _) = row(QWEN3, json!({"messages": calls}), TrainOn::All).unwrap();
    assert!(said.contains(r#"{"unit": null}"#), "{said}");
}

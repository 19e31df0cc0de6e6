#!/usr/bin/env python3
"""Public chat templates, rendered by transformers and by rugosa.

    pip install transformers jinja2 tokenizers safetensors numpy
    cargo build
    python tests/parity/templates.py FOLDER_OF_JINJA_FILES ... [--rugosa target/debug/rugosa]

Each template renders seven kinds of conversations with the Jinja of transformers and through `rugosa preview --json` on a
tiny model with a tokenizer of bytes. Compared are the texts, byte for byte, and what rugosa learns: all words of the
assistant that stand in the text, and none of the user's, the system's or a tool's. Prints a table in Markdown; ends with 1
where transformers renders a conversation and rugosa does not, or another text, or the wrong words are learnt.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jinja2
import numpy
import transformers
import transformers.utils.chat_template_utils as reference
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCAB = 1024
ENDS = ["</s>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
        "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>", "<turn|>"]
NOW = 1764547200  # 2025-12-01

TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Tells the weather <now> & \"here\" é",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "Name of the city"}, "days": {"type": "integer"}}}}}]


def user(text, **more):
    return {"role": "user", "content": text, **more}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(**arguments):
    return [{"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}]


def tool(text):
    return {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": text}


SYSTEM = {"role": "system", "content": "Sysword be terse."}
NOTHING = {"tool_calls": None, "name": None, "weight": None}
KINDS = {
    "one turn": ([user("Askone?"), assistant("Sayone.")], None),
    "a system prompt": ([SYSTEM, user("Askone?"), assistant("Sayone.")], None),
    "two turns": ([user("Askone?"), assistant(" Sayone é! "), user("Asktwo?"), assistant("Saytwo.\n\nSaythree.")], None),
    "thoughts": ([user("Askone?"), assistant("<think>\nThinkone\n</think>\n\nSayone."), user("Asktwo?"),
                  assistant("<think>\nThinktwo\n</think>\n\nSaytwo.")], None),
    "tool calls": ([user("Askone?"), assistant("Sayone.", tool_calls=call(city="Oslo", days=2)),
                    tool('{"sky": "Toolword"}'), assistant("Saytwo.")], TOOLS),
    "the assistant first": ([assistant("Sayone."), user("Askone?"), assistant("Saytwo.")], None),
    "nulls": ([{**SYSTEM, **NOTHING}, user("Askone?", **NOTHING),
               assistant(None, name=None, tool_calls=call(city="Bern")), tool("Toolword"),
               assistant("Sayone.", **NOTHING)], TOOLS),
}
LEARNT = re.compile(r"Sayone|Saytwo|Saythree")
WORDS = re.compile(r"Ask\w+|Sayone|Saytwo")
FORBIDDEN = re.compile(r"Ask\w+|Sysword|Toolword")


class Then(datetime.datetime):
    """strftime_now at the time that rugosa is told."""

    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)


def by_transformers(template, messages, tools):
    try:
        messages = reference._normalize_chat_messages(messages)

        def render(messages):
            return reference.render_jinja_template(
                [messages], tools=tools, chat_template=template, bos_token="<s>", eos_token="</s>", pad_token="<pad>")[0][0]

        text = render(messages)
        if not WORDS.search(text):  # it knows lists of parts only, which is what a processor hands over
            parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} if "content" in m else m for m in messages]
            text = render(parts)
        return text, None
    except Exception as e:  # a template may raise anything
        return None, f"{type(e).__name__}: {e}"


def write_model(folder, template):
    """A llama of one layer, and a tokenizer of bytes with the template's own special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    found = re.findall(r"<[|｜][^<>|｜\s'\"{}]+[|｜]>", template)
    special = list(dict.fromkeys(["<s>", "<pad>"] + ENDS + found))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    ids = [tokenizer.token_to_id(t) for t in ENDS if t == "</s>" or t in template]
    ids += [tokenizer.token_to_id(t) for t in ("<|user|>", "<|observation|>") if "[gMASK]" in template and t in special]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    if (folder / "config.json").exists():
        return tokenizer
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "tie_word_embeddings": True}))
    shapes = {"model.embed_tokens.weight": (VOCAB, 8), "model.norm.weight": (8,)}
    layer = {"input_layernorm": (8,), "post_attention_layernorm": (8,), "self_attn.q_proj": (8, 8), "self_attn.k_proj": (8, 8),
             "self_attn.v_proj": (8, 8), "self_attn.o_proj": (8, 8), "mlp.gate_proj": (8, 8), "mlp.up_proj": (8, 8),
             "mlp.down_proj": (8, 8)}
    shapes |= {f"model.layers.0.{name}.weight": shape for name, shape in layer.items()}
    save_file({name: numpy.ones(shape, numpy.float32) for name, shape in shapes.items()}, str(folder / "model.safetensors"))
    return tokenizer


def by_rugosa(rugosa, folder, tokenizer, messages, tools):
    row = {"messages": messages, **({"tools": tools} if tools else {})}
    data = folder / "row.jsonl"
    data.write_text(json.dumps(row) + "\n")
    command = [rugosa, "preview", "--model", str(folder), "--data", str(data), "--json", "--seq-len", "100000"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": str(NOW)})
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1], ""
    shown = json.loads(done.stdout)
    learnt = tokenizer.decode([label for label in shown["labels"] if label >= 0], skip_special_tokens=False)
    return shown["text"], None, learnt


def plausible(text, learnt):
    """All of the assistant's words that are rendered, in their order, and nobody else's."""
    return LEARNT.findall(text) == LEARNT.findall(learnt) and not FORBIDDEN.search(learnt)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("folders", nargs="+", type=Path)
    arguments.add_argument("--rugosa", default="target/debug/rugosa")
    arguments = arguments.parse_args()
    reference.datetime = Then
    files = sorted({p for folder in arguments.folders for p in folder.glob("**/*.jinja")})
    counts = {kind: [0] * 5 for kind in KINDS}
    wrong = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in files:
            template = file.read_text(encoding="utf-8")
            tokenizer = write_model(folder, template)
            for kind, (messages, tools) in KINDS.items():
                text, refused = by_transformers(template, messages, tools)
                ours, reason, learnt = by_rugosa(arguments.rugosa, folder, tokenizer, messages, tools)
                count = counts[kind]
                count[0] += 1
                count[1] += text is not None
                if text is None:
                    continue
                count[2] += ours is not None
                count[3] += ours == text
                good = ours is not None and plausible(ours, learnt)
                count[4] += good
                if ours != text or not good:
                    wrong.append(f"{file.name}, {kind}: {reason or 'another text' if ours != text else repr(learnt)}")
    print(f"{len(files)} templates, transformers {transformers.__version__}, jinja2 {jinja2.__version__}\n")
    print("| conversation | tried | rendered by transformers | of these by rugosa | the same text | the right words learnt |")
    print("|---|---|---|---|---|---|")
    total = [sum(column) for column in zip(*counts.values())]
    for kind, count in [*counts.items(), ("all", total)]:
        print(f"| {kind} | " + " | ".join(map(str, count)) + " |")
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Every folder that rugosa writes, opened by transformers and PEFT, and models as both of them read them.

    pip install torch transformers gguf peft
    cargo build --release
    python tests/parity/written.py

The models are the tiny ones of `tests/fixtures/golden`, one of each family. rugosa trains all weights of each (`--method full`)
from its folder and from a GGUF file that is made of it here, and adapters for it (`--method lora`), two steps each. transformers
opens what was written, without a tensor missing or left over, PEFT the adapters; the negative log-likelihood of each token of
fixed rows is compared with that of `rugosa eval`, tokens and special tokens with those of `rugosa preview`. Then both read models
whose configuration leaves out what has a default, and ones whose head is called tied to the embedding and is not. Prints tables
in Markdown; ends with 1 if anything is out of bounds.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version

import gguf
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

# of the negative log-likelihood of one token, in nats
TOKEN = 2e-5
GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "golden")
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"]
TEXTS = ["the roses are on the table", "  Größe,\n\n\tnaïve 12345 </s> x", "<s>a  b", ""]
# keys without which the models still have their shape; what is absent has a default
OPTIONAL = ["rms_norm_eps", "rope_theta", "rope_local_base_freq", "rope_scaling", "tie_word_embeddings", "sliding_window",
            "sliding_window_pattern", "use_sliding_window", "max_window_layers", "attn_logit_softcapping",
            "final_logit_softcapping", "query_pre_attn_scalar", "attention_bias", "mlp_bias", "bos_token_id", "eos_token_id",
            "max_position_embeddings", "hidden_act", "hidden_activation", "original_max_position_embeddings"]


class Bench:
    """The built program, rows for it, and what was out of bounds."""

    def __init__(self, program, folder):
        self.program, self.folder, self.failed = program, folder, 0
        rng = random.Random(7)
        self.rows = [[rng.randrange(3, 300) for _ in range(24)] for _ in range(3)]
        self.data = self.write("rows.jsonl", [{"input_ids": ids, "labels": ids} for ids in self.rows])
        self.texts = self.write("texts.jsonl", [{"text": text} for text in TEXTS if text])

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, rows):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return self.path(name)

    def run(self, command, *args):
        done = subprocess.run([self.program, command, *args], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"rugosa {command}: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout

    def train(self, model, out, *args):
        self.run("train", "--model", model, "--data", self.data, "--out", out, "--steps", "2", "--seq-len", "32",
                 "--gradient-accumulation-steps", "1", "--no-packing", "--warmup-steps", "0", "--lr-schedule", "constant",
                 "--lr", "1e-2", *args)
        return out

    def nll(self, model, *adapter):
        return json.loads(self.run("eval", "--model", model, "--data", self.data, "--json", "--per-token", "--seq-len", "32",
                                   *adapter))["token_nll"]

    def table(self, *columns):
        print("\n| " + " | ".join(columns) + " | |\n|" + "---|" * (len(columns) + 1))

    def row(self, good, *cells):
        self.failed += not good
        print("| " + " | ".join(str(c) for c in cells) + f" | {'same' if good else '**differs**'} |", flush=True)

    def compare(self, what, model, opened, *adapter):
        """A row with the distance of rugosa's losses from those of what `opened` gives."""
        try:
            reference, said = opened()
            want, got = losses(reference, self.rows), self.nll(model, *adapter)
        except Exception as e:  # a folder that one of the two refuses is a row of the table
            self.row(False, what, "", "", str(e).splitlines()[0][:150])
            return
        if [len(row) for row in got] != [len(row) for row in want]:
            self.row(False, what, "", "", "other tokens")
            return
        worst = max(abs(a - b) for ours, theirs in zip(got, want) for a, b in zip(ours, theirs))
        flat = [n for row in want for n in row]
        self.row(worst <= TOKEN and not said, what, f"{sum(flat) / len(flat):.6f}", f"{worst:.1e}", said)


@torch.no_grad()
def losses(model, rows):
    ids = torch.tensor(rows)
    logits = model(ids).logits[:, :-1].double()
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return nll.tolist()


def opened(folder):
    """The model in `folder` as transformers reads it, and what is wrong with the folder."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                       output_loading_info=True)
    wrong = [f"{key}: {sorted(info[key])[0]}" for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]]
    return model.eval(), "; ".join(wrong)


def with_adapter(model, folder):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wrapped = peft.PeftModel.from_pretrained(opened(model)[0], folder).eval()
    keys = [str(w.message).splitlines()[0] for w in said if "adapter keys" in str(w.message) or "target" in str(w.message)]
    return wrapped, "; ".join(keys)


def source(name, folder):
    """A copy of the fixture `tiny-<name>`, in f32."""
    shutil.copytree(os.path.join(GOLDEN, f"tiny-{name}"), folder)
    weights = {key: value.float() for key, value in load_file(os.path.join(folder, "model.safetensors")).items()}
    save_file(weights, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    return folder


def config_of(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return json.load(file)


def change_config(folder, change):
    config = config_of(folder)
    change(config)
    with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file)


def pieces():
    """A vocabulary of 300 as SentencePiece's BPE has it: tokens, scores, types."""
    words = ["\u2581", *"etaonrsilbdhxc", "th", "the", "\u2581the", "ro", "se", "ros", "rose", "\u2581ro", "\u2581rose", "re",
             "are", "\u2581a", "\u2581are", "on", "\u2581on", "ta", "ble", "bl", "tab", "\u2581t", "\u2581b", "le", "\u2581\u2581",
             "1", "2", "12"]
    words = list(dict.fromkeys(words))[:41]
    words += [f"w{i}" for i in range(41 - len(words))]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + words
    types = [2, 3, 3] + [6] * 256 + [1] * 41
    return tokens, [0.0] * 259 + [-float(i) for i in range(41)], types


def byte_level():
    """A vocabulary of 300 as GPT-2's byte-level BPE has it: tokens, merges, types."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(256, 512))
    spelled = [chr(i if i in printable else next(spare)) for i in range(256)]
    merges = ["t h", "th e", "\u0120 the", "r o", "s e", "ro se", "\u0120 rose", "r e", "a re", "\u0120 are", "o n", "\u0120 on",
              "\u0120 a", "t a", "b l", "bl e"]
    tokens = ["<unk>", "<s>", "</s>"] + spelled + [m.replace(" ", "") for m in merges]
    tokens += [f"<extra_{i}>" for i in range(300 - len(tokens))]
    types = [3, 3, 3] + [1] * (256 + len(merges)) + [3] * (300 - 259 - len(merges))
    return tokens, merges, types


def to_gguf(name, folder, path):
    """The model in `folder` as llama.cpp's converter writes it, in f32."""
    c = config_of(folder)
    arch = {"mistral": "llama", "gemma3_text": "gemma3"}.get(c["model_type"], c["model_type"])
    writer = gguf.GGUFWriter(path, arch)
    heads, kv, hidden = c["num_attention_heads"], c["num_key_value_heads"], c["hidden_size"]
    head = c.get("head_dim") or hidden // heads
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(hidden)
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
    for key, add in [("attn_logit_softcapping", writer.add_attn_logit_softcapping),
                     ("final_logit_softcapping", writer.add_final_logit_softcapping)]:
        if c.get(key):
            add(c[key])
    if c.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(c["rope_scaling"]["factor"])
    qwen = c["model_type"].startswith("qwen")
    tokens, order, types = byte_level() if qwen else pieces()
    writer.add_tokenizer_model("gpt2" if qwen else "llama")
    if qwen:
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_merges(order)
    else:
        writer.add_token_scores(order)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(not qwen)
    writer.add_chat_template("{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}")
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), c["num_hidden_layers"])
    for key, value in load_file(os.path.join(folder, "model.safetensors")).items():
        for part, n in [("q_proj", heads), ("k_proj", kv)]:
            if arch == "llama" and f"{part}.weight" in key:
                value = value.reshape(n, 2, head // 2, hidden).swapaxes(1, 2).reshape(value.shape)
        if arch.startswith("gemma") and key.endswith("norm.weight"):
            value = value + 1
        writer.add_tensor(names.get_name(key, try_suffixes=(".weight", ".bias")), value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def compare_tokens(bench, what, model, folder):
    """The tokenizer files in `folder` give the tokens that rugosa has from `model`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        out = bench.run("preview", "--model", model, "--data", bench.texts, "--rows", "9", "--json", "--seq-len", "128")
        rows = [json.loads(line) for line in out.splitlines()]
        wrong = ""
        for text, row in zip([text for text in TEXTS if text], rows):
            ids, want = row["input_ids"], tokenizer(text)["input_ids"]
            # a text that is learnt ends with the end token
            ids = ids[:-1] if ids[-1:] == [2] and want[-1:] != [2] else ids
            if ids != want and not wrong:
                wrong = f"{json.dumps(text)}: {ids} here, {want} there".replace("|", "\\|")
        talk = [{"role": "user", "content": "the rose"}]
        if tokenizer.apply_chat_template(talk, tokenize=False) != "<s>the rose</s>":
            wrong = wrong or "another chat template"
    except Exception as e:
        wrong = str(e).splitlines()[0][:150]
    special = f"{tokenizer.bos_token} {tokenizer.eos_token}" if not wrong else ""
    bench.row(not wrong and special == "<s> </s>", what, special, wrong)


def adapters(name, layers):
    """Flags of runs with `--method lora` that differ in what adapter_config.json has to say."""
    fused = name == "phi3"
    q, down = ("qkv_proj" if fused else "q_proj"), "down_proj"
    last = f"layers.{layers - 1}.mlp.down_proj"
    return [
        ("all linears", []),
        ("rslora, two modules", ["--rslora", "--rank", "4", "--target-modules", f"{q},{down}"]),
        ("ranks and alphas of modules, one layer's", ["--target-modules", f"{q},{last}", "--rank-pattern", f"{last}=2",
                                                     "--alpha-pattern", f"layers.1.self_attn.{q}=5"]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rugosa", default="target/release/rugosa", help="the program")
    parser.add_argument("families", nargs="*", default=FAMILIES)
    args = parser.parse_args()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    print(f"{subprocess.run([args.rugosa, '--version'], capture_output=True, text=True).stdout.strip()}; Python "
          f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, gguf "
          f"{version('gguf')}, peft {peft.__version__}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        bench = Bench(args.rugosa, folder)
        models = {name: source(name, bench.path(name)) for name in args.families}

        print("\n## All weights, from a folder and from GGUF")
        bench.table("model", "mean loss", "worst token", "")
        files = {}
        for name, model in models.items():
            files[name] = to_gguf(name, model, bench.path(f"{name}.gguf"))
            for kind, start in [("folder", model), ("GGUF", files[name])]:
                out = bench.path(f"{name}-{kind}-full")
                try:
                    bench.train(start, out, "--method", "full")
                except RuntimeError as e:
                    bench.row(False, f"{name}, {kind}", "", "", e)
                    continue
                bench.compare(f"{name}, {kind}", out, lambda out=out: opened(out))

        print("\n## Tokenizer files from GGUF")
        bench.table("model", "special tokens", "")
        for name in models:
            compare_tokens(bench, name, files[name], bench.path(f"{name}-GGUF-full"))

        print("\n## Adapters in PEFT")
        bench.table("adapter", "mean loss", "worst token", "")
        for name, model in models.items():
            for i, (what, flags) in enumerate(adapters(name, config_of(model)["num_hidden_layers"])):
                out = bench.path(f"{name}-lora-{i}")
                bench.train(model, out, "--method", "lora", *flags)
                bench.compare(f"{name}, {what}", model, lambda m=model, o=out: with_adapter(m, o), "--adapter", out)

        print("\n## Configurations without optional keys")
        bench.table("model", "mean loss", "worst token", "")
        for name in models:
            short = source(name, bench.path(f"{name}-short"))
            change_config(short, lambda c: [c.pop(key, None) for key in OPTIONAL])
            if "lm_head.weight" not in load_file(os.path.join(short, "model.safetensors")):
                # a tied model, which for these families has to be said
                change_config(short, lambda c: c.update(tie_word_embeddings=True))
            bench.compare(name, short, lambda short=short: opened(short))

        print("\n## Heads that are called tied")
        bench.table("model", "mean loss", "worst token", "")
        for name in models:
            for kind in ("another head", "the same head", "the head alone"):
                tied = source(name, bench.path(f"{name}-{kind}"))
                change_config(tied, lambda c: c.update(tie_word_embeddings=True))
                path = os.path.join(tied, "model.safetensors")
                weights = load_file(path)
                embedding = weights["model.embed_tokens.weight"]
                weights["lm_head.weight"] = embedding.flip(0) if kind == "another head" else embedding.clone()
                if kind == "the head alone":
                    del weights["model.embed_tokens.weight"]
                save_file({k: v.contiguous() for k, v in weights.items()}, path, metadata={"format": "pt"})
                bench.compare(f"{name}, {kind}", tied, lambda tied=tied: opened(tied))
    print(f"\n{bench.failed or 'none'} out of bounds (a token {TOKEN} nats)")
    sys.exit(bool(bench.failed))


if __name__ == "__main__":
    main()

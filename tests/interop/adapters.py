#!/usr/bin/env python3
"""Adapters that rugosa exports, in the programs that they are for, and adapters of those programs in rugosa.

    pip install torch transformers peft gguf
    pip install xllamacpp                   # llama.cpp, with wheels; without it the LoRA of GGUF is only read
    cargo build --release
    python tests/interop/adapters.py [--model SmolLM2-135M-Instruct.Q4_1.gguf]

The tiny models of `tests/fixtures/golden`, and with --model a real one in GGUF. rugosa trains adapters on each, a few steps:
RoSA, with one rank and density and with several, sparse alone, and LoRA. `rugosa export` writes them for PEFT, in the original RoSA
code's format and as llama.cpp's LoRA. PEFT loads its folders onto transformers' model; of the original's folder, which no PEFT of
today loads, W + S + s·B·A is computed here. The negative log-likelihood of each token of fixed rows is compared with that of
`rugosa eval` with the adapter of the run, and once more with the exported folder as its adapter. llama.cpp loads the LoRA onto the
model in GGUF; its log-probabilities of the next token are compared with PEFT's. Prints tables in Markdown; ends with 1 if anything
is out of bounds.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version

import gguf
import peft
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "parity"))
from real_model import ROWS, TEXTS  # noqa: E402
from written import FAMILIES, TOKEN, Bench, change_config, losses, opened, source, to_gguf  # noqa: E402

try:
    import xllamacpp
except ImportError:
    xllamacpp = None

# of the log-probability of a token in llama.cpp, whose GELU is a table in f16; with quantised weights it rounds the activations of each
# product to 8 bits
LLAMA, LLAMA_QUANTISED = 2e-3, 0.3
# tokens that llama.cpp is asked with: no more than the fixtures' smallest window, since it has none in Mistral
PROMPT = 5
# of the negative log-likelihood of one token of a real model, in nats: its weights come from other bits, sums are longer
REAL_TOKEN = 1e-3


def runs(fused):
    """What is trained: a name, flags, the formats to export, and whether PEFT's numbers are the adapter's own to the bit."""
    q = "qkv_proj" if fused else "q_proj"
    rosa = ["--method", "rosa", "--schedule", "wl1", "--density", "0.02", "--rank", "4"]
    yield "rosa", rosa, ("peft", "peft-rosa")
    yield "rosa, modules differ", rosa + ["--target-modules", f"{q},down_proj", "--rank-pattern", "down_proj=2", "--rslora",
                                          "--density-pattern", "down_proj=0.01", "--alpha-pattern", f"{q}=5"], ("peft", "peft-rosa")
    yield "sparse alone", ["--method", "spa", "--density", "0.02"], ("peft", "peft-rosa")
    yield "lora", ["--method", "lora", "--rank", "4"], ("peft", "peft-rosa", "gguf")
    yield "lora, modules differ", ["--method", "lora", "--rslora", "--target-modules", f"{q},down_proj", "--rank-pattern",
                                   "down_proj=2", "--alpha-pattern", f"{q}=5"], ("peft", "peft-rosa", "gguf")


def with_peft(base, folder):
    """The model with the adapter, and what PEFT says that it should not."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        wrapped = peft.PeftModel.from_pretrained(base, folder).eval()
    keys = [str(w.message).splitlines()[0] for w in said if "adapter keys" in str(w.message) or "target" in str(w.message)]
    return wrapped, "; ".join(keys)


@torch.no_grad()
def with_rosa(base, folder):
    """The model with W + S + s·B·A of the original's folder in place of W."""
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    parts = load_file(os.path.join(folder, "adapter_model.safetensors"))
    prefixes = sorted({key.split(".rosa_")[0] for key in parts})
    for prefix in prefixes:
        name = prefix.removeprefix("base_model.model.")
        weight = base.get_submodule(name).weight
        total = weight.double()
        if f"{prefix}.rosa_A.weight" in parts:
            a, b = (parts[f"{prefix}.rosa_{part}.weight"].double() for part in "AB")
            alpha, rank = config["alpha_pattern"].get(name, config["lora_alpha"]), len(a)
            assert rank == config["rank_pattern"].get(name, config["r"]), name
            total = total + alpha / (rank**0.5 if config["use_rslora"] else rank) * b @ a
        if f"{prefix}.rosa_spa.values" in parts:
            values, offsets, columns = (parts[f"{prefix}.rosa_spa.{part}"] for part in ("values", "row_offs", "col_idx"))
            # the number by which the original makes room for them
            assert len(values) == int(config["density_pattern"].get(name, config["d"]) * weight.numel()), name
            rows = torch.repeat_interleave(torch.arange(len(weight)), offsets.diff().long())
            total = total.clone()
            total[rows, columns.long()] += values.double()
        weight.data = total.float()
    return base.eval(), ""


class Llama:
    """llama.cpp with a model and a LoRA."""

    def __init__(self, model, lora=None):
        params = xllamacpp.CommonParams()
        params.model.path = model
        params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, -1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = 0
        if lora:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path, adapter.scale = lora, 1.0
            params.lora_adapters = [adapter]
        self.server = xllamacpp.Server(params)

    def next_token(self, ids, count):
        """Log-probabilities of the likeliest next tokens, by id; none where the likeliest ends the text."""
        answer = self.server.handle_completions({"prompt": ids, "temperature": 0.0, "n_predict": 1, "n_probs": count})
        given = answer["choices"][0]["logprobs"]
        return {p["id"]: p["logprob"] for p in given["content"][0]["top_logprobs"]} if given else {}


class Exports(Bench):
    def export(self, adapter, model, to, out):
        said = self.run("export", "--adapter", adapter, "--model", model, "--to", to, "--out", out, "--verify", "--json")
        return json.loads(said)

    def compare_all(self, what, model, base, tokenizer_free=True):
        """Rows for every adapter of `runs` on `model`; `base` makes transformers' model."""
        for i, (name, flags, formats) in enumerate(runs(what == "phi3")):
            adapter = self.train(model, self.path(f"{what}-{i}"), *flags)
            for to in formats:
                if to == "gguf":
                    continue
                out = self.path(f"{what}-{i}-{to}")
                worst = self.export(adapter, model, to, out)["verified"]["worst_relative"]
                opened_by = with_peft if to == "peft" else with_rosa
                self.compare_export(f"{what}, {name}, {to}", model, adapter, out, lambda o=out, w=opened_by: w(base(), o), worst)

    def compare_export(self, what, model, adapter, out, reference, rounding):
        try:
            wrapped, said = reference()
            want = losses(wrapped, self.rows)
            runs_, again = self.nll(model, "--adapter", adapter), self.nll(model, "--adapter", out)
        except Exception as e:  # a folder that one of them refuses is a row of the table
            self.row(False, what, "", "", "", "", str(e).splitlines()[0][:150])
            return
        distance = lambda got: max(abs(a - b) for ours, theirs in zip(got, want) for a, b in zip(ours, theirs))  # noqa: E731
        flat = [n for row in want for n in row]
        ours, back = distance(runs_), distance(again)
        self.row(max(ours, back) <= TOKEN and not said, what, f"{sum(flat) / len(flat):.6f}", f"{ours:.1e}", f"{back:.1e}",
                 f"{rounding:.0e}", said)

    def compare_llama(self, what, model, file, base, peft_folder, lora, ids, bound):
        """Of the LoRA in GGUF: its tensors against those of PEFT's folder, then llama.cpp with it against PEFT."""
        reader = gguf.GGUFReader(lora)
        names = {tensor.name.rsplit(".", 1)[0] for tensor in reader.tensors}
        known = {tensor.name for tensor in gguf.GGUFReader(file).tensors}
        unknown = sorted(names - known)
        if xllamacpp is None or unknown:
            self.row(not unknown, what, len(names), "", "", unknown[0] if unknown else "not run")
            return
        llama = Llama(file, lora)
        prompts = [ids[at:at + PROMPT] for at in range(len(ids) - PROMPT)]
        got, ids = next((got, ids) for ids in prompts if (got := llama.next_token(ids, 40)))
        with torch.no_grad():
            want = with_peft(base(), peft_folder)[0](torch.tensor([ids])).logits[0, -1].double().log_softmax(0)
            alone = base()(torch.tensor([ids])).logits[0, -1].double().log_softmax(0)
        distance = max(abs(value - want[token].item()) for token, value in got.items())
        moved = max(abs(alone[token] - want[token]).item() for token in got)
        self.row(distance <= bound and moved > bound, what, len(names), f"{distance:.1e}", f"{moved:.2f}", "")


def tiny(bench, families):
    models = {name: source(name, bench.path(name)) for name in families}
    for name in models:
        if name.startswith("gemma"):  # llama.cpp has no key for it, and takes the size of a head
            change_config(models[name], lambda c: c.update(query_pre_attn_scalar=c["head_dim"]))
    print("\n## Exported folders, in PEFT and back in rugosa\n")
    print("The worst token's difference in nats: PEFT's (of peft-rosa: torch's) from rugosa's with the run's own adapter, and from "
          "rugosa's with the exported one. Rounding: the largest relative one that `--verify` found in a number.")
    bench.table("model, adapter, format", "mean loss", "run's", "exported", "rounding", "")
    for name, model in models.items():
        bench.compare_all(name, model, lambda m=model: opened(m)[0])

    print("\n## LoRA as GGUF, in llama.cpp\n")
    print("The largest difference of the log-probabilities of the 40 likeliest next tokens from those of PEFT, and what the adapter moved "
          "them by.")
    bench.table("model, adapter", "linears", "difference", "moved by", "")
    for name, model in models.items():
        file = to_gguf(name, model, bench.path(f"{name}.gguf"))
        for i, (what, _, formats) in enumerate(runs(name == "phi3")):
            if "gguf" in formats:
                lora = bench.path(f"{name}-{i}.gguf")
                bench.export(bench.path(f"{name}-{i}"), model, "gguf", lora)
                bench.compare_llama(f"{name}, {what}", model, file, lambda m=model: opened(m)[0], bench.path(f"{name}-{i}-peft"),
                                    lora, bench.rows[0], LLAMA)


def real(bench, path):
    """A real model in GGUF, which transformers decodes to f32."""
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    base = lambda: AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()  # noqa: E731
    chat = bench.write("chat.jsonl", [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
                                      for q, a in ROWS])
    bench.rows = [tokenizer(text)["input_ids"][:48] for text in TEXTS]
    bench.data = bench.write("real.jsonl", [{"input_ids": ids, "labels": ids} for ids in bench.rows])
    print(f"\n## {name}, after 6 steps")
    bench.table("adapter, format", "mean loss", "run's", "exported", "rounding", "")
    for what, flags in [("rosa", ["--method", "rosa", "--schedule", "wl2", "--density", "0.006"]), ("lora", ["--method", "lora"])]:
        adapter = bench.path(f"real-{what}")
        bench.run("train", "--model", path, "--data", chat, "--out", adapter, "--steps", "6", "--seq-len", "64", "--lr", "1e-3",
                  "--gradient-accumulation-steps", "1", "--warmup-steps", "0", "--lr-schedule", "constant", *flags)
        out = bench.path(f"real-{what}-peft")
        worst = bench.export(adapter, path, "peft", out)["verified"]["worst_relative"]
        wrapped, said = with_peft(base(), out)
        want = [losses(wrapped, [ids])[0] for ids in bench.rows]
        distance = lambda got: max(abs(a - b) for ours, theirs in zip(got, want) for a, b in zip(ours, theirs))  # noqa: E731
        ours = distance(bench.nll(path, "--adapter", adapter))
        back = distance(bench.nll(path, "--adapter", out))
        flat = [n for row in want for n in row]
        bench.row(max(ours, back) <= REAL_TOKEN and not said, f"{what}, peft", f"{sum(flat) / len(flat):.6f}", f"{ours:.1e}",
                  f"{back:.1e}", f"{worst:.0e}", said)
    bench.table("in llama.cpp", "linears", "difference", "moved by", "")
    lora = bench.path("real.gguf")
    bench.export(bench.path("real-lora"), path, "gguf", lora)
    bench.compare_llama("lora, gguf", path, path, base, bench.path("real-lora-peft"), lora, bench.rows[0], LLAMA_QUANTISED)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rugosa", default="target/release/rugosa", help="the program")
    parser.add_argument("--model", help="a real model in GGUF, its tokenizer in it")
    parser.add_argument("families", nargs="*", default=FAMILIES)
    args = parser.parse_args()
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    llama = f"xllamacpp {version('xllamacpp')}" if xllamacpp else "no llama.cpp"
    print(f"{subprocess.run([args.rugosa, '--version'], capture_output=True, text=True).stdout.strip()}; Python "
          f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, peft "
          f"{peft.__version__}, gguf {version('gguf')}, {llama}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        bench = Exports(args.rugosa, folder)
        tiny(bench, args.families)
        if args.model:
            real(bench, args.model)
    print(f"\n{bench.failed or 'none'} out of bounds (a token {TOKEN} nats, of the real model {REAL_TOKEN})")
    sys.exit(bool(bench.failed))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Quantised models in rugosa, against their own readers' dequantised weights in transformers, in float32.

    pip install torch transformers gguf bitsandbytes peft
    python tests/parity/formats.py --nf4-of DENSE_FOLDER_OR_GGUF --out NF4_FOLDER      # makes a folder with public tools
    python tests/parity/formats.py MODEL.gguf NF4_FOLDER

A GGUF file is dequantised by `gguf`, as transformers loads it; a folder of bitsandbytes' NF4 by `bitsandbytes`. Compared is the
mean negative log-likelihood of fixed texts, 1e-5 relative at most. Then rugosa trains a few steps of RoSA on the model and
generates with what it wrote. Prints tables in Markdown; ends with 1 if anything is out of bounds.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

sys.path.insert(0, os.path.dirname(__file__))
from real_model import ROWS, TEXTS, Reference, Report, Rugosa, short  # noqa: E402

MEAN = 1e-5


def split(path):
    """A folder, and the GGUF file in it that is meant."""
    return os.path.split(os.path.abspath(path)) if path.endswith(".gguf") else (path, None)


def make_nf4(source, out, double):
    folder, file = split(source)
    named = {"gguf_file": file} if file else {}
    with tempfile.TemporaryDirectory() as dense:
        # a GGUF file cannot be quantised while it is loaded, and counts as quantised when its weights are float32 long since
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **named)
        model.hf_quantizer = None
        model.config.__dict__.pop("quantization_config", None)
        model.save_pretrained(dense)
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model = AutoModelForCausalLM.from_pretrained(
            dense, quantization_config=config, dtype=torch.float32, device_map="cpu"
        )
        model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, **named).save_pretrained(out)


class Nf4(Reference):
    """A folder of NF4 whose linears are replaced by what bitsandbytes makes of them."""

    def __init__(self, path):
        from bitsandbytes.functional import dequantize_4bit
        from bitsandbytes.nn import Linear4bit

        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, device_map="cpu").eval()
        self.kinds = Counter()
        for name, module in list(self.model.named_modules()):
            if isinstance(module, Linear4bit):
                state = module.weight.quant_state
                dense = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
                dense.weight = torch.nn.Parameter(dequantize_4bit(module.weight.data, state).float(), False)
                if module.bias is not None:
                    dense.bias = torch.nn.Parameter(module.bias.data.float(), False)
                parent, _, own = name.rpartition(".")
                setattr(self.model.get_submodule(parent), own, dense)
                self.kinds["NF4, double" if state.nested else "NF4"] += 1


class Gguf(Reference):
    def __init__(self, path):
        from gguf import GGUFReader

        super().__init__(path)
        self.kinds = Counter(t.tensor_type.name for t in GGUFReader(path).tensors)


def check(report, program, path, folder):
    reference = Gguf(path) if path.endswith(".gguf") else Nf4(path)
    ours = Rugosa(program, path, folder)
    print(f"\n## {os.path.basename(os.path.normpath(path))}\n")
    print("Tensors: " + ", ".join(f"{n} {kind}" for kind, n in reference.kinds.most_common()))
    report.table("text", "tokens", "rugosa", "transformers", "mean relative", "")
    rows = ours.preview([{"text": t} for t in TEXTS])
    for text, row, nll in zip(TEXTS, rows, ours.nll(TEXTS)):
        want = reference.nll(row["input_ids"])
        mean, expected = sum(nll) / len(nll), sum(want) / len(want)
        relative = abs(mean - expected) / expected
        good = len(nll) == len(want) and relative <= MEAN
        report.row(good, short(text), len(nll), f"{mean:.6f}", f"{expected:.6f}", f"{relative:.1e}")
    data = ours.rows([{"prompt": p, "completion": c} for p, c in ROWS])
    out = os.path.join(folder, "run")
    steps = ["--steps", "4", "--batch-size", "2", "--lr", "1e-3", "--seq-len", "64"]
    ours.run("train", "--data", data, "--out", out, "--method", "rosa", *steps)
    with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
        losses = [row["loss"] for row in map(json.loads, file) if "loss" in row]
    report.table("what", "result", "")
    trained = len(losses) > 1 and losses[-1] < losses[0]
    report.row(trained, "loss of RoSA's steps", " → ".join(f"{loss:.3f}" for loss in losses))
    ids = ours.generate("--prompt", "The capital of France is", "--adapter", out)
    report.row(len(ids) > 0, "continuation with it", short(reference.tokenizer.decode(ids)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--program", default="target/release/rugosa")
    parser.add_argument("--nf4-of")
    parser.add_argument("--out")
    parser.add_argument("--plain-maxima", action="store_true", help="without double quantisation")
    args = parser.parse_args()
    if args.nf4_of:
        make_nf4(args.nf4_of, args.out, not args.plain_maxima)
    report = Report()
    for path in args.models:
        with tempfile.TemporaryDirectory() as folder:
            check(report, os.path.abspath(args.program), path, folder)
    print(f"\n{report.failed or 'none'} out of bounds (mean {MEAN} relative)")
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()

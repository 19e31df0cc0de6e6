#!/usr/bin/env python3
"""TensorBoard reads what `rugosa train --tensorboard` writes: python3 tests/interop/tensorboard.py [path of rugosa]

A run of a model of a few kilobytes is killed in the middle, gone on with, and read by TensorBoard's own loader: each step must be
there once, with the numbers of metrics.jsonl as f32. Needs `pip install tensorboard`. What it printed is in tensorboard.txt.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.pop(0)  # this file has the package's name
import tensorboard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "train/loss": "loss",
    "train/learning_rate": "lr",
    "train/lora_learning_rate": "lora_lr",
    "train/grad_norm": "grad_norm",
    "train/tokens_per_second": "tokens_per_second",
    "train/epoch": "epoch",
}
# the operations on the disk at which the first process ends: before the run has saved a state, and behind that
KILLED_AT = [40, 100]


def rugosa(program, *words, **environment):
    return subprocess.run([program, *words], env={**os.environ, **environment}, capture_output=True, text=True)


def as_f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "rugosa"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        demo = rugosa(program, "demo", "--steps", "1", "--out", str(folder / "demo"))
        # after one step it knows nothing yet and says so: what is wanted is its model and its rows
        assert (folder / "demo/train.jsonl").exists(), demo.stderr
        for killed_at in KILLED_AT:
            check(program, folder, killed_at)


def check(program, folder, killed_at):
    run = folder / f"run-{killed_at}"
    train = ["train", "--model", str(folder / "demo/model"), "--data", str(folder / "demo/train.jsonl"), "--out", str(run)]
    train += ["--steps", "8", "--schedule", "wl3", "--mask-grads", "2", "--save-steps", "4", "--gradient-accumulation-steps", "1"]
    train += ["--seq-len", "64", "--eval-split", "0.05", "--eval-steps", "2", "--tensorboard"]
    killed = rugosa(program, *train, RUGOSA_FAULT=f"kill:{killed_at}")
    assert killed.returncode < 0, f"the run was not killed: {killed.stderr}"
    before = sum('"step":' in line for line in (run / "metrics.jsonl").read_text().splitlines())
    states = len(list(run.glob("state/*/DONE")))
    resumed = rugosa(program, "train", "--resume", "--out", str(run))
    assert resumed.returncode == 0, resumed.stderr

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    evaluations = [line for line in lines if "after" in line]
    files = len(list(run.glob("events.out.tfevents.*")))
    loaded = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    print(f"tensorboard {tensorboard.__version__}; {files} event files, killed after {before} of {len(steps)} steps with {states} states")
    assert files == 2 and 0 < before < len(steps)
    assert loaded.file_version == 2.0, loaded.file_version
    for tag, key in TAGS.items():
        want = [(line["step"] + 1, as_f32(line[key])) for line in steps if line.get(key) is not None]
        got = [(event.step, event.value) for event in loaded.Scalars(tag)]
        if key == "tokens_per_second":  # the killed process took its own time
            want, got = [step for step, _ in want], [step for step, _ in got]
        assert got == want, (tag, got, want)
        print(f"  {tag}: {len(got)} values, each step once")
    want = [(line["after"], as_f32(line["eval_loss"])) for line in evaluations]
    got = [(event.step, event.value) for event in loaded.Scalars("eval/loss")]
    assert got == want, (got, want)
    print(f"  eval/loss: {len(got)} values, as in metrics.jsonl")


if __name__ == "__main__":
    main()

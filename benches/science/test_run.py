"""Of the runner, with a script in rugosa's place: python3 -m unittest discover -s benches/science."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import book
from plan import Plan

HERE = Path(__file__).resolve().parent

# Writes what rugosa writes; scores by the rates and the part of the set. FAKE_FAIL fails trainings of that method.
FAKE = '''#!{python}
import json, os, struct, sys, time
words = sys.argv[1:]
of = lambda name: words[words.index(name) + 1]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(" ".join(words) + "\\n")
if words == ["--version"]:
    print("rugosa 0")
elif words[0] == "demo":
    out = of("--out")
    os.makedirs(out + "/model")
    header = json.dumps({{"model.layers.0.self_attn.q_proj.weight": {{"dtype": "F16", "shape": [64, 64], "data_offsets": [0, 8192]}}}}).encode()
    open(out + "/model/model.safetensors", "wb").write(len(header).to_bytes(8, "little") + header + b"\\0\\1" * 4096)
    for name, count in (("train", 400), ("held-out", 20)):
        open(out + "/" + name + ".jsonl", "w").writelines(json.dumps({{"prompt": name + str(i), "response": "r"}}) + "\\n" for i in range(count))
elif words[0] == "quantize":
    import shutil
    shutil.copytree(of("--model"), of("--out"))
elif words[0] == "train":
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    if of("--method") == os.environ.get("FAKE_FAIL"):
        sys.exit("error: " + of("--method") + " fails here")
    if "--save-mask" in words:
        header = json.dumps({{"model.layers.0.self_attn.q_proj.col_idx": {{"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}},
            "model.layers.0.self_attn.q_proj.row_offs": {{"dtype": "I32", "shape": [65], "data_offsets": [4, 264]}}}}).encode()
        open(of("--save-mask"), "wb").write(len(header).to_bytes(8, "little") + header + struct.pack("<66i", 5, *[0] * 64, 1))
    os.makedirs(of("--out"))
    json.dump({{"device": "fake", "api": "none", "steps": 3}}, open(of("--out") + "/summary.json", "w"))
elif words[0] == "eval":
    print(json.dumps({{"exact_match": 0.5, "nll": 1.0, "rows": 20}}))
'''


class Runs(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.at = Path(self.folder.name)
        self.fake = self.at / "rugosa"
        self.fake.write_text(FAKE.format(python=sys.executable))
        self.fake.chmod(self.fake.stat().st_mode | stat.S_IXUSR)
        self.results = self.at / "results.jsonl"
        self.log = self.at / "log"

    def command(self, *more):
        return [sys.executable, str(HERE / "run.py"), "--manifest", str(HERE / "quick.toml"), "--rugosa", str(self.fake),
                "--work", str(self.at / "work"), "--results", str(self.results), "--commit", "c0", *more]  # fmt: skip

    def env(self, **more):
        return {**os.environ, "FAKE_LOG": str(self.log), **more}

    def run_it(self, *more, **env):
        return subprocess.run(self.command(*more), env=self.env(**env), capture_output=True, text=True, timeout=600)

    def lines(self):
        return book.read(self.results)

    def test_everything_is_done_once(self):
        done = self.run_it("--jobs", "6")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = self.lines()
        self.assertEqual({line["status"] for line in lines}, {"done"}, done.stdout)
        self.assertEqual(len({line["key"] for line in lines}), len(lines))
        self.assertEqual({line["cell"] for line in lines}, {cell.id for cell in Plan(HERE / "quick.toml").cells})
        line = next(line for line in lines if "lora" in line["cell"] and line["stage"] == "final")
        for name, value in {"commit": "c0", "device": "fake", "exact_match": 0.5, "seed": line["seed"], "version": "rugosa 0"}.items():
            self.assertEqual(line[name], value)
        self.assertIn("--lora-lr", line["command"])
        calls = self.log.read_text().splitlines()
        scored = [c for c in calls if c.startswith("eval")]
        self.assertTrue(any("demo-dev" in c for c in scored))
        self.assertEqual(sum("demo-test" in c for c in scored), sum(line["stage"] == "final" for line in lines))
        self.assertFalse(any("demo-test" in c for c in calls if c.startswith("train")))
        self.assertFalse((self.at / "work/runs").exists() and any((self.at / "work/runs").iterdir()), "folders of runs are gone")
        # a second time there is nothing to do, also where the lines lie elsewhere
        earlier = self.results.rename(self.at / "earlier.jsonl")
        again = self.run_it("--done", str(earlier))
        self.assertIn("at least 0 are left", again.stdout)
        self.assertEqual(self.lines(), [])

    def test_a_failing_method_is_tried_twice_and_stops_no_other(self):
        done = self.run_it("--jobs", "6", "--only", "methods", FAKE_FAIL="spa")
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = self.lines()
        failed = [line for line in lines if line["status"] == "failed"]
        self.assertEqual({line["cell"] for line in failed}, {"demo/demo/1/own/small/sparse/paper"})
        self.assertEqual(len(failed), 6, "three points, twice each")
        self.assertIn("spa fails here", failed[0]["error"])
        of_group = [c for c in Plan(HERE / "quick.toml").members["methods"] if "sparse" not in c]
        self.assertEqual({line["cell"] for line in lines if line["status"] == "done"}, set(of_group))

    def stopped(self, with_signal):
        child = subprocess.Popen(self.command("--jobs", "3"), env=self.env(FAKE_SECONDS="0.3"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 300
        while len(self.lines()) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        child.send_signal(with_signal)
        child.wait(timeout=300)
        before = self.lines()
        self.assertGreaterEqual(len(before), 4)
        self.assertEqual({line["status"] for line in before}, {"done"})
        done = self.run_it("--jobs", "6")
        self.assertEqual(done.returncode, 0, done.stderr)
        after = self.lines()
        self.assertEqual(after[: len(before)], before)
        self.assertEqual(len({line["key"] for line in after}), len(after), "nothing is done twice")
        self.assertEqual({line["status"] for line in after}, {"done"})
        self.run_it()
        self.assertEqual(list((self.at / "work/runs").iterdir()), [], "what a kill left of runs is removed by the next call")

    def test_it_goes_on_after_an_interruption(self):
        self.stopped(signal.SIGINT)

    def test_it_goes_on_after_a_kill(self):
        self.stopped(signal.SIGKILL)

    def test_the_time_budget_is_kept(self):
        start = time.monotonic()
        done = self.run_it("--minutes", "0.03", FAKE_SECONDS="0.5")
        self.assertEqual(done.returncode, 0)
        self.assertLess(time.monotonic() - start, 90)
        self.assertIn("stopped; at least", done.stderr)
        self.assertLess(len(self.lines()), 10)

    def test_what_is_missing_is_said(self):
        for more, expected in (
            (["--only", "nothing"], "there is no such group; there are methods, masks, splits, budgets"),
            (["--rugosa", "none/rugosa"], "none/rugosa is no program"),
            (["--manifest", "none.toml"], "none.toml"),
            (["--manifest", str(HERE / "manifest.toml"), "--models", "none"], "give --models and --data"),
        ):
            done = self.run_it(*more)
            self.assertEqual(done.returncode, 1)
            self.assertIn(expected, done.stderr)
            self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Does the runs of a manifest that are not done yet, several side by side; one JSON line a run.

  python3 benches/science/run.py --models DIR --data DIR              everything; docs/science.md says what lies there
  python3 benches/science/run.py --manifest benches/science/quick.toml       the small one, with the model that is built in

It may be stopped at any moment, by Ctrl-C, --minutes or a kill: runs that had ended are kept, the next call does the others.
"""

import argparse
import json
import os
import queue
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import book
import masks
from plan import ManifestError, Plan, Progress
from prepare import Materials, Missing, flags

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Failed(Exception):
    """A run that failed, with its error in one line."""


class Stopped(Exception):
    """A run that was stopped: no line of it is written."""


def commit_of(given):
    if given:
        return given
    git = lambda *words: subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    try:
        head = git("rev-parse", "--short=10", "HEAD")
        if head.returncode == 0:
            dirty = git("status", "--porcelain", "--untracked-files=no", "--", "src", "shaders", "Cargo.toml").stdout.strip()
            return head.stdout.strip() + ("-dirty" if dirty else "")
    except OSError:
        pass
    return os.environ.get("RUGOSA_COMMIT") or "unknown"


class Runner:
    def __init__(self, args, plan, materials, progress, written):
        self.args, self.plan, self.materials, self.progress, self.book = args, plan, materials, progress, written
        self.commit = commit_of(args.commit)
        version = subprocess.run([args.rugosa, "--version"], capture_output=True, text=True)
        self.version = version.stdout.strip()
        self.began = time.monotonic()
        self.stopping = threading.Event()
        self.children, self.guard = set(), threading.Lock()
        self.seconds = []
        self.runs = materials.work / "runs"

    # one run, in a thread of its own

    def call(self, words, log):
        """Runs rugosa with `words`; its standard output. Raises what became of it otherwise."""
        command = [self.args.rugosa, *words]
        with open(log, "wb") as errors, self.guard:
            if self.stopping.is_set():
                raise Stopped
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, start_new_session=True)
            self.children.add(child)
        try:
            out, _ = child.communicate(timeout=self.args.run_minutes * 60)
        except subprocess.TimeoutExpired as late:
            self.kill(child)
            raise Failed(f"rugosa {words[0]} took more than {self.args.run_minutes:g} minutes") from late
        finally:
            with self.guard:
                self.children.discard(child)
        if self.stopping.is_set():
            raise Stopped
        if child.returncode != 0:
            said = Path(log).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise Failed(f"rugosa {words[0]}: {said[-1] if said else f'exit code {child.returncode}'}")
        return out.decode()

    @staticmethod
    def kill(child):
        if child.poll() is None:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except (OSError, AttributeError):
                child.kill()
        child.wait()

    def mask_file(self, job, folder, model):
        made = job.options["mask"]["made"]
        name, train = job.cell.axes["model"], job.options["train"]
        path = folder / "mask.safetensors"
        shapes = self.materials.shapes[name]
        if made == "magnitude":
            return self.materials.magnitude(name, train["density"])
        if made == "random":
            found = masks.random_masks(shapes, train["density"], job.seed)
        else:
            collected = folder / "collected.safetensors"
            options = {**train, **job.options["mask"]["collect"], "mask_only": True, "save_mask": collected}
            data = self.materials.set_parts(job.cell.axes["set"])["train"]
            words = ["train", "--model", str(model), "--data", str(data), "--out", str(folder / "collect"), *flags(options)]
            self.call(words, folder / "collect.log")
            found = masks.zeroed_masks(masks.read_masks(collected, shapes))
        masks.write_masks(path, found)
        return path

    def do(self, job, key, folder):
        """The line of a run that is done."""
        model, parts = self.materials.model(job.cell), self.materials.set_parts(job.cell.axes["set"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        line = self.line(job, key)
        start = time.monotonic()
        scored, adapter, out = str(model), [], folder / "run"
        if job.options["train"] is not None:
            train = dict(job.options["train"])
            if "mask" in job.options:
                train["mask"] = self.mask_file(job, folder, model)
            words = ["train", "--model", str(model), "--data", str(parts["train"]), "--out", str(out), *flags(train)]
            line["command"] = self.shown(words)
            self.call(words, folder / "train.log")
            summary = json.loads((out / "summary.json").read_text())
            line |= {name: summary[name] for name in ("device", "api", "steps") if name in summary}
            if train["method"] == "full":
                scored = str(out)
            else:
                adapter = ["--adapter", str(out)]
        line["train_seconds"] = round(time.monotonic() - start, 2)
        again = time.monotonic()
        words = ["eval", "--model", scored, *adapter, "--data", str(parts[job.options["part"]]), "--json"]
        words += ["--metric", "loss,exact-match", *flags(job.options["score"])]
        line["score_command"] = self.shown(words)
        try:
            scores = json.loads(self.call(words, folder / "score.log").strip().splitlines()[-1])
        except (ValueError, IndexError) as why:
            raise Failed("rugosa eval printed no JSON") from why
        line["score_seconds"] = round(time.monotonic() - again, 2)
        for name in ("exact_match", "nll", "answers", "answers_cut", "rows"):
            line[name] = scores.get(name)
        return {**line, "status": "done"}

    def shown(self, words):
        """A command without the names of this machine's folders."""
        text = shlex.join(["rugosa", *words])
        folders = {"WORK": self.materials.work, "MODELS": self.materials.models, "DATA": self.materials.data}
        for name, folder in folders.items():
            text = text.replace(f"{folder}/", f"{name}/")
        return text

    def line(self, job, key):
        rank, density, parameters = self.materials.size(job.cell)
        return {
            "key": key, "status": "failed", "cell": job.cell.id, "stage": job.stage, "point": list(job.point), "rates": job.rates,
            "seed": job.seed, "rank": rank, "density": density, "parameters": parameters, "commit": self.commit,
            "version": self.version, "manifest": self.plan.digest, "side_by_side": self.args.jobs,
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip

    def work(self, job, key, ended):
        folder = self.runs / f"{key}-{os.getpid()}"
        start = time.monotonic()
        try:
            line = self.do(job, key, folder)
        except Stopped:
            line = None
        except (Failed, Missing, masks.MaskError, OSError, ValueError) as why:
            line = {**self.line(job, key), "error": str(why)[:500]}
        except BaseException as why:  # noqa: BLE001 (a thread that ends without a word would be waited for without end)
            line = {**self.line(job, key), "error": f"{type(why).__name__}: {why}"[:500]}
        if not self.args.keep:
            shutil.rmtree(folder, ignore_errors=True)
        if line is not None:
            line["seconds"] = round(time.monotonic() - start, 2)
        ended.put((key, line))

    # the queue

    def remaining(self):
        return float("inf") if self.args.minutes is None else self.args.minutes * 60 - (time.monotonic() - self.began)

    def typical(self):
        return statistics.median(self.seconds) if self.seconds else 0.0

    def stop(self, *_):
        self.stopping.set()

    def kill_all(self):
        with self.guard:
            children = list(self.children)
        for child in children:
            self.kill(child)

    def start_more(self, cells, flying, ended):
        if self.remaining() < self.typical():
            return
        for job, key in self.progress.ready(cells):
            if len(flying) >= self.args.jobs:
                return
            if key in flying:
                continue
            flying.add(key)
            threading.Thread(target=self.work, args=(job, key, ended), daemon=True).start()

    def take(self, line):
        self.book.append(line)
        self.progress.add(line)
        what = f"{line['cell']} {line['stage']} seed {line['seed']} {rates_text(line['rates'])}"
        if line["status"] == "done":
            self.seconds.append(line["seconds"])
            exact = line["exact_match"]
            score = f"{'-' if exact is None else f'{exact:.1%}'}, nll {line['nll']:.4f}" if line["nll"] is not None else "no loss"
            print(f"{what}: {score} ({line['seconds']:.0f} s)", flush=True)
        else:
            print(f"{what}: failed: {line['error']}", flush=True)

    def clear(self):
        """Removes what runners that have ended, by a kill say, left of runs."""
        for folder in self.runs.glob("*-*") if self.runs.is_dir() and not self.args.keep else []:
            try:
                os.kill(int(folder.name.rsplit("-", 1)[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
            except (OSError, ValueError):
                pass

    def go(self, cells):
        """Whether everything is done."""
        self.clear()
        flying, ended = set(), queue.Queue()
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), self.stop)
        while True:
            if self.remaining() <= 0:
                self.stopping.set()
            if not self.stopping.is_set():
                self.start_more(cells, flying, ended)
            if not flying:
                break
            if self.stopping.is_set():
                self.kill_all()
            try:
                key, line = ended.get(timeout=0.2)
            except queue.Empty:
                continue
            # what it needs next is looked at once its line is there
            flying.discard(key)
            if line is not None:
                self.take(line)
        return not any(True for _ in self.progress.ready(cells))


def rates_text(rates):
    return " ".join(f"{name} {value:g}" for name, value in rates.items()) or "no rates"


def forecast(plan, progress, cells, jobs):
    """What is left, and how long it takes by the lines that are there, else by the manifest."""
    left = progress.left(cells)
    seen = [line["seconds"] for line in progress.lines.values() if "seconds" in line]
    each = statistics.median(seen) if seen else plan.raw.get("seconds", 30) * (1 + 0.4 / 3 * (jobs - 1))
    return left, each, left * each / jobs / 60


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", default=str(HERE / "manifest.toml"), help="what is to be run [default: manifest.toml beside this]")
    parser.add_argument("--rugosa", default=str(ROOT / "target/release/rugosa"), help="the program [default: target/release/rugosa]")
    parser.add_argument("--models", help="folder with the manifest's model files [default: --work]")
    parser.add_argument("--data", help="folder with the manifest's sets [default: --work]")
    parser.add_argument("--work", help="folder for what is made on the way [default: target/science/NAME]")
    parser.add_argument("--results", help="file that lines are appended to [default: results.jsonl in --work]")
    parser.add_argument("--done", action="append", default=[], metavar="FILE", help="lines of earlier sessions, whose runs are not done again")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; four on one large GPU take 1.4 times as long as one")
    parser.add_argument("--minutes", type=float, help="stop after so long")
    parser.add_argument("--run-minutes", type=float, default=60, help="a run that takes longer has failed [default: 60]")
    parser.add_argument("--only", action="append", default=[], metavar="GROUP", help="these groups of the manifest alone")
    parser.add_argument("--commit", help="what lines name as the commit [default: git's, else RUGOSA_COMMIT]")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs, in runs/ of --work")
    parser.add_argument("--list", action="store_true", help="say what is left and how long it takes, and end")
    parser.add_argument("--prepare", action="store_true", help="make parts of sets and decoded models, and end")
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse(arguments)
    try:
        return run(args)
    except (ManifestError, Missing, book.BookError, masks.MaskError) as why:
        print(f"science: {why}", file=sys.stderr)
        return 1


def run(args):
    plan = Plan(args.manifest)
    if args.jobs < 1:
        raise ManifestError("--jobs must be 1 or more")
    if shutil.which(args.rugosa) is None:
        raise Missing(f"{args.rugosa} is no program: build it with cargo build --release, or give --rugosa")
    args.rugosa = os.path.abspath(shutil.which(args.rugosa))
    names = [group["name"] for group in plan.groups]
    for name in args.only:
        if name not in names:
            raise ManifestError(f"--only {name}: there is no such group; there are {', '.join(names)}")
    wanted = set().union(*(plan.members[n] for n in args.only or names))
    work = args.work or str(ROOT / "target/science" / plan.name)
    materials = Materials(plan, args.rugosa, work, args.models, args.data)
    if plan.raw.get("demo"):
        materials.demo()
    for cell in reversed(plan.cells):  # what a cell takes its rates from stands before it
        if cell.id in wanted and cell.rates_of is not None:
            wanted.add(cell.rates_of)
    cells, lacks = materials.usable([c for c in plan.cells if c.id in wanted])
    for why, without in lacks.items():
        print(f"science: {len(without)} cells are left out: {why}", file=sys.stderr)
    if not cells:
        raise Missing("nothing can be run: give --models and --data (docs/science.md says what lies there)")
    progress = Progress(plan, materials.options, materials.facts)
    results = args.results or str(materials.work / "results.jsonl")
    for path in [*args.done, results]:
        for line in book.read(path):
            progress.add(line)
    left, each, minutes = forecast(plan, progress, cells, args.jobs)
    print(
        f"{len(cells)} cells, {len(progress.lines)} runs are done, at least {left} are left: about {minutes:.0f} minutes with "
        f"{args.jobs} side by side at {each:.0f} s each; sweeps that widen take more. Lines go to {results}",
        flush=True,
    )
    if args.list or args.prepare:
        return 0
    written = book.Book(results)
    try:
        whole = Runner(args, plan, materials, progress, written).go(cells)
    finally:
        written.close()
    failed = [lines[-1] for key, lines in progress.failures.items() if key not in progress.lines]
    if failed:
        print(f"science: {len(failed)} runs failed, the last with: {failed[-1]['error']}", file=sys.stderr)
    if not whole:
        print(f"science: stopped; at least {progress.left(cells)} runs are left, the same command does them", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())

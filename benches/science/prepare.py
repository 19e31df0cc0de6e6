"""What runs are made of: parts of the sets, models in other formats, masks, and the options of a run."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import masks
from plan import sizes


class Missing(Exception):
    """A file that is not there, in one line."""


def identity(row):
    """What a row asks: rows that ask the same are on one side of the split."""
    for name in ("prompt", "question", "instruction"):
        if name in row:
            return json.dumps([row[name], row.get("input")])
    if row.get("messages"):
        return json.dumps(row["messages"][:-1])
    return json.dumps(row, sort_keys=True)


def split(rows, dev):
    """`(train, dev)`: about `dev` rows held out, chosen by what they ask alone, both in the order of the file."""
    digest = lambda row: hashlib.sha256(identity(row).encode()).hexdigest()
    taken, last = set(), None
    for name in sorted(digest(row) for row in rows):
        if name != last and len(taken) >= dev:
            break
        taken.add(name)
        last = name
    return [r for r in rows if digest(r) not in taken], [r for r in rows if digest(r) in taken]


def read_rows(path):
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
    except FileNotFoundError as why:
        raise Missing(f"{path} is not there") from why


def write_whole(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def digest_of(path):
    """Of a file, or of all files of a folder, by name and content."""
    path, total = Path(path), hashlib.sha256()
    for file in [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file()):
        total.update(b"" if path.is_file() else file.name.encode())
        with open(file, "rb") as opened:
            while chunk := opened.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()[:12]


def flags(options):
    """As rugosa takes them: true is a flag alone, false is none."""
    found = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif value is not False:
            for one in value if isinstance(value, list) else [value]:
                found += [flag, f"{one:g}" if isinstance(one, float) else str(one)]
    return found


class Materials:
    """Files below `work`, made once; `models` and `data` are where the manifest's files lie."""

    def __init__(self, plan, rugosa, work, models, data):
        self.plan, self.rugosa, self.work = plan, rugosa, Path(work)
        self.models, self.data = Path(models or self.work), Path(data or self.work)
        self.parts, self.shapes, self.digests = {}, {}, {}

    def demo(self):
        """The model that is built into the program, with its rows."""
        if not (self.work / "demo" / "held-out.jsonl").is_file() or not (self.work / "demo" / "model").is_dir():
            subprocess.run(["rm", "-rf", str(self.work / "demo")], check=True)
            self.work.mkdir(parents=True, exist_ok=True)
            self._call(["demo", "--out", str(self.work / "demo"), "--quiet"])

    def _call(self, arguments):
        done = subprocess.run([self.rugosa, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"rugosa {arguments[0]}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")

    def usable(self, cells):
        """`(cells that can be run, what the others lack)`; everything that they share is made here."""
        lacks, good = {}, []
        for cell in cells:
            try:
                self.model(cell)
                self.set_parts(cell.axes["set"])
                if self.plan.masks.get(cell.axes["masks"], {}).get("made") == "magnitude":
                    self.magnitude(cell.axes["model"], self.size(cell)[1])
                good.append(cell)
            except Missing as why:
                lacks.setdefault(str(why), []).append(cell)
        return good, lacks

    def own_model(self, name):
        path = self.models / self.plan.models[name]["file"]
        if not path.exists():
            raise Missing(f"{path} is not there")
        return path

    def decoded(self, name):
        """The model in f16, whatever format its file has."""
        source = self.own_model(name)
        folder = self.work / "models" / f"{name}-f16-{self.digest(source)}"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._call(["quantize", "--model", str(source), "--to", "f16", "--out", str(folder), "--quiet"])
        return folder

    def magnitude(self, name, density):
        """Masks by magnitude, which depend on no seed; some seconds for a model of 135M."""
        path = self.work / "masks" / f"{name}-{self.digest(self.own_model(name))}-{density:g}.safetensors"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            masks.write_masks(path, masks.magnitude_masks(self.decoded(name), density))
        return path

    def model(self, cell):
        name = cell.axes["model"]
        path = self.decoded(name) if self.plan.weights[cell.axes["weights"]].get("decoded") else self.own_model(name)
        if name not in self.shapes:
            self.shapes[name] = masks.shapes_of(path)
        return path

    def digest(self, path):
        if path not in self.digests:
            self.digests[path] = digest_of(path)
        return self.digests[path]

    def set_parts(self, name):
        if name not in self.parts:
            self.parts[name] = self._split(name)
        return self.parts[name]

    def _split(self, name):
        entry = self.plan.sets[name]
        train, dev = split(read_rows(self.data / entry["train"]), entry["dev"])
        train = train[: entry.get("train_rows", len(train))]
        test = read_rows(self.data / entry["test"])
        test = test[: entry.get("test_rows", len(test))]
        if "score_prompt" in entry:  # rows are asked in other words than they are learnt
            asked = lambda r: {"prompt": entry["score_prompt"].format(**r), "response": entry["score_response"].format(**r)}
            dev, test = [asked(r) for r in dev], [asked(r) for r in test]
        parts = {}
        for part, rows in (("train", train), ("dev", dev), ("test", test)):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            path = self.work / "sets" / f"{name}-{part}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
            if not path.is_file():
                write_whole(path, text)
            parts[part] = path
        return parts

    def facts(self, cell):
        parts = self.set_parts(cell.axes["set"])
        return [self.digest(self.own_model(cell.axes["model"]))] + [self.digest(parts[p]) for p in ("train", "dev", "test")]

    def size(self, cell):
        """`(rank, density, parameters)`."""
        method, shapes = self.plan.methods[cell.axes["method"]], self.shapes[cell.axes["model"]]
        if method["method"] == "none":
            return 0, 0.0, 0
        if method["method"] == "full":
            return 0, 0.0, None
        return sizes(self.plan.models[cell.axes["model"]]["budgets"][cell.axes["budget"]], method["share"], shapes)

    def options(self, cell, stage, rates, seed):
        """`{"train": …, "score": …, "mask": …}`, everything but paths."""
        raw, axes = self.plan.raw, cell.axes
        method, weights, entry = self.plan.methods[axes["method"]], self.plan.weights[axes["weights"]], self.plan.sets[axes["set"]]
        mask = self.plan.masks.get(axes["masks"], {})
        score = {**raw.get("score", {}), **entry.get("score_options", {}), **weights.get("score", {})}
        found = {"score": score, "part": "dev" if stage == "sweep" else "test", "decoded": bool(weights.get("decoded"))}
        if method["method"] == "none":
            return {**found, "train": None}
        train = {**raw.get("train", {}), **entry.get("train_options", {}), **weights.get("train", {}), **method.get("train", {})}
        train |= {"method": method["method"], "epochs": axes["epochs"], "seed": seed, **rates}
        rank, density, _ = self.size(cell)
        if method["method"] in ("rosa", "lora"):
            train["rank"] = rank
        if method["method"] in ("rosa", "spa"):
            train["density"] = density
            collect = dict(mask.get("train", {}))
            if method["method"] == "spa":
                collect.pop("schedule", None)
            if "made" in mask:
                found["mask"] = {"made": mask["made"], **({"collect": collect} if mask["made"] == "zeroed" else {})}
            else:
                train |= collect
        return {**found, "train": train}

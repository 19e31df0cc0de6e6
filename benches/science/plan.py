"""What a manifest asks for: cells (one method at one budget on one set), their sweeps of rates, their final runs.

Nothing here starts a process or looks at a device: from the lines of the runs that are done follows what is to be done.
"""

import hashlib
import itertools
import json
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

AXES = ("model", "set", "epochs", "weights", "budget", "method", "masks")
SWEEP_SEED = 1
FINAL_SEEDS = (11, 12, 13, 14, 15, 16, 17, 18, 19, 20)


class ManifestError(Exception):
    """A manifest that cannot be run, in one line."""


@dataclass
class Cell:
    """One row of a table: everything but rates and seeds is fixed."""

    group: str
    axes: dict  # by AXES
    seeds: int
    sweep: bool  # look for the best rates, or take those of `rates_of` as they are
    rates_of: str | None  # id of the cell at whose best rates this one begins
    most: int  # points of a sweep, at most

    @property
    def id(self):
        return "/".join(str(self.axes[a]) for a in AXES)


@dataclass
class Job:
    """One run: a training and a scoring."""

    cell: Cell
    stage: str  # "sweep": scored on rows held out of the training rows; "final": on the test set
    point: tuple  # steps of 2 from the manifest's starting rates, an integer an axis
    rates: dict
    seed: int
    options: dict = field(default_factory=dict)

    def key(self, facts):
        """What decides the numbers, as a short name. `facts`: digests of the files that go in."""
        decides = [self.cell.axes["model"], self.cell.axes["set"], self.stage, self.options, self.seed, facts]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


class Plan:
    """A manifest, read and checked."""

    def __init__(self, path):
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            self.raw = tomllib.loads(text)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as why:
            raise ManifestError(f"{path}: {why}") from why
        self.name = path.stem
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        for table in ("models", "sets", "methods", "masks", "groups"):
            if not self.raw.get(table):
                raise ManifestError(f"{path}: there is no [{table}]")
        self.models, self.sets = self.raw["models"], self.raw["sets"]
        self.methods, self.masks = self.raw["methods"], self.raw["masks"]
        self.weights = {"own": {}, **self.raw.get("weights", {})}
        self.groups = self.raw["groups"]
        self.cells, self.members = [], {}
        for group in self.groups:
            self._expand(path, group)
        self.by_id = {cell.id: cell for cell in self.cells}
        before = set()
        for cell in self.cells:
            if cell.rates_of is not None and cell.rates_of not in before:
                raise ManifestError(f"{path}: {cell.id} takes its rates from {cell.rates_of}, which does not stand before it")
            before.add(cell.id)

    def _expand(self, path, group):
        name = group.get("name")
        if not name:
            raise ManifestError(f"{path}: a [[groups]] has no name")
        lists = {a: group.get(a, default) for a, default in DEFAULT_AXES.items()}
        for axis in ("model", "set", "method", "budget"):
            if not lists[axis]:
                raise ManifestError(f"{path}: group {name}: {axis} is missing")
        tables = {"model": self.models, "set": self.sets, "method": self.methods, "masks": self.masks, "weights": self.weights}
        for axis, table in tables.items():
            for value in lists[axis]:
                if value not in table:
                    raise ManifestError(f"{path}: group {name}: {axis} {value!r} is in no table")
        known = {cell.id: cell for cell in self.cells}
        self.members[name] = []
        for values in itertools.product(*(lists[a] for a in AXES)):
            axes = self._plain(dict(zip(AXES, values)))
            of = group.get("rates_of")
            cell = Cell(
                group=name,
                axes=axes,
                seeds=group.get("seeds", 5),
                sweep=group.get("sweep", True),
                rates_of=None if of is None else Cell(name, self._plain({**axes, **of}), 0, False, None, 0).id,
                most=group.get("most", 15),
            )
            if cell.rates_of == cell.id:
                cell.rates_of = None
            # a cell of two groups is run once, where it stands first
            if cell.id not in known:
                known[cell.id] = cell
                self.cells.append(cell)
            if cell.id not in self.members[name]:
                self.members[name].append(cell.id)

    def _plain(self, axes):
        """What a method does not look at is named "-", so that no cell is there twice."""
        method = self.methods[axes["method"]]
        sparse = method["method"] in ("rosa", "spa")
        trained = method["method"] in ("rosa", "spa", "lora")
        return {**axes, "masks": axes["masks"] if sparse else "-", "budget": axes["budget"] if trained else "-"}

    def rates_at(self, cell, point):
        start = self.methods[cell.axes["method"]].get("start", {})
        return {name: float(f"{start[name] * 2.0**step:.4g}") for name, step in zip(start, point)}

    def origin(self, cell):
        return tuple(0 for _ in self.methods[cell.axes["method"]].get("start", {}))


DEFAULT_AXES = {"model": None, "set": None, "epochs": [1], "weights": ["own"], "budget": None, "method": None, "masks": ["paper"]}


def sizes(budget_rank, share, shapes):
    """Rank and density of an adapter with as many parameters as LoRA of rank `budget_rank`, a share of them low-rank.

    The rank is rounded and the density fills what is left, so every split of a budget has the same size to a tenth of a percent.
    `shapes`: `{module: (rows, cols)}`.
    """
    per_rank = sum(rows + cols for rows, cols in shapes.values())
    weights = sum(rows * cols for rows, cols in shapes.values())
    budget = budget_rank * per_rank
    rank = budget_rank if share == 1 else 0 if share == 0 else min(budget_rank - 1, max(1, math.floor(share * budget_rank + 0.5)))
    density = 0.0 if rank == budget_rank else float(f"{(budget - rank * per_rank) / weights:.5g}")
    entries = sum(int(density * rows * cols) for rows, cols in shapes.values())
    return rank, density, rank * per_rank + entries


def search(origin, done, most):
    """A climb on a grid whose neighbours are a factor of two apart.

    `done`: score (higher is better) by point, None where the run failed. Returns `(state, best, missing)`. The state is
    "open" while `missing` is to be run; "settled" when the best point's neighbours on all sides are there and none is
    better; "cut" when that would take more than `most` points; "failed" when no point has a score.
    """
    scored = {point: score for point, score in done.items() if score is not None}
    rank = lambda point: (scored[point], point == origin, tuple(-abs(s) for s in point))
    centre = origin
    while True:
        around = [centre]
        for axis in range(len(origin)):
            for step in (1, -1):
                around.append(tuple(s + step * (a == axis) for a, s in enumerate(centre)))
        missing = [point for point in around if point not in done] if origin else []
        best = max(scored, key=rank) if scored else None
        if missing:
            if len(done) + len(missing) > most:
                return "cut", best, []
            return "open", best, missing
        if not origin:
            return "settled", (), []
        if best is None:
            return "failed", None, []
        if best == centre:
            return "settled", best, []
        centre = best


class Progress:
    """What is done of a plan, by the lines of its runs."""

    TRIES = 2

    def __init__(self, plan, options_of, facts_of):
        """`options_of(cell, stage, rates, seed)`: what the run is made of. `facts_of(cell)`: digests of its files."""
        self.plan, self.options_of, self.facts_of = plan, options_of, facts_of
        self.lines, self.failures = {}, {}

    def add(self, line):
        if line.get("status") == "done":
            self.lines.setdefault(line["key"], line)
        elif line.get("status") == "failed":
            self.failures.setdefault(line["key"], []).append(line)

    def job(self, cell, stage, point, seed):
        rates = self.plan.rates_at(cell, point)
        job = Job(cell, stage, point, rates, seed, self.options_of(cell, stage, rates, seed))
        return job, job.key(self.facts_of(cell))

    def over(self, key):
        """Done, or failed as often as it is tried."""
        return key in self.lines or len(self.failures.get(key, [])) >= self.TRIES

    def score(self, cell, line):
        """Higher is better; a tie of the first is broken by the second."""
        nll = line.get("nll")
        nll = -math.inf if nll is None or not math.isfinite(nll) else -nll
        exact = line.get("exact_match")
        by_nll = self.plan.sets[cell.axes["set"]].get("choose") == "nll"
        return (nll, exact or 0.0) if by_nll else (exact or 0.0, nll)

    def sweep(self, cell):
        """`(state, best point, jobs to run, {point: line or None})`; state "waits" while another cell's best is open."""
        origin = self.plan.origin(cell)
        if cell.rates_of is not None:
            other = self.sweep(self.plan.by_id[cell.rates_of])
            if other[0] in ("open", "waits"):
                return "waits", None, [], {}
            if other[1] is None:
                return "failed", None, [], {}
            if len(other[1]) != len(origin):
                raise ManifestError(f"{cell.id} takes its rates from {cell.rates_of}, which has others")
            origin = other[1]
        if not cell.sweep or not origin:
            return "settled", origin, [], {}
        points, seen = {}, set()
        while True:
            scores = {p: None if line is None else self.score(cell, line) for p, line in points.items()}
            state, best, missing = search(origin, scores, cell.most)
            fresh = [p for p in missing if p not in seen]
            if not fresh:
                jobs = [self.job(cell, "sweep", p, SWEEP_SEED) for p in missing]
                return state, best, jobs, points
            for point in fresh:
                seen.add(point)
                _, key = self.job(cell, "sweep", point, SWEEP_SEED)
                if self.over(key):
                    points[point] = self.lines.get(key)

    def finals(self, cell, best):
        trained = self.plan.methods[cell.axes["method"]]["method"] != "none"
        return [self.job(cell, "final", best, seed) for seed in FINAL_SEEDS[: cell.seeds if trained else 1]]

    def ready(self, cells):
        """`(job, key)` of what can be run now, what matters most first."""
        for cell in cells:
            state, best, jobs, _ = self.sweep(cell)
            if state in ("settled", "cut") and best is not None:
                jobs = self.finals(cell, best)
            for job, key in jobs:
                if not self.over(key):
                    yield job, key

    def left(self, cells):
        """Runs that are still to be done at least; a sweep that widens has more."""
        runs = 0
        for cell in cells:
            state, best, jobs, _ = self.sweep(cell)
            seeds = cell.seeds if self.plan.methods[cell.axes["method"]]["method"] != "none" else 1
            if state == "waits":
                origin = self.plan.origin(cell)
                runs += (1 + 2 * len(origin) if cell.sweep else 0) + seeds
            elif state == "open":
                runs += len(jobs) + seeds
            elif best is not None:
                runs += sum(not self.over(key) for _, key in self.finals(cell, best))
        return runs

#!/usr/bin/env python3
"""Tables and curves of what run.py has done, as Markdown and as a page of HTML.

  python3 benches/science/report.py --manifest benches/science/manifest.toml --results results.jsonl --html results.html

Several --manifest go with as many --results, in the same order. --notes are figures from elsewhere, marked as such.
"""

import argparse
import math
import os
import statistics
import sys
import tomllib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import book
from chart import line_chart
from plan import ManifestError, Plan, Progress


@dataclass
class Row:
    """A cell with what is known of it."""

    cell: object
    state: str  # of its sweep
    best: tuple | None
    points: dict  # by point: line, or None where it failed
    finals: list  # lines of the test set

    @property
    def exact(self):
        return [line["exact_match"] for line in self.finals if line.get("exact_match") is not None]

    @property
    def size(self):
        lines = [line for line in [*self.finals, *self.points.values()] if line]
        return lines[0] if lines else None


class Recorded(Progress):
    """Progress by the lines alone: without models or sets, by cell, stage, point and seed.

    A line of an older manifest counts as long as it has the rates that this manifest has at its point.
    """

    def __init__(self, plan):
        super().__init__(plan, lambda *_: {}, lambda _: [])

    def add(self, line):
        cell = self.plan.by_id.get(line["cell"])
        if cell is None or self.plan.rates_at(cell, tuple(line["point"])) != line["rates"]:
            return
        super().add({**line, "key": name_of(line["cell"], line["stage"], line["point"], line["seed"])})

    def job(self, cell, stage, point, seed):
        return None, name_of(cell.id, stage, point, seed)


def name_of(cell, stage, point, seed):
    return f"{cell} {stage} {list(point)} {seed}"


def rows_of(plan, lines):
    progress = Recorded(plan)
    for line in lines:
        progress.add(line)
    rows = {}
    for cell in plan.cells:
        state, best, _, points = progress.sweep(cell)
        finals = [] if best is None else [progress.lines[k] for _, k in progress.finals(cell, best) if k in progress.lines]
        if state == "open":
            finals = []
        rows[cell.id] = Row(cell, state, best, points, finals)
    return rows, progress


def percent(value):
    return "-" if value is None else f"{100 * value:.1f} %"


def nats(value):
    return "not finite" if value is None else f"{value:.4f}"


def spread(values):
    """Mean ± standard deviation over seeds (lowest to highest)."""
    if not values:
        return "not run"
    if len(values) == 1:
        return percent(values[0])
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


def rates_of(plan, row):
    if row.best is None:
        return "-"
    rates = plan.rates_at(row.cell, row.best)
    if len(rates) == 2:
        return f"S {rates['lr']:g}, A and B {rates['lora_lr']:g}"
    return ", ".join(f"{rate:g}" for rate in rates.values()) or "-"


STATES = {
    "settled": "",
    "cut": "the sweep ended at its bound: the best may lie elsewhere",
    "open": "the sweep is not done",
    "waits": "waits for another cell's rates",
    "failed": "every run failed",
}


def remarks(row, failures):
    wanted = row.cell.seeds if row.best else 1
    found = [STATES[row.state]]
    if row.state in ("settled", "cut") and len(row.finals) < wanted:
        found.append(f"{len(row.finals)} of {wanted} seeds")
    short = {(line["answers"], line["rows"]) for line in row.finals if line.get("answers") != line.get("rows")}
    found += [f"{answers} of {rows} test rows fit and were compared" for answers, rows in sorted(short, key=str)]
    failed = [line for line in failures if line["cell"] == row.cell.id]
    if failed:
        found.append(f"{len(failed)} failed tries, the last: {failed[-1]['error']}")
    return "; ".join(f for f in found if f)


def label(plan, row, without=()):
    """What tells a cell from its neighbours."""
    axes = row.cell.axes
    words = [axes["method"]]
    for axis, plain in (("masks", ("-", "paper")), ("budget", ("-",)), ("weights", ("own",)), ("epochs", (1,))):
        if axes[axis] not in plain and axis not in without:
            words.append({"epochs": f"{axes[axis]} epochs"}.get(axis, str(axes[axis])))
    return ", ".join(words)


def where(plan, row):
    return f"{plan.models[row.cell.axes['model']].get('title', row.cell.axes['model'])}, {plan.sets[row.cell.axes['set']].get('title')}"


def main_table(plan, rows, failures):
    head = ["", "parameters", "rank", "density", "best rates (held-out rows)", "held-out, seed 1", "test, exact match", "test, nll", "seconds a run", "remarks"]
    body = []
    for row in rows:
        size, best = row.size or {}, row.points.get(row.best) if row.best is not None else None
        parameters = size.get("parameters")
        nll = [line["nll"] for line in row.finals if line.get("nll") is not None]
        body.append([
            label(plan, row),
            "-" if not size else "all" if parameters is None else f"{parameters:,}",
            str(size.get("rank") or "-"),
            f"{100 * size['density']:.3g} %" if size.get("density") else "-",
            rates_of(plan, row),
            percent(best["exact_match"]) if best else "-",
            spread(row.exact),
            f"{statistics.mean(nll):.4f}" if nll else "-",
            f"{statistics.median(line['seconds'] for line in row.finals):.0f}" if row.finals else "-",
            remarks(row, failures),
        ])  # fmt: skip
    return head, body


def against(mine, other):
    """Of two cells' seeds: difference of the means, its standard error, and what that says."""
    if len(mine) < 2 or len(other) < 2:
        return None
    difference = statistics.mean(mine) - statistics.mean(other)
    error = math.sqrt(statistics.variance(mine) / len(mine) + statistics.variance(other) / len(other))
    verdict = "no difference that these seeds show" if abs(difference) <= 2 * error else "higher" if difference > 0 else "lower"
    return difference, error, verdict


def bases_of(plan, rows, row):
    """What a cell is held against: of the same model, set and epochs, what differs in one thing alone."""
    axes, method = row.cell.axes, plan.methods[row.cell.axes["method"]]["method"]
    if axes["masks"] not in ("-", "paper"):
        wanted = [{"masks": "paper"}]
    else:
        wanted = [{"weights": "f16"}] if axes["weights"] not in ("own", "f16") else []
        wanted += [{"method": "lora", "masks": "-"}] if axes["method"] != "lora" and axes["budget"] != "-" else []
        if method == "rosa":
            wanted += [{"method": "sparse"}, {"method": "full", "masks": "-", "budget": "-"}]
    for change in wanted:
        yield from (r for r in rows.values() if r.cell.axes == {**axes, **change})


def comparisons(plan, rows, group_rows):
    body = []
    for row in group_rows:
        for base in bases_of(plan, rows, row):
            found = against(row.exact, base.exact)
            if found is not None:
                difference, error, verdict = found
                body.append([label(plan, row), label(plan, base), f"{100 * difference:+.1f} ± {100 * error:.1f}", verdict])
    return ["", "beside", "points of exact match, ± standard error", "so it is (beyond two standard errors)"], body


def sweep_table(plan, rows):
    body = []
    for row in rows:
        for point, line in sorted(row.points.items()):
            rates = plan.rates_at(row.cell, point)
            mark = " (best)" if point == row.best else ""
            scores = ["failed", "-"] if line is None else [percent(line["exact_match"]), nats(line["nll"])]
            body.append([label(plan, row), f"{rates['lr']:g}" if "lr" in rates else "-", f"{rates['lora_lr']:g}" if "lora_lr" in rates else "-",
                         scores[0] + mark, scores[1]])  # fmt: skip
    return ["", "rate of S, or of all weights", "rate of A and B", "held-out exact match", "held-out nll"], body


def rate_chart(plan, title, rows):
    """Score by rate: of a method with two, the best of the other."""
    series = {}
    for row in rows:
        names = list(plan.methods[row.cell.axes["method"]].get("start", {}))
        if not names:
            continue
        axis, best = len(names) - 1, {}
        for point, line in row.points.items():
            if line is not None:
                rate = plan.rates_at(row.cell, point)[names[axis]]
                best[rate] = max(best.get(rate, 0.0), line["exact_match"] or 0.0)
        if len(best) > 1:
            series[label(plan, row)] = [(rate, score, score, score) for rate, score in best.items()]
    name = "rate (of A and B, where there are two, at the best of S)"
    return line_chart(f"{title}: held-out score by rate", name, "exact match", series, log_x=True, percent=True)


def curve_of(rows, x_of, name_of_line):
    series = {}
    for row in rows:
        if row.exact and x_of(row) is not None:
            mean, error = statistics.mean(row.exact), statistics.stdev(row.exact) if len(row.exact) > 1 else 0.0
            series.setdefault(name_of_line(row), []).append((x_of(row), mean, mean - error, mean + error))
    return {name: line for name, line in series.items() if len(line) > 1}


def budget_and_split_charts(plan, rows):
    """Test score by budget and by split, of each model, set, number of epochs and format."""
    places = {}
    for row in rows.values():
        if row.cell.axes["masks"] in ("-", "paper") and row.cell.axes["budget"] != "-":
            places.setdefault(tuple(row.cell.axes[a] for a in ("model", "set", "epochs", "weights")), []).append(row)
    for place, members in places.items():
        title = where(plan, members[0]) + (f", {place[2]} epochs" if place[2] != 1 else "") + (f", {place[3]}" if place[3] != "own" else "")
        parameters = lambda r: r.size["parameters"] if r.size else None
        series = curve_of(members, parameters, lambda r: r.cell.axes["method"])
        chart = line_chart(f"{title}: test score by budget", "parameters", "exact match", series, log_x=True, percent=True)
        if chart:
            yield chart
        plain = [r for r in members if not plan.methods[r.cell.axes["method"]].get("train", {}).get("rslora")]
        series = curve_of(plain, lambda r: plan.methods[r.cell.axes["method"]].get("share"), lambda r: r.cell.axes["budget"])
        chart = line_chart(f"{title}: test score by split", "low-rank share of the budget", "exact match", series, percent=True)
        if chart:
            yield chart


def blocks_of(plan, lines):
    """The report of one manifest, as `(kind, …)`."""
    rows, progress = rows_of(plan, lines)
    used = [*progress.lines.values()]
    failures = [line for tries in progress.failures.values() for line in tries]
    if "note" in plan.raw:
        yield "p", plan.raw["note"]
    count = lambda name: ", ".join(sorted({str(line[name]) for line in used if line.get(name)})) or "none"
    yield "p", (
        f"Manifest `benches/science/{plan.name}.toml` ({plan.digest}). {len(used)} runs are done, {len(failures)} tries failed. "
        f"Commits: {count('commit')}. Devices: {count('device')}. Days: {', '.join(sorted({line['when'][:10] for line in used})) or 'none'}. "
        f"Runs side by side: {count('side_by_side')}. Time of all runs, added: {sum(line['seconds'] for line in used) / 60:.0f} minutes."
    )
    for group in plan.groups:
        members = [rows[i] for i in plan.members[group["name"]]]
        begun = [r for r in members if r.points or r.finals]
        yield "h3", group["title"]
        if not begun:
            yield "p", f"Not run: {len(members)} cells."
            continue
        for place in dict.fromkeys(where(plan, r) for r in members):
            here = [r for r in members if where(plan, r) == place]
            yield "p", f"{place}."
            yield "table", *main_table(plan, here, failures)
            head, body = comparisons(plan, rows, here)
            if body:
                yield "table", head, body
            swept = [r for r in here if r.points]
            if swept:
                yield "chart", rate_chart(plan, place, swept)
                yield "fold", "All points of the sweeps", *sweep_table(plan, swept)
    charts = list(budget_and_split_charts(plan, rows))
    if charts:
        yield "h3", "By budget and split"
        for chart in charts:
            yield "chart", chart


def note_blocks(path):
    try:
        notes = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        yield "h2", notes["title"]
        for paragraph in notes["paragraphs"]:
            yield "p", paragraph
        yield "table", notes["columns"], notes["rows"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as why:
        raise ManifestError(f"{path}: {why}") from why


INTRODUCTION = (
    "Made by `benches/science/report.py` from the lines of runs; [science.md](science.md) says how they are made, what the words mean and "
    "how to repeat them. Rates are chosen on rows held out of the training rows, with one seed; the test set is scored with other seeds, at "
    "those rates alone. Everything that was run is here, losing cells like winning ones, and cells that were not run are named."
)


def page(blocks, title):
    style = (
        "body{font:15px/1.5 sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
        "table{border-collapse:collapse;margin:1rem 0;font-size:13px}td,th{border:1px solid #ccc;padding:3px 8px;text-align:left}"
        "th{background:#f3f3f3}svg{max-width:100%;height:auto}"
    )
    out = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{style}</style><h1>{escape(title)}</h1>']
    for kind, *what in blocks:
        if kind in ("h2", "h3"):
            out.append(f"<{kind}>{escape(what[0])}</{kind}>")
        elif kind == "p":
            out.append(f"<p>{escape(what[0])}</p>")
        elif kind == "chart":
            out.append(f"<p>{what[0]}</p>" if what[0] else "")
        else:
            head, body = what[-2:]
            cells = lambda row, tag: "<tr>" + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in row) + "</tr>"
            table = "<table>" + cells(head, "th") + "".join(cells(row, "td") for row in body) + "</table>"
            out.append(f"<details><summary>{escape(what[0])}</summary>{table}</details>" if kind == "fold" else table)
    return "\n".join(out) + "\n</html>\n"


def markdown(blocks, title, charts):
    """Curves become files beside it, for pages of Markdown drop SVG; `charts`: their folder, or None to leave them out."""
    line = lambda row: "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in row) + " |"
    out, drawn = [f"# {title}", ""], []
    for kind, *what in blocks:
        if kind in ("h2", "h3"):
            out += [f"{'#' * int(kind[1])} {what[0]}", ""]
        elif kind == "p":
            out += [what[0], ""]
        elif kind == "chart":
            if what[0] and charts is not None:
                drawn.append(what[0])
                name = f"{charts.name}/{len(drawn)}.svg"
                named = what[0].split('aria-label="')[1].split('"')[0]
                out += [f"![{named}]({name})", ""]
        else:
            head, body = what[-2:]
            if kind == "fold":
                out += ["<details><summary>" + what[0] + "</summary>", ""]
            out += [line(head), line(["---"] * len(head)), *(line(row) for row in body), ""]
            out += ["</details>", ""] if kind == "fold" else []
    return "\n".join(out).rstrip() + "\n", drawn


def write(path, text):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", action="append", required=True)
    parser.add_argument("--results", action="append", required=True)
    parser.add_argument("--notes", action="append", default=[], help="TOML with figures that the harness has not made")
    parser.add_argument("--html", help="page to write")
    parser.add_argument("--markdown", help="page to write; its curves go into a folder of the same name")
    args = parser.parse_args(arguments)
    if len(args.manifest) != len(args.results):
        parser.error("give as many --results as --manifest")
    title = "What RoSA is worth"
    try:
        blocks = [("p", INTRODUCTION)]
        for manifest, results in zip(args.manifest, args.results):
            plan = Plan(manifest)
            blocks.append(("h2", plan.raw.get("title", plan.name)))
            blocks += blocks_of(plan, book.read(results))
        for notes in args.notes:
            blocks += note_blocks(notes)
        if args.html:
            write(args.html, page(blocks, title))
        if args.markdown:
            folder = Path(args.markdown).with_suffix("")
            text, drawn = markdown(blocks, title, folder)
            for number, chart in enumerate(drawn, 1):
                write(folder / f"{number}.svg", chart + "\n")
            write(args.markdown, text)
        if not args.html and not args.markdown:
            print(markdown(blocks, title, None)[0], end="")
    except (ManifestError, book.BookError, OSError) as why:
        print(f"report: {why}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Of the plan, the masks and the report: python3 -m unittest discover -s benches/science. No device, no rugosa, seconds."""

import json
import struct
import tempfile
import unittest
from pathlib import Path

import book
import masks
import prepare
import report
from chart import line_chart, ticks
from plan import ManifestError, Plan, Progress, search, sizes

HERE = Path(__file__).resolve().parent
RECORDED = ["--manifest", str(HERE / "quick.toml"), "--results", str(HERE / "results/quick.jsonl"),
            "--notes", str(HERE / "first-pass.toml"), "--notes", str(HERE / "first-figures.toml"), "--manifest", str(HERE / "manifest.toml"),
            "--results", str(HERE / "results/full.jsonl")]  # fmt: skip
SHAPES = {"model.layers.0.self_attn.q_proj": (6, 8), "model.layers.0.mlp.up_proj": (10, 8)}


def climb(score, origin, most=40):
    """Runs a sweep to its end; `(state, best, points)`."""
    done = {}
    while True:
        state, best, missing = search(origin, done, most)
        if state != "open":
            return state, best, done
        for point in missing:
            done[point] = score(point)


class Sweeps(unittest.TestCase):
    def test_a_sweep_widens_while_the_best_is_at_an_edge(self):
        state, best, done = climb(lambda p: (-abs(p[0] - 5),), (0,))
        self.assertEqual((state, best), ("settled", (5,)))
        self.assertTrue({(4,), (6,)} <= set(done), "the best has neighbours on both sides")
        self.assertNotIn((-2,), done)

    def test_two_rates_are_climbed_together(self):
        state, best, done = climb(lambda p: (-abs(p[0] - 2) - abs(p[1] + 1),), (0, 0))
        self.assertEqual((state, best), ("settled", (2, -1)))
        for near in ((1, -1), (3, -1), (2, 0), (2, -2)):
            self.assertIn(near, done)

    def test_a_sweep_without_end_is_cut(self):
        state, best, done = climb(lambda p: (p[0],), (0,), most=6)
        self.assertEqual(state, "cut")
        self.assertEqual(best, max(done))
        self.assertLessEqual(len(done), 6)

    def test_failed_points_are_edges_that_nobody_climbs(self):
        state, best, _ = climb(lambda p: None if p[0] > 0 else (1.0,), (0,))
        self.assertEqual((state, best), ("settled", (0,)))
        self.assertEqual(climb(lambda p: None, (0,))[0], "failed")

    def test_equal_scores_stay_where_the_sweep_began(self):
        self.assertEqual(climb(lambda p: (1.0,), (0, 0))[1], (0, 0))


class Budgets(unittest.TestCase):
    def test_every_split_has_as_many_parameters(self):
        shapes = {f"l{i}": (576, 1536) for i in range(10)}
        whole = sizes(8, 1, shapes)
        self.assertEqual(whole, (8, 0.0, 8 * 10 * (576 + 1536)))
        for share in (0.75, 0.5, 0.25, 0):
            rank, density, parameters = sizes(8, share, shapes)
            self.assertEqual(rank, 8 * share)
            self.assertLess(abs(parameters - whole[2]) / whole[2], 1e-3)

    def test_a_split_of_a_small_budget_keeps_both_parts(self):
        rank, density, _ = sizes(2, 0.75, {"l": (64, 64)})
        self.assertEqual(rank, 1)
        self.assertGreater(density, 0)


def write_manifest(folder, **changes):
    text = (HERE / "quick.toml").read_text()
    for old, new in changes.items():
        text = text.replace(old, new)
    path = Path(folder) / "m.toml"
    path.write_text(text)
    return path


class Plans(unittest.TestCase):
    def test_both_manifests_can_be_read(self):
        for name in ("manifest.toml", "quick.toml"):
            plan = Plan(HERE / name)
            self.assertEqual(len(plan.cells), len({c.id for c in plan.cells}))
            self.assertEqual(plan.cells[0].axes["method"], "lora")

    def test_what_a_method_does_not_look_at_makes_no_second_cell(self):
        plan = Plan(HERE / "manifest.toml")
        self.assertEqual([c.id for c in plan.cells if c.axes["method"] == "full" and c.axes["set"] == "viggo"
                          and c.axes["epochs"] == 1 and c.axes["model"] == "smollm2"], ["smollm2/viggo/1/own/-/full/-"])  # fmt: skip

    def test_mistakes_are_named(self):
        with tempfile.TemporaryDirectory() as folder:
            for old, new, expected in (
                ('method = ["lora", "rosa-1/2", "sparse", "full", "none"]', 'method = ["lore"]', "'lore' is in no table"),
                ('model = ["demo"]', "model = []", "model is missing"),
                ("[sets.demo]", "[sets.demo", "m.toml"),
                ('rates_of = { masks = "paper" }', 'rates_of = { masks = "other" }', "does not stand before it"),
            ):
                with self.assertRaises(ManifestError) as caught:
                    Plan(write_manifest(folder, **{old: new}))
                self.assertIn(expected, str(caught.exception))

    def progress(self):
        plan = Plan(HERE / "quick.toml")
        return plan, Progress(plan, lambda cell, stage, rates, seed: {"cell": cell.id, "rates": rates}, lambda cell: ["digest"])

    def line(self, job, key, exact, status="done"):
        return {"key": key, "status": status, "exact_match": exact, "nll": 1.0, "cell": job.cell.id}

    def test_the_test_set_waits_for_the_sweep_and_masks_wait_for_rates(self):
        plan, progress = self.progress()
        seen = []
        for _ in range(200):
            job, key = next(progress.ready(plan.cells), (None, None))
            if job is None:
                break
            seen.append(job)
            exact = 1 - 0.1 * abs(job.point[0] - 1) if job.point else 0.0
            progress.add(self.line(job, key, exact))
        self.assertIsNone(job, "everything comes to an end")
        lora = [j for j in seen if j.cell.id == "demo/demo/1/own/small/lora/-"]
        stages = [j.stage for j in lora]
        self.assertEqual(stages, sorted(stages, reverse=True), "sweep before final")
        self.assertEqual({j.point for j in lora if j.stage == "final"}, {(1,)})
        self.assertEqual([j.seed for j in lora if j.stage == "final"], [11, 12, 13])
        zeroed = [j for j in seen if j.cell.id == "demo/demo/1/own/small/rosa-1/2/zeroed"]
        self.assertEqual(zeroed[0].point, (1, 0), "begins at the best rates of the paper's masks")
        self.assertEqual({j.point for j in zeroed if j.stage == "final"}, {(1, 0)})
        large = [j for j in seen if j.cell.id == "demo/demo/1/own/large/lora/-"]
        self.assertEqual({(j.stage, j.point) for j in large}, {("final", (1,))}, "no sweep where the manifest wants none")
        self.assertEqual(progress.left(plan.cells), 0)

    def test_a_run_is_tried_twice(self):
        plan, progress = self.progress()
        job, key = next(progress.ready(plan.cells))
        progress.add(self.line(job, key, None, "failed"))
        self.assertEqual(next(progress.ready(plan.cells))[1], key)
        progress.add(self.line(job, key, None, "failed"))
        self.assertNotEqual(next(progress.ready(plan.cells))[1], key)

    def test_a_key_changes_with_whatever_decides_the_numbers(self):
        plan, progress = self.progress()
        job, key = next(progress.ready(plan.cells))
        self.assertNotEqual(key, job.key(["other rows"]))
        job.options["train"] = {"rank": 3}
        self.assertNotEqual(key, job.key(["digest"]))


class Rows(unittest.TestCase):
    def test_the_split_looks_at_what_is_asked_alone(self):
        rows = [{"prompt": f"p{i % 50}", "response": str(i)} for i in range(100)]
        train, dev = prepare.split(rows, 10)
        self.assertEqual(len(train) + len(dev), 100)
        self.assertFalse({r["prompt"] for r in train} & {r["prompt"] for r in dev})
        self.assertEqual(prepare.split(list(reversed(rows)), 10)[1], list(reversed(dev)))

    def test_flags(self):
        options = {"lora_lr": 5.6e-3, "rslora": True, "packing": False, "stop": [":", "Question"], "rank": 4}
        self.assertEqual(prepare.flags(options), ["--lora-lr", "0.0056", "--rslora", "--stop", ":", "--stop", "Question", "--rank", "4"])


class Books(unittest.TestCase):
    def test_a_line_that_was_cut_is_left_out_and_swallows_none(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "results.jsonl"
            self.assertEqual(book.read(path), [])
            first = book.Book(path)
            first.append({"key": "a", "status": "done"})
            with self.assertRaises(book.BookError):
                book.Book(path)
            first.close()
            with open(path, "ab") as file:
                file.write(b'{"key": "b", "sta')
            again = book.Book(path)
            again.append({"key": "c", "status": "failed"})
            again.close()
            self.assertEqual([line["key"] for line in book.read(path)], ["a", "c"])


class Masks(unittest.TestCase):
    def test_random_masks_have_the_count_and_their_seed(self):
        drawn = masks.random_masks(SHAPES, 0.1, 7)
        self.assertEqual({m: len(at) for m, (_, _, at) in drawn.items()}, {m: int(0.1 * r * c) for m, (r, c) in SHAPES.items()})
        self.assertEqual(drawn, masks.random_masks(SHAPES, 0.1, 7))
        self.assertNotEqual(drawn, masks.random_masks(SHAPES, 0.1, 8))

    def test_files_come_back_and_zeroed_masks_have_the_first_entries(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "mask.safetensors"
            drawn = masks.random_masks(SHAPES, 0.2, 1)
            masks.write_masks(path, drawn)
            self.assertEqual(masks.read_masks(path, SHAPES), drawn)
            zeroed = masks.zeroed_masks(drawn)
            self.assertEqual(zeroed["model.layers.0.self_attn.q_proj"][2], list(range(9)))
            self.assertEqual(zeroed["model.layers.0.mlp.up_proj"], drawn["model.layers.0.mlp.up_proj"])

    def test_magnitude_takes_the_largest_and_the_lower_position_of_a_tie(self):
        values = [0.5, -3.0, 0.25, 2.0, -2.0, 2.0, 0.0, -0.125]
        with tempfile.TemporaryDirectory() as folder:
            raw = struct.pack("<8e", *values)
            header = json.dumps({"m.q_proj.weight": {"dtype": "F16", "shape": [2, 4], "data_offsets": [0, 16]}}).encode()
            (Path(folder) / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw)
            self.assertEqual(masks.shapes_of(folder), {"m.q_proj": (2, 4)})
            for count in range(1, 9):
                wanted = sorted(sorted(range(8), key=lambda i: (-abs(values[i]), i))[:count])
                self.assertEqual(masks.magnitude_masks(folder, count / 8)["m.q_proj"][2], wanted)

    def test_gguf_names_become_those_of_the_linears(self):
        text = lambda s: struct.pack("<Q", len(s)) + s
        meta = text(b"tokens") + struct.pack("<IIQ", 9, 8, 2) + text(b"a") + text(b"bc") + text(b"n") + struct.pack("<II", 4, 1)
        tensor = lambda name, dims: text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, 0)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.gguf"
            tensors = tensor(b"blk.3.attn_k.weight", (8, 6)) + tensor(b"output.weight", (8, 9))
            path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 2) + meta + tensors)
            self.assertEqual(masks.shapes_of(path), {"model.layers.3.self_attn.k_proj": (6, 8)})


class Reports(unittest.TestCase):
    def lines(self):
        """LoRA and RoSA swept and scored, RoSA lower; sparse alone failed."""
        plan = Plan(HERE / "quick.toml")
        lines = []
        common = {"rank": 4, "density": 0.0, "parameters": 1000, "commit": "abc", "device": "d", "when": "2026-12-01T00:00:00Z",
                  "manifest": plan.digest, "side_by_side": 1, "seconds": 2.0, "key": "k", "status": "done"}  # fmt: skip
        for method, exact in (("lora", 0.9), ("rosa-1/2", 0.4)):
            cell = next(c for c in plan.cells if c.axes["method"] == method)
            origin = plan.origin(cell)
            around = search(origin, {}, 99)[2]
            for stage, point, seed in [*(("sweep", p, 1) for p in around), *(("final", origin, s) for s in (11, 12, 13))]:
                score = exact - 0.1 * sum(map(abs, point)) + 0.01 * (seed % 3)
                lines.append({**common, "cell": cell.id, "stage": stage, "point": list(point), "rates": plan.rates_at(cell, point),
                              "seed": seed, "exact_match": score, "nll": 0.5})  # fmt: skip
        sparse = next(c for c in plan.cells if c.axes["method"] == "sparse")
        lines.append({**common, "status": "failed", "cell": sparse.id, "stage": "sweep", "point": [0], "rates": plan.rates_at(sparse, (0,)),
                      "seed": 1, "error": "out | of memory"})  # fmt: skip
        return plan, lines

    def test_losing_failed_and_missing_cells_are_printed(self):
        plan, lines = self.lines()
        text, drawn = report.markdown(list(report.blocks_of(plan, lines)), "t", Path("curves"))
        self.assertIn("| lora, small | 1,000 | 4 |", text)
        self.assertIn("91.0 ± 1.0 % (90.0 to 92.0)", text)
        self.assertIn("| rosa-1/2, small | lora, small | -50.0 ± 0.8 | lower |", text)
        self.assertIn("out \\| of memory", text)
        self.assertIn("Not run: 6 cells.", text)
        self.assertIn("(best)", text)
        self.assertTrue(drawn and all(d.startswith("<svg") and d.endswith("</svg>") for d in drawn))

    def test_a_cell_is_held_against_what_differs_in_one_thing(self):
        plan = Plan(HERE / "manifest.toml")
        rows, _ = report.rows_of(plan, [])
        of = lambda cell: [r.cell.id for r in report.bases_of(plan, rows, rows[cell])]
        viggo = "smollm2/viggo/1/"
        self.assertEqual(of(viggo + "own/2.4M/rosa-1/2/random"), [viggo + "own/2.4M/rosa-1/2/paper"])
        self.assertEqual(of(viggo + "nf4/2.4M/rosa-1/2/paper"), [viggo + "f16/2.4M/rosa-1/2/paper", viggo + "nf4/2.4M/lora/-"])
        self.assertEqual(of(viggo + "own/2.4M/rosa-1/2/paper"),
                         [viggo + "own/2.4M/lora/-", viggo + "own/2.4M/sparse/paper", viggo + "own/-/full/-"])  # fmt: skip
        self.assertEqual(of(viggo + "own/2.4M/lora/-"), [])

    def test_the_page_stands_alone(self):
        plan, lines = self.lines()
        text = report.page(list(report.blocks_of(plan, lines)), "<t>")
        self.assertIn("<svg", text)
        self.assertIn("&lt;t&gt;", text)
        self.assertNotIn("<script", text)
        self.assertNotIn("src=", text)

    def test_a_run_without_scores_is_printed_too(self):
        plan, lines = self.lines()
        blind = [{**line, "exact_match": None, "nll": None, "answers": 0, "rows": 5} for line in lines]
        text, _ = report.markdown(list(report.blocks_of(plan, blind)), "t", Path("curves"))
        self.assertIn("0 of 5 test rows fit and were compared", text)
        self.assertIn("not finite", text)

    def test_lines_at_other_rates_do_not_count(self):
        plan, lines = self.lines()
        rows, _ = report.rows_of(plan, [{**line, "rates": {"lora_lr": 9.0}} for line in lines])
        self.assertEqual({row.state for row in rows.values() if row.points}, set())

    def test_a_difference_needs_two_standard_errors(self):
        self.assertEqual(report.against([0.5, 0.6, 0.7], [0.55, 0.6, 0.7])[2], "no difference that these seeds show")
        self.assertEqual(report.against([0.9, 0.91], [0.5, 0.51])[2], "higher")
        self.assertIsNone(report.against([0.5], [0.5, 0.6]))

    def test_the_page_in_docs_is_made_of_the_recorded_lines(self):
        docs = HERE.parent.parent / "docs"
        with tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "results.md"
            self.assertEqual(report.main([*RECORDED, "--markdown", str(page)]), 0)
            self.assertEqual(page.read_text(), (docs / "results.md").read_text(), "make science-docs writes it again")
            drawn = {p.name: p.read_text() for p in (Path(folder) / "results").iterdir()}
            self.assertEqual(drawn, {p.name: p.read_text() for p in (docs / "results").iterdir()})

    def test_charts(self):
        self.assertEqual(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0])
        self.assertEqual(line_chart("t", "x", "y", {}), "")
        chart = line_chart("a < b", "x", "y", {"one": [(0.1, 0.5, 0.4, 0.6)]}, log_x=True)
        self.assertIn("a &lt; b", chart)


if __name__ == "__main__":
    unittest.main()

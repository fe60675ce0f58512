"""The table: it fails closed, pairs by seed, and says the same in every format."""

import dataclasses
import io
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from shunted_lab.config.compose import Experiment, compose
from shunted_lab.nn.cost import Cost
from shunted_lab.report.facts import Fact, sentences
from shunted_lab.report.render import blocks, grids, to_csv, to_latex, to_markdown
from shunted_lab.report.table import Table, build_table
from shunted_lab.report.write import TABLES, Target, publish
from shunted_lab.study.costs.measure import Measured
from shunted_lab.study.folder import Run
from shunted_lab.study.states import RunState

ACCURACY = {
    "non_overlapping": [0.70, 0.72, 0.74],
    "overlapping": [0.71, 0.74, 0.77],
    "conv_stem": [0.699, 0.724, 0.735],
}
SIZES = {"train": 5484, "val": 868, "test": 1550}


def result(accuracy: float, device: str = "a CPU (2 threads)") -> dict:
    return {
        "metrics": {"test/top1": accuracy, "val/top1": 0.9},
        "headline": "test/top1",
        "device": device,
        "sizes": SIZES,
    }


def experiment(*words: str) -> Experiment:
    small = ["model=shunted_lite", "data=earth", "recipe=lite", "seeds=[0,1,2]"]
    return compose(["experiment=ablate_embed", *small, *words])


def states(found: Experiment) -> list[RunState]:
    return [
        RunState(Run(name, seed, run, f"{name}{seed}", Path(name)), "done", result(ACCURACY[name][seed]))
        for name, run in found.variants.items()
        for seed in found.config.seeds
    ]


def table(found: Experiment | None = None, runs: list[RunState] | None = None, measured: dict | None = None) -> Table:
    found = found or experiment()
    costs = {name: Cost(2_002_505 + i, 21_424_320, 21_000_000, 424_320) for i, name in enumerate(found.variants)}
    paper = {name: Cost(22_401_256, 4_993_077_312, 4_646_411_328, 346_665_984) for name in found.variants}
    return build_table(found.config, found.variants, runs or states(found), costs, paper, measured)


def replaced(runs: list[RunState], variant: str, seed: int, state: str, error: str | None = None) -> list[RunState]:
    return [RunState(s.run, state, error=error) if (s.run.variant, s.run.seed) == (variant, seed) else s for s in runs]


def test_a_complete_table():
    made = table()
    assert made.complete
    assert [line for line in blocks(made)[0].rows] == [
        ("non_overlapping", "2.00", "0.0214", "72.00 ± 2.00 (3)", "baseline"),
        ("overlapping", "2.00", "0.0214", "74.00 ± 3.00 (3)", "+2.00 [+0.15, +3.85]"),
        ("conv_stem", "2.00", "0.0214", "71.93 ± 1.84 (3)", "−0.07 [−1.92, +1.78]"),
    ]
    caption = sentences(blocks(made)[0].facts)
    for text in (
        "Metric: Top-1 accuracy on the test split.",
        "Data: earth, 64 x 64 (costs at the same size); 1,550 test images, 5,484 training images, 868 validation",
        "Model: shunted_lite.",
        "Training: recipe lite, 4 epochs; tested: the last epoch.",
        "Device: a CPU (2 threads).",
        "Seeds: 3 (0, 1, 2); mean ± standard deviation.",
        "Δ: paired difference to non_overlapping with its simultaneous 95 % interval, in percentage points; paired "
        "Dunnett comparisons: one standard deviation of the residuals of all variants, 4 degrees of freedom.",
        "Not significant: conv_stem.",
    ):
        assert text in caption, text
    # the standard deviation of differences is 0.97 points, estimated with 4 degrees of freedom
    assert "Detectable: true differences of 2.4 [1.5, 7.0] points with n = 3, with 80 % probability (" in caption
    assert "INCOMPLETE" not in caption and "SMOKE" not in caption


def test_the_order_of_runs_does_not_matter():
    runs = states(experiment())
    random.Random(0).shuffle(runs)
    assert to_markdown(table(runs=runs)) == to_markdown(table())


@pytest.mark.parametrize("state", ["missing", "interrupted", "failed", "running"])
def test_a_run_that_is_not_done_shows_in_its_row_and_in_the_caption(state):
    runs = replaced(
        states(experiment()), "overlapping", 1, state, "ValueError: loss is nan" if state == "failed" else None
    )
    made = table(runs=runs)
    assert not made.complete
    for text in (to_markdown(made), to_latex(made)):
        assert f"(2 of 3: 1 {state})" in text and "1 of 9 runs not done" in text
    assert blocks(made)[0].rows[1][3] == f"74.00 ± 4.24 (2 of 3: 1 {state})"
    assert f"overlapping seed 1 {state}" in sentences(blocks(made)[0].facts)
    assert ("(ValueError: loss is nan)" in sentences(blocks(made)[0].facts)) == (state == "failed")
    assert made.rows[1].difference.n == 2  # seeds 0 and 2 of both
    read = pd.read_csv(io.StringIO(to_csv(made)))
    assert (read.n[1], read.n_planned[1], read.open[1]) == (2, 3, f"1 {state}")


def test_a_variant_without_a_finished_run_is_a_dash():
    runs = states(experiment())
    for seed in range(3):
        runs = replaced(runs, "conv_stem", seed, "missing")
    assert blocks(table(runs=runs))[0].rows[2][3:] == ("– (0 of 3: 3 missing)", "–")
    assert sentences(blocks(table(runs=runs))[0].facts).count("Data:") == 1
    nothing = [RunState(s.run, "missing") for s in runs]
    assert "Device: nothing is trained yet." in sentences(blocks(table(runs=nothing))[0].facts)


def test_without_its_baseline_a_row_has_no_difference():
    runs = states(experiment())
    for seed in range(3):
        runs = replaced(runs, "non_overlapping", seed, "failed")
    assert {line[4] for line in blocks(table(runs=runs))[0].rows} == {"baseline", "–"}


def test_one_seed_has_no_spread_and_no_comparison_in_any_format():
    made = table(experiment("seeds=[1]"))
    assert blocks(made)[0].rows[1][3:] == ("74.00 (1)",)
    caption = sentences(blocks(made)[0].facts)
    assert "Seeds: one (1): no spread, no comparison." in caption and "interval" not in caption and "±" not in caption
    _has_no_differences(made)


def test_one_variant_has_no_difference_to_itself_in_any_format():
    found = compose(["experiment=train"])
    done = [
        RunState(Run(name, seed, run, f"{name}{seed}", Path(name)), "done", result(0.7 + 0.01 * seed))
        for name, run in found.variants.items()
        for seed in found.config.seeds
    ]
    made = table(found, done)
    assert Fact("Seeds", "3 (0, 1, 2); mean ± standard deviation") in made.facts
    assert blocks(made)[0].rows == [("model", "2.00", "0.0214", "71.00 ± 1.00 (3)")]
    _has_no_differences(made)


def _has_no_differences(made):
    texts = [to_markdown(made), to_latex(made), to_csv(made), shown(made)]
    assert not any(word in text for text in texts for word in ("Δ", "Delta", "CI]", "difference", "baseline,", "n = "))
    columns = {
        name for name in pd.read_csv(io.StringIO(to_csv(made))).columns if "difference" in name or "pairs" in name
    }
    assert columns == set()


def shown(made):
    from rich.console import Console

    console = Console(width=200, file=io.StringIO())
    console.print(*grids(made))
    return console.file.getvalue()


def test_the_caption_says_how_many_images_were_used():
    found = experiment("smoke=true")
    used = {"train": 32, "val": 32, "test": 32}
    runs = [dataclasses.replace(state, result={**(state.result or {}), "used": used}) for state in states(found)]
    caption = sentences(table(found, runs).facts)
    assert "32 of 1,550 test images, 32 of 5,484 training images in each epoch, 32 of 868 validation images" in caption


def test_variants_that_use_other_images_are_named_in_the_caption():
    found = experiment("seeds=[0]")
    short = found.variants["conv_stem"]
    short = dataclasses.replace(short, recipe=dataclasses.replace(short.recipe, limit_batches=2))
    found = dataclasses.replace(found, variants=found.variants | {"conv_stem": short})
    runs = states(found)
    for state in runs:
        if state.run.variant == "conv_stem":
            state.result["used"] = {"train": 128, "val": 128, "test": 128}
    caption = sentences(table(found, runs).facts)
    assert (
        "; 1,550 test images, 5,484 training images, 868 validation images (non_overlapping, overlapping); " in caption
    )
    assert "; 128 of 1,550 test images, " in caption and "images (conv_stem)." in caption


def test_a_difference_over_fewer_pairs_shows_their_number():
    made = table(runs=replaced(states(experiment()), "non_overlapping", 1, "failed", "E: x"))
    assert blocks(made)[0].rows[1][3:] == ("74.00 ± 3.00 (3)", "+2.00 [−23.45, +27.45] (n = 2)")


def test_the_caption_never_gives_the_power_of_other_pairs():
    runs = states(experiment())
    for seed in (1, 2):
        runs = replaced(runs, "overlapping", seed, "missing")
    caption = sentences(blocks(table(runs=runs))[0].facts)
    assert "n = 1" not in caption
    assert "points with n = 3 (conv_stem), with" in caption
    runs = replaced(states(experiment()), "overlapping", 1, "missing")
    caption = sentences(blocks(table(runs=runs))[0].facts)
    assert "points with n = 2 (overlapping); " in caption and "points with n = 3 (conv_stem), with" in caption


def test_seeds_without_spread_prove_nothing():
    runs = [
        dataclasses.replace(s, result=result(0.7 if s.run.variant == "overlapping" else 0.5))
        for s in states(experiment())
    ]
    caption = sentences(blocks(table(runs=runs))[0].facts)
    assert "Same in every seed: overlapping, conv_stem; this says nothing about other seeds." in caption
    assert "Detectable" not in caption


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_a_failed_run(value):
    runs = [
        dataclasses.replace(s, result=result(value)) if (s.run.variant, s.run.seed) == ("overlapping", 1) else s
        for s in states(experiment())
    ]
    made = table(runs=runs)
    assert not made.complete and blocks(made)[0].rows[1][3] == "74.00 ± 4.24 (2 of 3: 1 failed)"
    assert f"overlapping seed 1 failed (test/top1 is {value})" in sentences(blocks(made)[0].facts)


def test_variants_of_different_data_and_recipes_are_told_apart_in_the_caption():
    found = experiment()
    run = found.variants["overlapping"]
    data, recipe = dataclasses.replace(run.data, image_size=96), dataclasses.replace(run.recipe, epochs=40)
    variants = {**found.variants, "overlapping": dataclasses.replace(run, data=data, recipe=recipe)}
    caption = sentences(blocks(table(dataclasses.replace(found, variants=variants)))[0].facts)
    assert "earth, 96 x 96 (costs at the same size)" in caption and "images (overlapping). " in caption
    assert "Model: shunted_lite." in caption
    assert "recipe lite, 40 epochs; tested: the last epoch (overlapping)." in caption


def test_smoke_is_never_a_result():
    assert sentences(blocks(table(experiment("smoke=true")))[0].facts).startswith(
        "SMOKE TEST: a few batches of training, not a result."
    )


def test_the_chosen_epoch_is_named():
    caption = sentences(blocks(table(experiment("recipe.select=best")))[0].facts)
    assert "tested: the epoch that was best on the validation split" in caption


def test_where_runs_differ_in_how_they_were_trained_the_caption_says_which():
    found = experiment()
    same = {"precision": "32-true", "batch_layout": "batches of 64 images"}
    runs = [RunState(s.run, "done", (s.result or {}) | same) for s in states(found)]
    assert "Device: a CPU (2 threads), 32-true, batches of 64 images." in sentences(blocks(table(found, runs))[0].facts)

    runs[4] = RunState(runs[4].run, "done", result(0.74, "an H100") | same | {"precision": "bf16-mixed"})
    runs[6] = RunState(runs[6].run, "done", result(0.7) | same | {"batch_layout": "4 parts x 16 images"})
    caption = sentences(blocks(table(found, runs))[0].facts)
    assert "Runs differ in device: an H100 (overlapping seed 1); a CPU (2 threads) (the others)." in caption
    assert "Runs differ in precision: bf16-mixed (overlapping seed 1); 32-true (the others)." in caption
    assert "Runs differ in batch layout: 4 parts x 16 images (conv_stem seed 0); batches of 64" in caption
    assert "Device:" not in caption


def test_images_that_were_replaced_are_in_the_caption_with_the_runs_where_these_differ():
    runs = states(experiment())
    assert not any(fact.label == "Replaced" for fact in table(runs=runs).facts)
    for state in runs:
        state.result["corrupt_images"] = ["/data/train/cat/5.jpg"]
    assert (
        Fact("Replaced", "1 training image that could not be decoded: /data/train/cat/5.jpg") in table(runs=runs).facts
    )
    runs[0].result["corrupt_images"] = []
    runs[1].result["corrupt_images"] = [f"{number}.jpg" for number in range(5)]
    others = ", ".join(f"{s.run.variant} seed {s.run.seed}" for s in runs[2:])
    assert [fact.text for fact in table(runs=runs).facts if fact.label == "Replaced"] == [
        f"5 training images that could not be decoded in {runs[1].run.variant} seed 1: 0.jpg, 1.jpg, 2.jpg and 2 more",
        f"1 training image that could not be decoded in {others}: /data/train/cat/5.jpg",
    ]


def test_a_head_that_was_not_taken_is_in_the_caption():
    found = experiment("model.checkpoint=/weights.pth")
    runs = states(found)
    assert Fact("Model", "shunted_lite with the weights of /weights.pth") in table(found, runs).facts
    for state in runs:
        state.result["initial_weights"] = {"entry": "model", "new_head": state.run.variant == "conv_stem", "head": ""}
    (model,) = (fact.text for fact in table(found, runs).facts if fact.label == "Model")
    taken, new = model.split("; ")
    assert taken == "shunted_lite with the weights of /weights.pth (non_overlapping, overlapping)"
    assert new == "shunted_lite with the weights of /weights.pth (new head) (conv_stem)"


def test_paper_columns_hold_numbers_with_a_source_and_dashes():
    block = blocks(table())[1]
    assert block.title == "The same variants at paper scale (shunted_s, 224 x 224)"
    assert block.rows[1] == ("overlapping", "22.40", "4.993", "–", "–", "–")
    assert block.rows[2] == ("conv_stem", "22.40", "4.993", "82.9", "22.4", "4.9")
    assert "arXiv 2111.15193" in sentences(block.facts)
    assert "Not ImageNet: the results above are of earth." in sentences(block.facts)
    assert "attention products" in sentences(block.facts)


def test_without_a_paper_there_is_one_block():
    found = compose(["experiment=train"])
    runs = [
        RunState(Run("model", s, found.variants["model"], str(s), Path(".")), "done", result(0.7)) for s in range(3)
    ]
    made = build_table(found.config, found.variants, runs, {"model": Cost(1, 2, 2, 0)}, {})
    assert len(blocks(made)) == 1 and to_csv(made).count("\n") == 2
    assert "Detectable" not in sentences(blocks(made)[0].facts)  # nothing is compared


def test_every_format_shows_the_same_cells():
    made = table()
    markdown, latex = to_markdown(made), to_latex(made)
    from rich.console import Console

    console = Console(width=200, file=io.StringIO())
    console.print(*grids(made))
    terminal = console.file.getvalue()
    for block in blocks(made):
        for line in block.rows:
            assert f"| {' | '.join(line)} |" in markdown
            plain = [
                cell.replace("_", r"\_").replace("±", r"$\pm$").replace("−", "$-$").replace("–", "--") for cell in line
            ]
            assert " & ".join(plain) in latex
            assert all(cell in terminal for cell in line)


def test_markdown_is_a_table():
    lines = [line for line in to_markdown(table()).splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {6, 7} and len(lines) == 10


def test_csv_has_the_tables_numbers_as_they_are_rounded_there():
    read = pd.read_csv(io.StringIO(to_csv(table())), dtype=str).set_index("variant")
    row = read.loc["overlapping"]
    assert (row.params_m, row.gmacs, row.top1, row.top1_std, row.n) == ("2.00", "0.0214", "74.00", "3.00", "3")
    assert (row.difference, row.difference_low, row.difference_high, row.n_pairs) == ("2.00", "0.15", "3.85", "3")
    assert read.baseline.to_dict() == {"non_overlapping": "True", "overlapping": "False", "conv_stem": "False"}
    assert read.loc["conv_stem"].paper_top1 == "82.9" and pd.isna(row.paper_top1)
    assert read.paper_scale_gmacs.unique().tolist() == ["4.993"] and read.latency_ms.isna().all()
    shown = blocks(table())[0].rows[1]
    assert shown[1:3] == (row.params_m, row.gmacs) and shown[3] == f"{row.top1} ± {row.top1_std} ({row.n})"


def test_measured_costs_stand_in_the_table():
    measured = {name: {"a CPU": Measured(0.01 * (i + 1), 7e5)} for i, name in enumerate(ACCURACY)}
    del measured["overlapping"]
    made = table(measured=measured)
    block = blocks(made)[0]
    assert block.head[3:5] == ("Latency (ms)", "Memory (MB)")
    assert [line[3:5] for line in block.rows] == [("10.0", "0.7"), ("–", "–"), ("30.0", "0.7")]
    assert "latency and peak memory above the weights of a forward pass of one image, alone on a CPU." in sentences(
        block.facts
    )
    read = pd.read_csv(io.StringIO(to_csv(made)), dtype=str).set_index("variant")
    assert (read.latency_ms["conv_stem"], read.memory_mb["conv_stem"]) == ("30.0", "0.7")


def test_several_devices_are_shown_side_by_side():
    measured = {name: {"a CPU": Measured(0.01, 7e5), "a GPU": Measured(0.001, None)} for name in ACCURACY}
    measured["conv_stem"]["a GPU"] = Measured(None, None, 20, 0.34)
    made = table(measured=measured)
    block = blocks(made)[0]
    assert block.head[3:6] == ("Latency (ms), a CPU", "Memory (MB), a CPU", "Latency (ms), a GPU")
    assert [line[3:6] for line in block.rows] == [("10.0", "0.7", "1.0")] * 2 + [("10.0", "0.7", "–")]
    assert "of a forward pass of one image, alone on a CPU, a GPU." in sentences(block.facts)
    assert "Latency not shown: conv_stem on a GPU; 20 rounds differed by 34 %" in sentences(block.facts)
    read = pd.read_csv(io.StringIO(to_csv(made)), dtype=str).set_index("variant")
    assert read["latency_ms (a GPU)"]["overlapping"] == "1.0" and read["memory_mb (a GPU)"].isna().all()


def test_a_latency_that_was_not_stable_is_a_dash_with_its_reason():
    measured = {name: {"a CPU": Measured(0.01, 7e5)} for name in ACCURACY}
    measured["overlapping"] = {"a CPU": Measured(None, 7e5, 20, 0.34)}
    block = blocks(table(measured=measured))[0]
    assert [line[3:5] for line in block.rows] == [("10.0", "0.7"), ("–", "0.7"), ("10.0", "0.7")]
    assert "Latency not shown: overlapping; 20 rounds differed by 34 %, the machine was busy." in sentences(block.facts)
    measured = {name: {"a CPU": Measured(None, 7e5, 20, 0.1 * i)} for i, name in enumerate(ACCURACY, 1)}
    block = blocks(table(measured=measured))[0]
    assert block.head[3:5] == ("Memory (MB)", "Top-1 (%)")
    assert "Measured costs: peak memory above the weights of a forward pass of one image, alone on a CPU." in sentences(
        block.facts
    )
    assert "conv_stem; 20 rounds differed by up to 30 %, the machine was busy." in sentences(block.facts)


def test_rows_across_settings_are_compared_within_their_setting():
    found = compose(["experiment=scale_study", "seeds=[0,1]"])
    value = {"ratio1": 0.5, "ratio4": 0.6, "ratio16": 0.7}
    runs = []
    for name, run in found.variants.items():
        for seed in (0, 1):
            score = value[name.rpartition("-")[2]] + (0.03 if name.startswith("ssa") else 0.0) + 0.001 * seed
            metrics = {"test/recall": score, "test/recall_small": 0.4, "test/recall_large": 0.8}
            done = {"metrics": metrics, "headline": "test/recall", "device": "x"}
            runs.append(RunState(Run(name, seed, run, f"{name}{seed}", Path(name)), "done", done))
    costs = dict.fromkeys(found.variants, Cost(1, 1, 1, 0))
    made = build_table(found.config, found.variants, runs, costs, {})
    rows = {row.variant: row for row in made.rows}
    assert [name for name, row in rows.items() if row.is_baseline] == [
        f"one_rate_coarse-ratio{ratio}" for ratio in (1, 4, 16)
    ]
    for setting in value:
        assert rows[f"ssa-{setting}"].difference.mean == pytest.approx(0.03)
        assert rows[f"msa-{setting}"].difference.mean == pytest.approx(0.0)
    block = blocks(made)[0]
    assert block.head[3:7] == ("Recall (%)", "Small (%)", "Medium (%)", "Large (%)")
    assert block.rows[0][4:7] == ("40.00 ± 0.00", "–", "80.00 ± 0.00")
    assert "SYNTHETIC images" in sentences(block.facts) and "size ratio 16" in sentences(block.facts)
    assert "paired difference to one_rate_coarse in the same of ratio1, ratio4, ratio16" in sentences(block.facts)


def test_latex_escapes_what_latex_would_read():
    runs = replaced(states(experiment()), "overlapping", 1, "failed", r"KeyError: 'a_b' & 50% {x} #1 ~^ C:\new <y>")
    text = to_latex(table(runs=runs))
    assert (
        r"KeyError: 'a\_b' \& 50\% \{x\} \#1 \textasciitilde{}\textasciicircum{} C:\textbackslash{}new $<$y$>$" in text
    )
    assert not re.search(r"(?<!\\)[%#]", text) and text.count(r"\toprule") == 2


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    head = "\\documentclass{article}\\usepackage{booktabs}\\usepackage[utf8]{inputenc}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(head + to_latex(table()) + "\\end{document}\n")
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_report_is_written_whole_and_again(tmp_path):
    texts = {name: render(table()) for name, render in TABLES.items()}
    paths = publish(Target(tmp_path), texts, []).paths
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["table.csv", "table.md", "table.tex"]
    before = [path.read_text() for path in paths]
    publish(Target(tmp_path), texts, [])
    assert [path.read_text() for path in paths] == before


def test_a_report_is_written_as_utf8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "write_text", _ascii_by_default(Path.write_text))
    written = publish(Target(tmp_path), {"table.md": to_markdown(table())}, [])
    assert "Δ" in written.paths[0].read_text(encoding="utf-8")


def _ascii_by_default(write_text):
    return lambda path, text, encoding="ascii": write_text(path, text, encoding=encoding)

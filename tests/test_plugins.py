"""A data set, a task and a command from outside of the package (`plugins/toy.py`) go through everything."""

import csv
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

from shunted_lab import attention, evaluate, run
from shunted_lab.config.compose import compose
from shunted_lab.config.schema import ConfigError
from shunted_lab.config.task import TaskConfig
from shunted_lab.nn import build_seeded
from shunted_lab.report.collect import image_evidence, load_study
from shunted_lab.report.write import write_report
from shunted_lab.study.costs.measure import time_run
from shunted_lab.study.folder import load_run
from shunted_lab.study.plan import model_cost, sources_of
from shunted_lab.tasks.train import make_module

FILE = """
data: toy.Patches
task: toy.Brightness
model: {embed_dims: [8, 8, 8, 8], depths: [1, 1, 1, 1], num_heads: [2, 2, 2, 2], mlp_ratios: [2, 2, 2, 2]}
recipe: {epochs: 2, dihedral: false, hflip: 0.0}
seeds: [0, 1]
baseline: plain
paper: {model: shunted_t, source: nobody, rows: {plain: {mae: 3.5}}}
variants:
  plain: {}
  pooled: {model.aggregation: pooling}
"""
SEARCH = "search: {space: {model.aggregation: [conv, pooling]}, trials: 2, neighbours: false}\n"


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A working directory with the experiments `toy` and `seek`, in which the plug-ins can be imported."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "toy.yaml").write_text(FILE)
    lines = [line for line in FILE.splitlines(keepends=True) if not line.startswith(("  pooled", "paper", "seeds"))]
    (folder / "experiments" / "seek.yaml").write_text("".join(lines) + "seeds: [0]\n" + SEARCH)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.syspath_prepend(str(Path(__file__).parent / "plugins"))
        patched.setenv("PYTHONPATH", str(Path(__file__).parent / "plugins"), prepend=os.pathsep)
        yield folder


@pytest.fixture(scope="module")
def trained(here):
    """The experiment `toy`, trained by its command; the folder of its study."""
    assert run.main(["experiment=toy", "launch.accelerator=cpu"]) == 0
    return here / "runs" / "toy"


def results(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("result.json"))]


@pytest.mark.slow
def test_the_command_trains_measures_and_prints_in_the_task_s_own_unit(trained, capsys):
    found = results(trained)
    assert len(found) == 4 and all(result["headline"] == "test/mae" for result in found)
    (row, _) = list(csv.DictReader((trained / "table.csv").open()))
    errors = [
        255 * r["metrics"]["test/mae"]
        for p, r in zip(sorted(trained.rglob("result.json")), found, strict=True)
        if p.parent.parent.name == "plain"
    ]
    assert float(row["mae"]) == pytest.approx(np.mean(errors), abs=0.051) and row["paper_mae"] == "3.5"
    table = (trained / "table.md").read_text()
    assert "| Error (grey values) |" in table and "**Data**: SYNTHETIC images, " in table
    assert "**Metric**: Mean absolute error of the brightness on the test split" in table
    assert "in grey values" in table
    cells = "".join(line for line in table.splitlines() if line.startswith("|"))
    assert "%" not in cells.replace("95 % CI", "")
    assert "Paper: Error (grey values)" in table


@pytest.mark.slow
def test_the_study_s_direction_and_the_plan_follow_from_the_goal(trained, capsys):
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{next(trained.glob('*.db'))}")
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert run.main(["experiment=toy", "plan_only=true", "launch.accelerator=cpu"]) == 0
    assert "4 of 4 runs done" in capsys.readouterr().out


@pytest.mark.slow
def test_a_second_call_trains_nothing_and_a_run_is_read_back(trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("result.json")}
    assert run.main(["experiment=toy", "launch.accelerator=cpu"]) == 0
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("result.json")} == before
    folder = next(iter(before)).parent
    config = load_run(folder).config
    assert type(config.task).__name__ == "Brightness" and type(config.data).__name__ == "Patches"
    assert config.data.name == "toy.Patches" and config.fingerprint("patches-1", load_run(folder).sources)


@pytest.mark.slow
def test_the_report_has_the_page_and_compares_image_by_image(trained):
    data = load_study(trained)
    (found,) = image_evidence(data)
    assert found.variant == "pooled" and found.mcnemar == {} and found.bootstrap.n > 0
    write_report(data)
    page = (trained / "report" / "index.html").read_text()
    assert "Error (grey values)" in page and "in grey values" in page and "McNemar" not in page
    assert (trained / "report" / "figures" / "mae_macs.svg").exists()


@pytest.mark.slow
def test_a_checkpoint_is_evaluated(trained, capsys):
    folder = next(path.parent for path in sorted(trained.rglob("result.json")))
    result = json.loads((folder / "result.json").read_text())
    found = evaluate.show([f"checkpoint={folder}", "device=cpu"])
    assert found["metrics"]["test/mae"] == pytest.approx(result["metrics"]["test/mae"], rel=1e-6)
    assert found["intervals"] == {} and "Error (grey values)" in capsys.readouterr().out
    noisy = evaluate.show([f"checkpoint={folder}", "device=cpu", "data.noise=0.3"])  # a key of this data set only
    assert noisy["metrics"]["test/mae"] != found["metrics"]["test/mae"]


@pytest.mark.slow
def test_the_attention_of_the_backbone_is_drawn(trained, here):
    folder = next(path.parent for path in sorted(trained.rglob("result.json")))
    Image.new("RGB", (64, 64), "grey").save(here / "grey.png")
    given = [f"checkpoint={folder}", f"image={here / 'grey.png'}", f"out={here / 'attention.png'}"]
    assert attention.main(given) == 0 and (here / "attention.png").exists()


@pytest.mark.slow
def test_a_search_minimizes(here, capsys):
    assert run.main(["experiment=seek", "launch.accelerator=cpu"]) == 0
    rows = list(csv.DictReader((here / "runs" / "seek" / "search.csv").open()))
    assert len(rows) == 2 and "val/mae" in rows[0]
    assert "val/mae (grey values)" in capsys.readouterr().out


def test_the_backbone_starts_from_the_values_of_the_classifier_of_that_seed(here):
    toy = compose(["experiment=toy"]).variants["plain"]
    module = make_module(toy, [])
    from shunted_lab.tasks.model import build_model

    classifier = build_seeded(lambda: build_model(toy.model, 1), toy.seed)
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, module.net.backbone.state_dict()[name]), name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.noise=many", r"data\.noise: 'many' is not a number"),
        ("data.images=0", r"data\.images: 0 is too small: at least 1"),
        ("data.nose=1", r"data\.nose: no such key; did you mean 'noise'\?"),
        ("data=toy.Nothing", r"data: 'toy\.Nothing' cannot be imported: toy has no 'Nothing'"),
        ("data=nowhere.Patches", r"data: 'nowhere\.Patches' cannot be imported: there is no module 'nowhere'"),
        ("data=toy.Brightness", r"data: 'toy\.Brightness' is not a subclass of shunted_lab\.config\.data\.DataConfig"),
        ("data=earth", r"task: toy\.Brightness needs images with brightness, and data=earth has label"),
        ("task=classification", r"task: classification needs images with label, and data=toy\.Patches has brightness"),
    ],
)
def test_mistakes_are_one_line(here, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose(["experiment=seek", override])
    assert "\n" not in str(caught.value)


def test_the_keys_of_a_plug_in_are_options(here):
    found = compose(["experiment=toy", "data.noise=0.1", "task.weight=2"]).variants["plain"]
    assert (found.data.noise, found.task.weight) == (0.1, 2.0)
    other = compose(["experiment=toy", "task.weight=2"]).variants["plain"]
    assert other.fingerprint("", {}) != compose(["experiment=toy"]).variants["plain"].fingerprint("", {})


def test_costs_are_counted_and_measured_as_the_task_calls_its_network(here):
    import toy

    class OfLists(toy.Regressor):
        def forward(self, images):
            assert isinstance(images, list)  # as a detector takes them
            return super().forward(torch.stack(images))

    class Detection(toy.Brightness):
        def build(self, model, classes):
            return OfLists(super().build(model, classes).backbone)

        def call(self, net, images):
            return net(list(images))

    plain = compose(["experiment=toy"]).variants["plain"]
    of_lists = replace(plain, task=Detection("toy.Brightness"))
    assert model_cost("of lists", of_lists, (32, 32), 0) == model_cost("plain", plain, (32, 32), 0)
    assert time_run(of_lists, 0, torch.device("cpu")).best > 0


def test_a_task_that_lacks_a_method_names_it(here):
    with pytest.raises(TypeError, match=r"abstract methods? .*build"):
        TaskConfig("mine")


def test_the_source_of_a_plug_in_is_part_of_a_run_s_identity(here, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (Path(__file__).parent / "plugins" / "toy.py").read_text()
    found = []
    for line in ("", "\nAN_ADDED_LINE = 1\n"):
        (tmp_path / "mine.py").write_text(text + line)
        sources = sources_of(
            compose(["experiment=seek", "data=mine.Patches", "task=mine.Brightness"]).variants["plain"]
        )
        found.append((sources["data: mine.Patches"], sources["task: mine.Brightness"]))
    assert found[0][0] == found[0][1]  # one file has both
    assert found[0] != found[1]


def test_a_command_of_one_file(here, capsys):
    import toy

    assert toy.main(["factor=2"]) == 0 and capsys.readouterr().out == "2048\n"
    assert toy.main(["--help"]) == 0 and re.search(r"factor: int = 1\n +printed", capsys.readouterr().out)
    assert toy.main(["fctor=2"]) == 1 and "did you mean 'factor'?" in capsys.readouterr().err

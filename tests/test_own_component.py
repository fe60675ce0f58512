"""A user's own component, in the user's own file: by a dotted path, and by one decorator line."""

import re
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from shunted_lab import cost, run
from shunted_lab.config.compose import compose
from shunted_lab.config.model import ModelConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data
from shunted_lab.nn import ATTENTION
from shunted_lab.study.plan import count_costs, data_facts
from shunted_lab.study.search.search import make_search
from shunted_lab.tasks.model import model_sources

FILE = '''
import torch
from torch import nn
from shunted_lab.nn import ATTENTION


@ATTENTION.register("mean")
class Mean(nn.Module):
    """Every token gets the mean of a window of rows."""

    def __init__(self, dim: int, window: int = 2):
        super().__init__()
        self.window = window
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, grid):
        return self.proj(x + x.mean(1, keepdim=True) * self.window)


class Broken(Mean):
    def forward(self, x, grid):
        raise RuntimeError("a mistake in the user's code")


class BadShape(Mean):
    def forward(self, x, grid):
        return x.mean(1, keepdim=True)
'''
PARTS = """
import importlib
from functools import partial
from shunted_lab.nn.aggregation import ConvAggregation as Pool
from shunted_lab.nn.attention import SSA

Mean = importlib.import_module("my_blocks").Mean
weak = partial(SSA, local="none")
"""
EXPERIMENT = """
seeds: [0]
baseline: ssa
variants:
  ssa: {}
  dotted: {model.attn: my_blocks.Mean}
  option: {model.attn: {name: my_blocks.Mean, window: 3}}
  mixed: {model.attn: [my_blocks.Mean, ssa, ssa, ssa]}
  decorated: {model.attn: mean, model.imports: [my_blocks]}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with my_blocks.py: it can be imported in this process, where it is unknown before."""
    (tmp_path / "my_blocks.py").write_text(FILE)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(ATTENTION, "_entries", dict(ATTENTION._entries))
    forget()
    yield tmp_path
    forget()


def forget():
    for name in ("my_blocks", "my_parts"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_own_components_are_trained_like_any_other(folder):
    command = [sys.executable, "-m", "shunted_lab.run", "experiment=mine", "smoke=true", "launch.accelerator=cpu"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    rows = (folder / "runs" / "mine-smoke" / "table.md").read_text()
    assert all(f"| {name} |" in rows for name in ("ssa", "dotted", "option", "mixed", "decorated"))
    assert len(list((folder / "runs").glob("*/*/seed0-*/result.json"))) == 5


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "{model.attn: {name: my_blocks.Mean, windw: 3}}",
            r"variants\.x: model\.attn: 'windw' is not an option of 'my_blocks\.Mean'; did you mean 'window'\?",
        ),
        ("{model.attn: my_blocks.Man}", r"model\.attn: 'my_blocks\.Man': no 'Man' in my_blocks; did you mean 'Mean'\?"),
        (
            "{model.attn: my_block.Mean}",
            r"model\.attn: 'my_block\.Mean': module 'my_block' is neither in the working directory nor",
        ),
        ("{model.attn: mean}", r"model\.attn: 'mean' is not known; .*choices: linear_sra"),
        ("{model.attn: men, model.imports: [my_blocks]}", r"model\.attn: 'men' is not known; did you mean 'mean'\?"),
        ("{model.imports: [my_block]}", r"model\.imports: module 'my_block' is neither in the working directory nor"),
        ("{model.attn: {window: 3}}", r"model\.attn: \{'window': 3\} is neither a name nor a mapping"),
        ("{model.attn: [ssa, ssa]}", r"model\.attn: \['ssa', 'ssa'\] has 2 entries; one name, or 4"),
        ("{model.attn: [ssa, ssa, sa, ssa]}", r"model\.attn\[2\]: 'sa' is not known; did you mean 'ssa'\?"),
        ("{model.patch_embed: [overlapping]}", r"model\.patch_embed: .* is a list; the model has one"),
        (
            "{model.aggregation: pooling, model.attn: msa, model.rates: [[1],[1],[1],[1]]}",
            r"model\.aggregation: 'pooling'",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(folder, capsys, variant, message):
    (folder / "experiments" / "mine.yaml").write_text(f"baseline: x\nvariants:\n  x: {variant}\n")
    status, said = run.main(["experiment=mine"]), capsys.readouterr().err
    assert status == 1 and re.search(message, said), said
    assert said.startswith("error: ") and said.count("\n") == 1
    assert not (folder / "runs").exists()


@pytest.fixture
def inside(folder):
    """Write an experiment's file and compose it."""

    def composed(text):
        Path("experiments/mine.yaml").write_text(text)
        return compose(["experiment=mine"])

    return composed


@pytest.mark.parametrize(
    ("model", "edited", "stale"),
    [
        ({"attn": "mean", "imports": ["my_blocks"]}, "my_blocks.py", {"attn: mean", "import: my_blocks"}),
        ({"attn": ["ssa", "ssa", "ssa", "my_blocks.Mean"]}, "my_blocks.py", {"attn: my_blocks.Mean"}),
        ({"attn": {"name": "ssa", "aggregation": {"name": "my_parts.Pool"}}}, "my_parts.py", {"attn: my_parts.Pool"}),
        ({"attn": "my_parts.weak"}, "my_parts.py", {"attn: my_parts.weak"}),  # a partial of this package's class
        ({"attn": "my_parts.Mean"}, "my_blocks.py", {"attn: my_parts.Mean"}),  # from where no import tells
        ({"mlp": "timm.layers.GluMlp"}, "my_blocks.py", set()),
        ({}, "my_blocks.py", set()),
    ],
)
def test_an_edit_of_the_file_is_an_edit_of_all_that_is_in_it(folder, model, edited, stale):
    (folder / "my_parts.py").write_text(PARTS)
    before = model_sources(ModelConfig(**model))
    (folder / edited).write_text((folder / edited).read_text() + "# a comment\n")
    after = model_sources(ModelConfig(**model))
    assert {name for name in after if after[name] != before[name]} == stale and after.keys() == before.keys()
    assert ModelConfig(**model).has_own_components == bool(after)


BAD = r"my_blocks\.BadShape returns \(1, 1, 24\); expected \(1, 256, 24\)$"


def test_an_output_of_another_shape_is_one_line_before_anything_is_trained(inside):
    experiment = inside("baseline: bad\nvariants:\n  bad: {model.attn: my_blocks.BadShape}\n")
    with pytest.raises(ConfigError, match=rf"^variants\.bad: {BAD}"):
        count_costs(experiment, data_facts(experiment))


def test_a_point_of_a_search_with_an_output_of_another_shape_is_not_trained(inside):
    experiment = inside(
        "baseline: x\nseeds: [0]\nvariants:\n  x: {}\nsearch: {space: {model.attn: [ssa, my_blocks.BadShape]}}\n"
    )
    search = make_search(experiment, check_data(experiment.config.data))
    found = search.cost(search.run({"model.attn": "my_blocks.BadShape"}))
    assert isinstance(found, ConfigError) and re.search(rf"^model\.attn=my_blocks\.BadShape: {BAD}", str(found))


def test_the_cost_command_names_an_output_of_another_shape(inside, capsys):
    inside("baseline: x\nvariants:\n  x: {}\n")
    assert cost.main(["model=shunted_lite", "size=64", "model.attn=my_blocks.BadShape"]) == 1
    assert re.search(rf"^error: model: {BAD}", capsys.readouterr().err.strip())


def test_an_exception_in_the_user_s_code_names_variant_place_and_class(inside):
    experiment = inside("baseline: x\nvariants:\n  x: {}\n  broken: {model.attn: [ssa, my_blocks.Broken, ssa, ssa]}\n")
    with pytest.raises(RuntimeError, match="a mistake in the user's code") as error:
        count_costs(experiment, data_facts(experiment))
    place = "raised in stages.1.blocks.0.attn, my_blocks.Broken"
    assert error.value.__notes__ == [place, "while planning variants.broken"]


def test_an_error_in_the_user_s_code_keeps_its_traceback(folder, capsys):
    (folder / "experiments" / "mine.yaml").write_text("baseline: x\nvariants:\n  x: {model.attn: my_blocks.Broken}\n")
    with pytest.raises(RuntimeError) as error:
        run.main(["experiment=mine"])
    said = "".join(traceback.format_exception(error.value))  # what Python prints
    assert "Traceback" in said and "a mistake in the user's code" in said and "my_blocks.py" in said
    assert said.endswith("raised in stages.0.blocks.0.attn, my_blocks.Broken\nwhile planning variants.x\n")
    assert capsys.readouterr().err == ""

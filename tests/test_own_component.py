"""A user's own component, in the user's own file: by a dotted path, and by one decorator line."""

import re
import subprocess
import sys

import pytest

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
'''
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
def folder(tmp_path):
    (tmp_path / "my_blocks.py").write_text(FILE)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text(EXPERIMENT)
    return tmp_path


def run(folder, *words):
    command = [sys.executable, "-m", "shunted_lab.run", "experiment=mine", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_own_components_are_trained_like_any_other(folder):
    found = run(folder, "smoke=true", "launch.accelerator=cpu")
    assert found.returncode == 0, found.stderr
    rows = (folder / "runs" / "mine-smoke" / "table.md").read_text()
    assert all(f"| {name} |" in rows for name in ("ssa", "dotted", "option", "mixed", "decorated"))
    assert len(list((folder / "runs").glob("*/*/seed0-*/result.json"))) == 5


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (
            "{model.attn: {name: my_blocks.Mean, windw: 3}}",
            r"variants\.x: model\.attn: 'windw' is no option of 'my_blocks\.Mean'; did you mean 'window'\?",
        ),
        ("{model.attn: my_blocks.Man}", r"model\.attn: 'my_blocks\.Man': no 'Man' in my_blocks; did you mean 'Mean'\?"),
        ("{model.attn: my_block.Mean}", r"model\.attn: 'my_block\.Mean': there is no module 'my_block'"),
        ("{model.attn: mean}", r"model\.attn: 'mean' is not known; .*choices: linear_sra"),
        ("{model.attn: men, model.imports: [my_blocks]}", r"model\.attn: 'men' is not known; did you mean 'mean'\?"),
        ("{model.imports: [my_block]}", r"model\.imports: there is no module 'my_block'"),
        ("{model.attn: {window: 3}}", r"model\.attn: \{'window': 3\} is neither a name nor a mapping"),
        ("{model.attn: [ssa, ssa]}", r"model\.attn: \['ssa', 'ssa'\] has 2 entries; one name, or 4"),
        ("{model.attn: [ssa, ssa, sa, ssa]}", r"model\.attn\[2\]: 'sa' is not known; did you mean 'ssa'\?"),
        ("{model.patch_embed: [overlapping]}", r"model\.patch_embed: .* is a list; there is one place for it"),
        (
            "{model.aggregation: pooling, model.attn: msa, model.rates: [[1],[1],[1],[1]]}",
            r"model\.aggregation: 'pooling'",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(folder, variant, message):
    (folder / "experiments" / "mine.yaml").write_text(f"baseline: x\nvariants:\n  x: {variant}\n")
    found = run(folder)
    assert found.returncode == 1 and re.search(message, found.stderr), found.stderr
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1
    assert not (folder / "runs").exists()


def test_an_error_in_the_user_s_code_keeps_its_traceback(folder):
    (folder / "experiments" / "mine.yaml").write_text("baseline: x\nvariants:\n  x: {model.attn: my_blocks.Broken}\n")
    found = run(folder)
    assert "Traceback" in found.stderr and "a mistake in the user's code" in found.stderr

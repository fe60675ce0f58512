"""Which changes of a component's source are noticed, and which are not."""

import importlib
import sys

import pytest

from shunted_lab.nn import source
from shunted_lab.nn.registry import ComponentError

BLOCK = '''"""A user's blocks."""
from torch import nn
from helpers_of_mine import scale

WIDTH = 2

def twice(x):
    """Doubles."""
    return WIDTH * x

def unused(x):
    return x

class Attention(nn.Module):
    """An attention."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x, grid):
        """Tokens to tokens."""
        return scale(twice(self.linear(x)))  # a comment
'''
HELPERS = "def scale(x):\n    return x * 3\n\ndef other(x):\n    return x\n"


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """A function that writes both files and returns the component's hash."""
    monkeypatch.syspath_prepend(tmp_path)
    count = iter(range(1000))

    def of(block=BLOCK, helpers=HELPERS):
        number = next(count)
        for name in ("blocks_of_mine", "helpers_of_mine"):
            sys.modules.pop(name, None)
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
        (folder / "blocks_of_mine.py").write_text(block)
        (folder / "helpers_of_mine.py").write_text(helpers)
        importlib.invalidate_caches()
        source._module.cache_clear()
        return source.component_sources({"attn": "blocks_of_mine.Attention"})["attn: blocks_of_mine.Attention"]

    yield of
    for name in ("blocks_of_mine", "helpers_of_mine"):
        sys.modules.pop(name, None)
    source._module.cache_clear()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nn.Linear(dim, dim)", "nn.Linear(dim, dim, bias=False)"),
        ("WIDTH * x", "x * WIDTH"),
        ("WIDTH = 2", "WIDTH = 3"),
    ],
    ids=["class", "function that it calls", "constant of that function"],
)
def test_a_change_of_what_the_component_uses_is_noticed(hashed, old, new):
    assert old in BLOCK and hashed() != hashed(BLOCK.replace(old, new))


def test_a_change_in_a_module_beside_it_is_noticed(hashed):
    assert hashed() != hashed(helpers=HELPERS.replace("x * 3", "x * 4"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another one"),
        ('"""Doubles."""', '"""Multiplies by two."""'),
        ('"""Tokens to tokens."""', ""),
        ("WIDTH = 2", "\n\nWIDTH   =   2"),
        ("def unused(x):\n    return x", "def unused(x):\n    return 2 * x"),
    ],
    ids=["comment", "docstring", "no docstring", "layout", "what it does not use"],
)
def test_a_change_that_changes_nothing_is_not(hashed, old, new):
    assert old in BLOCK and hashed() == hashed(BLOCK.replace(old, new))


def test_what_the_module_beside_it_does_not_lend_does_not_count(hashed):
    assert hashed() == hashed(helpers=HELPERS.replace("    return x\n", "    return -x\n"))


def test_shipped_components_differ_and_options_count():
    found = source.component_sources({"attn": ["ssa", "ssa_no_local", "ssa_local_values", "sra", "msa"]})
    assert len(set(found.values())) == 5
    assert source.component_sources({"attn": {"name": "ssa"}}) == {"attn: ssa": found["attn: ssa"]}


def test_aggregation_counts_only_where_an_attention_uses_it():
    assert list(source.component_sources({"attn": "msa", "aggregation": "conv"})) == ["attn: msa"]
    assert len(source.component_sources({"attn": ["msa", "ssa"], "aggregation": "conv"})) == 3


def test_the_hash_of_an_attention_knows_its_bases_and_not_the_registry():
    pieces: dict = {}
    source._collect("shunted_lab.nn.attention", "SSA", pieces)
    assert ("shunted_lab.nn.attention", "HeadGroup") in pieces and ("shunted_lab.nn.layout", "to_map") in pieces
    assert not [name for module, name in pieces if module == "shunted_lab.nn.registry"]


def test_an_unknown_component_is_refused():
    with pytest.raises(ComponentError, match="attn: 'saa' is not known; did you mean 'ssa'"):
        source.component_sources({"attn": "saa"})

"""Which changes of a component's source are noticed, and which are not."""

import importlib
import sys

import pytest

from shunted_lab.nn import source
from shunted_lab.nn.registry import ComponentError

BLOCK = '''"""A user's blocks."""
from torch import nn
from helpers_of_mine import scale
WAYS

WIDTH = 2

def twice(x):
    """Doubles."""
    return WIDTH * x

class Attention(nn.Module):
    """An attention."""

    def __init__(self, dim):
        super().__init__()
        self.linear = nn.Linear(dim, dim)

    def forward(self, x, grid):
        """Tokens to tokens."""
        return scale(twice(self.linear(x)))  # a comment
'''
HELPERS = "def scale(x):\n    return x * 3\n"
MINE = ("blocks_of_mine", "helpers_of_mine", "ops_of_mine", "package_of_mine")


def _forget():
    for name in list(sys.modules):
        if name.partition(".")[0] in MINE:
            sys.modules.pop(name)
    source.source_hash.cache_clear()
    importlib.invalidate_caches()


@pytest.fixture
def hashed(tmp_path, monkeypatch):
    """A function that writes a user's files and returns the hash of the component."""
    count = iter(range(1000))

    def of(block=BLOCK, component="blocks_of_mine.Attention", ways="", **files):
        folder = tmp_path / str(next(count))
        contents = {"blocks_of_mine.py": block.replace("WAYS", ways), "helpers_of_mine.py": HELPERS}
        for name, text in (contents | files).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        _forget()
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            return source.component_sources({"attn": component})[f"attn: {component}"]

    yield of
    _forget()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nn.Linear(dim, dim)", "nn.Linear(dim, dim, bias=False)"),
        ("WIDTH * x", "x * WIDTH"),
        ("WIDTH = 2", "WIDTH = 3"),
        ("WIDTH = 2", "for WIDTH in range(3):\n    pass"),
    ],
    ids=["class", "function that it calls", "constant", "statement that defines nothing by itself"],
)
def test_a_change_of_the_users_file_is_noticed(hashed, old, new):
    assert old in BLOCK and hashed() != hashed(BLOCK.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment", "# another one"),
        ('"""Doubles."""', '"""Multiplies by two."""'),
        ('"""Tokens to tokens."""', ""),
        ('"""A user\'s blocks."""', ""),
        ("WIDTH = 2", "\n\nWIDTH   =   2"),
    ],
    ids=["comment", "docstring", "no docstring", "no docstring of the file", "layout"],
)
def test_a_change_that_changes_nothing_is_not(hashed, old, new):
    assert old in BLOCK and hashed() == hashed(BLOCK.replace(old, new))


@pytest.mark.parametrize(
    "ways",
    [
        "",
        "import helpers_of_mine",
        "import helpers_of_mine as h",
        "try:\n    import helpers_of_mine\nexcept ImportError:\n    pass",
        "def late():\n    import helpers_of_mine",
    ],
    ids=["from", "import", "as", "in a block", "in a function"],
)
def test_a_module_beside_it_belongs_to_it_however_it_is_imported(hashed, ways):
    block = BLOCK if not ways else BLOCK.replace("from helpers_of_mine import scale", "scale = abs")
    files = {"helpers_of_mine.py": HELPERS.replace("x * 3", "x * 4")}
    assert hashed(block, ways=ways) != hashed(block, ways=ways, **files)


def test_a_module_that_it_does_not_import_does_not_belong_to_it(hashed):
    assert hashed(**{"ops_of_mine.py": "A = 1"}) == hashed(**{"ops_of_mine.py": "A = 2"})


def test_what_a_module_beside_it_imports_belongs_to_it_also_in_a_circle(hashed):
    helpers = "import ops_of_mine\n" + HELPERS
    found = [
        hashed(**{"helpers_of_mine.py": helpers, "ops_of_mine.py": f"import helpers_of_mine\nA = {value}\n"})
        for value in (1, 2)
    ]
    assert found[0] != found[1]


@pytest.mark.parametrize("line", ["from . import ops", "from .ops import scale", "import package_of_mine.ops"])
def test_modules_of_its_package_belong_to_it_with_the_packages_themselves(hashed, line):
    block = f"from torch import nn\n{line}\n\nclass Attention(nn.Module):\n    pass\n"

    def of(init="", ops="def scale(x):\n    return x\n"):
        files = {"__init__": init, "blocks": block, "ops": ops}
        named = {f"package_of_mine/{name}.py": text for name, text in files.items()}
        return hashed(component="package_of_mine.blocks.Attention", **named)

    assert len({of(), of(ops="def scale(x):\n    return 2 * x\n"), of(init="A = 1")}) == 3


def test_installed_packages_do_not_count_but_one_that_the_component_is_in_does(hashed, monkeypatch, tmp_path):
    folders = [*source._installed(), tmp_path]
    monkeypatch.setattr(source, "_installed", lambda: folders)
    assert hashed() == hashed(**{"helpers_of_mine.py": HELPERS.replace("x * 3", "x * 4")})
    assert hashed() != hashed(BLOCK.replace("WIDTH = 2", "WIDTH = 3"))


def test_an_imported_module_without_components_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for value in (1, 2):
        (tmp_path / "ops_of_mine.py").write_text(f"A = {value}\n")
        found.append(source.module_hash("ops_of_mine"))
    assert found[0] != found[1]
    _forget()


def test_shipped_components_differ_and_options_count():
    found = source.component_sources({"attn": ["ssa", "ssa_no_local", "ssa_local_values", "sra", "msa"]})
    assert len(set(found.values())) == 5
    assert source.component_sources({"attn": {"name": "ssa"}}) == {"attn: ssa": found["attn: ssa"]}


def test_aggregation_counts_only_where_an_attention_uses_it():
    assert list(source.component_sources({"attn": "msa", "aggregation": "conv"})) == ["attn: msa"]
    assert len(source.component_sources({"attn": ["msa", "ssa"], "aggregation": "conv"})) == 3


def test_the_hash_of_a_shipped_attention_knows_its_bases_and_not_the_registry():
    pieces: dict = {}
    source._collect("shunted_lab.nn.attention", "SSA", pieces)
    assert ("shunted_lab.nn.attention", "HeadGroup") in pieces and ("shunted_lab.nn.layout", "to_map") in pieces
    assert not [name for module, name in pieces if module == "shunted_lab.nn.registry"]


def test_a_change_of_a_shipped_component_is_noticed(monkeypatch):
    before = source.source_hash(importlib.import_module("shunted_lab.nn.attention").SSA)
    definitions, imports = source._module("shunted_lab.nn.attention")
    changed = {**definitions, "split_heads": definitions["enlarge"]}
    real = source._module
    monkeypatch.setattr(
        source, "_module", lambda name: (changed, imports) if name == "shunted_lab.nn.attention" else real(name)
    )
    source.source_hash.cache_clear()
    assert source.source_hash(importlib.import_module("shunted_lab.nn.attention").SSA) != before
    source.source_hash.cache_clear()


def test_an_unknown_component_is_refused():
    with pytest.raises(ComponentError, match="attn: 'saa' is not known; did you mean 'ssa'"):
        source.component_sources({"attn": "saa"})

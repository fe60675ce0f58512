"""Imports point one way (commands, report, study, tasks, data, config), and heavy libraries are imported late."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shunted_lab.config.groups import DATA_SETS

PACKAGE = Path(__file__).parents[1] / "shunted_lab"
HEAVY = {"torch", "lightning", "timm", "torchvision", "torchmetrics", "optuna", "pandas", "scipy"}
# package or command -> the packages that it may import
PACKAGES = {
    "output": set(),
    "config": {"output"},
    "nn": set(),
    "data": {"output", "config"},
    "tasks": {"output", "config", "data", "nn"},
    "study": {"output", "config", "data", "nn", "tasks"},
    "report": {"output", "config", "data", "nn", "tasks", "study"},
}
COMMANDS = {
    "attention",
    "compare",
    "convert",
    "cost",
    "dashboard",
    "evaluate",
    "predict",
    "run",
    "worker",
    "report/__main__",
}
FORBIDDEN = {"nn": {"lightning", "omegaconf", "optuna"}, "report": {"lightning"}, "data": {"optuna"}}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _allowed(path: Path) -> set[str]:
    """What a file may import of the package, by first names."""
    name = str(path.relative_to(PACKAGE).with_suffix(""))
    package = name.partition("/")[0]
    if name in COMMANDS:
        return {"command", *PACKAGES}
    if name == "__init__":
        return {"report"}  # what scripts and notebooks use
    if name in ("command", "__main__"):
        return {"output", "config"}
    return {package} | PACKAGES.get(package, set())


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    package = path.relative_to(PACKAGE).parts[0]
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "shunted_lab":
            target = rest.partition(".")[0]
            assert target in _allowed(path) | {"__version__", "RESULTS_VERSION", ""}, f"{path} imports {name}"
        assert top not in FORBIDDEN.get(package, set()), f"{path} imports {name}"


def test_the_top_level_is_the_commands_and_what_they_share():
    assert {path.stem for path in PACKAGE.glob("*.py")} - COMMANDS == {"__init__", "__main__", "command"}


def _modules_at_import(path: Path) -> set[str]:
    """Modules of the package that importing a file imports: not those in functions, nor under TYPE_CHECKING."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_module_imports_itself_through_others():
    files = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    modules = {".".join(parts): _modules_at_import(path) for path, parts in files.items() if parts[-1] != "__init__"}
    left = {name: used & modules.keys() for name, used in modules.items()}
    while free := {name for name, used in left.items() if not used}:
        left = {name: used - free for name, used in left.items() if name not in free}
    assert left == {}  # what is left imports each other


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _modules_when_run(node: ast.AST) -> set[str]:
    """Modules that a file imports at any time: also in functions, not under TYPE_CHECKING."""
    if _is_type_checking(node):
        return set().union(*map(_modules_when_run, node.orelse))
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
        return {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return set().union(*map(_modules_when_run, ast.iter_child_nodes(node)))


def _cycles(imports: dict[str, set[str]]) -> list[set[str]]:
    """The largest sets of modules of which each imports all others, directly or not."""

    def reached(name: str) -> set[str]:
        found: set[str] = set()
        waiting = list(imports[name])
        while waiting:
            if (other := waiting.pop()) not in found:
                found.add(other)
                waiting += imports[other]
        return found

    reach = {name: reached(name) for name in imports}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) for name in imports}
    return sorted(map(set, groups - {frozenset()}), key=sorted)


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_no_package_has_import_cycles(package):
    modules = {_module(path): path for path in (PACKAGE / package).rglob("*.py")}
    imports = {name: _modules_when_run(ast.parse(path.read_text())) & modules.keys() for name, path in modules.items()}
    found = _cycles({name: used - {name} for name, used in imports.items()})
    assert found == []


def test_cycles_are_found_wherever_an_import_is_and_not_for_types_alone():
    late = "def f():\n    from p import b\n"
    types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import c\n"
    imports = {name: _modules_when_run(ast.parse(code)) for name, code in {"a": late, "c": types}.items()}
    assert imports == {"a": {"p", "p.b"}, "c": {"typing", "typing.TYPE_CHECKING"}}
    assert _cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]


@pytest.mark.parametrize(
    "module",
    [
        "shunted_lab",
        "shunted_lab.__main__",
        "shunted_lab.run",
        "shunted_lab.worker",
        "shunted_lab.report.__main__",
        "shunted_lab.attention",
        "shunted_lab.cost",
        "shunted_lab.evaluate",
        "shunted_lab.dashboard",
        "shunted_lab.config.help",
        "shunted_lab.data",
        "shunted_lab.data.evaluated",
        "shunted_lab.data.image_splits",
        "shunted_lab.data.shards.reader",
        "shunted_lab.compare",
        "shunted_lab.convert",
    ],
)
def test_nothing_heavy_is_imported_before_the_configuration_has_passed(module):
    code = f"import sys, {module}; print(*sorted({HEAVY} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


@pytest.mark.parametrize("path", DATA_SETS.values())
def test_a_data_set_is_registered_without_importing_anything_heavy(path):
    """Every `--help` imports all data sets."""
    heavy = HEAVY | {"numpy", "PIL", "fsspec"}
    module = path.rpartition(".")[0]
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []


def test_only_the_module_of_a_data_set_knows_its_class():
    names = "|".join(path.rpartition(".")[2] for path in DATA_SETS.values())
    asks = re.compile(rf"isinstance\([^)]*\b({names})\b")
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if asks.search(path.read_text())}
    assert found == set()

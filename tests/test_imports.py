"""Arrows point one way (`run -> report -> study -> tasks -> data -> config`), and heavy libraries are imported late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "shunted_lab"
HEAVY = {"torch", "lightning", "timm", "torchvision", "torchmetrics", "optuna", "pandas", "scipy"}
COMMAND = {"cli", "terminal", "commands", "config", "compose", "usage"}  # what a command may import beside its room
COMMANDS = (PACKAGE / "data" / "shards.py", PACKAGE / "report" / "__main__.py")  # those that stand in a room
# room -> rooms that it may import
ARROWS = {
    "__main__": {"schema", "streams"},
    "schema": set(),
    "files": set(),
    "paths": set(),
    "datasets": {"schema"},
    "models": {"schema", "quantities"},
    "recipes": {"schema"},
    "studies": {"schema"},
    "config": {"schema", "quantities", "datasets", "models", "recipes", "studies"},
    "streams": set(),
    "terminal": {"streams"},
    "cli": {"schema", "streams", "terminal"},
    "commands": {"schema", "models", "config"},
    "experiment_file": {"config"},
    "quantities": set(),
    "suggestions": {"schema"},
    "overrides": {"config", "paths", "suggestions"},
    "variants": {"config"},
    "compose": {"commands", "config", "experiment_file", "overrides", "paths", "suggestions", "variants"},
    "usage": {"commands", "config", "studies", "experiment_file"},
    "dashboard": COMMAND | {"experiment_file", "study"},
    "nn": set(),
    "data": {"files", "quantities", "config"},
    "tasks": {"files", "config", "models", "data", "nn"},
    "study": {"quantities", "files", "paths", "streams", "config", "compose", "variants", "data", "nn", "tasks"},
    "report": {"data", "files", "quantities", "terminal", "config", "compose", "nn", "tasks", "study"},
    "attention": COMMAND | {"data", "nn", "tasks", "study", "report"},
    "evaluate": COMMAND | {"files", "quantities", "data", "nn", "tasks", "study", "report"},
    "cost": COMMAND | {"nn", "tasks"},
    "run": COMMAND | {"quantities", "variants", "data", "nn", "tasks", "study", "report"},
}
FORBIDDEN = {"nn": {"lightning", "hydra", "omegaconf", "optuna"}, "report": {"lightning"}, "data": {"optuna", "hydra"}}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows(path):
    room = _room(path)
    command = COMMAND if path in COMMANDS else set()
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "shunted_lab" and room != "__init__":
            target = rest.partition(".")[0]
            allowed = ARROWS[room] | command | {room, "__version__", "RESULTS_VERSION", ""}
            assert target in allowed, f"{room} imports {name}"
        assert top not in FORBIDDEN.get(room, set()), f"{room} imports {name}"


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


@pytest.mark.parametrize(
    "module",
    [
        "shunted_lab",
        "shunted_lab.__main__",
        "shunted_lab.run",
        "shunted_lab.attention",
        "shunted_lab.cost",
        "shunted_lab.evaluate",
        "shunted_lab.dashboard",
        "shunted_lab.usage",
        "shunted_lab.data",
        "shunted_lab.data.evaluated",
        "shunted_lab.data.image_splits",
        "shunted_lab.data.shards",
        "shunted_lab.data.tars",
    ],
)
def test_nothing_heavy_is_imported_before_the_configuration_has_passed(module):
    code = f"import sys, {module}; print(*sorted({HEAVY} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found == []

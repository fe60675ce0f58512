"""Arrows point one way (`run -> report -> study -> tasks -> data -> config`), and heavy libraries are imported late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "shunted_lab"
HEAVY = {"torch", "lightning", "timm", "torchvision", "torchmetrics", "optuna", "pandas", "scipy"}
# room -> rooms that it may import
ARROWS = {
    "schema": set(),
    "files": set(),
    "datasets": {"schema"},
    "models": {"schema"},
    "recipes": {"schema"},
    "studies": {"schema"},
    "config": {"schema", "datasets", "models", "recipes", "studies"},
    "cli": {"schema"},
    "commands": {"schema", "models", "config"},
    "compose": {"commands", "config"},
    "usage": {"commands", "config", "studies", "compose"},
    "dashboard": {"cli", "commands", "config", "compose", "usage"},
    "nn": set(),
    "data": {"files", "config"},
    "tasks": {"files", "config", "models", "data", "nn"},
    "study": {"files", "config", "compose", "data", "nn", "tasks"},
    "report": {"files", "config", "compose", "nn", "tasks", "study"},
    "attention": {"cli", "commands", "config", "compose", "usage", "data", "nn", "tasks", "study", "report"},
    "evaluate": {"files", "cli", "commands", "config", "compose", "usage", "data", "nn", "tasks", "study", "report"},
    "cost": {"cli", "commands", "config", "compose", "usage", "nn", "tasks"},
    "run": {"cli", "config", "compose", "usage", "data", "nn", "tasks", "study", "report"},
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
    command = {"cli", "commands", "compose", "usage"} if path == PACKAGE / "data" / "shards.py" else set()
    for name in _imports(path):
        top, _, rest = name.partition(".")
        if top == "shunted_lab" and room != "__init__":
            target = rest.partition(".")[0]
            allowed = ARROWS[room] | command | {room, "__version__", ""}
            assert target in allowed, f"{room} imports {name}"
        assert top not in FORBIDDEN.get(room, set()), f"{room} imports {name}"


@pytest.mark.parametrize(
    "module",
    [
        "shunted_lab",
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

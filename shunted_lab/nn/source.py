"""What a component is made of: a hash of the source that it uses, so that runs with another source are told apart."""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from shunted_lab.nn.registry import AGGREGATION, ATTENTION, DOWNSAMPLE, MLP, PATCH_EMBED, Registry, Spec, split_spec

SLOTS: dict[str, Registry] = {
    "patch_embed": PATCH_EMBED,
    "downsample": DOWNSAMPLE,
    "attn": ATTENTION,
    "aggregation": AGGREGATION,
    "mlp": MLP,
}


def component_sources(slots: Mapping[str, Spec | list[Spec]]) -> dict[str, str]:
    """`slot: name` -> 16 hex digits over the source of that component.

    The source is that of the class or function, of all that it names in its module, and, through imports, of what it
    names in other modules of its package; comments, docstrings and layout do not count. A component whose source
    cannot be read (compiled, or typed into a notebook) is told apart by its name only.

    Args:
        slots: slot -> one component, or a list of them, e.g. `{"attn": "ssa", ...}`.

    Raises:
        ComponentError: for a component that is not known.
    """
    found = {}
    lists = {slot: specs if isinstance(specs, list) else [specs] for slot, specs in slots.items()}
    for slot, specs in lists.items():
        if slot == "aggregation" and not any(ATTENTION.accepts(spec, slot) for spec in lists.get("attn", [])):
            continue  # no attention uses it
        for spec in specs:
            name = split_spec(slot, spec)[0]
            found[f"{slot}: {name}"] = source_hash(SLOTS[slot].find(name))
    return found


@cache
def source_hash(component: Callable[..., nn.Module]) -> str:
    """16 hex digits over the source of a class or function."""
    wrapped = getattr(component, "func", component)  # functools.partial
    options = repr((getattr(component, "args", ()), sorted(getattr(component, "keywords", {}).items())))
    pieces: dict[tuple[str, str], str] = {}
    _collect(wrapped.__module__, wrapped.__qualname__.split(".")[0], pieces)
    text = "\n".join(f"{module}.{name}\n{code}" for (module, name), code in sorted(pieces.items()))
    return hashlib.sha256((options + text).encode()).hexdigest()[:16]


def _collect(module: str, name: str, pieces: dict[tuple[str, str], str]) -> None:
    """Gather the definition of a module's name, and of all that it uses, into `pieces`."""
    if (module, name) in pieces or module == Registry.__module__:  # the registry only finds components
        return
    definitions, imports = _module(module)
    if name in definitions:
        pieces[module, name] = "\n".join(ast.unparse(node) for node in definitions[name])
        for used in sorted({used for node in definitions[name] for used in _names(node)}):
            _collect(module, used, pieces)
    elif name in imports:
        where, what = imports[name]
        _collect(where, what, pieces)
    else:
        pieces[module, name] = ""  # a builtin, or of another package


def _names(node: ast.AST) -> set[str]:
    """The names that a definition uses."""
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


@cache
def _module(name: str) -> tuple[dict[str, list[ast.stmt]], dict[str, tuple[str, str]]]:
    """What a module defines: name -> statements, and what it imports from its package: name -> (module, name)."""
    path = inspect.getsourcefile(importlib.import_module(name)) if find_spec_safely(name) else None
    if path is None or not Path(path).is_file():
        return {}, {}
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            source = _absolute(name, node)
            if _same_package(name, source):
                imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions.setdefault(node.name, []).append(_plain(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for defined in {used for target in targets for used in _names(target)}:
                definitions.setdefault(defined, []).append(node)
    return definitions, imports


def find_spec_safely(name: str) -> bool:
    """Whether a module can be found; `__main__` of a notebook cannot."""
    try:
        return name != "builtins" and find_spec(name) is not None
    except (ValueError, ModuleNotFoundError):
        return False


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, node.module] if node.module else package)


def _same_package(module: str, other: str) -> bool:
    """Whether the other module belongs to the same package, or, for a lone file, lies beside it."""
    if module.split(".")[0] == other.split(".")[0]:
        return True
    if "." in module or not find_spec_safely(other):
        return False
    here, there = (find_spec(name) for name in (module, other))
    origins = [spec.origin for spec in (here, there) if spec is not None and spec.origin]
    return len(origins) == 2 and Path(origins[0]).parent == Path(origins[1]).parent


def _plain(node: Any) -> Any:
    """A definition without docstrings, and without the decorator that registers it."""
    node.decorator_list = [d for d in node.decorator_list if not _registers(d)]
    for part in ast.walk(node):
        body = getattr(part, "body", None)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_docstring(body):
            part.body = part.body[1:] or [ast.Pass()]
    return node


def _registers(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr == "register"


def _is_docstring(body: Iterable[ast.stmt] | None) -> bool:
    first = next(iter(body or ()), None)
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)

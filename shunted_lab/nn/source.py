"""What a component is made of: a hash of its source, so that results of another source are never taken for its own.

Of a component of this package, the definitions that it uses count. Of a user's component its whole file counts, and
every local module that this imports, wherever in the file: what Python code uses cannot be known without running it.
Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import site
import sysconfig
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from torch import nn

from shunted_lab.nn.components import ATTENTION, SLOTS
from shunted_lab.nn.registry import Registry, Spec, split_spec

N = TypeVar("N", bound=ast.AST)
D = TypeVar("D", bound=ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
PACKAGE = __name__.partition(".")[0]


def component_sources(slots: Mapping[str, Spec | list[Spec]]) -> dict[str, str]:
    """`slot: name` -> 16 hex digits over the source of that component.

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
    """16 hex digits over the source of a class or function, and over its options if it is a `functools.partial`."""
    wrapped = getattr(component, "func", component)
    options = repr((getattr(component, "args", ()), sorted(getattr(component, "keywords", {}).items())))
    module = wrapped.__module__
    if module.partition(".")[0] != PACKAGE:
        return _digest(f"{options}{module}.{wrapped.__qualname__}", local_sources(module))
    pieces: dict[tuple[str, str], str] = {}
    _collect(module, wrapped.__qualname__.split(".")[0], pieces)
    return _digest(options, {f"{module}.{name}": code for (module, name), code in pieces.items()})


def module_hash(name: str) -> str:
    """16 hex digits over the source of a user's module and of the local modules that it imports."""
    return _digest(name, local_sources(name))


def _digest(head: str, sources: Mapping[str, str]) -> str:
    text = "\n".join(f"{name}\n{code}" for name, code in sorted(sources.items()))
    return hashlib.sha256((head + text).encode()).hexdigest()[:16]


# --- a user's modules ------------------------------------------------------------------------------------------------


def local_sources(module: str) -> dict[str, str]:
    """The module and all local ones that it imports, directly or not: name -> source, or a digest of compiled code.

    Local is what lies neither in the standard library nor in site-packages, and what belongs to the same package as
    `module`. A module without a file (typed into a notebook) has none.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or (path := _local_file(name, module.partition(".")[0])) is None:
            continue
        if path.suffix != ".py":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        waiting += _imported(name, path.name == "__init__.py", tree)
        found[name] = ast.unparse(_without_docstrings(tree))
    return found


def _local_file(name: str, own: str) -> Path | None:
    """The file of a local module; None for a module that is not local, or is not a module. `own`: the user's package.

    Only packages that are local are imported on the way to a module inside of them.
    """
    top = name.partition(".")[0]
    if top == PACKAGE or (first := _file(top)) is None or (top != own and _is_installed(first)):
        return None
    return _file(name)


def _file(name: str) -> Path | None:
    try:
        spec = find_spec(name) if name != "__main__" else None
    except (ValueError, ImportError):
        return None  # of a package that is not installed, or a name inside of a module
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _is_installed(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _installed())


@cache
def _installed() -> list[Path]:
    """The folders of the standard library and of site-packages."""
    paths = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return [Path(path).resolve() for path in (*paths, *site.getsitepackages(), site.getusersitepackages())]


def _imported(module: str, is_package: bool, tree: ast.Module) -> list[str]:
    """What may be modules among the names that a module imports, with the packages that they are in."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(f"{module}.__init__" if is_package else module, node)
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return [".".join(parts[: i + 1]) for parts in (name.split(".") for name in names) for i in range(len(parts))]


def _without_docstrings(tree: N) -> N:
    for part in ast.walk(tree):
        if isinstance(part, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_docstring(part):
            part.body = part.body[1:] or [ast.Pass()]
    return tree


def _is_docstring(part: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    first = next(iter(part.body), None)
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


# --- components of this package --------------------------------------------------------------------------------------


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
    path = _file(name) if name.partition(".")[0] == PACKAGE else None
    if path is None:
        return {}, {}
    definitions: dict[str, list[ast.stmt]] = {}
    imports: dict[str, tuple[str, str]] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            source = _absolute(name, node)
            imports |= {alias.asname or alias.name: (source, alias.name) for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions.setdefault(node.name, []).append(_plain(node))
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for defined in {used for target in targets for used in _names(target)}:
                definitions.setdefault(defined, []).append(node)
    return definitions, imports


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, node.module] if node.module else package)


def _plain(node: D) -> D:
    """A definition without docstrings, and without the decorator that registers it."""
    node.decorator_list = [d for d in node.decorator_list if not _registers(d)]
    return _without_docstrings(node)


def _registers(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(call, ast.Attribute) and call.attr == "register"

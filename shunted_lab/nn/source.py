"""The identity of a user's own code: a hash over whole files. Results of other code are never taken for its own.

A component, a data set or a task of the user's own counts with the file of its module, the packages that the module is
in, and every local module that these import, directly or not. An import counts wherever it is in a file, also in a
function or under a condition: what Python code uses cannot be known without running it. No code is run.

Local is what lies neither in the standard library nor in site-packages, and does not belong to this package, whose
code `RESULTS_VERSION` covers. Modules that are imported by a text (`importlib.import_module`) are not found.
"""

from __future__ import annotations

import ast
import hashlib
import pkgutil
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.machinery import SOURCE_SUFFIXES, ModuleSpec
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec, resolve_name
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
INSTALLED = {"site-packages", "dist-packages"}  # folders of pip, conda and Debian, of any environment


def module_hash(*modules: str) -> str:
    """16 hex digits over a user's modules and all that belongs to them (`own_files`), wherever their folder is.

    For modules of an installed package its version, e.g. `timm 1.0.31`; "" for those of this package.

    Args:
        modules: dotted names. They have been imported, so that changes of `sys.path` in them have taken effect.
    """
    found = own_files(modules)
    lines = "\n".join(f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:16] if found else _versions(modules)


def own_files(modules: Iterable[str]) -> dict[str, bytes]:
    """The local ones of `modules`, their packages, and the local modules that these import: name -> content.

    Lines of source end with a newline, however they end in the file.
    """
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    waiting = [name for module in modules for name in _with_packages(module)]
    while waiting:
        name = waiting.pop()
        spec = None if name in seen else _find(name)
        seen.add(name)
        if spec is not None and _is_own(spec):
            found[name], names = _read(spec)
            waiting += [part for used in names for part in _with_packages(used)]
    return found


def _versions(modules: Iterable[str]) -> str:
    tops = {module.partition(".")[0] for module in modules} - {PACKAGE}
    installed = packages_distributions() if tops else {}
    return ", ".join(sorted({f"{name} {version(name)}" for top in tops for name in installed.get(top, [])}))


def _with_packages(name: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`: Python imports the packages first."""
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


# --- which modules a file imports ------------------------------------------------------------------------------------


def _read(spec: ModuleSpec) -> tuple[bytes, list[str]]:
    """The content of a module's file, and what may be modules among the names that it imports."""
    path = Path(spec.origin or "")
    content = path.read_bytes()
    if path.suffix not in SOURCE_SUFFIXES:
        return content, []  # compiled
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")  # git may have changed them
    # A helper with a mistake may be imported by nothing that runs; its text counts all the same. ValueError: a null
    # byte, before Python 3.11.4.
    with suppress(SyntaxError, ValueError), warnings.catch_warnings(action="ignore"):
        return content, list(_imported(ast.parse(content), spec.parent or ""))
    return content, []


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """The names that a file in `package` imports: those of modules, and those of what is in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # relative to nothing
                module = resolve_name("." * node.level + (node.module or ""), package)
                yield module
                for alias in node.names:
                    yield from _all_of(module) if alias.name == "*" else (f"{module}.{alias.name}",)


def _all_of(module: str) -> list[str]:
    """The modules in a package: `from package import *` imports those in its `__all__`, which may be computed."""
    return [f"{module}.{found.name}" for found in pkgutil.iter_modules(_folders(module))]


# --- where a module is -----------------------------------------------------------------------------------------------


def _find(name: str) -> ModuleSpec | None:
    """Where a module is, without importing it or its packages; None if there is none."""
    if not all(map(str.isidentifier, name.split("."))):
        return None
    if "." in name and name not in sys.modules:
        return _find_in(_folders(name.rpartition(".")[0]), name)
    with suppress(ImportError, ValueError):  # ValueError: a module without a spec, such as the one of a notebook
        return find_spec(name)
    return None


def _folders(package: str) -> list[str]:
    """The folders in which the modules of a package are sought; none for a module that is not a package."""
    spec = _find(package)
    if spec is None:
        return []
    return list(getattr(sys.modules.get(package), "__path__", spec.submodule_search_locations or []))


def _find_in(folders: Iterable[str], name: str) -> ModuleSpec | None:
    """What `PathFinder` finds, which needs the parent of a namespace package to be imported."""
    portions: list[str] = []
    for folder in folders:
        finder = pkgutil.get_importer(folder)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec.submodule_search_locations or []) if spec is not None else []
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace if portions else None


def _is_own(spec: ModuleSpec) -> bool:
    """Whether a module has a file that is the user's own. What lies in an archive is not."""
    if not spec.has_location or spec.origin is None or spec.name.partition(".")[0] == PACKAGE:
        return False
    path = Path(spec.origin)  # not resolved: an installer may link the files of site-packages to its cache
    return not (INSTALLED & set(path.parts) or _is_standard(path)) and path.is_file()


def _is_standard(path: Path) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in _standard_library())


@cache
def _standard_library() -> list[Path]:
    return [Path(sysconfig.get_paths()[key]).resolve() for key in ("stdlib", "platstdlib")]

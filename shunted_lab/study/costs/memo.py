"""What this machine has computed before, so that a second command need not compute it again, nor import torch.

A value is kept under a digest of everything that it depends on, this package's code and the versions of Python and of
the libraries included. It is never out of date, and the folder `~/.cache/shunted_lab/memo` can be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import shunted_lab
from shunted_lab.data.cache import cache_folder
from shunted_lab.output.files import digest_of_values, write_json

LIBRARIES = ("torch", "timm")  # whose code computes the values


def remember(kind: str, depends_on: Any, compute: Callable[[], Any]) -> Any:
    """The value of `compute()`, from disk if it was computed before. An exception is not kept.

    Args:
        kind: what it is, e.g. `cost`; the name of a folder.
        depends_on: plain values; with another one of them the value would be another.
        compute: gives plain values, as JSON has them; not None.
    """
    known = recall(kind, depends_on)
    return keep(kind, depends_on, compute()) if known is None else known


def recall(kind: str, depends_on: Any) -> Any:
    """What was kept; None if nothing was, or if it cannot be read any more."""
    with suppress(OSError, ValueError):
        return json.loads(_path(kind, depends_on).read_text(encoding="utf-8"))
    return None


def keep(kind: str, depends_on: Any, value: Any) -> Any:
    """Keep a value and return it; a folder that cannot be written costs time only."""
    path = _path(kind, depends_on)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, value)
    return value


def _path(kind: str, depends_on: Any) -> Path:
    return cache_folder(None) / "memo" / kind / f"{digest_of_values([code_version(), depends_on])}.json"


@cache
def code_version() -> str:
    """A digest over the code, the templates and what these include, and the versions of what this package computes
    with.
    """
    package = Path(shunted_lab.__file__).parent
    found = hashlib.sha256(" ".join([platform.python_version(), *map(version, LIBRARIES)]).encode())
    kinds = (".py", ".html", ".css", ".js")
    for path in sorted(path for path in package.rglob("*") if path.suffix in kinds):
        found.update(f"{path.relative_to(package)}".encode() + path.read_bytes())
    return found.hexdigest()

"""Paths that a user writes. `~` is expanded here and nowhere else, before any part of the package sees the path."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_url(text: str) -> bool:
    """Whether fsspec reads it: a URL (`s3://bucket`), or a chain of file systems (`zip::s3://bucket`)."""
    return "://" in text or "::" in text


def expand(text: str) -> str:
    """A path with its `~` or `~user` replaced by the home folder; a URL stays as it is.

    A path that begins with `~` and is meant literally (`./~/runs`, or `~nobody` where there is no such user) becomes
    absolute: Lightning and fsspec expand the `~` of every path that they are given, and we do not.
    """
    if is_url(text):
        return text
    expanded = os.path.expanduser(text)
    return str(Path(expanded).absolute()) if os.path.normpath(expanded).startswith("~") else expanded


def resolve(text: str) -> str:
    """An expanded path, made absolute, so that it means the same in every working directory; a URL stays as it is."""
    return text if is_url(text) else str(Path(expand(text)).absolute())


def resolve_paths(config: Any) -> None:
    """Expand the paths of a composed configuration in place: the fields that were made by `schema.path_option`."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            resolve_paths(value)
        elif item.metadata.get("path") and isinstance(value, str):
            setattr(config, item.name, resolver(item)(value))


def resolver(item: dataclasses.Field[Any]) -> Callable[[str], str]:
    """What makes the value of a path's field: `resolve` where it is `absolute`, else `expand`."""
    return resolve if item.metadata["absolute"] else expand

"""The text of `--help`: the groups with their choices, and every key with its type, default and meaning."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from shunted_lab.config.overrides import groups_of, presets_of


def help_text(
    head: str, schema: type, listed: Sequence[str] = (), files: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The help text of a command.

    Args:
        head: what the command does, and examples.
        schema: its dataclass.
        listed: the groups whose keys are listed.
        files: keys whose choices are files -> the choices.
    """
    lines = [head.strip()]
    choices = dict(files or {}) | {name: list(presets_of(schema, name)) for name in groups_of(schema)}
    if choices:
        lines += ["", "groups (GROUP=CHOICE)", *(f"  {name:<12}{', '.join(found)}" for name, found in choices.items())]
    lines += ["", "keys (KEY=VALUE)", *_keys("", schema)]
    for name, section in _sections(schema):
        lines += ["", f"{name}.*", *_keys(f"{name}.", section)]
    for group in listed:
        presets = presets_of(schema, group)
        for each, names in _classes(presets).items():
            shown = next(name for name in names if presets[name] == each(name))
            defaults = f"; the defaults shown are those of {shown}" if len(names) > 1 else ""
            lines += ["", f"{group}.*  ({group}={'|'.join(names)}{defaults})", *_keys(f"{group}.", each)]
    return "\n".join(lines)


def _sections(schema: type) -> Iterator[tuple[str, type]]:
    """The options of a dataclass that are dataclasses themselves, without groups."""
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        parts = [hints[item.name], *get_args(hints[item.name])]
        found = [part for part in parts if dataclasses.is_dataclass(part)]
        if found and not item.metadata.get("group"):
            yield item.name, found[0]  # type: ignore[misc]


def _classes(presets: Mapping[str, Any]) -> dict[type, list[str]]:
    classes: dict[type, list[str]] = {}
    for name, preset in presets.items():
        classes.setdefault(type(preset), []).append(name)
    return classes


def _keys(prefix: str, schema: type) -> list[str]:
    types = get_type_hints(schema)
    lines = []
    for item in dataclasses.fields(schema):
        if "help" not in item.metadata:
            continue
        kind = item.metadata.get("type") or _type(types[item.name])
        lines.append(f"  {prefix + item.name}: {kind} = {_default(item)}")
        lines += textwrap.wrap(item.metadata["help"], 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return lines


def _type(hint: Any) -> str:
    """A type as a user reads it: the keys of a section are listed by themselves, and None is YAML's null."""
    if hint is Any:
        return "component"
    if hint is NoneType:
        return "null"
    if isinstance(hint, type) and get_origin(hint) is None:
        return "section" if dataclasses.is_dataclass(hint) else hint.__name__
    if isinstance(hint, UnionType):
        return " | ".join(_type(part) for part in get_args(hint))
    return str(hint).replace("typing.", "")


def _default(item: dataclasses.Field[Any]) -> str:
    value = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else "(needed)" if value == "???" else f"{value!r}" if value == "" else str(value)

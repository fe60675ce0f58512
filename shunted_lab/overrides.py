"""Overrides of the command line, `key=value`: which values are literal, and one line for those that Hydra cannot read.

Hydra's grammar gives a meaning to `=`, `,`, `(`, quotes and characters beyond ASCII. A key whose value is a path or a
name needs none of it: `literal` quotes such a value before Hydra reads it, so that it arrives as it was written.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from shunted_lab.config import PRESETS, ConfigError, unknown
from shunted_lab.paths import resolver
from shunted_lab.suggestions import no_such_key

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)  # what Hydra reads as one quoted value


@dataclass(frozen=True)
class Key:
    """What is known of a dotted key.

    Args:
        type: of its values, apart from null.
        nullable: whether null is one of them.
        literal: whether its value on the command line is text, without Hydra's grammar.
        resolve: what a path's value is replaced by; any other value stays.
    """

    type: Any
    nullable: bool = False
    literal: bool = False
    resolve: Callable[[str], str] = str


@lru_cache
def keys_of(schema: type) -> Mapping[str, Key]:
    """Every dotted key of a command's dataclass; those of a group are the keys of all its presets together."""
    found: dict[str, Key] = {}
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        nullable, hint = _optional(hints[item.name])
        if item.name == "defaults":
            assert callable(item.default_factory)
            groups = [group for entry in item.default_factory() if isinstance(entry, dict) for group in entry]
            names = [group for group in groups if group not in PRESETS]  # `experiment`: its choices are files
            found |= {name: Key(str, literal=True) for name in names}
            continue
        resolve = resolver(item) if item.metadata.get("path") else str
        found[item.name] = Key(hint, nullable, item.metadata.get("literal", False), resolve)
        if dataclasses.is_dataclass(hint):
            presets = PRESETS.get(item.name)
            classes: set[Any] = {type(preset) for preset in presets.values()} if presets else {hint}
            for each in classes:
                found |= {f"{item.name}.{name}": key for name, key in keys_of(each).items()}
    return found


def _optional(hint: Any) -> tuple[bool, Any]:
    """Whether None is a value of a type, and the type without it."""
    if get_origin(hint) not in (Union, UnionType):
        return hint is Any, hint
    rest = [part for part in get_args(hint) if part is not NoneType]
    return len(rest) < len(get_args(hint)), rest[0] if len(rest) == 1 else Any


def literal(overrides: Sequence[str], schema: type) -> list[str]:
    """The overrides with every literal value in quotes; others, and those that are quoted already, are left alone.

    `null` stays null where the key has it, and OmegaConf still resolves `${...}`.
    """
    keys = keys_of(schema)
    return [_literal(text, keys) for text in overrides]


def _literal(text: str, keys: Mapping[str, Key]) -> str:
    name, equals, value = text.partition("=")
    key = keys.get(name)
    if not equals or key is None or not key.literal or QUOTED.fullmatch(value):
        return text
    if key.nullable and value.lower() == "null":
        return text
    return f"{name}={QuotedString(value, Quote.single).with_quotes()}"


def choices(overrides: Sequence[str], schema: type) -> dict[str, str]:
    """Key -> value as text, of overrides that `literal` has been through. Groups must name a preset.

    Raises:
        ConfigError: for an override that is malformed, that asks for several values, or whose key the command lacks.
    """
    chosen: dict[str, str] = {}
    keys = keys_of(schema)
    for text in overrides:
        override = _parsed(text, keys)
        name, value = override.key_or_group, _text(override)
        if not _is_known(name, keys):
            raise no_such_key(name, list(keys))
        if _is_scalar_for_list(override, keys.get(name)):
            raise _not_a_list(name, value)
        if name in PRESETS and value not in PRESETS[name]:
            raise unknown(name, value, PRESETS[name])
        chosen[name] = value
    return chosen


def _is_known(name: str, keys: Mapping[str, Key]) -> bool:
    """Whether a command has a key: one of its own, an element of a list, or an entry of a mapping."""
    if name in keys:
        return True
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(keys[key].type is Any or get_origin(keys[key].type) in (list, dict) for key in parents if key in keys)


def _parsed(text: str, keys: Mapping[str, Key]) -> Override:
    name, equals, value = text.partition("=")
    if name.startswith("-"):
        known = name.lstrip("-").replace("-", "_")
        raise no_such_key(name, list(keys)) if known not in keys else _not_an_option(text, known)
    if equals and (not name or "@" in name):
        raise ConfigError(f"'{text}' is not of the form key=value, e.g. seeds=[0,1,2]")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        if equals and re.fullmatch(r"[\w.]+", name) and _takes_text(keys.get(name)):
            raise _unquoted(name, value) from None
        raise ConfigError(f"'{text}' is not of the form key=value, e.g. seeds=[0,1,2] ({reason})") from None
    if override.is_add() or override.is_delete() or override.is_force_add():
        raise ConfigError(f"'{text}': keys cannot be added or deleted; write key=value")
    if override.is_sweep_override():
        raise _sweep(name, value, keys.get(name))
    if name in keys and _takes_text(keys[name]) and isinstance(override.value(), list | dict):
        raise _unquoted(name, value)
    return override


def _not_an_option(text: str, key: str) -> ConfigError:
    return ConfigError(f"'{text}' is not of the form key=value; write {key}=...")


def _takes_text(key: Key | None) -> bool:
    return key is None or key.type is str


def _sweep(name: str, value: str, key: Key | None) -> ConfigError:
    """The error for what Hydra reads as several values."""
    if name not in PRESETS and _takes_text(key):
        return _unquoted(name, value)
    if key is not None and (get_origin(key.type) is list or key.type is Any):
        return _not_a_list(name, value)
    return ConfigError(
        f"{name}: '{value}' is a sweep, which is not supported; vary {name} in the experiment's variants"
    )


def _is_scalar_for_list(override: Override, key: Key | None) -> bool:
    """Whether one value is given where a list is needed; OmegaConf resolves `${...}`, and refuses null."""
    value = override.value()
    is_scalar = isinstance(value, int | float | str) and not str(value).startswith("${")
    return is_scalar and key is not None and get_origin(key.type) is list


def _not_a_list(name: str, value: str) -> ConfigError:
    shown = f"{name}: '{value}' is not a list; in a shell: {shlex.quote(f'{name}=[{value}]')}"
    if name == "seeds" and value.isdigit() and 1 < int(value) <= 20:  # a number of seeds, more likely than one seed
        several = shlex.quote(f"seeds=[{','.join(map(str, range(int(value))))}]")
        shown += f", or for {value} seeds: {several}"
    return ConfigError(shown)


def _unquoted(name: str, value: str) -> ConfigError:
    """The error for a text that Hydra's grammar reads as something else, with the override as a shell takes it."""
    quoted = shlex.quote(f"{name}={QuotedString(value, Quote.double).with_quotes()}")
    return ConfigError(f"{name}: '{value}' must be quoted; in a shell: {quoted}")


def _text(override: Override) -> str:
    value = override.value()
    return value if isinstance(value, str) else override.get_value_element_as_str()

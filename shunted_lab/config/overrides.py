"""Overrides of the command line, `key=value`: which keys a command has, and how the text of a value is read.

A value of a key that takes text (a path, a name, a URL) is that text. Any other value is read as YAML: a number,
`true`, `null`, a list `[0,1,2]`, a mapping `{name: msa}`. Text in quotes is taken without them.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import yaml

from shunted_lab.config.groups import PRESETS
from shunted_lab.config.paths import resolver
from shunted_lab.config.schema import ConfigError, unknown
from shunted_lab.config.suggestions import no_such_key

QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
}
FORM = "is not of the form key=value, e.g. seeds=[0,1,2]"


class ValueLoader(yaml.SafeLoader):
    """YAML whose plain scalars are null, true, false, numbers (also `1e-3`), and text otherwise: `on` is text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


for kind, pattern, first in (
    ("null", r"(?:null|~|)", ["n", "N", "~", ""]),
    ("bool", r"(?:true|false)", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?", "-+.0123456789"),
):
    ValueLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"(?i:{pattern})$"), list(first))


@dataclass(frozen=True)
class Key:
    """What is known of a dotted key.

    Args:
        type: of its values, apart from null.
        nullable: whether null is one of them.
        resolve: what a path's value is replaced by; any other value stays.
    """

    type: Any
    nullable: bool = False
    resolve: Callable[[str], str] = str

    @property
    def is_text(self) -> bool:
        """Whether a value is taken as it is written."""
        return self.type is str

    @property
    def is_section(self) -> bool:
        """Whether it has keys of its own, and no value."""
        return dataclasses.is_dataclass(self.type)


def groups_of(schema: type) -> dict[str, str | None]:
    """The groups of a command's dataclass -> the preset that is taken where none is chosen (see `schema.group`)."""
    return {f.name: f.metadata["choice"] for f in dataclasses.fields(schema) if f.metadata.get("group")}


def presets_of(schema: type, group: str) -> Mapping[str, Any]:
    """The presets of a group that can be chosen for a command."""
    listed = next(f.metadata["choices"] for f in dataclasses.fields(schema) if f.name == group)
    return {name: PRESETS[group][name] for name in listed} if listed else PRESETS[group]


def keys_of(schema: Any, chosen: Mapping[str, str] | None = None) -> Mapping[str, Key]:
    """Every dotted key of a command's dataclass; those of a group are the keys of all its presets together.

    Args:
        chosen: group -> what is chosen for it; the keys of classes that are not registered are added.
    """
    keys = dict(_keys_of(schema))
    for name, choice in (chosen or {}).items():
        if name in PRESETS and choice not in list(PRESETS[name]) and choice in PRESETS[name]:
            keys |= {f"{name}.{key}": found for key, found in _keys_of(type(PRESETS[name][choice])).items()}  # type: ignore[arg-type]
    return keys


@lru_cache
def _keys_of(schema: Any) -> Mapping[str, Key]:
    assert isinstance(schema, type) and dataclasses.is_dataclass(schema)
    found = {name: Key(str) for name in getattr(schema, "selects", ())}
    hints = get_type_hints(schema)
    for item in dataclasses.fields(schema):
        if not item.metadata:  # the name of a data set's class
            continue
        nullable, hint = _optional(hints[item.name])
        found[item.name] = Key(hint, nullable, resolver(item) if item.metadata.get("path") else str)
        if dataclasses.is_dataclass(hint):
            is_group = item.metadata.get("group")
            classes = {type(preset) for preset in presets_of(schema, item.name).values()} if is_group else {hint}
            for each in classes:
                found |= {f"{item.name}.{name}": key for name, key in keys_of(each).items()}
    return found


def _optional(hint: Any) -> tuple[bool, Any]:
    """Whether None is a value of a type, and the type without it."""
    if get_origin(hint) not in (Union, UnionType):
        return hint is Any, hint
    rest = [part for part in get_args(hint) if part is not NoneType]
    return len(rest) < len(get_args(hint)), rest[0] if len(rest) == 1 else Any


def parse(overrides: Sequence[str], schema: type, groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Key -> value of the overrides of a command; of a key that is given twice, the last value.

    Args:
        groups: the presets that are chosen elsewhere, as in the experiment's file.

    Raises:
        ConfigError: for an override that is not `key=value`, a key that the command does not have, a preset that does
            not exist, and a value that cannot be read, or is not a list where the key takes one.
    """
    pairs = [_split(text) for text in overrides]
    chosen = {name: _unquoted(value) for name, value in pairs if name in groups_of(schema)}
    for name, value in chosen.items():
        _check_preset(name, value, presets_of(schema, name))
    keys = keys_of(schema, dict(groups or {}) | chosen)
    return {name: _value(name, text, keys) for name, text in pairs}


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if name[:1] in ("+", "~"):
        raise ConfigError(f"'{text}': keys cannot be added or deleted; write key=value")
    if name.startswith("-") or (equals and re.fullmatch(r"[\w.\[\]-]+", name)):
        return name, value
    raise ConfigError(f"'{text}' {FORM}")


def _check_preset(name: str, value: str, presets: Mapping[str, Any]) -> None:
    if value in presets:
        return
    if "," in value:
        raise _several(name, value)
    raise unknown(name, value, presets)


def _value(name: str, text: str, keys: Mapping[str, Key]) -> Any:
    key = keys.get(name)
    if key is None and not _is_entry(name, keys):
        option = name.lstrip("-").replace("-", "_")
        if name.startswith("-") and option in keys:
            raise ConfigError(f"'{name}={text}' is not of the form key=value; write {option}=...")
        raise no_such_key(name, list(keys))
    if name in PRESETS and key is not None and key.is_section:
        return _unquoted(text)
    if key is not None and key.is_text:
        return None if key.nullable and text.lower() == "null" else _unquoted(text)
    value = _read(name, text)
    if key is None:
        return value
    takes_list = get_origin(key.type) is list or (name == "seeds" and not isinstance(value, dict))
    if takes_list and not isinstance(value, list) and not _is_interpolation(value):
        raise _not_a_list(name, text)
    if isinstance(value, str) and "," in value:
        raise _several(name, text) if key.type in SCALARS else _not_a_list(name, text)
    _check_scalar(name, value, text, key)
    return value


def _check_scalar(name: str, value: Any, text: str, key: Key) -> None:
    """Refuse a value that is not of the type of its key, where that is a number or a truth value."""
    if key.type not in SCALARS or _is_interpolation(value) or (value is None and key.nullable):
        return
    allowed, article = SCALARS[key.type]
    if not isinstance(value, allowed) or (isinstance(value, bool) and key.type is not bool):
        raise ConfigError(f"{name}: '{text}' is not {article}")


def _is_entry(name: str, keys: Mapping[str, Key]) -> bool:
    """Whether a key is an element of a list, or an entry of a mapping, that a command has."""
    parts = name.split(".")
    parents = [".".join(parts[:count]) for count in range(1, len(parts))]
    return any(keys[key].type is Any or get_origin(keys[key].type) in (list, dict) for key in parents if key in keys)


def _read(name: str, text: str) -> Any:
    """The value that a text is as YAML."""
    if QUOTED.fullmatch(text):
        return _unquoted(text)
    try:
        value = yaml.load(text, ValueLoader)
    except yaml.YAMLError as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{name}: '{text}' cannot be read as a value ({reason}), e.g. seeds=[0,1,2]") from None
    if isinstance(value, dict) and any(inner is None and ":" in str(entry) for entry, inner in value.items()):
        spaced = re.sub(r":(?=[^\s/])", ": ", text)
        raise ConfigError(f"{name}: '{text}' has no space after a colon; in a shell: {shlex.quote(f'{name}={spaced}')}")
    return text if isinstance(value, str) else value


def _unquoted(text: str) -> str:
    if not QUOTED.fullmatch(text):
        return text
    return re.sub(r"\\(.)", lambda found: found[1] if found[1] in "\\'\"" else found[0], text[1:-1])


def _is_interpolation(value: Any) -> bool:
    """Whether OmegaConf resolves it: `${oc.env:HOME}`."""
    return isinstance(value, str) and value.startswith("${")


def _several(name: str, value: str) -> ConfigError:
    return ConfigError(f"{name}: '{value}' has several values; vary {name} in the experiment's variants")


def _not_a_list(name: str, value: str) -> ConfigError:
    shown = f"{name}: '{value}' is not a list; in a shell: {shlex.quote(f'{name}=[{value}]')}"
    if name == "seeds" and value.isdigit() and 1 < int(value) <= 20:  # a number of seeds, more likely than one seed
        several = shlex.quote(f"seeds=[{','.join(map(str, range(int(value))))}]")
        shown += f", or for {value} seeds: {several}"
    return ConfigError(shown)

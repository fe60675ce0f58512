"""What every configuration dataclass is written with: options with their help, and checks that answer in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import field, fields
from typing import Any

from omegaconf import MISSING


class ConfigError(ValueError):
    """What the user asked for cannot be done. The message is one line: key, value and what would be allowed."""

    def __init__(self, message: str):
        # Out of a loader's process torch hands an error on as its type and the text of its whole traceback.
        if "\nOriginal Traceback " in message:
            message = message.strip().rpartition(f"{type(self).__name__}: ")[2]
        super().__init__(message)


def nearest(value: object, choices: Iterable[object]) -> str:
    """`did you mean 'x'? choices: x, y` for a `value` that is none of `choices`."""
    names = sorted(str(c) for c in choices)
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"choices: {', '.join(names)}"


def unknown(what: str, value: object, choices: Iterable[object]) -> ConfigError:
    """The error for a `value` of the key `what` that is none of `choices`."""
    return ConfigError(f"{what}: '{value}' is not known; {nearest(value, choices)}")


def option(default: Any, help: str, *, affects_result: bool = True, **metadata: Any) -> Any:
    """A field with its line of help.

    Args:
        affects_result: False for what cannot change the numbers of a run: it is left out of the fingerprint.
        metadata: `type="int | auto"` is shown in `--help` in place of the annotation.
    """
    metadata |= {"help": help, "affects_result": affects_result}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def path_option(default: Any, help: str, *, affects_result: bool = True, absolute: bool = False) -> Any:
    """A field that is a path, in which `~` is expanded.

    Args:
        absolute: make it absolute, for a path that is read later, by processes with other working directories.
    """
    return option(default, help, affects_result=affects_result, path=True, absolute=absolute)


def group(default: str | None, choices: Sequence[str] = ()) -> Any:
    """A field whose value is a preset, chosen by its name: `model=shunted_s` (see `config.groups`).

    Args:
        default: the preset that is taken where none is chosen; None is the task that suits the data.
        choices: the presets that can be chosen; none of them means all.
    """
    return field(default=MISSING, metadata={"group": True, "choice": default, "choices": tuple(choices)})


def section(schema: type) -> Any:
    """A field whose value is a dataclass of its own, with the keys `section.key`."""
    return field(default_factory=schema, metadata={"section": True})


def affecting_result(config: Any) -> list[str]:
    """The names of the options of a configuration that can change the numbers of a run."""
    return [item.name for item in fields(config) if item.metadata.get("affects_result", True)]


def require(ok: bool, key: str, value: object, rule: str) -> None:
    """Refuse the value of a key unless `ok`: the message is `KEY: VALUE RULE`.

    Raises:
        ConfigError: if not `ok`.
    """
    if not ok:
        raise ConfigError(f"{key}: {value} {rule}")


def at_least(low: float, prefix: str, config: object, *names: str) -> None:
    """Refuse options below `low`; `names` are attributes of `config` and, after `prefix`, their keys.

    Raises:
        ConfigError: for the first value that is too small.
    """
    for name in names:
        value = getattr(config, name)
        require(value >= low, f"{prefix}.{name}", value, f"is too small: at least {low:g}")


def fractions(prefix: str, config: object, *names: str) -> None:
    """Refuse options outside of [0, 1]; `names` as in `at_least`.

    Raises:
        ConfigError: for the first value that is not a fraction.
    """
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{prefix}.{name}", value, "is not between 0 and 1")


def height_width(key: str, size: object) -> tuple[int, int]:
    """Height and width in pixels of `224` or `800x1333`.

    Raises:
        ConfigError: for a size of another form.
    """
    if not re.fullmatch(r"\d+(x\d+)?", str(size)):
        raise ConfigError(f"{key}: '{size}' is not a size; write one number, or height x width, e.g. 224 or 800x1333")
    height, _, width = str(size).partition("x")
    return int(height), int(width or height)


def one_of(key: str, value: object, choices: Iterable[object]) -> None:
    """Refuse a value that is none of `choices`, of which None is not named in the error.

    Raises:
        ConfigError: with the choices and the nearest of them.
    """
    choices = list(choices)
    if value not in choices:
        raise unknown(key, value, [choice for choice in choices if choice is not None])

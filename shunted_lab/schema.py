"""What every configuration dataclass is written with: options with their help, and checks that answer in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import field
from typing import Any


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


def option(default: Any, help: str, *, result: bool = True, **metadata: Any) -> Any:
    """A field with its line of help.

    Args:
        result: False for what cannot change the outcome of a run (see `fingerprint`).
        metadata: `literal=True`: on the command line the value is text, without Hydra's grammar (see `overrides`).
    """
    metadata |= {"help": help, "result": result}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def path_option(default: Any, help: str, *, result: bool = True, absolute: bool = False) -> Any:
    """A field that is a path: `~` is expanded, and it is literal on the command line.

    Args:
        absolute: make it absolute, for a path that is read later, by processes with other working directories.
    """
    return option(default, help, result=result, literal=True, path=True, absolute=absolute)


def require(ok: bool, key: str, value: object, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{key}: {value} {rule}")


def at_least(low: float, prefix: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value >= low, f"{prefix}.{name}", value, f"is too small: at least {low:g}")


def fractions(prefix: str, config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value <= 1, f"{prefix}.{name}", value, "is not between 0 and 1")

"""Registries of interchangeable components: a name in a configuration is a row of a table.

To look a component up, import the registries from `components`, which has those of this package registered.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from torch import nn

C = TypeVar("C", bound=Callable[..., nn.Module])
Spec = str | Mapping[str, Any]
"""Which component: a registered name, the dotted path of a class, or a mapping `{name: ..., option: value}`."""


FIXED = ("dim", "embed_dim", "in_chans")  # widths, which follow from a component's place


class ComponentError(ValueError):
    """A component that is not known, or that cannot be built from what it was given."""


class RatesError(ComponentError):
    """Rates that an attention cannot have.

    Args:
        message: begins with `rates: `.
        allowed: rates of the same stage that it can have.

    `stage` is set by the pyramid, counted from 0.
    """

    stage: int | None = None

    def __init__(self, message: str, allowed: list[int]):
        super().__init__(message)
        self.allowed = allowed


class Registry:
    """Name -> class (or function) that builds one kind of component, e.g. `ATTENTION`."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Callable[..., nn.Module]] = {}

    def register(self, name: str) -> Callable[[C], C]:
        """Decorator: `@ATTENTION.register("ssa")`. Raises ComponentError if the name is taken."""

        def add(entry: C) -> C:
            if name in self._entries:
                raise ComponentError(f"{self.kind}: '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        return sorted(self._entries)

    def find(self, name: str) -> Callable[..., nn.Module]:
        """The entry of a registered name, or what stands at a dotted path, e.g. `my_package.blocks.WindowAttention`.

        Raises:
            ComponentError: if there is none; the message names the choices and the nearest.
        """
        if name in self._entries:
            return self._entries[name]
        if "." in name:
            return self._import(name)
        raise ComponentError(f"{self.kind}: '{name}' is not known; {_nearest(name, self.names())}")

    def accepts(self, spec: Spec, parameter: str) -> bool:
        """Whether the component takes an argument of this name."""
        parameters = inspect.signature(self.find(split_spec(self.kind, spec)[0])).parameters
        return parameter in parameters or _takes_any(parameters.values())

    def build(self, spec: Spec, **context: Any) -> nn.Module:
        """Build a component from those parts of the `context` that its signature names, and from its own options.

        An option wins over a part of the context of the same name.

        Raises:
            ComponentError: for an unknown name or option, or an argument that the component needs and nobody gives.
        """
        name, options = split_spec(self.kind, spec)
        entry = self.find(name)
        parameters = inspect.signature(entry).parameters
        used = context
        if fixed := [option for option in options if option in FIXED and option in context]:
            raise ComponentError(f"{self.kind}: '{fixed[0]}' is not an option of '{name}'; the model's widths set it")
        if not _takes_any(parameters.values()):
            for option in options:
                if option not in parameters:
                    hint = _nearest(option, parameters)
                    raise ComponentError(f"{self.kind}: '{option}' is not an option of '{name}'; {hint}")
            used = {key: value for key, value in context.items() if key in parameters}
        given = used | options
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind not in variadic]
        if missing := [key for key in needed if key not in given]:
            raise ComponentError(
                f"{self.kind}: '{name}' needs {', '.join(missing)}; there is {', '.join(context | options)}"
            )
        try:
            built = entry(**given)
        except ComponentError:
            raise
        except Exception as error:
            error.add_note(f"raised while building {self.kind} '{name}'")
            raise
        if not isinstance(built, nn.Module):
            raise ComponentError(f"{self.kind}: '{name}' builds a {type(built).__name__}, not an nn.Module")
        return built

    def _import(self, path: str) -> Callable[..., nn.Module]:
        where, _, attribute = path.rpartition(".")
        module = import_module(where, f"{self.kind}: '{path}'")
        if not hasattr(module, attribute):
            names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            raise ComponentError(f"{self.kind}: '{path}': no '{attribute}' in {where}; {_nearest(attribute, names)}")
        entry = getattr(module, attribute)
        if not callable(entry):
            raise ComponentError(f"{self.kind}: '{path}' is a {type(entry).__name__}, not a class or function")
        return entry


def import_module(name: str, where: str) -> Any:
    """Import a user's module; where it is missing, the message begins with `where`. Errors inside it are left alone."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the user's module was found; something that it imports was not
        raise ComponentError(
            f"{where}: module '{error.name}' is neither in the working directory nor installed"
        ) from None


def split_spec(kind: str, spec: Spec) -> tuple[str, dict[str, Any]]:
    """A spec as its name and its options."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ComponentError(
            f"{kind}: {spec!r} is neither a name nor a mapping with a name: {{name: ..., option: ...}}"
        )
    return spec["name"], {str(key): value for key, value in spec.items() if key != "name"}


def _takes_any(parameters: Iterable[inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters)


def _nearest(name: str, choices: Iterable[str]) -> str:
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + f"choices: {', '.join(choices)}"


ATTENTION = Registry("attn")
AGGREGATION = Registry("aggregation")
PATCH_EMBED = Registry("patch_embed")
DOWNSAMPLE = Registry("downsample")
MLP = Registry("mlp")
HEAD = Registry("head")  # of semantic segmentation (`segmentation.heads`)
DETECTOR = Registry("head")  # of object detection (`detection.heads`)

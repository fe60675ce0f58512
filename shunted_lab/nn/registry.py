"""Registries of interchangeable components: a name in a configuration is a row of a table."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

C = TypeVar("C", bound=Callable[..., nn.Module])


class ComponentError(ValueError):
    """A component that is not known, or that cannot be built from what it was given."""


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

    def build(self, name: str, **context: Any) -> nn.Module:
        """Build an entry from those parts of the `context` that its signature names.

        Raises:
            ComponentError: for an unknown name, or an argument that the entry needs and the context lacks.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ComponentError(f"{self.kind}: '{name}' is not known; {hint}choices: {', '.join(self.names())}")
        parameters = inspect.signature(self._entries[name]).parameters.values()
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        if missing := [p for p in needed if p not in context]:
            raise ComponentError(f"{self.kind}: '{name}' needs {', '.join(missing)}; there is {', '.join(context)}")
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return self._entries[name](**context)
        return self._entries[name](**{p.name: context[p.name] for p in parameters if p.name in context})


ATTENTION = Registry("attn")
AGGREGATION = Registry("aggregation")
PATCH_EMBED = Registry("patch_embed")
DOWNSAMPLE = Registry("downsample")
MLP = Registry("mlp")

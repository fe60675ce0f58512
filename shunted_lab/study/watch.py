"""Who hears what workers do: the live screen, or lines of text. Importing this is instant."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from shunted_lab.study.folder import Run
from shunted_lab.tasks.listener import Status


@dataclass(frozen=True)
class Title:
    """What a run is called on a screen."""

    variant: str
    seed: int
    epochs: int

    def __str__(self) -> str:
        return f"{self.variant}, seed {self.seed}"


def title_of(run: Run) -> Title:
    return Title(run.variant, run.seed, run.config.recipe.epochs)


class Watch(Protocol):
    """Hears what the workers of a machine do, each by the index of its slot; `report.progress` has one. It is entered
    while they work.

    `outcome` is `done`, `failed`, `died`, `pruned` or `stopped`; `reason` is an error in one line.
    """

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...
    def started(self, slot: int, title: Title) -> None: ...
    def step(self, slot: int, status: Status) -> None: ...
    def epoch(self, slot: int, epoch: int, metrics: dict[str, float]) -> None: ...
    def ended(self, slot: int, outcome: str, result: dict[str, Any] | None, reason: str = "") -> None: ...
    def note(self, text: str) -> None: ...
    def refresh(self) -> None: ...


class PipeWatch:
    """Passes on what a worker does to the process that has started it (`engines.local`)."""

    def __init__(self, connection: Connection):
        self.connection = connection

    def __enter__(self) -> PipeWatch:
        return self

    def __exit__(self, *error: Any) -> None:
        """The other process has the screen."""

    def _send(self, kind: str, *values: Any) -> None:
        with suppress(OSError):  # it is gone: the worker notices by itself
            self.connection.send((kind, *values))

    def started(self, slot: int, title: Title) -> None:
        self._send("started", slot, title)

    def step(self, slot: int, status: Status) -> None:
        self._send("step", slot, status)

    def epoch(self, slot: int, epoch: int, metrics: dict[str, float]) -> None:
        self._send("epoch", slot, epoch, metrics)

    def ended(self, slot: int, outcome: str, result: dict[str, Any] | None, reason: str = "") -> None:
        self._send("ended", slot, outcome, result, reason)

    def note(self, text: str) -> None:
        self._send("note", text)

    def refused(self, text: str) -> None:
        """Nothing can be trained, e.g. for a full disk."""
        self._send("refused", text)

    def refresh(self) -> None:
        """The other process has the screen."""


class Quiet:
    """Hears everything and says nothing; `failures` keeps why runs have failed."""

    def __init__(self) -> None:
        self.failures: list[str] = []

    def __enter__(self) -> Quiet:
        return self

    def __exit__(self, *error: Any) -> None: ...
    def started(self, slot: int, title: Title) -> None: ...
    def step(self, slot: int, status: Status) -> None: ...
    def epoch(self, slot: int, epoch: int, metrics: dict[str, float]) -> None: ...

    def ended(self, slot: int, outcome: str, result: dict[str, Any] | None, reason: str = "") -> None:
        self.failures += [reason] if reason else []

    def note(self, text: str) -> None: ...
    def refresh(self) -> None: ...

"""What a worker does while its database does not answer: it waits, and the run that it watches trains on."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import duration
from shunted_lab.study.storage import AWAY

R = TypeVar("R")
PATIENCE = 3600.0  # seconds that a worker waits for its database
PAUSES = (1, 2, 4, 8, 15)  # seconds between two tries


class Waiting(Protocol):
    """Whose methods are tried again; `stopping` gives up."""

    stopping: Callable[[], bool]

    def database_was_away(self, error: Exception) -> None:
        """Told of each try that failed."""

    def database_answers(self) -> None:
        """Told of each that did not."""


def patient(call: Callable[..., R]) -> Callable[..., R]:
    """Try again while the database does not answer, up to `PATIENCE`; training goes on meanwhile."""

    @wraps(call)
    def again(self: Waiting, *args: Any, **kwargs: Any) -> R:
        start, pauses = time.monotonic(), list(PAUSES)
        while True:
            try:
                found = call(self, *args, **kwargs)
                self.database_answers()
                return found
            except AWAY as error:
                self.database_was_away(error)
                if (away := time.monotonic() - start) > PATIENCE or self.stopping():
                    raise ConfigError(
                        f"study.storage: the database has not answered for {duration(away)}; results are in their "
                        "folders, and the same command resumes"
                    ) from None
                time.sleep(pauses.pop(0) if len(pauses) > 1 else pauses[0])

    return again

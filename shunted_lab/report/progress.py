"""What a launcher does, on the screen: a live table in a terminal, a line for each finished run elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from shunted_lab.study.queue import Job
from shunted_lab.terminal import say


class Progress:
    """Follows `total` runs on `slots` workers; to be used in a `with` statement.

    Args:
        console: where to.
        total: runs that may be trained.
        slots: workers.
        metric: which metric of an epoch is shown.
    """

    def __init__(self, console: Console, total: int, slots: int, metric: str):
        self.console = console
        self.total = total
        self.slots = slots
        self.metric = metric
        self.counts = {"done": 0, "failed": 0, "died": 0, "pruned": 0, "stopped": 0}
        self._seconds: list[float] = []
        self._rows: dict[int, tuple[Job, float, str]] = {}  # slot -> job, its start, its last epoch
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal and self.total:
            # Without a thread of its own: the launcher starts processes.
            self._live = Live(self._screen(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, slot: int, job: Job) -> None:
        self._rows[slot] = (job, time.monotonic(), "")

    def epoch(self, slot: int, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        value = f", {self.metric} {metrics[self.metric]:.4f}" if self.metric in metrics else ""
        self._rows[slot] = (*self._rows[slot][:2], f"epoch {epoch + 1} of {job.run.config.recipe.epochs}{value}")

    def ended(self, slot: int, job: Job, outcome: str, result: dict[str, Any] | None) -> None:
        """One line that stays."""
        self._rows.pop(slot, None)
        self.counts[outcome if outcome in self.counts else "died"] += 1
        said = [outcome]
        if result is not None:
            self._seconds.append(result["seconds"])
            said = [f"{self.metric} {result['metrics'][self.metric]:.4f}", f"{result['seconds']:.0f} s"]
        count = sum(self.counts[key] for key in ("done", "failed", "pruned"))
        line = ", ".join([*said, *time_left(self._seconds, self.total - count, self.slots)])
        text = f"[{count}/{self.total}] {job.run.variant}, seed {job.run.seed}: {line}"
        say(self.console, text)

    def refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._screen(), refresh=True)

    def _screen(self) -> Group:
        bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        count = self.counts["done"] + self.counts["failed"] + self.counts["pruned"]
        words = [f"{number} {name}" for name, number in self.counts.items() if number]
        words += time_left(self._seconds, self.total - count, self.slots)
        bar.add_task(", ".join(words) or "starting", total=self.total, completed=count)
        table = Table(box=None, header_style="dim")
        for name in ("worker", "variant", "seed", "now", "for"):
            table.add_column(name, overflow="fold", no_wrap=name not in ("variant", "now"))
        for slot, (job, start, said) in sorted(self._rows.items()):
            cells = (str(slot), job.run.variant, str(job.run.seed), said, f"{time.monotonic() - start:.0f} s")
            table.add_row(*cells)
        return Group(bar, table)


def time_left(seconds: list[float], left: int, slots: int = 1) -> list[str]:
    """How long `left` runs may take, by the `seconds` of those that are done; nothing where that cannot be said."""
    if left <= 0 or not seconds:
        return []
    return [f"about {left * sum(seconds) / len(seconds) / slots / 60:.1f} min left"]

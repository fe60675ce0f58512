"""What workers do while they train: a live table in a terminal; elsewhere a line per epoch, and at least every 30 s."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from shunted_lab.config.task import Goal
from shunted_lab.output.quantities import duration, value_text
from shunted_lab.output.terminal import say
from shunted_lab.study.watch import Title
from shunted_lab.tasks.listener import Status

EVERY = 30.0  # seconds without a word of a worker, at most


@dataclass
class Training:
    """A run on a worker: when it began, what it said last, and when it was last spoken of."""

    title: Title
    start: float
    said: float
    status: Status | None = None
    first: tuple[float, float] | None = None  # when the first status came, and what was done then
    metric: str = ""

    def hear(self, status: Status, now: float) -> None:
        self.status = status
        if self.first is None:
            self.first = now, status.done

    def left(self, now: float) -> float | None:
        """Seconds left by the speed of the training so far; None before that can be said."""
        if self.status is None or self.first is None:
            return None
        begin, done = self.first
        if self.status.done <= done:
            return None
        return (now - begin) / (self.status.done - done) * (1 - self.status.done)


class Progress:
    """Follows runs on workers; to be used in a `with` statement.

    Args:
        console: where to.
        variants: the variant of each run that may be trained.
        slots: workers.
        goal: names the metric of an epoch that is shown.
        expected: variant -> seconds of a run, as far as the plan knows.
        clock: seconds.
    """

    def __init__(
        self,
        console: Console,
        variants: Sequence[str],
        slots: int,
        goal: Goal,
        expected: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.console = console
        self.waiting = Counter(variants)
        self.total = len(variants)
        self.slots = slots
        self.goal = goal
        self.expected = dict(expected or {})
        self.clock = clock
        self.counts = {"done": 0, "failed": 0, "died": 0, "pruned": 0, "stopped": 0}
        self._seconds: dict[str, list[float]] = {}  # of the runs that are done, by variant
        self._runs: dict[int, Training] = {}
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal and self.total:
            # Without a thread of its own: this process starts workers.
            self._live = Live(self._screen(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, slot: int, title: Title) -> None:
        now = self.clock()
        self._runs[slot] = Training(title, now, now)
        name = title.variant if self.waiting[title.variant] else next(iter(self.waiting.elements()), "")
        self.waiting[name] -= 1  # a search's points have names of their own

    def step(self, slot: int, status: Status) -> None:
        self._runs[slot].hear(status, self.clock())

    def epoch(self, slot: int, epoch: int, metrics: dict[str, float]) -> None:
        run = self._runs[slot]
        key = self.goal.monitor
        if key in metrics:
            run.metric = f"{key} {value_text(metrics[key], self.goal.leading.unit)}"
        self._say(run, [f"epoch {epoch + 1} of {run.title.epochs} done"])

    def ended(self, slot: int, outcome: str, result: dict[str, Any] | None, reason: str = "") -> None:
        """One line that stays."""
        title = self._runs.pop(slot).title
        self.counts[outcome] += 1
        if outcome in ("died", "stopped"):
            self.waiting[title.variant] += 1  # it is tried again
        words = [reason] if outcome == "died" else [outcome, *([reason] if reason else [])]
        if result is not None:
            self._seconds.setdefault(title.variant, []).append(result["seconds"])
            key = self.goal.monitor
            value = value_text(result["metrics"][key], self.goal.leading.unit)
            words = [f"{key} {value}", duration(result["seconds"])]
        self.note(f"[{self._finished()}/{self.total}] {title}: {'; '.join([*words, *self.study_left()])}")

    def note(self, text: str) -> None:
        """A line that stays."""
        say(self.console, text)

    def refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._screen(), refresh=True)
            return
        now = self.clock()
        for run in self._runs.values():
            if now - run.said >= EVERY:
                self._say(run, [_place(run.status) if run.status else f"starting since {duration(now - run.start)}"])

    def study_left(self) -> list[str]:
        """How long all runs that are left will take, as far as that can be said."""
        now = self.clock()
        running = [self._left(run, now) for run in self._runs.values()]
        waiting = [(count, self._run_time(name, now)) for name, count in self.waiting.items() if count > 0]
        if None in running or any(seconds is None for _, seconds in waiting) or not (running or waiting):
            return []
        known = [seconds for seconds in running if seconds is not None]
        queued = sum(count * (seconds or 0.0) for count, seconds in waiting)
        return [f"study: {duration(max([*known, (sum(known) + queued) / self.slots]))} left"]

    def _left(self, run: Training, now: float) -> float | None:
        left = run.left(now)
        if left is None and (expected := self._expected(run.title.variant)) is not None:
            left = max(0.0, expected - (now - run.start))
        return left

    def _expected(self, variant: str) -> float | None:
        """Seconds of a run as the plan says: of its variant, or of the others."""
        if variant in self.expected or not self.expected:
            return self.expected.get(variant)
        return sum(self.expected.values()) / len(self.expected)

    def _run_time(self, variant: str, now: float) -> float | None:
        """Seconds of a run that has not begun: by runs of the variant, else as the plan says, else by any run."""
        if done := self._seconds.get(variant):
            return sum(done) / len(done)
        for run in self._runs.values():
            if run.title.variant == variant and (left := run.left(now)) is not None:
                return now - run.start + left
        if variant in self.expected:
            return self.expected[variant]
        known = [seconds for those in self._seconds.values() for seconds in those]
        known += [now - run.start + left for run in self._runs.values() if (left := run.left(now)) is not None]
        return sum(known) / len(known) if known else None

    def _say(self, run: Training, words: list[str]) -> None:
        """A line of a run, unless the live table shows the same."""
        now = run.said = self.clock()
        if self._live is None:
            say(self.console, f"{run.title}: {'; '.join([*words, *self._details(run, now)])}")

    def _details(self, run: Training, now: float) -> list[str]:
        """Loss, metric, speed and the time left, as far as they are known."""
        status, left = run.status, self._left(run, now)
        found = [f"loss {status.loss:.4f}"] if status else []
        found += [run.metric] if run.metric else []
        found += [f"{status.images_per_second:,.0f} images/s"] if status else []
        found += [f"run: {duration(left)} left"] if left is not None else []
        return found + self.study_left()

    def _finished(self) -> int:
        return sum(self.counts[key] for key in ("done", "failed", "pruned"))

    def _screen(self) -> Group:
        now = self.clock()
        bar = Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        words = [f"{number} {name}" for name, number in self.counts.items() if number]
        training = [run for run in self._runs.values() if run.status]
        words += [f"{len(training)} training"] if training else [] if self._finished() else ["starting"]
        bar.add_task(", ".join([*words, *self.study_left()]), total=self.total, completed=self._finished())
        table = Table(box=None, header_style="dim")
        for name in ("worker", "variant", "seed", "epoch", "loss", self.goal.monitor, "images/s", "for", "left"):
            table.add_column(name, overflow="fold", no_wrap=name != "variant")
        for slot, run in sorted(self._runs.items()):
            table.add_row(str(slot), *self._cells(run, now))
        return Group(bar, table)

    def _cells(self, run: Training, now: float) -> list[str]:
        status, left = run.status, self._left(run, now)
        known = ["starting", "", "", ""]
        if status:
            known = [
                _place(status).removeprefix("epoch "),
                f"{status.loss:.4f}",
                run.metric.removeprefix(f"{self.goal.monitor} "),
                f"{status.images_per_second:,.0f}",
            ]
        ends = [duration(now - run.start), "" if left is None else duration(left)]
        return [run.title.variant, str(run.title.seed), *known, *ends]


def _place(status: Status) -> str:
    """`epoch 2 of 4, 35 %`."""
    return f"epoch {status.epoch + 1} of {status.epochs}, {status.batch / status.batches:.0%}".replace("%", " %")

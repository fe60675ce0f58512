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
from shunted_lab.study.queue import Job
from shunted_lab.tasks.listener import Status

EVERY = 30.0  # seconds without a word of a worker, at most


@dataclass
class Training:
    """A run on a worker: when it began, what it said last, and when it was last spoken of."""

    job: Job
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
            # Without a thread of its own: the launcher starts processes.
            self._live = Live(self._screen(), console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def started(self, slot: int, job: Job) -> None:
        now = self.clock()
        self._runs[slot] = Training(job, now, now)
        name = job.run.variant if self.waiting[job.run.variant] else next(iter(self.waiting.elements()), "")
        self.waiting[name] -= 1  # a search's points have names of their own

    def step(self, slot: int, job: Job, status: Status) -> None:
        self._runs[slot].hear(status, self.clock())

    def epoch(self, slot: int, job: Job, epoch: int, metrics: dict[str, float]) -> None:
        run = self._runs[slot]
        key = self.goal.monitor
        if key in metrics:
            run.metric = f"{key} {value_text(metrics[key], self.goal.leading.unit)}"
        self._say(run, [f"epoch {epoch + 1} of {job.run.config.recipe.epochs} done"])

    def ended(self, slot: int, job: Job, outcome: str, result: dict[str, Any] | None) -> None:
        """One line that stays."""
        self._runs.pop(slot, None)
        self.counts[outcome if outcome in self.counts else "died"] += 1
        if outcome not in ("done", "failed", "pruned"):
            self.waiting[job.run.variant] += 1  # it is tried again
        words = [outcome]
        if result is not None:
            self._seconds.setdefault(job.run.variant, []).append(result["seconds"])
            key = self.goal.monitor
            value = value_text(result["metrics"][key], self.goal.leading.unit)
            words = [f"{key} {value}", duration(result["seconds"])]
        text = f"[{self._finished()}/{self.total}] {name_of(job)}: {'; '.join([*words, *self.study_left()])}"
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
        if left is None and (expected := self._expected(run.job.run.variant)) is not None:
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
            if run.job.run.variant == variant and (left := run.left(now)) is not None:
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
            say(self.console, f"{name_of(run.job)}: {'; '.join([*words, *self._details(run, now)])}")

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
        return [run.job.run.variant, str(run.job.run.seed), *known, *ends]


def _place(status: Status) -> str:
    """`epoch 2 of 4, 35 %`."""
    return f"epoch {status.epoch + 1} of {status.epochs}, {status.batch / status.batches:.0%}".replace("%", " %")


def name_of(job: Job) -> str:
    """How a run is called in a line."""
    return f"{job.run.variant}, seed {job.run.seed}"

"""Starts no worker: the runs are enqueued, and workers are started by hand, or by something else, as Kubernetes."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from shunted_lab.config.launch import ManualConfig
from shunted_lab.output.quantities import counted
from shunted_lab.study.engines import Work, worker_command


class Manual:
    """Says what starts a worker."""

    here = False

    def check(self, launch: ManualConfig, storage: str | None) -> None:
        """Nothing is started, so nothing is refused."""

    def describe(self, launch: ManualConfig, todo: int) -> str:
        return f"would enqueue {counted(todo, 'run')} and start no worker" if todo else ""

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        command = shlex.join(["python", *worker_command(work)[1:-1]])  # the latest plan
        say(f"{counted(work.todo, 'run')} enqueued; each worker: {command}")
        return False

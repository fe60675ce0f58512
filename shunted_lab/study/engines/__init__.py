"""What starts workers: processes of this machine, jobs of SLURM, tasks of Ray, or the user. An engine does no more.

To add one: a configuration in `config.launch` and its preset in `config.groups`, a module here with an `Engine`, and
its line in `ENGINES`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from shunted_lab.config.launch import LaunchConfig
from shunted_lab.study.manifest import STORAGE, Home
from shunted_lab.study.slots import Slot
from shunted_lab.study.watch import Quiet, Watch

ENGINES = {
    "local": "shunted_lab.study.engines.local.Local",
    "slurm": "shunted_lab.study.engines.slurm.Slurm",
    "ray": "shunted_lab.study.engines.ray.Ray",
    "manual": "shunted_lab.study.engines.manual.Manual",
}


@dataclass(frozen=True)
class Work:
    """What an engine needs to know to start workers.

    Args:
        folder: the study's, absolute; every worker sees it.
        plan: the ID of the manifest that the workers follow.
        todo: runs that are missing: an engine starts no more workers than that.
        environment: of each worker, e.g. the URL of the study's database.
        slots: the workers of this machine, for an engine that trains here.
        watch: hears what the workers of this machine do.
    """

    folder: Path
    plan: str
    launch: Any
    todo: int
    environment: dict[str, str] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    watch: Watch = field(default_factory=Quiet)


class Engine(Protocol):
    """Starts workers. `here` says whether they train on this machine."""

    here: bool

    def check(self, launch: Any, storage: str | None) -> None:
        """Refuse what cannot be started; nothing is started, and nothing left behind.

        Args:
            storage: where the study is kept (`study.storage`).

        Raises:
            ConfigError: in one line.
        """

    def describe(self, launch: Any, todo: int) -> str:
        """What `run` would start for so many runs: `would submit 2 jobs to slurm, each of 1 node`."""

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        """Start workers and wait until all have ended; False where it does not wait for them."""


def engine_of(launch: LaunchConfig) -> Engine:
    """The engine of a configuration."""
    module, _, name = ENGINES[launch.name].rpartition(".")
    found: Engine = getattr(import_module(module), name)()
    return found


def work_of(home: Home, plan: str, launch: LaunchConfig, todo: int, slots: list[Slot], watch: Watch) -> Work:
    """The work of a plan."""
    environment = {STORAGE: os.environ[STORAGE]} if STORAGE in os.environ else {}
    return Work(home.folder.absolute(), plan, launch, todo, environment, slots, watch)


def worker_command(work: Work) -> list[str]:
    """The command of a worker, wherever it runs."""
    return [sys.executable, "-m", "shunted_lab.worker", str(work.folder), f"plan={work.plan}"]

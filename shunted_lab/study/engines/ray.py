"""Tasks of Ray, each a worker with GPUs or cores of a node. Every node sees the study's folder and its database."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from shunted_lab.config.launch import RayConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import counted
from shunted_lab.study.engines import Work, worker_command
from shunted_lab.study.engines.ray_cluster import ask, connected
from shunted_lab.study.engines.ray_task import ENDING, train
from shunted_lab.study.worker import POLL, Signals

RETRIES = 3  # of a task whose node is lost: its worker starts on another one
EXPECTED = (0, 1)  # statuses of a worker: all done, a run has failed, which the table says


class Ray:
    """Starts a worker for each task that the cluster has room for, no more than there are runs."""

    here = False

    def check(self, launch: RayConfig, storage: str | None) -> None:
        cluster = ask(launch.address)
        cluster.check_room(launch.gpus, launch.cpus)
        if cluster.machines > 1 and storage is None:
            raise ConfigError(
                f"launch: the {cluster.machines} machines of the Ray cluster need a database that they share; "
                "study.storage=postgresql+psycopg://user@host/db"
            )

    def describe(self, launch: RayConfig, todo: int) -> str:
        if not todo:
            return ""
        most = counted(_wanted(launch, todo), "worker")
        each = ([counted(launch.gpus, "GPU")] if launch.gpus else []) + [counted(launch.cpus, "CPU core")]
        return f"would start up to {most} on the Ray cluster at {launch.address}, each with {' and '.join(each)}"

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        """Start the workers and wait until all have ended.

        Raises:
            ConfigError: for a cluster that is gone since the check.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, when all workers have stopped with checkpoints; after a second
                one at once.
        """
        launch, cluster, signals = work.launch, ask(work.launch.address), Signals()
        cluster.check_room(launch.gpus, launch.cpus)
        count = _wanted(launch, work.todo)
        if launch.workers == "auto":
            count = max(1, min(count, cluster.free_room(launch.gpus, launch.cpus)))  # a busy cluster starts it later
        environment = work.environment | ({} if launch.gpus else {"CUDA_VISIBLE_DEVICES": ""})  # Ray hides none
        with connected(launch.address) as ray, signals.listening(interrupt=True):
            task = ray.remote(num_gpus=launch.gpus, num_cpus=launch.cpus, max_retries=RETRIES)(train)
            tasks = {}
            for i in range(count):
                command = [*worker_command(work), f"index={1000 * i}"]  # workers of a search propose different points
                tasks[task.options(name=f"worker {i}").remote(work.folder, command, environment)] = i
            say(f"{counted(count, 'worker')} on the Ray cluster at {launch.address}")
            _follow(ray, tasks, signals, say)
        if signals.count:
            raise KeyboardInterrupt
        return True


def _wanted(launch: RayConfig, todo: int) -> int:
    """How many workers there are runs for, if the cluster has room for them."""
    devices = launch.gpus or (1 if launch.devices == "auto" else launch.devices)
    most = math.ceil(todo / max(1, devices // launch.devices_per_run))
    return most if launch.workers == "auto" else min(most, launch.workers)


def _follow(ray: Any, tasks: dict[Any, int], signals: Signals, say: Callable[[str], None]) -> None:
    """Wait until all tasks have ended; the first signal stops them with checkpoints, the second does not wait."""
    left, deadline = dict(tasks), math.inf
    while left and signals.count < 2 and time.monotonic() < deadline:
        ended, _ = ray.wait(list(left), timeout=POLL)
        for task in ended:
            number, status = left.pop(task), _status(ray, task)
            if status not in EXPECTED and not signals.count:
                say(f"warning: worker {number} ended with {status}")
        if signals.count and deadline == math.inf:
            deadline = time.monotonic() + ENDING + 10  # what a task needs to end its worker
            for task in left:
                ray.cancel(task)


def _status(ray: Any, task: Any) -> int | str:
    """The exit status of a worker, or what became of its task."""
    try:
        return int(ray.get(task))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error  # an exception of the task itself
        return str(cause).strip().splitlines()[0]

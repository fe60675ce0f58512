"""Tasks of Ray, each a worker with GPUs or cores of the cluster. Every node sees the study's folder and database."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from shunted_lab.config.launch import RayConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import counted
from shunted_lab.study.engines import Work, worker_command

RETRIES = 3  # of a task whose node is lost: its worker starts on another one
CONNECT = 5  # seconds until a cluster that does not answer is away
ENDING = 60  # seconds that a worker has to write its checkpoint


class Ray:
    """Starts a worker for each task that the cluster has room for, no more than there are runs."""

    here = False

    def check(self, launch: RayConfig, storage: str | None) -> None:
        with _cluster(launch) as ray:
            self._workers(launch, ray, 1)

    def describe(self, launch: RayConfig, todo: int) -> str:
        if not todo:
            return ""
        most = todo if launch.workers == "auto" else min(todo, launch.workers)
        each = counted(launch.gpus, "GPU") if launch.gpus else counted(launch.cpus, "CPU core")
        return f"would start up to {counted(most, 'worker')} on the Ray cluster at {launch.address}, each with {each}"

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        """Start the workers and wait until all have ended; Ctrl-C stops them with checkpoints."""
        launch = work.launch
        with _cluster(launch) as ray:
            count = self._workers(launch, ray, work.todo)
            task = ray.remote(num_gpus=launch.gpus, num_cpus=launch.cpus, max_retries=RETRIES)(train)
            commands = [[*worker_command(work), f"index={i}"] for i in range(count)]
            tasks = [task.remote(command, dict(work.environment)) for command in commands]
            say(f"{counted(count, 'worker')} on the Ray cluster at {launch.address}")
            try:
                for number, found in enumerate(tasks):
                    if (status := _status(ray, found)) not in (0, 1):  # 1: a run has failed, and the table says so
                        say(f"warning: worker {number} ended with {status}")
            except KeyboardInterrupt:
                for found in tasks:
                    ray.cancel(found)
                ray.wait(tasks, num_returns=count, timeout=ENDING)
                raise
        return True

    @staticmethod
    def _workers(launch: RayConfig, ray: Any, todo: int) -> int:
        """How many workers the cluster has room for.

        Raises:
            ConfigError: for a cluster without the GPUs or cores of one worker.
        """
        there = ray.cluster_resources()
        for key, name, each in (("gpus", "GPU", launch.gpus), ("cpus", "CPU", launch.cpus)):
            if each > there.get(name, 0):
                raise ConfigError(f"launch.{key}: {each} are more than the {there.get(name, 0):g} of the Ray cluster")
        room = int(there["GPU"] // launch.gpus if launch.gpus else there["CPU"] // launch.cpus)
        return max(1, min(todo, room if launch.workers == "auto" else launch.workers))


def _status(ray: Any, task: Any) -> int | str:
    """The exit status of a worker, or what became of its task."""
    try:
        return int(ray.get(task))
    except ray.exceptions.RayError as error:
        return str(error).strip().splitlines()[0]


@contextmanager
def _cluster(launch: RayConfig) -> Iterator[Any]:
    """Ray, connected to the cluster: a process that stays connected ends with it.

    Raises:
        ConfigError: without Ray, or without a cluster.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("launch: ray is not installed; pip install 'shunted_lab[ray]'") from None
    try:
        if launch.address != "auto":  # Ray itself waits for minutes
            host, _, port = launch.address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), CONNECT).close()
        ray.init(launch.address, log_to_driver=True, configure_logging=False, ignore_reinit_error=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"launch.address: there is no Ray cluster at '{launch.address}' ({reason})") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def train(command: Sequence[str], environment: dict[str, str]) -> int:
    """What a task runs: a worker in a process of its own, which is stopped with a checkpoint when the task is."""
    process = subprocess.Popen(command, env=os.environ | environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(ENDING)

"""SLURM jobs that each start the same command on their node; what they share is the study and the folder of results."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from shunted_lab.config import Config, ConfigError, LaunchConfig, SlurmConfig
from shunted_lab.study.plan import study_folder

GRACE = 60  # seconds that a job has to write its checkpoints before its time is up; SLURM warns 90 s before


class Command:
    """What a job runs: `python -m shunted_lab.run` with these words. A job whose time is up runs it again."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        self._process = subprocess.Popen([sys.executable, "-m", "shunted_lab.run", *self.words])
        status = self._process.wait()
        if status not in (0, 1):  # 1: a run has failed, and the table says so
            raise RuntimeError(f"exit status {status} of shunted_lab.run {' '.join(self.words)}")
        return status

    def checkpoint(self) -> Any:
        """Called by submitit before the job is preempted or out of time: stop with checkpoints, and queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return DelayedSubmission(Command(self.words))


def job_words(words: Sequence[str], launch: SlurmConfig) -> list[str]:
    """The words of a job's own command: those of the whole one, launched on the job's node."""
    local = {f"launch.{item.name}" for item in fields(LaunchConfig)}
    kept = [word for word in words if not word.startswith("launch=")]
    kept = [word for word in kept if not word.startswith("launch.") or word.partition("=")[0] in local]
    accelerator = "gpu" if launch.gpus else "cpu"
    given = {word.partition("=")[0] for word in kept}
    return [*kept, "launch=local", *([] if "launch.accelerator" in given else [f"launch.accelerator={accelerator}"])]


def submit(words: Sequence[str], config: Config) -> list[Any]:
    """Submit the jobs. Returns submitit's, one per node.

    Raises:
        ConfigError: if there is no SLURM here, no submitit, or a storage that nodes cannot share.
    """
    launch = config.launch
    assert isinstance(launch, SlurmConfig)
    if launch.nodes > 1 and config.study.storage is None and launch.executor == "slurm":
        raise ConfigError(
            f"launch.nodes: {launch.nodes} nodes need a database that they share; "
            "study.storage=postgresql+psycopg://user@host/db"
        )
    if launch.gpus and launch.devices_per_run > launch.gpus:
        raise ConfigError(f"launch.devices_per_run: {launch.devices_per_run} are more than launch.gpus={launch.gpus}")
    try:
        import submitit
    except ImportError:
        raise ConfigError("launch: slurm needs submitit; pip install 'shunted_lab[cluster]'") from None
    folder = study_folder(config) / "jobs"
    try:
        executor = submitit.AutoExecutor(
            folder=Path(folder).absolute(), cluster=launch.executor, slurm_max_num_timeout=launch.requeue
        )
    except RuntimeError as error:
        raise ConfigError(f"launch.executor: {' '.join(str(error).split())}") from None
    executor.update_parameters(**parameters(config))
    with executor.batch():
        return [executor.submit(Command(job_words(words, launch))) for _ in range(launch.nodes)]


def parameters(config: Config) -> dict[str, Any]:
    """What submitit is asked for."""
    launch = config.launch
    assert isinstance(launch, SlurmConfig)
    found: dict[str, Any] = {
        "name": config.name,
        "timeout_min": launch.minutes,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": launch.cpus,
        "slurm_array_parallelism": launch.nodes,
    }
    if launch.gpus:
        found["gpus_per_node"] = launch.gpus
    if launch.memory is not None:
        found["mem_gb"] = launch.memory
    if launch.partition is not None:
        found["slurm_partition"] = launch.partition
    if launch.setup:
        found["slurm_setup"] = list(launch.setup)
    return found


def wait_for(jobs: Sequence[Any]) -> None:
    """Wait until all jobs have ended.

    Raises:
        ConfigError: with the log of a job that did not end well.
    """
    for job in jobs:
        error = job.exception()
        if error is not None:
            last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise ConfigError(f"launch: job {job.job_id} failed ({last}); {job.paths.stderr}")

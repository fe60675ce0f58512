"""SLURM jobs that each start the same command; what they share is the study and the folder of results.

A job has one node, or as many as a run takes (`launch.nodes_per_run`): then the command runs on its first node, and
starts each run on all of them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from shunted_lab.config.experiment import Config
from shunted_lab.config.launch import LaunchConfig, SlurmConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.study.plan import study_folder

GRACE = 60  # seconds that a job has to write its checkpoints before its time is up; SLURM warns 90 s before


class Command:
    """What a job runs, on its first node: `python -m shunted_lab.run` with these overrides. A job whose time is up is
    queued again with the same command.
    """

    def __init__(self, overrides: Sequence[str]):
        self.overrides = list(overrides)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        if int(os.environ.get("SLURM_NODEID", 0)):
            return 0  # this node is asked when a run begins (`across_nodes`)
        command = [sys.executable, "-m", "shunted_lab.run", *self.overrides]
        self._process = subprocess.Popen(command, preexec_fn=_ignore_warning)
        status = self._process.wait()
        if status not in (0, 1):  # 1: a run has failed, and the table says so
            raise RuntimeError(f"exit status {status} of shunted_lab.run {' '.join(self.overrides)}")
        return status

    def checkpoint(self) -> Any:
        """Called by submitit before the job is preempted or out of time: stop with checkpoints, and queue again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            if not _ends(self._process.pid, GRACE):
                self._process.kill()
        return DelayedSubmission(Command(self.overrides))


def _warning() -> str:
    """The signal by which a job hears that its time is nearly up, as submitit asks for it."""
    return os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")


def _ignore_warning() -> None:
    """SLURM sends its warning to every process of a job, and it would end those that do not expect it."""
    signal.signal(getattr(signal, f"SIG{_warning()}"), signal.SIG_IGN)


def _ends(pid: int, seconds: float) -> bool:
    """Whether a child ends in time. `Popen.wait` cannot be asked: it is what the signal has interrupted."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(0.2)
    return False


def job_overrides(overrides: Sequence[str], launch: SlurmConfig) -> list[str]:
    """The overrides of a job's own command: those of the whole one, launched on the job's node."""
    local = {f"launch.{item.name}" for item in fields(LaunchConfig)}
    kept = [word for word in overrides if not word.startswith("launch=")]
    kept = [word for word in kept if not word.startswith("launch.") or word.partition("=")[0] in local]
    accelerator = "gpu" if launch.gpus else "cpu"
    given = {word.partition("=")[0] for word in kept}
    return [*kept, "launch=local", *([] if "launch.accelerator" in given else [f"launch.accelerator={accelerator}"])]


def submit(overrides: Sequence[str], config: Config) -> list[Any]:
    """Submit the jobs. Returns submitit's.

    Raises:
        ConfigError: see `make_executor`.
    """
    launch = config.launch
    assert isinstance(launch, SlurmConfig)
    executor = make_executor(config, study_folder(config) / "jobs")
    with executor.batch():
        return [
            executor.submit(Command(job_overrides(overrides, launch)))
            for _ in range(launch.nodes // launch.nodes_per_run)
        ]


def check_submission(config: Config) -> None:
    """Raise ConfigError for jobs that `submit` would refuse; nothing is submitted, and nothing left behind."""
    with tempfile.TemporaryDirectory() as folder:  # submitit makes folders before it submits
        make_executor(config, Path(folder))


def make_executor(config: Config, folder: Path) -> Any:
    """submitit's executor with all parameters.

    Args:
        folder: of its scripts and logs.

    Raises:
        ConfigError: if this machine has no SLURM or no submitit, or for a storage that nodes cannot share.
    """
    launch = config.launch
    assert isinstance(launch, SlurmConfig)
    jobs = launch.nodes // launch.nodes_per_run
    if jobs > 1 and config.study.storage is None and launch.executor == "slurm":
        raise ConfigError(
            f"launch.nodes: {jobs} jobs need a database that they share; "
            "study.storage=postgresql+psycopg://user@host/db"
        )
    if launch.gpus and launch.devices_per_run > launch.gpus:
        raise ConfigError(f"launch.devices_per_run: {launch.devices_per_run} are more than launch.gpus={launch.gpus}")
    try:
        import submitit
    except ImportError:
        raise ConfigError("launch: slurm needs submitit; pip install 'shunted_lab[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(
            folder=folder.absolute(), cluster=launch.executor, slurm_max_num_timeout=launch.requeue
        )
    except RuntimeError as error:
        raise ConfigError(f"launch.executor: {' '.join(str(error).split())}") from None
    executor.update_parameters(**parameters(config))
    return executor


def parameters(config: Config) -> dict[str, Any]:
    """What submitit is asked for."""
    launch = config.launch
    assert isinstance(launch, SlurmConfig)
    found: dict[str, Any] = {
        "name": config.name,
        "timeout_min": launch.minutes,
        "nodes": launch.nodes_per_run,
        "tasks_per_node": 1,
        "cpus_per_task": launch.cpus,
        "slurm_array_parallelism": launch.nodes // launch.nodes_per_run,
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


def across_nodes(command: Sequence[str], nodes: int) -> tuple[list[str], dict[str, str]]:
    """A command on so many nodes of this job, beside what runs there, and the environment by which they meet."""
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")  # of the job; a step does not take it over by itself
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap", "--cpu-bind=none"]
    options += ["--kill-on-bad-exit=1", *([] if cpus is None else [f"--cpus-per-task={cpus}"])]
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    ignoring = ["sh", "-c", f"trap '' {_warning()}; exec \"$@\"", "sh"]  # on other nodes nobody has said it yet
    return ["srun", *options, *ignoring, *command], {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(port)}


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

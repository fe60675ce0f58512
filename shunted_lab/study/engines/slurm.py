"""Jobs of SLURM, each with a worker on its node; what they share is the study and its folder.

A job has one node, or as many as a run takes (`launch.nodes_per_run`): then the worker runs on its first node, and
starts each run on all of them (`study.ranks`). A job whose time is nearly up writes checkpoints and is queued again.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shunted_lab.config.launch import SlurmConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import counted
from shunted_lab.study.engines import Work
from shunted_lab.study.engines.slurm_job import Job


class Slurm:
    """Submits jobs with submitit, no more than there are runs for, and waits for them."""

    here = False

    def check(self, launch: SlurmConfig, storage: str | None) -> None:
        jobs = launch.nodes // launch.nodes_per_run
        if jobs > 1 and storage is None and launch.executor == "slurm":
            raise ConfigError(
                f"launch.nodes: {jobs} jobs need a database that they share; "
                "study.storage=postgresql+psycopg://user@host/db"
            )
        with tempfile.TemporaryDirectory() as folder:  # submitit makes folders before it submits
            make_executor(launch, Path(folder), "check", 1)

    def describe(self, launch: SlurmConfig, todo: int) -> str:
        jobs = jobs_for(launch, todo)
        if not jobs:
            return ""
        each = [counted(launch.nodes_per_run, "node"), counted(launch.gpus, "GPU"), counted(launch.cpus, "CPU core")]
        each += [f"{launch.memory} GB of memory"] if launch.memory else []
        each += [counted(launch.minutes, "minute")]
        each += [f"partition {launch.partition}" if launch.partition else "the default partition"]
        each += [f"{key}={value}" for key, value in launch.sbatch.items()]
        again = f"; each queued again up to {counted(launch.requeue, 'time')}" if launch.requeue else ""
        return f"would submit {counted(jobs, 'job')} to {launch.executor}, each of {', '.join(each)}{again}"

    def run(self, work: Work, say: Callable[[str], None]) -> bool:
        """Submit the jobs and, with `launch.wait`, wait until all have ended; one that failed is said.

        Raises:
            ConfigError: with what SLURM says of options that it refuses.
        """
        from submitit.core.utils import FailedJobError

        jobs = jobs_for(work.launch, work.todo)
        executor = make_executor(work.launch, work.folder / "jobs", work.folder.name, jobs)
        try:
            with executor.batch():
                submitted = [executor.submit(Job(work)) for _ in range(jobs)]
        except FailedJobError as error:
            raise ConfigError(f"launch: SLURM refuses the jobs: {' '.join(str(error).split())}") from None
        say(f"jobs {', '.join(job.job_id for job in submitted)}; {submitted[0].paths.folder}")
        for job in submitted if work.launch.wait else ():
            if (failure := job.exception()) is not None:
                last = [type(failure).__name__, *str(failure).strip().splitlines()][-1]
                say(f"warning: job {job.job_id} failed ({last}); {job.paths.stderr}")
        return bool(work.launch.wait)


def jobs_for(launch: SlurmConfig, todo: int) -> int:
    """How many jobs there are workers for, of so many runs."""
    devices = launch.gpus or (1 if launch.devices == "auto" else launch.devices)
    workers = max(1, devices // launch.devices_per_run)
    return min(launch.nodes // launch.nodes_per_run, math.ceil(todo / workers))


def make_executor(launch: SlurmConfig, folder: Path, name: str, jobs: int) -> Any:
    """submitit's executor with all parameters. `folder` gets its scripts and logs.

    Raises:
        ConfigError: if this machine has no SLURM or no submitit.
    """
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
    executor.update_parameters(**parameters(launch, name, jobs))
    return executor


def parameters(launch: SlurmConfig, name: str, jobs: int) -> dict[str, Any]:
    """What submitit is asked for."""
    found: dict[str, Any] = {
        "name": name,
        "timeout_min": launch.minutes,
        "nodes": launch.nodes_per_run,
        "tasks_per_node": 1,
        "cpus_per_task": launch.cpus,
        "slurm_array_parallelism": max(1, jobs),
        "slurm_setup": list(launch.setup) or None,
        "slurm_partition": launch.partition,
        "gpus_per_node": launch.gpus or None,
        "mem_gb": launch.memory,
        "slurm_additional_parameters": dict(launch.sbatch) or None,
    }
    return {key: value for key, value in found.items() if value is not None}

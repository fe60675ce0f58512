"""Jobs of SLURM, each with a worker on its first node; what they share is the study and its folder.

A job has one node, or as many as a run takes (`launch.nodes_per_run`): the worker starts each run on all of them
(`study.ranks`). A job whose time is nearly up writes checkpoints and is queued again.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from shunted_lab.config.launch import SlurmConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import counted
from shunted_lab.study.engines import Work
from shunted_lab.study.engines.slurm_jobs import make_executor, refusal, submit, what_failed


class Slurm:
    """Submits jobs with submitit, no more than there are runs for, and waits for them."""

    here = False

    def check(self, launch: SlurmConfig, storage: str | None = None) -> None:
        jobs = launch.nodes // launch.nodes_per_run
        if jobs > 1 and storage is None and launch.executor == "slurm":
            raise ConfigError(
                f"launch.nodes: {jobs} jobs need a database that they share; "
                "study.storage=postgresql+psycopg://user@host/db"
            )
        if launch.gpus and launch.devices_per_run > launch.gpus:
            raise ConfigError(
                f"launch.devices_per_run: {launch.devices_per_run} are more than launch.gpus={launch.gpus}"
            )
        with tempfile.TemporaryDirectory() as folder:  # submitit makes folders before it submits
            executor = make_executor(launch, Path(folder), "check", 1)
            if launch.executor == "slurm" and (reason := refusal(executor)):
                raise ConfigError(f"launch: SLURM refuses the jobs: {reason}")

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
        if not (count := jobs_for(work.launch, work.todo)):
            return True
        jobs = submit(work, count)
        say(f"jobs {', '.join(job.job_id for job in jobs)}; {jobs[0].paths.folder}")
        for job, reason in what_failed(jobs, work.launch.executor == "slurm") if work.launch.wait else ():
            say(f"warning: job {job.job_id} failed ({reason}); {job.paths.stderr}")
        return bool(work.launch.wait)


def jobs_for(launch: SlurmConfig, todo: int) -> int:
    """How many jobs there are workers for, of so many runs."""
    devices = launch.gpus or (1 if launch.devices == "auto" else launch.devices)
    workers = max(1, devices // launch.devices_per_run)
    return min(launch.nodes // launch.nodes_per_run, math.ceil(todo / workers))

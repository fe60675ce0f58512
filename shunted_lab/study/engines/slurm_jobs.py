"""Jobs of SLURM, by submitit: what they ask for, whether SLURM takes them, and what becomes of them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from shunted_lab.config.launch import SlurmConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.study.engines import Work
from shunted_lab.study.engines.slurm_job import Job

POLL = 10  # seconds between two looks at the queue
LATE = 30  # seconds by which a shared folder may show a file late
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}


def parameters(launch: SlurmConfig, name: str, jobs: int) -> dict[str, Any]:
    """What submitit is asked for. It is to know of one task, on the first node, also where a job has more nodes.

    Since SLURM 22.05 a step does not have the job's cores if it does not ask for them. It shares them, and the job's
    memory, with the steps that start a run's ranks.
    """
    own = {"requeue": True, "nodes": launch.nodes_per_run}  # a cluster may queue again only jobs that ask for it
    given = {key.replace("-", "_"): value for key, value in launch.sbatch.items()}  # as submitit has its own
    step = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={given.get('cpus_per_task', launch.cpus)}", "--overlap"]
    found: dict[str, Any] = {
        "name": name,
        "timeout_min": launch.minutes,
        "nodes": 1,
        "tasks_per_node": 1,
        "cpus_per_task": launch.cpus,
        "slurm_array_parallelism": max(1, jobs),
        "slurm_srun_args": step,
        "slurm_setup": list(launch.setup) or None,
        "slurm_partition": launch.partition,
        "gpus_per_node": launch.gpus or None,
        "mem_gb": launch.memory,
        "slurm_additional_parameters": {key: _value(value) for key, value in (own | given).items()},
    }
    return {key: value for key, value in found.items() if value is not None}


def _value(value: Any) -> Any:
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value


def make_executor(launch: SlurmConfig, folder: Path, name: str, jobs: int) -> Any:
    """submitit's executor with all parameters. `folder` gets its scripts and logs.

    Raises:
        ConfigError: if this machine has no SLURM or no submitit.
    """
    try:
        import submitit
    except ImportError:
        raise ConfigError("launch: slurm needs submitit; pip install 'shunted_lab[cluster]'") from None
    try:
        executor = submitit.AutoExecutor(
            folder=folder.absolute(), cluster=launch.executor, slurm_max_num_timeout=launch.requeue
        )
    except RuntimeError as error:
        raise ConfigError(f"launch.executor: {_one_line(str(error))}") from None
    executor.update_parameters(**parameters(launch, name, jobs))
    return executor


def refusal(executor: Any) -> str:
    """Why SLURM would refuse a job of this executor; empty if it would not. Nothing is submitted."""
    script = executor._executor._make_submission_file_text("true", "")
    found = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
    # A job that no node can take now is called `not available` here, also where sbatch queues it until one is back.
    return "" if found.returncode == 0 or "not available" in found.stderr else _one_line(found.stderr)


def _one_line(text: str) -> str:
    """What sbatch says, without its name at the beginning of each line."""
    return "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in text.strip().splitlines())


def submit(work: Work, count: int) -> list[Any]:
    """Submit so many jobs. Returns submitit's.

    Raises:
        ConfigError: with what SLURM says of options that it refuses.
    """
    executor = make_executor(work.launch, work.folder / "jobs", work.folder.name, count)
    from submitit.core.utils import FailedJobError
    from submitit.helpers import environment_variables

    try:  # the environment is passed on by sbatch: a file of a job would show a password
        with environment_variables(**work.environment), redirect_stderr(StringIO()), executor.batch():
            return [executor.submit(Job(work)) for _ in range(count)]
    except FailedJobError as error:
        raise ConfigError(f"launch: SLURM refuses the jobs: {_one_line(str(error))}") from None


def what_failed(jobs: Sequence[Any], on_cluster: bool) -> Iterator[tuple[Any, str]]:
    """Wait until all jobs have ended. Yields those that have failed, each with the reason.

    submitit would ask `sacct`, which only clusters with accounting have, and wait forever for a job that was killed.
    """
    states = _wait(jobs[0].job_id.partition("_")[0]) if on_cluster else {}
    for job in jobs:
        if not on_cluster:
            job.wait()
        reason = _failure(job.paths.result_pickle)
        if reason is not None:
            yield job, reason or f"it left no result; state {states.get(job.job_id, 'unknown')}"


def _wait(array: str) -> dict[str, str]:
    """The last state of each job of an array that SLURM knew, when all have ended; it forgets jobs after minutes."""
    states: dict[str, str] = {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={array}"]
    while True:
        found = subprocess.run(command, capture_output=True, text=True)
        now = dict(line.split() for line in found.stdout.splitlines())
        states |= now
        if (found.returncode == 0 and ENDED.issuperset(now.values())) or "Invalid job id" in found.stderr:
            return states
        time.sleep(POLL)


def _failure(result: Path) -> str | None:
    """Why a job has failed, by its result; empty if it left none, None if it has not failed."""
    from submitit.core.utils import pickle_load

    end = time.monotonic() + LATE
    while not result.exists():
        if time.monotonic() > end:
            return ""
        time.sleep(1)
    kind, value = pickle_load(result)
    return None if kind == "success" else str(value).strip().splitlines()[-1]

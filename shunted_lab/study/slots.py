"""How this machine's cores or GPUs are shared among workers, and with what a run was trained."""

from __future__ import annotations

import multiprocessing
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import shunted_lab
from shunted_lab.config.launch import LaunchConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.study.machine import count_cores, free_memory
from shunted_lab.tasks.device import find_device

# A server that imports torch once, and of which each worker is a fork. macOS's libraries do not survive a fork.
CONTEXT = "spawn" if sys.platform == "darwin" else "forkserver"
LIBRARIES = ("torch", "torchvision", "lightning", "torchmetrics", "timm", "optuna", "numpy")


@dataclass(frozen=True)
class Slot:
    """A worker's share of the machine."""

    index: int
    gpus: tuple[str, ...] = ()  # their numbers, for CUDA_VISIBLE_DEVICES
    threads: int | None = None


@dataclass(frozen=True)
class Load:
    """What the workers of a CPU will have to do, where their number is left to this package.

    Args:
        runs: to be trained.
        small: whether one thread is enough for each (`pace.is_small`).
        memory: bytes that a worker needs at most.
    """

    runs: int
    small: bool
    memory: int = 10**9


def plan_slots(config: LaunchConfig, load: Load | None = None) -> list[Slot]:
    """The workers of this machine.

    On a CPU, small runs get one thread each, however many workers there are, so that their numbers do not depend on it.

    Args:
        load: None refuses what cannot be, before more is known.

    Raises:
        ConfigError: for a device that this machine does not have, and for more of them than it has.
    """
    nodes = int(os.environ.get("SLURM_JOB_NUM_NODES", 1))
    if config.nodes_per_run > nodes:
        raise ConfigError(
            f"launch.nodes_per_run: {config.nodes_per_run} are more than the {nodes} of this job; launch=slurm asks "
            "for as many"
        )
    device = find_device(config.accelerator, "launch.accelerator")
    return _gpu_slots(config) if device == "cuda" else _cpu_slots(config, device, load)


def _cpu_slots(config: LaunchConfig, device: str, load: Load | None) -> list[Slot]:
    wanted, each = config.devices, config.devices_per_run
    if device == "mps" and each > 1:
        raise ConfigError(f"launch.devices_per_run: {each} are more than the 1 of this machine")
    cores = count_cores()
    small = load is not None and load.small and device == "cpu"
    count = wanted
    if wanted == "auto":
        count = each
        if small and load is not None:
            count *= max(1, min(load.runs, cores // each, free_memory() // (load.memory * each)))
    _divides(count, each)
    if device == "mps" and count > 1:
        raise ConfigError(f"launch.devices: {count} are more than the 1 of this machine")
    threads = config.threads
    if threads == "auto":
        threads = 1 if small else max(1, cores // count) if count > 1 else None
    return [Slot(i, (), threads) for i in range(count // each)]


def _gpu_slots(config: LaunchConfig) -> list[Slot]:
    import torch

    wanted, each = config.devices, config.devices_per_run
    there = visible_gpus(torch.cuda.device_count())
    count = len(there) if wanted == "auto" else wanted
    if count > len(there):
        raise ConfigError(f"launch.devices: {count} are more than the {len(there)} of this machine")
    if each > count:
        raise ConfigError(f"launch.devices_per_run: {each} are more than launch.devices={count}")
    count -= count % each if wanted == "auto" else 0
    _divides(count, each)
    threads = None if config.threads == "auto" else config.threads
    return [Slot(i, tuple(there[i * each : (i + 1) * each]), threads) for i in range(count // each)]


def _divides(count: int, each: int) -> None:
    if each > count:
        raise ConfigError(f"launch.devices_per_run: {each} are more than launch.devices={count}")
    if count % each:
        raise ConfigError(f"launch.devices_per_run: {each} does not divide launch.devices={count}")


def visible_gpus(count: int) -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:count] if named else [str(i) for i in range(count)]


def warm_up() -> None:
    """Begin to import what trains, in the process that workers are forked from, and return at once."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, which measures memory, greets on stderr
    if CONTEXT == "forkserver":
        forkserver.set_forkserver_preload(["shunted_lab.study.worker", "shunted_lab.study.training"])
        forkserver.ensure_running()


def worker_context() -> Any:
    """What processes are started with that train."""
    warm_up()
    return multiprocessing.get_context(CONTEXT)


def take(slot: Slot) -> None:
    """Make a process use its share of the machine; before it has used a device."""
    if slot.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    if slot.threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(slot.threads)
        torch.set_num_threads(slot.threads)


@cache
def origin() -> dict[str, Any]:
    """What can change a result beside the configuration: the git revision and the versions of the libraries. A worker
    asks once; the processes of its runs are forks.
    """
    return {"git": git_revision(), "versions": library_versions()}


def git_revision() -> str | None:
    """The revision of the source tree that is imported, with `+` if it has changes; None outside a repository."""
    where = Path(shunted_lab.__file__).parent
    try:
        command = ["git", "-C", str(where), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        tracked = subprocess.run(["git", "-C", str(where), "ls-files", "run.py"], capture_output=True, text=True)
        if not tracked.stdout.strip():
            return None  # installed into an environment that happens to lie inside another repository
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"python": platform.python_version(), "shunted_lab": shunted_lab.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found

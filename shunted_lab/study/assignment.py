"""What a launcher tells a worker. Importing this is instant, so that the launcher need not import what trains."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import shunted_lab
from shunted_lab.study.folder import Run

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
class Assignment:
    """What a worker is to train. `costs` are stored with the result; `measure` adds latency and memory to them."""

    run: Run
    costs: dict[str, float]
    origin: dict[str, Any]
    measure: bool = False


def take(slot: Slot) -> None:
    """Make a process use its share of the machine; before it has used a device."""
    if slot.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(slot.gpus)
    if slot.threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(slot.threads)
        torch.set_num_threads(slot.threads)


def origin() -> dict[str, Any]:
    """What can change a result beside the configuration: the git revision and the versions of the libraries."""
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

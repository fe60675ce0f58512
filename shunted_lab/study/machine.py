"""What this process may use of its machine: cores and memory, also inside a container or a job of a cluster."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def count_cores(cgroup: Path = CGROUP) -> int:
    """Physical cores, at most as many as this process is bound to, its container has, or OMP_NUM_THREADS says."""
    limits = [psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    if (quota := _quota(cgroup)) is not None:
        limits.append(max(1, math.floor(quota)))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        limits.append(int(threads))
    return min(limits)


def free_memory(cgroup: Path = CGROUP) -> int:
    """Bytes that can be used without swapping, at most what is left to the container."""
    free = psutil.virtual_memory().available
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        there = [_numbers(cgroup / name) for name in (limit, used)]
        if all(there):
            free = min(free, int(there[0][0] - there[1][0]))
    return max(0, free)


def _quota(cgroup: Path) -> float | None:
    """Cores that the container may use on average; None without a bound."""
    both = _numbers(cgroup / "cpu.max") or [
        number for name in ("cfs_quota_us", "cfs_period_us") for number in _numbers(cgroup / "cpu" / f"cpu.{name}")
    ]
    return both[0] / both[1] if len(both) == 2 and both[0] > 0 else None


def _numbers(path: Path) -> Sequence[float]:
    """The numbers in a file of the cgroup; none if it is not there, or says `max`."""
    try:
        return [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []

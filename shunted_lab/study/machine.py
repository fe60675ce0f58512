"""What this process may use of its machine: cores and memory, also inside a container or a job of a cluster."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")  # which groups this process is in


def count_cores(cgroup: Path = CGROUP, own: Path = OWN) -> int:
    """Physical cores, at most as many as this process is bound to, its container or job has, or OMP_NUM_THREADS."""
    limits: list[float] = [psutil.cpu_count(logical=False) or os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    for folder in _groups(cgroup, own, "cpu"):
        quota = _numbers(folder / "cpu.max") or _numbers(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0:
            limits.append(max(1, math.floor(quota[0] / quota[1])))
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        limits.append(int(threads))
    return int(min(limits))


def free_memory(cgroup: Path = CGROUP, own: Path = OWN) -> int:
    """Bytes that can be used without swapping, at most what is left to the container or job."""
    free = psutil.virtual_memory().available
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for folder in _groups(cgroup, own, "memory"):
        for limit, used in names:
            found = _numbers(folder / limit, folder / used)
            if len(found) == 2:
                free = min(free, int(found[0] - found[1]))
    return max(0, free)


def _groups(cgroup: Path, own: Path, controller: str) -> list[Path]:
    """The folders of this process's group and of those around it, of both versions of cgroups."""
    found = [cgroup, cgroup / controller]
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        root = cgroup if not controllers else cgroup / controller
        if not controllers or controller in controllers.split(","):
            inner = root / path.lstrip("/")
            found += [inner, *(parent for parent in inner.parents if parent.is_relative_to(root))]
    return list(dict.fromkeys(found))


def _numbers(*paths: Path) -> Sequence[float]:
    """The numbers in files of a group; none if one of the files is not there, or says `max`."""
    try:
        return [float(word) for path in paths for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


@cache
def this_machine() -> str:
    """Tells machines apart: processes with the same value see one another's locks, in containers of one machine too."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()

"""Cores and memory that a process may use, also in a container."""

import os

import psutil
import pytest

from shunted_lab.study.machine import count_cores, free_memory


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16 if logical else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def test_physical_cores_count(cores, tmp_path):
    assert count_cores(tmp_path) == 8


def test_what_binds_the_process_binds_the_count(cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    assert count_cores(tmp_path) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert count_cores(tmp_path) == 2


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_container_has_the_cores_of_its_quota(cores, tmp_path, files, count):
    write(tmp_path, files)
    assert count_cores(tmp_path) == count


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 1000),
        ({"memory.max": "700", "memory.current": "300"}, 400),
        ({"memory.max": "max", "memory.current": "300"}, 1000),
        ({"memory.max": "300", "memory.current": "400"}, 0),
        ({"memory/memory.limit_in_bytes": "9000", "memory/memory.usage_in_bytes": "8500"}, 500),
    ],
)
def test_free_memory_is_at_most_what_the_container_has_left(tmp_path, monkeypatch, files, free):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    write(tmp_path, files)
    assert free_memory(tmp_path) == free


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text + "\n")

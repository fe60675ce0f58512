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
    assert count_cores(tmp_path, tmp_path / "own") == 8


def test_what_binds_the_process_binds_the_count(cores, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4, 5}, raising=False)
    assert count_cores(tmp_path, tmp_path / "own") == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert count_cores(tmp_path, tmp_path / "own") == 2


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"own": "0::/job/step", "job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ({"own": "4:cpu,cpuacct:/job", "cpu/job/cpu.cfs_quota_us": "200000", "cpu/job/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_a_container_has_the_cores_of_its_quota(cores, tmp_path, files, count):
    write(tmp_path, files)
    assert count_cores(tmp_path, tmp_path / "own") == count


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 1000),
        ({"memory.max": "700", "memory.current": "300"}, 400),
        ({"memory.max": "max", "memory.current": "300"}, 1000),
        ({"memory.max": "300", "memory.current": "400"}, 0),
        ({"own": "0::/job/step", "job/memory.max": "600", "job/memory.current": "200"}, 400),
        ({"own": "7:memory:/job", "memory/job/memory.limit_in_bytes": "9", "memory/job/memory.usage_in_bytes": "2"}, 7),
        ({"memory/memory.limit_in_bytes": "9000", "memory/memory.usage_in_bytes": "8500"}, 500),
    ],
)
def test_free_memory_is_at_most_what_the_container_has_left(tmp_path, monkeypatch, files, free):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1000})())
    write(tmp_path, files)
    assert free_memory(tmp_path, tmp_path / "own") == free


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")

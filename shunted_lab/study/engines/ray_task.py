"""What a task of Ray runs: a worker in a process of its own, which is stopped with a checkpoint when the task is."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ENDING = 60  # seconds that a worker has to write its checkpoint
POLL = 0.2  # seconds; Ray cancels by an interrupt that Python sees between two calls, and no blocking wait returns for


def train(folder: Path, command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a worker with this node's own Python, which has imported this module; the worker's exit status.

    Raises:
        FileNotFoundError: on a node that does not see the study's folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder on {platform.node()}; every node must see it")
    process = None
    try:
        process = subprocess.Popen([sys.executable, *command[1:]], env=os.environ | environment)
        while (status := process.poll()) is None:
            time.sleep(POLL)
        return status
    finally:
        if process is not None and process.poll() is None:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a worker to stop with a checkpoint; one that does not must not keep the GPU, which Ray gives away."""
    process.terminate()
    try:
        process.wait(ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

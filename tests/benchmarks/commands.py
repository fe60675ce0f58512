"""How long a user waits for a command: a smoke test on a quiet and on a busy machine, and what is called again.

python tests/benchmarks/commands.py [ROUNDS]

Busy means one endless loop per core beside it, of the same priority. Other processes must be idle.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from shunted_lab.nn import device_name
from shunted_lab.study.machine import count_cores

RUN = ["-m", "shunted_lab.run", "experiment=ablate_embed"]
SMOKE = [*RUN, "smoke=true"]


def seconds(words: list[str], folder: str) -> float:
    """Seconds of a command in a folder, with caches of its own beside it."""
    start = time.perf_counter()
    environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@contextmanager
def busy() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count_cores())]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main(rounds: int) -> None:
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            times = {
                "plan": seconds([*RUN, "plan_only=true"], folder),
                "plan, again": seconds([*RUN, "plan_only=true"], folder),
                "smoke test": seconds(SMOKE, folder),
                "smoke test, again": seconds(SMOKE, folder),
                "report, again": seconds(["-m", "shunted_lab.report", "runs/ablate_embed-smoke"], folder),
            }
        with tempfile.TemporaryDirectory() as folder, busy():
            times["smoke test, busy machine"] = seconds(SMOKE, folder)
        for name, time_taken in times.items():
            found.setdefault(name, []).append(time_taken)
    print(device_name("cpu"))
    for name, times_taken in found.items():
        low, middle, high = min(times_taken), statistics.median(times_taken), max(times_taken)
        print(f"{name:26} {middle:6.1f} s ({low:.1f} to {high:.1f})")
    pairs = zip(found["smoke test, busy machine"], found["smoke test"], strict=True)
    print(f"busy against quiet: {statistics.median(b / q for b, q in pairs):.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

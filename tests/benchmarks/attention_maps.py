"""Time and memory of attention maps of Shunted-S on one image of 800 x 1333, on a CPU.

    python tests/benchmarks/attention_maps.py

Printed for each function: seconds on the clock, seconds of processors (which other work on the machine disturbs less),
and the largest resident memory of the process so far (Linux: `ru_maxrss` is in KiB). Goal: under 20 s for all three on
two cores, under 4 GB.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import Pyramid, device_name, init_weights
from shunted_lab.nn.maps import attention_of, concentration, rollout

SIZE = (800, 1333)


def timed(name: str, work: Callable[[], object]) -> tuple[float, float]:
    clock, processors = time.perf_counter(), time.process_time()
    work()
    clock, processors = time.perf_counter() - clock, time.process_time() - processors
    print(f"{name:14} {clock:6.1f} s, {processors:6.1f} s of processors, peak so far {peak():.2f} GB", flush=True)
    return clock, processors


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    model = Pyramid(**PRESETS["model"]["shunted_s"].options())
    init_weights(model, 0)
    image = torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(SIZE)
    mask[200:600, 300:900] = 1
    print(f"{SIZE[0]} x {SIZE[1]}, {device_name(torch.device('cpu'))}, peak before {peak():.2f} GB")
    masses: list[float] = []
    found = [
        timed("attention_of", lambda: attention_of(model, image, (0.5, 0.5))),
        timed("rollout", lambda: masses.append(float(rollout(model, image).double().sum()))),
        timed("concentration", lambda: concentration(model, image, mask)),
    ]
    clock, processors = (sum(times) for times in zip(*found, strict=True))
    print(f"{'together':14} {clock:6.1f} s, {processors:6.1f} s of processors; mass of rollout 1 {masses[0] - 1:+.1e}")


if __name__ == "__main__":
    main()

"""Speed and memory of our models against the straightforward implementation in `reference.py`, on a CPU.

    python tests/benchmarks/speed.py              # eager, compiled, memory, matrix-product rate: about 8 minutes
    python tests/benchmarks/speed.py eager        # or only some: eager, compiled, memory, profile

Both models have the same weights. They are timed in one process, alternating, and ratios are medians of the ratios of
neighbouring passes, so that a machine with other work on it shows the same ratio.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler greets on stderr
import torch
from reference import Reference
from torch import Tensor, nn

from shunted_lab.config import PRESETS
from shunted_lab.nn import Pyramid, count_cost, device_name, init_weights, measure
from shunted_lab.nn.official import load_official

BATCH, SIZE, PASSES = 8, 224, 9
CPU = torch.device("cpu")


def models() -> tuple[nn.Module, nn.Module]:
    """The reference and ours, Shunted-S with the same weights."""
    torch.manual_seed(0)
    reference = Reference(depths=[2, 4, 12, 1], extra=1)
    init_weights(reference, 0)
    ours = Pyramid(**PRESETS["model"]["shunted_s"].options() | {"drop_path_rate": 0.0})
    load_official(ours, reference.state_dict())
    x = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(ours.eval()(x), reference.eval()(x), rtol=1e-4, atol=1e-4)
    return reference, ours


def infer(model: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with torch.no_grad():
        model(images)


def train(model: nn.Module, images: Tensor) -> None:
    model(images).square().mean().backward()
    model.zero_grad(set_to_none=True)


def seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def alternate(steps: dict[str, Callable[[], None]]) -> dict[str, list[float]]:
    """Name -> seconds of each pass, the steps in turn, after two passes that are not timed."""
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(PASSES):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def ratio(times: dict[str, list[float]], slow: str, fast: str) -> str:
    ratios = sorted(a / b for a, b in zip(times[slow], times[fast], strict=True))
    return f"{statistics.median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def gemm_rate() -> float:
    """Multiply-accumulates a second of a large float32 matrix product, the best of five."""
    a, b = torch.randn(4096, 4096), torch.randn(4096, 4096)
    return 4096**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(5))


def eager() -> None:
    reference, ours = models()
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    times = alternate({"reference": lambda: infer(reference, images), "ours": lambda: infer(ours, images)})
    print(f"inference, eager: {ratio(times, 'reference', 'ours')} faster than the reference")
    macs = BATCH * count_cost(lambda: Pyramid(**PRESETS["model"]["shunted_s"].options()), SIZE).macs
    share = macs / statistics.median(times["ours"]) / gemm_rate()
    print(f"  {macs / statistics.median(times['ours']) / 1e9:.0f} GMAC/s, {share:.0%} of a large matrix product's rate")
    reference.train(), ours.train()
    times = alternate({"reference": lambda: train(reference, images), "ours": lambda: train(ours, images)})
    print(f"training step, eager: {ratio(times, 'reference', 'ours')} faster than the reference")


def compiled() -> None:
    import torch._inductor.config as inductor

    inductor.freezing = True
    reference, ours = models()
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    fast_reference, fast_ours = torch.compile(reference), torch.compile(ours)
    times = alternate(
        {
            "reference": lambda: infer(reference, images),
            "compiled reference": lambda: infer(fast_reference, images),
            "compiled": lambda: infer(fast_ours, images),
        }
    )
    print(f"inference, compiled: {ratio(times, 'reference', 'compiled')} faster than the eager reference")
    print(f"  {ratio(times, 'compiled reference', 'compiled')} faster than the compiled reference")
    print(f"  (the compiled reference: {ratio(times, 'reference', 'compiled reference')})")


def memory() -> None:
    for training, name in ((False, "inference"), (True, "training")):
        found = [measure(m, (800, 1344), repeats=1, warmup=0, training=training).peak_memory for m in models()]
        reference_mb, ours_mb = ((peak or 0) / 1e6 for peak in found)
        share = f"1/{reference_mb / ours_mb:.1f} of the reference's {reference_mb:,.0f} MB"
        print(f"peak memory at 800 x 1344, {name}: {ours_mb:,.0f} MB, {share}")


def profile() -> None:
    reference, ours = models()
    images = torch.randn(BATCH, 3, SIZE, SIZE)
    for name, model in (("reference", reference), ("ours", ours)):
        infer(model, images)
        with torch.profiler.profile() as found:
            infer(model, images)
        print(f"\n{name}: where the time of an eager pass goes")
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=48))


PARTS = {"eager": eager, "compiled": compiled, "memory": memory}

if __name__ == "__main__":
    print(f"shunted_s, batch {BATCH}, {SIZE} x {SIZE}, float32, {device_name(CPU)}")
    for part in sys.argv[1:] or PARTS:
        (PARTS | {"profile": profile})[part]()

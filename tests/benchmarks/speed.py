"""Speed and memory of Shunted-S beside pyramids of timm, and beside the official code where it is given, on a CPU.

    python tests/benchmarks/speed.py                    # inference and training step: about 5 minutes
    python tests/benchmarks/speed.py official=SSA.py    # with the file of that name of the official repository
    python tests/benchmarks/speed.py compiled memory    # or only some: eager, compiled, memory, profile
    python tests/benchmarks/speed.py batch=1 size=64 passes=2    # a quick look at whether it runs

The official repository is https://github.com/OliverRensu/Shunted-Transformer. All models are timed in one process, in
turns. A ratio is the median of the ratios of neighbouring passes, with their range, so that a machine with other work
on it shows the same ratio. The models have other GMACs, so there are two ratios: of images a second, and of
multiply-accumulates a second. The latter is also given as a share of what a large matrix product reaches.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler greets on stderr
import timm
import torch
from torch import Tensor, nn

from shunted_lab.config.groups import PRESETS
from shunted_lab.nn import Pyramid, count_cost, device_name, init_weights, measure
from shunted_lab.nn.weights import load_weights

OURS, OFFICIAL = "ours: shunted_s", "official code: Shunted-S"
TIMM = ("pvt_v2_b2", "swin_tiny_patch4_window7_224")
PRODUCT = 4096  # rows and columns of the matrix product
OPTIONS = {"batch": "8", "size": "224", "passes": "9", "official": ""}

Steps = dict[str, Callable[[], object]]


def shunted_s() -> Pyramid:
    """Shunted-S without stochastic depth, which would skip work by chance."""
    return Pyramid(**PRESETS["model"]["shunted_s"].options() | {"drop_path_rate": 0.0})


def from_timm(name: str, size: int) -> nn.Module:
    """A model of timm with random weights; Swin takes the size of its images when it is built."""
    options: dict[str, Any] = {"img_size": size} if name.startswith("swin") else {}
    return timm.create_model(name, drop_path_rate=0.0, **options)


def official_model(file: str) -> nn.Module:
    """Shunted-S of the official code, from its file `SSA.py`."""
    spec = importlib.util.spec_from_file_location("official_ssa", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # timm registers its models by it
    spec.loader.exec_module(module)
    model: nn.Module = module.shunted_s()
    for layer in model.modules():
        if type(layer).__name__ == "DropPath":
            layer.drop_prob = 0.0  # type: ignore[assignment]
    return model


def models(size: int, official: str) -> dict[str, nn.Module]:
    """Name -> model; the first is what the others are compared with. Ours has the official model's weights."""
    torch.manual_seed(0)
    found: dict[str, nn.Module] = {OFFICIAL: official_model(official)} if official else {}
    found[OURS] = ours = shunted_s()
    init_weights(ours, 0)
    if official:
        load_weights(ours, found[OFFICIAL].state_dict())
        images = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(ours.eval()(images), found[OFFICIAL].eval()(images), rtol=1e-4, atol=1e-4)
    return found | {name: from_timm(name, size) for name in TIMM}


def macs(size: int, names: list[str]) -> dict[str, int]:
    """Multiply-accumulates of one image. Those of the official code are ours: it is the same model."""
    make = {OURS: shunted_s, OFFICIAL: shunted_s} | {name: partial(from_timm, name, size) for name in TIMM}
    return {name: count_cost(make[name], size).macs for name in names}


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


def alternate(steps: Steps, passes: int) -> dict[str, list[float]]:
    """Name -> seconds of each pass, the steps in turn, after two passes that are not timed."""
    for step in steps.values():
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(passes):
        for name, step in steps.items():
            times[name].append(seconds(step))
    return times


def ratio(slow: list[float], fast: list[float], scale: float = 1.0) -> str:
    """How many times faster, as `1.30 (1.15 to 1.44)`."""
    ratios = sorted(scale * a / b for a, b in zip(slow, fast, strict=True))
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def table(title: str, steps: Steps, work: dict[str, float], passes: int) -> None:
    """Print a Markdown table. `work`: multiply-accumulates of each step."""
    a, b = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    times = alternate(steps | {"product": lambda: torch.mm(a, b)}, passes)
    product = times.pop("product")
    first = next(iter(times))
    print(f"\n| {title} | GMACs | images/s against {first} | MACs/s against it | share of a matrix product |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, found in times.items():
        pairs = zip(found, product, strict=True)
        share = statistics.median(work[name] / PRODUCT**3 * other / own for own, other in pairs)
        cells = [ratio(times[first], found), ratio(times[first], found, work[name] / work[first]), f"{share:.0%}"]
        print(f"| {name} | {work[name] / 1e9:.2f} | {' | '.join(cells)} |", flush=True)


def eager(batch: int, size: int, passes: int, official: str) -> None:
    found, images = models(size, official), torch.randn(batch, 3, size, size)
    one = macs(size, list(found))
    steps: Steps = {name: partial(infer, model.eval(), images) for name, model in found.items()}
    table("inference, eager", steps, {name: float(batch * one[name]) for name in found}, passes)
    steps = {name: partial(train, model.train(), images) for name, model in found.items()}
    # The backward pass has one product for the gradient of each factor: twice the forward pass.
    table("training step, eager", steps, {name: 3.0 * batch * one[name] for name in found}, passes)


def compiled(batch: int, size: int, passes: int, official: str) -> None:
    import torch._inductor.config as inductor

    inductor.freezing = True
    found, images = models(size, official), torch.randn(batch, 3, size, size)
    one = macs(size, list(found))
    fast = {name: torch.compile(model.eval()) for name, model in found.items()}
    steps: Steps = {name: partial(infer, model, images) for name, model in fast.items()}
    table("inference, compiled, weights frozen", steps, {name: float(batch * one[name]) for name in found}, passes)


def memory(batch: int, size: int, passes: int, official: str) -> None:
    found = models(size, official)
    large = (800, 1344) if size >= 224 else (64, 96)
    for training, title in ((False, "inference"), (True, "training")):
        for name, model in found.items():
            if not name.startswith("swin"):  # built for one size
                peak = measure(model, large, repeats=1, warmup=0, training=training).peak_memory or 0
                print(f"peak memory above the weights, {large[0]} x {large[1]}, {title}, {name}: {peak / 1e6:,.0f} MB")


def profile(batch: int, size: int, passes: int, official: str) -> None:
    images = torch.randn(batch, 3, size, size)
    for name, model in models(size, official).items():
        for step, title in ((infer, "forward pass"), (train, "training step")):
            model.train(step is train)
            step(model, images)
            with torch.profiler.profile() as found:
                step(model, images)
            print(f"\n{name}: where the time of an eager {title} goes")
            print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=48))


PARTS = {"eager": eager, "compiled": compiled, "memory": memory, "profile": profile}

if __name__ == "__main__":
    given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    chosen = [word for word in sys.argv[1:] if "=" not in word] or ["eager"]
    if unknown := given.keys() - OPTIONS.keys() | set(chosen) - PARTS.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; choices: {', '.join(PARTS)}; {', '.join(OPTIONS)}=")
    options = OPTIONS | given
    if options["official"] and not Path(options["official"]).is_file():
        sys.exit(f"official: {options['official']} is not a file")
    batch, size, passes = (int(options[name]) for name in ("batch", "size", "passes"))
    print(f"batch {batch}, {size} x {size}, float32, {device_name(torch.device('cpu'))}")
    for part in chosen:
        PARTS[part](batch, size, passes, options["official"])

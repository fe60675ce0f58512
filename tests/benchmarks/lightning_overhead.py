"""What training through Lightning costs, against a bare PyTorch loop: same model, same batches, same recipe.

    python tests/benchmarks/lightning_overhead.py

Time: what Lightning adds to a step is the same for every model, so it is measured with a tiny one, whose steps are
short, and compared with a step of shunted_lite: processor time with one thread, both loops in turn in one process,
medians. Goal: at most 3 % more. Memory: the highest resident size of a process that does some steps of Shunted-T at
224 x 224, above its size before; one process for each loop. Goal: at most 5 % more.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from timm.optim import param_groups_weight_decay

from shunted_lab.config.compose import compose
from shunted_lab.config.run import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.nn import device_name
from shunted_lab.tasks import callbacks as module
from shunted_lab.tasks.schedule import learning_rate
from shunted_lab.tasks.train import make_module, train

PAIRS = 9
TINY = [  # 300 steps of some milliseconds
    "model.embed_dims=[8,8,8,8]",
    "model.depths=[1,1,1,1]",
    "model.num_heads=[2,2,2,2]",
    "data.image_size=32",
    "data.batch_size=2",
]
LARGE = ["model=shunted_t", "model.patch_embed=conv_stem0", "data.image_size=224", "data.batch_size=16"]


def bare(config: RunConfig) -> float:
    """Seconds of processor time a step, without the first: what the recipe says, and nothing else."""
    data = make_datamodule(config.data, config.recipe, config.seed)
    net = make_module(config, data.class_names).net.train()
    groups = param_groups_weight_decay(net, config.recipe.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.recipe.lr, eps=config.recipe.opt_eps)
    steps = config.recipe.limit_batches or 0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config.recipe, 1.0))
    start = 0.0
    for step, (images, labels) in zip(range(steps), data.train_dataloader(), strict=False):
        loss = F.cross_entropy(net(images), labels, label_smoothing=config.recipe.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step == 0:
            start = time.process_time()
    return (time.process_time() - start) / (steps - 1)


def through_lightning(config: RunConfig) -> float:
    """The same of a whole run, whose own clock is set to processor time."""
    module.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder))
    module.time = time
    return config.data.batch_size / result["images_per_second"]


LOOPS: dict[str, Callable[[RunConfig], float]] = {"bare": bare, "lightning": through_lightning}


def config_of(words: list[str], batches: int) -> RunConfig:
    given = ["experiment=train", "launch.accelerator=cpu", "recipe.epochs=1", f"recipe.limit_batches={batches}"]
    return compose([*given, *words]).variants["model"]


def measure_time() -> None:
    config = config_of(TINY, 300)
    found: dict[str, list[float]] = {name: [] for name in LOOPS}
    for turn in range(PAIRS):
        for name in list(LOOPS)[:: 1 if turn % 2 else -1]:
            found[name].append(1e3 * LOOPS[name](config))
    added = sorted(one - other for one, other in zip(found["lightning"], found["bare"], strict=True))
    for name, step in found.items():
        print(f"{name:10} {statistics.median(step):.2f} ms a step of the tiny model")
    middle = statistics.median(added)
    print(f"added      {middle:.2f} ms ({added[0]:.2f} to {added[-1]:.2f})")
    large = 1e3 * statistics.median(bare(config_of([], 15)) for _ in range(3))
    print(f"shunted_lite, batches of 64 at 64 x 64: {large:.0f} ms a step, so {100 * middle / large:.1f} % more")


def measure_memory() -> None:
    peaks = {}
    for name in LOOPS:
        command = [sys.executable, __file__, "memory", name]
        peaks[name] = min(int(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3))
        print(f"{name:10} {peaks[name] / 1e3:,.0f} MB above the process before, at the highest")
    print(f"lightning / bare: {peaks['lightning'] / peaks['bare']:.3f}")


def one_peak(name: str) -> int:
    """Kilobytes that a few steps need; a first step of a small model has loaded whatever is loaded late."""
    LOOPS[name](config_of([], 2))
    config = config_of(LARGE, 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Validation and test are not part of the bare loop; they keep no activations.
    LOOPS[name](config)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["memory"]:
        print(one_peak(sys.argv[2]))
        return
    print(device_name(torch.device("cpu")))
    measure_time()
    print("shunted_t, batches of 16 at 224 x 224")
    measure_memory()


if __name__ == "__main__":
    main()

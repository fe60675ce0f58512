"""How long a run will take and how much memory it needs, from a few steps of it that are measured before it starts."""

from __future__ import annotations

import logging
import math
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from shunted_lab.config.run import RunConfig
from shunted_lab.data import DataFacts
from shunted_lab.nn import Cost
from shunted_lab.study.costs.memo import keep, recall
from shunted_lab.study.machine import count_cores
from shunted_lab.study.slots import CONTEXT, Slot, take
from shunted_lab.tasks.device import find_device

if TYPE_CHECKING:
    pass

IMAGES = 128  # at most, in a step that is measured on a GPU; on a CPU as many as make SMALL, and at least two
STEPS = 3  # that are measured, after one that is not
SECONDS = 4.0  # after which no step of a run is measured any more
VARIANTS = 6  # at most, that are measured; the others are taken to be as fast as the nearest one, per MAC
STARTING = 1.5  # seconds of a run beside training: its process, first batch, checkpoints, pictures
SMALL = 10e9  # MACs of a batch up to which one thread per run is as good a use of a CPU as all of them


@dataclass(frozen=True)
class Pace:
    """What was measured of a run.

    Args:
        step: seconds to load a batch and train on it.
        image: seconds to load an image and evaluate it.
        steps: of an epoch.
        val, test: images of these splits; val is evaluated after each epoch, both at the end.
        memory: peak bytes of the process on the CPU.
    """

    step: float
    image: float
    steps: int
    val: int
    test: int
    memory: int

    def seconds(self, epochs: int) -> float:
        """What the run takes in all."""
        training = epochs * (self.steps * self.step + self.val * self.image)
        return STARTING + training + (self.val + self.test) * self.image


def is_small(config: RunConfig, macs: float) -> bool:
    """Whether a run with so many MACs an image is trained by one thread: more would wait for one another."""
    return macs * config.per_device_batch_size <= SMALL


def threads_of(config: RunConfig, macs: float, share: int | None) -> int | None:
    """The threads of a run on a CPU: what the user says, one for a small run, else the worker's share (None: all).

    It follows from the run alone whether it is small: other variants and workers change none of its numbers.
    """
    if config.launch.threads != "auto":
        return int(config.launch.threads)
    return 1 if is_small(config, macs) else share


def measure_paces(
    runs: Mapping[str, RunConfig], costs: Mapping[str, Cost], facts: Mapping[str, DataFacts], slots: Sequence[Slot]
) -> dict[str, Pace]:
    """Variant -> its pace on this machine, with as many processes at once as there will be workers.

    A variant that cannot be measured is left out: its run will say why. What was measured before is known.
    """
    keys = {name: _depends_on(run, facts[name], slots) for name, run in runs.items()}
    known = {name: Pace(**found) for name, key in keys.items() if (found := recall("pace", key)) is not None}
    for name, pace in _measure(_chosen(runs.keys() - known.keys(), costs), runs, costs, slots).items():
        known[name] = pace
        keep("pace", keys[name], asdict(pace))
    return {name: _of(name, known, costs) for name in runs} if known else {}


def _chosen(names: Iterable[str], costs: Mapping[str, Cost]) -> list[str]:
    """Those of the variants that are measured, from the cheapest to the most expensive."""
    found = sorted(names, key=lambda name: costs[name].macs)
    if len(found) <= VARIANTS:
        return found
    return [found[round(i * (len(found) - 1) / (VARIANTS - 1))] for i in range(VARIANTS)]


def _depends_on(run: RunConfig, facts: DataFacts, slots: Sequence[Slot]) -> list[Any]:
    launch = {"workers": len(slots), "threads": slots[0].threads, "gpus": len(slots[0].gpus)}
    config = [asdict(part) for part in (run.model, run.data, run.task, run.recipe, run.launch)]
    return [config, facts.identity, launch, platform.node(), count_cores(), find_device(run.launch.accelerator)]


def _measure(
    names: Sequence[str], runs: Mapping[str, RunConfig], costs: Mapping[str, Cost], slots: Sequence[Slot]
) -> dict[str, Pace]:
    """Measure in processes of their own, as many at once as there will be workers."""
    if not names:
        return {}
    context = multiprocessing.get_context(CONTEXT)
    found = {}
    with ProcessPoolExecutor(len(slots), context, max_tasks_per_child=1) as pool:
        # Each takes the devices of a slot; which process comes next is not known, so a slot may be taken twice.
        answers = {
            name: pool.submit(measure_pace, runs[name], costs[name].macs, slots[i % len(slots)])
            for i, name in enumerate(names)
        }
        for name, answer in answers.items():
            try:
                found[name] = answer.result()
            except Exception as error:
                logging.getLogger(__name__).warning("%s: its time cannot be estimated: %s", name, _first_line(error))
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def measure_pace(config: RunConfig, macs: int, slot: Slot) -> Pace:
    """Load some batches of a run with so many MACs an image, train on them and evaluate others, on the slot's device.

    To be called in a process of its own: it trains a model that nobody needs.
    """
    take(slot if slot.gpus else replace(slot, threads=threads_of(config, macs, slot.threads)))
    import torch

    from shunted_lab.data import make_datamodule
    from shunted_lab.tasks.train import make_module

    device = torch.device(find_device(config.launch.accelerator, "launch.accelerator"))
    size = images_of_step(config, macs, device.type)
    data = make_datamodule(replace(config.data, batch_size=size), config.recipe, config.seed)
    module = make_module(config, data.class_names, weights=False)
    net, task = module.net.to(device), config.task
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6)
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.recipe.precision)

    def step(batch: Any, training: bool) -> None:
        images, targets = module.transfer_batch_to_device(batch, device, 0)
        with torch.autocast(device.type, dtype, enabled=dtype is not None), torch.set_grad_enabled(training):
            outputs = net.train(training)(images)
            loss = task.loss(outputs if training else task.for_evaluation(outputs, targets), targets, 0.0)
        if training:
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        loss.item()  # waits for the device

    loaders = config.launch.num_workers
    trained = _seconds(iter(data.train_dataloader()), partial(step, training=True), loaders)
    evaluated = _seconds(iter(data.val_dataloader()), partial(step, training=False), loaders)
    batch, limit = config.data.batch_size, config.recipe.limit_batches or math.inf
    sizes = {split: min(images, limit * batch) for split, images in data.sizes.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Pace(
        step=trained * min(batch, sizes["train"]) / config.launch.ranks,
        image=evaluated / config.launch.ranks,
        steps=config.recipe.steps_per_epoch or max(1, int(sizes["train"] // batch)),
        val=int(sizes["val"]),
        test=int(sizes["test"]),
        memory=peak,
    )


def images_of_step(config: RunConfig, macs: int, device: str) -> int:
    """How many images of a batch are measured: all of a small run, of others so many that a step takes seconds."""
    most = IMAGES if device != "cpu" else max(2, int(SMALL // macs))
    return min(config.per_device_batch_size, most)


def _seconds(batches: Iterator[Any], step: Callable[[Any], None], loaders: int) -> float:
    """Seconds an image, of loading it and of what is done with it: the slower one where `loaders` load meanwhile."""
    begin = time.perf_counter()
    first = next(batches)
    first_load = time.perf_counter() - begin
    step(first)  # warms up
    loading, doing, images = 0.0, 0.0, 0
    begin = time.perf_counter()
    for count in range(STEPS):
        start = time.perf_counter()
        batch = next(batches, None)
        loaded = time.perf_counter()
        if batch is None and not count:  # an epoch of one batch: it is measured once more
            batch, loading = first, first_load
        if batch is None or (count and loaded - begin > SECONDS):
            break
        step(batch)
        loading += loaded - start
        doing += time.perf_counter() - loaded
        images += len(batch[0])
    return max(loading / loaders, doing) / max(1, images) if loaders else (loading + doing) / max(1, images)


def _of(name: str, measured: Mapping[str, Pace], costs: Mapping[str, Cost]) -> Pace:
    """The pace of a variant, or that of the nearest one that was measured, by the ratio of their MACs."""
    near = min(measured, key=lambda other: abs(math.log(costs[other].macs / costs[name].macs)))
    ratio = 1.0 if near == name else costs[name].macs / costs[near].macs
    return replace(measured[near], step=measured[near].step * ratio, image=measured[near].image * ratio)

"""A trained network on one split of a data set, by `Trainer.test`: the numbers are those that a run's test gives."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import Tensor

from shunted_lab.config.data import Stats
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.train import silence_lightning

PLAIN: Stats = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Evaluation:
    """What came out. `metrics` are named as in a run's result, in base units.

    `images_per_second` is that of the forward passes, without the first batch, which warms up; None for one batch.
    """

    metrics: dict[str, float]
    images: int
    images_per_second: float | None


def evaluate(
    module: TaskModule,
    batches: Any,
    split: str,
    accelerator: str,
    precision: str = "32-true",
    limit_batches: int | None = None,
    stats: tuple[Stats, Stats] = (PLAIN, PLAIN),
) -> Evaluation:
    """Measure the network of `module` on batches of images (B, 3, S, S) and targets.

    Args:
        split: val or test, as which the metrics are named.
        accelerator: cpu, cuda or mps.
        precision: as in `recipe.precision`.
        stats: mean and deviation that the images are normalised with, and those that the network was trained with.
    """
    silence_lightning()
    clock = PassClock()
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        plugins=[LightningEnvironment()],
        precision=precision,  # type: ignore[arg-type]
        limit_test_batches=limit_batches,
        callbacks=[clock, *([Renormalized(stats)] if stats[0] != stats[1] else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (found,) = trainer.test(module, batches, verbose=False)
    values = {f"{split}/{key.partition('/')[2]}": float(value) for key, value in found.items()}
    metrics = module.goal.known(values)
    return Evaluation(metrics, clock.images, clock.images_per_second)


class PassClock(Callback):
    """Counts images, and times the forward passes after the first batch."""

    def __init__(self) -> None:
        self.images = 0
        self._seconds, self._timed = 0.0, 0
        self._start = 0.0

    @property
    def images_per_second(self) -> float | None:
        return self._timed / self._seconds if self._timed else None

    def on_test_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        net: Any = module.net
        net.register_forward_pre_hook(lambda *_: self._begin(module.device))
        net.register_forward_hook(lambda net, inputs, outputs: self._end(module.device, len(inputs[0])))

    def _begin(self, device: torch.device) -> None:
        _synchronize(device)
        self._start = time.perf_counter()

    def _end(self, device: torch.device, images: int) -> None:
        _synchronize(device)
        seconds = time.perf_counter() - self._start
        if self.images:
            self._seconds, self._timed = self._seconds + seconds, self._timed + images
        self.images += images


class Renormalized(Callback):
    """Gives the network images that are normalised as those that it was trained with."""

    def __init__(self, stats: tuple[Stats, Stats]):
        self.stats = stats

    def on_test_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int, loader: int = 0
    ) -> None:
        batch[0].copy_(renormalized(batch[0], *self.stats))


def renormalized(images: Tensor, have: Stats, want: Stats) -> Tensor:
    """(B, 3, H, W) images normalised with `have` -> the same images, normalised with `want`."""
    mean, std, new_mean, new_std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (*have, *want)
    )
    return (images * std + mean - new_mean) / new_std


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

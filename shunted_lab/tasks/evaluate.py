"""A trained model on one split of a data set, without a Trainer; the numbers are those that a run's test gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from shunted_lab.config.data import Stats
from shunted_lab.tasks.classification import Classification

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # precision -> type
PLAIN: Stats = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Evaluation:
    """What came out. `metrics` are named as in a run's result: fractions in [0, 1], and the loss.

    `images_per_second` is that of the forward passes, without the first batch, which warms up; None for one batch.
    """

    metrics: dict[str, float]
    images: int
    images_per_second: float | None


@torch.inference_mode()
def evaluate(
    task: Classification,
    batches: Any,
    split: str,
    device: torch.device,
    precision: str = "32-true",
    limit_batches: int | None = None,
    stats: tuple[Stats, Stats] = (PLAIN, PLAIN),
) -> Evaluation:
    """Measure `task.net` on batches of images (B, 3, S, S) and labels.

    Args:
        split: val or test, whose metrics of the task are taken.
        precision: a key of `AUTOCAST`.
        stats: mean and deviation that the images are normalised with, and those that `task.net` was trained with.
    """
    task.to(device).eval()
    metrics: Any = task.metrics[split]
    metrics.reset()
    loss, images, seconds, timed = torch.tensor(0.0, device=device), 0, 0.0, 0
    for i, (batch, labels) in enumerate(islice(batches, limit_batches)):
        batch, labels = batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if stats[0] != stats[1]:
            batch = renormalised(batch, *stats)
        logits, passed = _timed(lambda: task(batch), device, precision)  # noqa: B023  # called at once
        # As Lightning's log(): the mean over images, from means over batches.
        loss = loss + task.loss(logits.float(), labels, 0.0) * len(batch)
        metrics.update(logits, labels)
        images += len(batch)
        if i > 0:
            seconds, timed = seconds + passed, timed + len(batch)
    found = {f"{split}/loss": float(loss / images)} | {key: float(value) for key, value in metrics.compute().items()}
    return Evaluation(found, images, timed / seconds if timed else None)


def renormalised(images: Tensor, have: Stats, want: Stats) -> Tensor:
    """(B, 3, H, W) images normalised with `have` -> the same images, normalised with `want`."""
    mean, std, new_mean, new_std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (*have, *want)
    )
    return (images * std + mean - new_mean) / new_std


def _timed(forward: Callable[[], Tensor], device: torch.device, precision: str) -> tuple[Tensor, float]:
    """What a forward pass gives, and its seconds."""
    dtype = AUTOCAST[precision]
    context: AbstractContextManager[Any] = nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    _synchronise(device)
    start = time.perf_counter()
    with context:
        logits = forward()
    _synchronise(device)
    return logits, time.perf_counter() - start


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()

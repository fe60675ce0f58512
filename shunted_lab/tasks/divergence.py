"""A loss that is not a finite number ends its run, and nothing of it is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from shunted_lab.tasks.recorder import batch_loss

EVERY = 50  # batches between looks on a GPU: each look waits for it


class Diverged(FloatingPointError):
    """The loss became NaN or infinite."""


class Divergence(Callback):
    """Looks at the losses of all ranks: on a CPU after each batch, elsewhere every `EVERY` batches, and always before a
    checkpoint is written, so that the last one is good.

    Raises:
        Diverged: with the first bad step, its learning rate and the last good checkpoint.
    """

    def __init__(self, newest: Callable[[], Path | None]):
        self.newest = newest  # finds the checkpoint that was written last
        self._losses: list[Tensor] = []  # since the last look, on the device
        self._places: list[tuple[int, int, int, float]] = []  # of each: step, epoch, batch, learning rate
        self._step, self._lr = 0, 0.0

    def on_train_batch_start(self, trainer: L.Trainer, task: L.LightningModule, batch: Any, index: int) -> None:
        self._step = trainer.global_step + 1
        self._lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, i: int) -> None:
        loss = batch_loss(trainer, outputs)
        self._losses.append(loss)
        self._places.append((self._step, trainer.current_epoch, i, self._lr))
        if (loss.device.type == "cpu" and trainer.world_size == 1) or len(self._losses) == EVERY:
            self._look(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._look(trainer)

    def _look(self, trainer: L.Trainer) -> None:
        if not self._losses:
            return
        bad = ~torch.stack(self._losses).isfinite()
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad.float(), reduce_op="sum") > 0
        first = int(bad.int().argmax()) if bool(bad.any()) else None
        value = None if first is None else float(self._losses[first])
        places, self._losses, self._places = self._places, [], []
        if first is None:
            return
        step, epoch, batch, lr = places[first]
        good = self.newest()
        raise Diverged(
            f"train/loss is {value:g} in step {step} (epoch {epoch + 1}, batch {batch + 1}) at the learning rate "
            f"{lr:.3g}; "
            + ("there is no checkpoint before it" if good is None else f"the last good checkpoint is {good}")
        )

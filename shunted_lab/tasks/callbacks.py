"""Callbacks of a run: what its listener is told, how it is stopped, and how fast it trains."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from shunted_lab.tasks.listener import RunListener, Status
from shunted_lab.tasks.recorder import batch_loss
from shunted_lab.tasks.resume import BATCHES


class Stopped(Exception):
    """The run was asked to stop; its checkpoint is written, and the same call resumes."""


class Pruned(Exception):
    """The pruner ended the run before its last epoch."""


STATUS_EVERY = 1.0  # seconds between two statuses of a run


class ListenerCallback(Callback):
    """Tells the run's listener how far it is; writes the checkpoint of a run that is asked to stop within an epoch."""

    def __init__(self, listener: RunListener | None, checkpoint: Path):
        self.listener = listener
        self.checkpoint = checkpoint
        self.pruned = False
        self._batches = 0
        self._said, self._images = time.monotonic(), 0  # when the last status was given, and images since

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, i: int) -> None:
        self._tell(trainer, outputs, len(batch[0]), i)
        if trainer.world_size > 1 and i % 10:  # agreeing costs a message between ranks
            return
        if not self._agreed(trainer, lambda: self._asked(trainer)):
            return
        if (i + 1) % trainer.accumulate_grad_batches:
            return  # gradients that add up are in no checkpoint
        if i + 1 < trainer.num_training_batches:  # else the epoch is done: validation and last.ckpt come next
            self._batches = i + 1
            trainer.save_checkpoint(self.checkpoint)
            raise Stopped

    def _tell(self, trainer: L.Trainer, outputs: Any, images: int, i: int) -> None:
        """Give a status, from time to time and at the end of an epoch: reading the loss waits for the device."""
        self._images += images * trainer.world_size
        seconds, batches = time.monotonic() - self._said, int(trainer.num_training_batches)
        if self.listener is None or not trainer.is_global_zero or (seconds < STATUS_EVERY and i + 1 < batches):
            return
        loss, speed = float(batch_loss(trainer, outputs)), self._images / max(seconds, 1e-9)
        epochs = trainer.max_epochs or 1
        self.listener.step(Status(trainer.current_epoch, epochs, i + 1, batches, loss, speed))
        self._said, self._images = time.monotonic(), 0

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._said, self._images = time.monotonic(), 0  # validation is not training
        if trainer.current_epoch and self._agreed(trainer, lambda: self._asked(trainer)):
            raise Stopped  # last.ckpt is of the epoch before

    def on_save_checkpoint(self, trainer: L.Trainer, task: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[BATCHES] = self._batches

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        listener = self.listener
        if listener is None or trainer.state.fn != TrainerFn.FITTING:  # also called by trainer.validate
            return
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        epoch = trainer.current_epoch
        if self._agreed(trainer, lambda: listener.epoch(epoch, metrics)) and epoch + 1 < (trainer.max_epochs or 0):
            self.pruned = trainer.should_stop = True

    def _asked(self, trainer: L.Trainer) -> bool:
        """Whether the listener asks to stop, or SIGTERM does: a cluster sends it to every process of a job."""
        return trainer.received_sigterm or (self.listener is not None and self.listener.stopping())

    @staticmethod
    def _agreed(trainer: L.Trainer, ask: Callable[[], bool]) -> bool:
        """What the first rank is told, on all ranks."""
        answer = trainer.is_global_zero and ask()
        return bool(trainer.strategy.broadcast(answer)) if trainer.world_size > 1 else answer


class Clock(Callback):
    """Seconds and images of training, without validation and without the first batch, which warms up."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.images = 0
        self._warm = False
        self._start = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, i: int) -> None:
        now = time.perf_counter()
        if self._warm:
            self.seconds += now - self._start
            self.images += len(batch[0])
        self._warm, self._start = True, now

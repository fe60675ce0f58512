"""Statistics of BatchNorm for weights that are evaluated, in place of running averages of the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from shunted_lab.data.module import ImageData
from shunted_lab.tasks.base import TaskModule


class Recalibration(Callback):
    """Before each validation, computes the statistics of BatchNorm from `batches` batches of training images, at most
    those of the epoch.

    The running averages of the training belong to weights that have changed since, and averaged weights
    (`recipe.ema`) never saw a batch ("precise BN", Wu and Johnson, arXiv 2105.07576, section 3). The batches are the
    first of the epoch, augmented as in training; of several ranks each takes its own, and all take the mean.
    """

    def __init__(self, batches: int):
        self.batches = batches

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        assert isinstance(task, TaskModule)
        layers: list[Any] = [
            layer for layer in task.net.modules() if isinstance(layer, BatchNorm) and layer.track_running_stats
        ]
        if trainer.state.fn != TrainerFn.FITTING or task.freezes_bn or not layers:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, ImageData)
        with _cumulative(layers), torch.no_grad():
            for images, targets in data.first_batches(min(self.batches, int(trainer.num_training_batches))):
                images, targets = trainer.strategy.batch_to_device((images, targets), task.device)
                with trainer.precision_plugin.forward_context():
                    task.net(*task.task.inputs(images, targets))
        if dist.is_initialized():
            for layer in layers:
                for value in (layer.running_mean, layer.running_var):
                    dist.all_reduce(value)
                    value /= dist.get_world_size()


@contextmanager
def _cumulative(layers: list[Any]) -> Iterator[None]:
    """Let BatchNorm layers average all batches equally, from the first one on."""
    before = [(layer.momentum, layer.training) for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    try:
        yield
    finally:
        for layer, (momentum, training) in zip(layers, before, strict=True):
            layer.momentum = momentum
            layer.train(training)

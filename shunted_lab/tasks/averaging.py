"""Averages of the weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


class Averages(WeightAveraging):
    """An exponential moving average of weights and buffers, which each epoch is validated with and checkpoints hold as
    `state_dict` (the weights themselves as `current_model_state`).

    Buffers of integers, such as the order of heads in an attention with mixed rates, are copied: Lightning's
    `EMAWeightAveraging` would average them too, and truncation makes a 2 of 2.9999998.

    Lightning's callback would also exchange them in `trainer.validate`, after which other weights may have been loaded.
    """

    def __init__(self, decay: float):
        def average(averaged: Tensor, current: Tensor, updates: Tensor) -> Tensor:
            return decay * averaged + (1 - decay) * current if current.is_floating_point() else current

        super().__init__(avg_fn=average)

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, task)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, task)

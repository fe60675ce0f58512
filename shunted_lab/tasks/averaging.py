"""Averages of the weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averages(WeightAveraging):
    """An exponential moving average of weights and buffers, which each epoch is validated with and checkpoints hold as
    `state_dict` (the weights themselves as `current_model_state`).

    Buffers of integers, such as the order of heads in an attention with mixed rates, are copied: Lightning's
    `EMAWeightAveraging` would average them too, and truncation makes a 2 of 2.9999998.

    Lightning's callback would also exchange them in `trainer.validate`, after which other weights may have been loaded.
    """

    def __init__(self, decay: float):
        average = get_ema_multi_avg_fn(decay)

        def average_or_copy(averaged: list[Tensor], current: list[Tensor], updates: Tensor) -> None:
            """Of tensors of one type; all at once, where one at a time takes a tenth of a small model's step."""
            if averaged[0].is_floating_point():
                average(averaged, current, updates)
            else:
                torch._foreach_copy_(averaged, current)

        super().__init__(multi_avg_fn=average_or_copy)

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, task)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, task)

"""Averages of the weights."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.trainer.states import TrainerFn


class Averages(EMAWeightAveraging):
    """An exponential moving average of weights and buffers, which each epoch is validated with and checkpoints hold as
    `state_dict` (the weights themselves as `current_model_state`).

    Lightning's callback would also exchange them in `trainer.validate`, after which other weights may have been loaded.
    """

    def on_validation_epoch_start(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_start(trainer, task)

    def on_validation_epoch_end(self, trainer: L.Trainer, task: L.LightningModule, *args: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_validation_epoch_end(trainer, task)

"""Follows the metrics of a run through its epochs and keeps them in `history.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from shunted_lab.tasks.history import write_history


class History(Callback):
    """Writes a line per epoch: the validation metrics, and `train/loss`, the mean over the epoch's batches.

    What it knows goes into checkpoints, so that a run that goes on repeats and loses nothing.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self._loss: Any = 0.0  # a tensor on the run's device: no batch waits for it
        self._batches = 0

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows], "loss": float(self._loss), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._loss = list(state_dict["rows"]), state_dict["loss"]
        self._batches = state_dict["batches"]

    def on_train_batch_end(self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, i: int) -> None:
        self._loss = self._loss + batch_loss(trainer, outputs)
        self._batches += 1

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Also called by `trainer.validate`, which is not an epoch. Checkpoints are written after this."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        epoch = trainer.current_epoch
        found = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")}
        if self._batches:
            found["train/loss"] = float(self._loss) / self._batches
        self.rows = [row for row in self.rows if row["epoch"] < epoch] + [{"epoch": float(epoch), **found}]
        self._loss, self._batches = 0.0, 0
        if trainer.is_global_zero:
            write_history(self.folder, self.rows)


def batch_loss(trainer: L.Trainer, outputs: Any) -> Tensor:
    """The loss of a training batch. Lightning divides it by the parts of a batch that are trained in turn."""
    loss: Tensor = outputs["loss"]
    return loss.detach() * trainer.accumulate_grad_batches

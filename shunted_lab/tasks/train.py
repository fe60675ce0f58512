"""Train one run in its folder and say what came out. The Trainer is made here and nowhere else."""

from __future__ import annotations

import logging
import os
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from shunted_lab.config import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.nn import device_name, init_weights
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.model import build_model


def train(config: RunConfig, folder: Path, progress: bool = False) -> dict[str, Any]:
    """Train, validate and test one run; go on from `folder/checkpoints/last.ckpt` where there is one.

    Args:
        config: the run's whole configuration.
        folder: gets `checkpoints/` and TensorBoard's events.
        progress: show a progress bar.

    Returns:
        Plain values for `result.json`: `metrics` (fractions in [0, 1], losses), `headline` (the table's metric),
        the `epoch` that was tested, `device`, `sizes` of the splits, `train_seconds` and `images_per_second` of this
        session's training epochs.
    """
    _quiet()
    data = make_datamodule(config.data, config.recipe, config.seed, config.launch.num_workers)
    task = make_task(config, data.num_classes)
    clock = Clock()
    trainer = make_trainer(config, folder, [clock], progress)
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(task, data, ckpt_path=last if last.exists() else None, weights_only=True)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    epoch = config.recipe.epochs - 1
    if config.recipe.select == "best":
        best = torch.load(last.with_name("best.ckpt"), weights_only=True, map_location="cpu")
        task.load_state_dict(best["state_dict"])
        epoch = int(best["epoch"])
    # Also for the last epoch: after a kill between the last checkpoint and the test, fit has nothing left to validate.
    metrics |= _values(trainer.validate(task, data, verbose=False))
    metrics |= _values(trainer.test(task, data, verbose=False))
    return {
        "metrics": metrics,
        "headline": task.headline,
        "epoch": epoch,
        "select": config.recipe.select,
        "device": device_name(trainer.strategy.root_device),
        "sizes": dict(data.sizes),
        "train_seconds": round(clock.seconds, 2),
        "images_per_second": round(clock.images / clock.seconds, 1) if clock.seconds else None,
    }


def make_task(config: RunConfig, num_classes: int) -> Classification:
    """The LightningModule of a run, with the initial values that all variants of its seed share."""
    net = build_model(config.model, num_classes)
    init_weights(net, config.seed)
    return Classification(net, config.recipe, num_classes, config.data.batch_size, config.seed)


def make_trainer(config: RunConfig, folder: Path, callbacks: list[Callback], progress: bool) -> L.Trainer:
    """The one Trainer: a checkpoint after each epoch, TensorBoard, and no output of its own."""
    recipe = config.recipe
    # Two callbacks: with save_last, one alone writes last.ckpt only when the best one has changed.
    keep: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    checkpoints = [ModelCheckpoint(filename="last", **keep)]
    if recipe.select == "best":
        best = ModelCheckpoint(filename="best", monitor=Classification.monitor, mode=Classification.mode, **keep)
        checkpoints.insert(0, best)
    return L.Trainer(
        accelerator=config.launch.accelerator,
        devices=1,
        precision=recipe.precision,  # type: ignore[arg-type]
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.clip_grad,
        limit_train_batches=recipe.limit_batches,
        limit_val_batches=recipe.limit_batches,
        limit_test_batches=recipe.limit_batches,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[*checkpoints, *callbacks, *([RichProgressBar()] if progress else [])],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,  # the data module's sampler knows the ranks, and pairs the seeds
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


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


def _values(results: Any) -> dict[str, float]:
    return {key: float(value) for result in results for key, value in result.items()}


def _quiet() -> None:
    """Lightning says much that this package decides on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*training batches .* is smaller than.*",
        ".*LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", text)

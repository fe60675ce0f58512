"""Train one run in its folder and say what came out. The Trainer is made here and nowhere else."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.trainer.states import TrainerFn

from shunted_lab.config.run import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.data.module import ImageData
from shunted_lab.data.scales import ScalesConfig
from shunted_lab.nn import Pyramid, device_name, init_weights
from shunted_lab.nn.initial import seeded
from shunted_lab.tasks import goal_of
from shunted_lab.tasks.atomic import AtomicCheckpoints
from shunted_lab.tasks.averaging import Averages
from shunted_lab.tasks.checkpoint import load_initial
from shunted_lab.tasks.classification import Classification
from shunted_lab.tasks.device import check_precision, find_device
from shunted_lab.tasks.divergence import Divergence
from shunted_lab.tasks.listener import RunListener, Status
from shunted_lab.tasks.model import build_model
from shunted_lab.tasks.objects import Objects
from shunted_lab.tasks.pictures import attention_sheet, predicted_sheet
from shunted_lab.tasks.predictions import Predictions
from shunted_lab.tasks.recorder import History, batch_loss
from shunted_lab.tasks.resume import BATCHES, BEST, LAST, STOPPED, MovableCheckpoint, batches_trained, newest


class Stopped(Exception):
    """Somebody asked the run to stop; its checkpoint is written, and the same call goes on."""


class Pruned(Exception):
    """The run is not worth its cost: the pruner ended it before its last epoch."""


def train(
    config: RunConfig, folder: Path, listener: RunListener | None = None, progress: bool = False
) -> dict[str, Any]:
    """Train, validate and test one run; resume it from its newest checkpoint where there is one.

    Args:
        config: the run's whole configuration.
        folder: gets `checkpoints/`, TensorBoard's events, `history.csv` and `predictions.npz`.
        listener: who follows the run; only the first rank of a run over several devices speaks to it.
        progress: show a progress bar.

    Returns:
        Plain values for `result.json`: `metrics` (fractions in [0, 1], losses), `headline` (the table's metric), the
        `epoch` that was tested, `device`, `devices`, `precision`, `batch_layout` (in words), `sizes` of the splits,
        images `used` of each (see `images_used`), `num_classes`, `corrupt_images` (training images that were
        replaced), `initial_weights` (which weights of `model.checkpoint` were taken, and what became of its head; None
        without one), `train_seconds` and `images_per_second` of this session's training epochs.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        Diverged: if the loss became NaN or infinite.
        CorruptImages: for more training images that cannot be decoded than `data.max_corrupt`, or for any that is
            evaluated on.
    """
    _quiet()
    launch = config.launch
    batch_size = config.per_device_batch_size
    data = make_datamodule(replace(config.data, batch_size=batch_size), config.recipe, config.seed, launch.num_workers)
    data.sampler.group = batch_size * launch.accumulate
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = folder / "checkpoints"
    start = newest(checkpoints, config.recipe.select)
    task = make_task(config, data.class_names, weights=start is None)
    clock, follow = Clock(), Follow(listener, checkpoints / STOPPED)
    callbacks = [Divergence(lambda: newest(checkpoints)), clock, History(folder), follow]
    trainer = make_trainer(config, folder, callbacks, progress)
    data.sampler.skip = batches_trained(start) * batch_size
    trainer.fit(task, data, ckpt_path=start, weights_only=True)
    if follow.pruned:
        raise Pruned
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    epoch = _load_tested(task, config, checkpoints)
    # Also for the last epoch: after a kill between the last checkpoint and the test, fit has nothing left to validate.
    metrics |= _values(trainer.validate(task, data, verbose=False))
    metrics |= _values(trainer.test(task, data, verbose=False))
    corrupt = corrupt_images(trainer, data)
    if trainer.is_global_zero:
        predictions = task.predictions()
        predictions.write(folder)
        _show(trainer, config, task, data, predictions, metrics)
    return {
        "metrics": metrics,
        "headline": task.goal.headline,
        "epoch": epoch,
        "select": config.recipe.select,
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "batch_layout": config.batch_layout,
        "sizes": dict(data.sizes),
        "used": images_used(config, data.sizes),
        "corrupt_images": corrupt,
        "num_classes": data.num_classes,
        "initial_weights": task.initial_weights,
        "train_seconds": round(clock.seconds, 2),
        "images_per_second": round(clock.images * trainer.world_size / clock.seconds, 1) if clock.seconds else None,
    }


def _load_tested(task: Classification, config: RunConfig, checkpoints: Path) -> int:
    """Give the task the weights that are tested, after training; their epoch."""
    if config.recipe.select != "best" and config.recipe.ema is None:  # averages are in checkpoints only
        return config.recipe.epochs - 1
    name = BEST if config.recipe.select == "best" else LAST
    chosen = torch.load(checkpoints / name, weights_only=True, map_location="cpu")
    task.load_state_dict(chosen["state_dict"])
    return int(chosen["epoch"])


def images_used(config: RunConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """Split -> images that a run sees of it, for training in one epoch: fewer than `sizes` with `limit_batches`."""
    limit = config.recipe.limit_batches
    if limit is None:
        return dict(sizes)
    seen = limit * config.data.batch_size
    copies = {"train": config.recipe.repeated_aug}
    return {split: min(size, -(-seen // copies.get(split, 1))) for split, size in sizes.items()}


def corrupt_images(trainer: L.Trainer, data: ImageData) -> list[str]:
    """The training images that any rank could not decode and replaced."""
    train: Any = data.splits.train
    marks = getattr(train, "corrupt", None)
    if marks is None:
        return []
    if trainer.world_size > 1:
        seen = marks.marks.float().to(trainer.strategy.root_device)
        marks.marks |= (trainer.strategy.reduce(seen, reduce_op="sum") > 0).cpu()
    return [train.images.where(index) for index in marks.found]


def _show(
    trainer: L.Trainer,
    config: RunConfig,
    task: Classification,
    data: ImageData,
    predictions: Predictions,
    metrics: dict[str, float],
) -> None:
    """What TensorBoard shows of a finished run beside its curves: pictures, and its options with the final metrics."""
    logger = trainer.logger
    assert isinstance(logger, TensorBoardLogger) and isinstance(task.net, Pyramid)
    count = len(predictions.targets)
    chosen = [int(i) for i in torch.linspace(0, count - 1, min(SHOWN, count))]  # all over the split: it may be sorted
    images = data.test_images(chosen)
    task.net.to("cpu")
    stats = config.data.stats
    pictures = {
        "test/predicted": predicted_sheet(images, stats, predictions.take(chosen)),
        "test/attention": attention_sheet(task.net, images[:4], stats),
    }
    for name, picture in pictures.items():
        if picture is not None:
            logger.experiment.add_image(name, picture, task.global_step, dataformats="HWC")
    final = {f"final/{key}": value for key, value in metrics.items() if key.startswith(("val/", "test/"))}
    logger.log_hyperparams(options(config), final)
    logger.save()


def options(config: RunConfig) -> dict[str, Any]:
    """The run's configuration as dotted keys with plain values: TensorBoard's hyper-parameters."""
    found: dict[str, Any] = {"seed": config.seed}
    for group in ("model", "data", "recipe"):
        for key, value in asdict(getattr(config, group)).items():
            found[f"{group}.{key}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def make_task(config: RunConfig, class_names: Sequence[str], weights: bool = True) -> Classification:
    """The LightningModule of a run, with the initial values that all variants of its seed share.

    Args:
        class_names: the classes of the data in the order of their labels.
        weights: read `model.checkpoint`; a run that goes on from a checkpoint of its own does not need it.
    """
    with seeded(str(config.seed)):
        net = build_model(config.model, len(class_names))
    init_weights(net, config.seed)
    initial = None
    if weights and config.model.checkpoint is not None:
        initial = load_initial(net, config.model.checkpoint, class_names).note()
    net.set_grad_checkpointing(config.recipe.grad_checkpointing)
    task = task_of(net, config, class_names)
    task.initial_weights = initial
    task.compiled = torch.compile(net.forward) if config.launch.compile else None
    return task


def task_of(net: Pyramid, config: RunConfig, class_names: Sequence[str]) -> Classification:
    """The LightningModule that trains and tests `net` on the data of a run."""
    batch_size = config.data.batch_size
    if isinstance(config.data, ScalesConfig):
        return Objects(net, config.recipe, class_names, batch_size, config.seed, dict(config.data.size_ranges()))
    return Classification(net, config.recipe, class_names, batch_size, config.seed)


def make_trainer(config: RunConfig, folder: Path, callbacks: list[Callback], progress: bool) -> L.Trainer:
    """The one Trainer: a checkpoint after each epoch, TensorBoard, and no output of its own."""
    recipe, goal = config.recipe, goal_of(config.data)
    check_precision(recipe.precision, find_device(config.launch.accelerator, "launch.accelerator"))
    # Two callbacks: with save_last, one alone writes last.ckpt only when the best one has changed.
    keep: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    checkpoints = [MovableCheckpoint(filename=LAST.removesuffix(".ckpt"), **keep)]
    if recipe.select == "best":
        best = MovableCheckpoint(filename=BEST.removesuffix(".ckpt"), monitor=goal.monitor, mode=goal.mode, **keep)
        checkpoints.insert(0, best)
    averages = [] if recipe.ema is None else [Averages(decay=recipe.ema)]  # before those that write checkpoints
    clip = config.model.clip_grad if recipe.clip_grad is None else recipe.clip_grad
    batches = None if recipe.limit_batches is None else recipe.limit_batches * config.launch.accumulate
    return L.Trainer(
        accelerator=config.launch.accelerator,
        devices=config.launch.devices_per_run,
        num_nodes=config.launch.nodes_per_run,
        strategy="auto" if config.launch.ranks == 1 else "ddp",
        sync_batchnorm=recipe.sync_bn and config.launch.ranks > 1,
        # Runs are started here, never by the cluster: its variables, and queueing again, belong to the launcher.
        plugins=[LightningEnvironment(), AtomicCheckpoints()],
        precision=recipe.precision,  # type: ignore[arg-type]
        max_epochs=recipe.epochs,
        gradient_clip_val=clip or None,
        accumulate_grad_batches=config.launch.accumulate,
        limit_train_batches=batches,
        limit_val_batches=batches,
        limit_test_batches=batches,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[*averages, *checkpoints, *callbacks, *([RichProgressBar()] if progress else [])],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,  # the data module's sampler knows the ranks, and pairs the seeds
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


STATUS_EVERY = 1.0  # seconds between two statuses of a run
SHOWN = 8  # test images with their predictions, in TensorBoard


class Follow(Callback):
    """Speaks to the run's listener; writes the checkpoint of a run that is asked to stop within an epoch."""

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
        ".*`srun` command is available.*",  # runs are started by the launcher, on a cluster too
        ".*your dataloader is not resumable.*",  # the sampler leaves out what was seen
    ):
        warnings.filterwarnings("ignore", text)

"""Train one run in its folder and say what came out. The Trainer is made here and nowhere else."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from shunted_lab.config.run import RunConfig
from shunted_lab.data import make_datamodule
from shunted_lab.data.module import ImageData
from shunted_lab.nn import build_seeded, device_name
from shunted_lab.tasks.atomic import AtomicCheckpoints
from shunted_lab.tasks.averaging import Averages
from shunted_lab.tasks.base import TaskModule
from shunted_lab.tasks.callbacks import Clock, ListenerCallback, Pruned
from shunted_lab.tasks.checkpoint import load_initial
from shunted_lab.tasks.device import check_precision, find_device
from shunted_lab.tasks.divergence import Divergence
from shunted_lab.tasks.evidence import write_evidence
from shunted_lab.tasks.examples import draw_examples, write_examples
from shunted_lab.tasks.listener import RunListener
from shunted_lab.tasks.loggers import RunNames, check_packages, names_of
from shunted_lab.tasks.pictures import log_pictures
from shunted_lab.tasks.recalibration import Recalibration
from shunted_lab.tasks.recorder import History
from shunted_lab.tasks.resume import BEST, LAST, STOPPED, MovableCheckpoint, batches_trained, newest
from shunted_lab.tasks.tracking import log_final, logging_to


def train(
    config: RunConfig,
    folder: Path,
    listener: RunListener | None = None,
    progress: bool = False,
    names: RunNames | None = None,
) -> dict[str, Any]:
    """Train, validate and test one run; resume it from its newest checkpoint where there is one.

    Args:
        config: the run's whole configuration.
        folder: gets `checkpoints/`, `history.csv`, `predictions.npz`, and the files of loggers.
        listener: who follows the run; only the first rank of a run over several devices speaks to it.
        progress: show a progress bar.
        names: what loggers call the run; None: as its folder is named, EXPERIMENT/VARIANT/seed0-1a2b3c4d.

    Returns:
        Plain values for `result.json`: `metrics` (fractions in [0, 1], losses), `headline` (the table's metric), the
        `epoch` that was tested, `device`, `devices`, `precision`, `batch_layout` (in words), `sizes` of the splits,
        images `used` of each (see `images_used`), `classes` (their number), `corrupt_images` (training images that were
        replaced), `initial_weights` (which weights of `model.checkpoint` were taken, and what became of its head; None
        without one), `train_seconds` and `images_per_second` of this session's training epochs.

    Raises:
        Stopped, Pruned: as `listener` has decided.
        Diverged: if the loss became NaN or infinite.
        CorruptImages: for more training images that cannot be decoded than `data.max_corrupt`, or for any that is
            evaluated on.
        ConfigError: for what this machine does not have: arithmetic, or the package of a logger.
    """
    silence_lightning()
    launch = config.launch
    check_packages(launch)
    batch_size = config.per_device_batch_size
    seed = config.seed_of("augmentation")
    data = make_datamodule(config.data, config.recipe, seed, launch.num_workers, batch_size)
    data.sampler.seed = config.seed_of("order")
    data.sampler.group = batch_size * launch.accumulate
    data.sampler.together = config.task.images_together
    if config.recipe.steps_per_epoch is not None:
        data.sampler.length = config.recipe.steps_per_epoch * config.data.batch_size
    folder.mkdir(parents=True, exist_ok=True)
    checkpoints = folder / "checkpoints"
    start = newest(checkpoints, config.recipe.select)
    module = make_module(config, data.class_names, weights=start is None)
    clock, follow = Clock(), ListenerCallback(listener, checkpoints / STOPPED)
    callbacks = [Divergence(lambda: newest(checkpoints)), clock, History(folder), follow]
    trainer = make_trainer(config, folder, callbacks, progress)
    data.sampler.skip = batches_trained(start) * batch_size
    with logging_to(trainer, config, folder, names or names_of(config, folder)):
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
        if follow.pruned:
            raise Pruned
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        epoch = _load_tested(module, config, checkpoints)
        # Also for the last epoch: after a kill between the last checkpoint and the test, fit validates nothing.
        metrics |= _values(trainer.validate(module, data, verbose=False))
        metrics |= _values(trainer.test(module, data, verbose=False))
        metrics = module.goal.known(metrics)
        corrupt = corrupt_images(trainer, data)
        if trainer.is_global_zero:
            _keep(trainer, module, data, config, folder)
            log_final(trainer, metrics)
    return {
        "metrics": metrics,
        "headline": module.goal.headline,
        "epoch": epoch,
        "select": config.recipe.select,
        "device": device_name(trainer.strategy.root_device),
        "devices": trainer.world_size,
        "precision": trainer.precision,
        "batch_layout": config.batch_layout,
        "sizes": dict(data.sizes),
        "used": images_used(config, data.sizes),
        "corrupt_images": corrupt,
        "classes": len(data.class_names),
        "initial_weights": module.initial_weights,
        "train_seconds": round(clock.seconds, 2),
        "images_per_second": round(clock.images * trainer.world_size / clock.seconds, 1) if clock.seconds else None,
    }


def _keep(trainer: L.Trainer, module: TaskModule, data: ImageData, config: RunConfig, folder: Path) -> None:
    """Write what is kept of a test into the run's folder, and log its pictures."""
    evidence = module.evidence()
    evidence.write(folder)
    write_evidence(evidence, folder, data.splits.test_groups)
    examples = draw_examples(module, data, len(evidence.scores), config.data.stats)
    if examples is not None:
        write_examples(examples, folder)
    if config.launch.pictures:
        log_pictures(trainer, module, data, evidence, config.data.stats, examples)


def _load_tested(module: TaskModule, config: RunConfig, checkpoints: Path) -> int:
    """Give the module the weights that are tested, after training; their epoch."""
    if config.recipe.select != "best" and config.recipe.ema is None:  # averages are in checkpoints only
        return config.recipe.epochs - 1
    name = BEST if config.recipe.select == "best" else LAST
    chosen = torch.load(checkpoints / name, weights_only=True, map_location="cpu")
    module.load_state_dict(chosen["state_dict"])
    return int(chosen["epoch"])


def images_used(config: RunConfig, sizes: Mapping[str, int]) -> dict[str, int]:
    """Split -> images that a run sees of it, for training in one epoch: fewer than `sizes` with `limit_batches`."""
    limit = config.recipe.limit_batches
    if limit is None:
        steps = config.recipe.steps_per_epoch
        return dict(sizes) if steps is None else {**sizes, "train": steps * config.data.batch_size}
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


def make_module(config: RunConfig, class_names: Sequence[str], weights: bool = True) -> TaskModule:
    """The LightningModule of a run, with the initial values that all variants of its seed share.

    Args:
        class_names: the classes of the data in the order of their labels.
        weights: read `model.checkpoint`; a run that is resumed from a checkpoint of its own does not need it.
    """
    net = build_seeded(lambda: config.task.build(config.model, len(class_names)), config.seed_of("init"))
    initial = None
    if weights and config.model.checkpoint is not None:
        initial = load_initial(net, config.model.checkpoint, class_names).note()
    if config.recipe.grad_checkpointing:
        net.set_grad_checkpointing(True)  # type: ignore[operator]
    module = TaskModule(net, config, class_names)
    module.initial_weights = initial
    module.compiled = torch.compile(net.forward) if config.launch.compile else None
    return module


def make_trainer(config: RunConfig, folder: Path, callbacks: list[Callback], progress: bool) -> L.Trainer:
    """The one Trainer: a checkpoint after each epoch, and no output of its own."""
    recipe, goal = config.recipe, config.task.goal(config.data)
    check_precision(recipe.precision, find_device(config.launch.accelerator, "launch.accelerator"))
    # Two callbacks: with save_last, one alone writes last.ckpt only when the best one has changed.
    keep: dict[str, Any] = {"dirpath": folder / "checkpoints", "enable_version_counter": False}
    checkpoints = [MovableCheckpoint(filename=LAST.removesuffix(".ckpt"), **keep)]
    if recipe.select == "best":
        best = MovableCheckpoint(filename=BEST.removesuffix(".ckpt"), monitor=goal.monitor, mode=goal.mode, **keep)
        checkpoints.insert(0, best)
    averages: list[Callback] = [] if recipe.ema is None else [Averages(decay=recipe.ema)]
    averages += [] if recipe.recalibrate_bn is None else [Recalibration(recipe.recalibrate_bn)]  # of the averages
    clip = config.model.clip_grad if recipe.clip_grad is None else recipe.clip_grad
    batches = None if recipe.limit_batches is None else recipe.limit_batches * config.launch.accumulate
    return L.Trainer(
        accelerator=config.launch.accelerator,
        devices=config.launch.devices_per_run,
        num_nodes=config.launch.nodes_per_run,
        strategy="auto" if config.launch.ranks == 1 else "ddp",
        sync_batchnorm=recipe.sync_bn and config.launch.ranks > 1,
        # Never the cluster's: its variables, and queueing again, belong to the job. Ranks are started by torchrun.
        plugins=[
            TorchElasticEnvironment() if TorchElasticEnvironment.detect() else LightningEnvironment(),
            AtomicCheckpoints(),
        ],
        precision=recipe.precision,  # type: ignore[arg-type]
        max_epochs=recipe.epochs,
        gradient_clip_val=clip or None,
        accumulate_grad_batches=config.launch.accumulate,
        limit_train_batches=batches,
        limit_val_batches=batches,
        limit_test_batches=batches,
        logger=False,  # `logging_to` gives it its loggers when its ranks are known
        callbacks=[*averages, *checkpoints, *callbacks, *([RichProgressBar()] if progress else [])],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,  # the data module's sampler knows the ranks, and pairs the seeds
        enable_progress_bar=progress,
        enable_model_summary=False,
    )


def _values(results: Any) -> dict[str, float]:
    return {key: float(value) for result in results for key, value in result.items()}


def silence_lightning() -> None:
    """Hide warnings of Lightning about what this package does on purpose."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for text in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*training batches .* is smaller than.*",
        ".*LeafSpec.*",
        ".*`srun` command is available.*",  # ranks are started by torchrun, on a cluster too
        ".*your dataloader is not resumable.*",  # the sampler leaves out what was seen
    ):
        warnings.filterwarnings("ignore", text)

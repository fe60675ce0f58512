"""The one LightningModule: optimizer, schedule, the one step of every split, random state, and evidence of all ranks.

What differs between tasks is in their classes (`config.task.TaskConfig`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torchmetrics import MeanMetric

from shunted_lab.config.run import RunConfig
from shunted_lab.config.task import Evidence
from shunted_lab.data.module import RankBatches
from shunted_lab.tasks.optimizer import backbone_of, parameter_groups
from shunted_lab.tasks.schedule import learning_rate, peak_rate


class TaskModule(L.LightningModule):
    """Trains and tests a network by the task and the recipe of a run.

    Args:
        net: takes images (B, 3, H, W); its outputs are what the task's loss and metrics take.
        config: the run's configuration.
        class_names: of the data, in the order of their labels.
    """

    def __init__(self, net: nn.Module, config: RunConfig, class_names: Sequence[str]):
        super().__init__()
        self.net = net
        self.task, self.recipe, self.seed = config.task, config.recipe, config.seed_of("augmentation")
        self.data = config.data
        self.class_names = list(class_names)
        self.batch_size = config.data.batch_size  # of one optimizer step, on all devices together
        self.goal = self.task.goal(config.data, len(class_names))
        metrics = self.task.make_metrics(config.data, len(class_names))
        self.metrics = nn.ModuleDict({split: metrics.clone(prefix=f"{split}/") for split in ("val", "test")})
        # Over the images of all ranks; Lightning's own mean rounds their number down between ranks.
        self.losses = nn.ModuleDict({split: MeanMetric(nan_strategy=math.nan) for split in ("val", "test")})
        self.compiled: Callable[..., Any] | None = None  # takes the net's place, with the same weights
        self.tested: list[tuple[Tensor, ...]] = []  # evidence of the last test, batch by batch
        self.initial_weights: dict[str, Any] | None = None  # what became of `model.checkpoint` (`InitialWeights.note`)
        self.freezes_bn = config.freezes_bn
        self.train()

    def forward(self, *inputs: Any) -> Any:
        """Of a batch of images, and what else `TaskConfig.inputs` names."""
        return self.net(*inputs) if self.compiled is None else self.compiled(*inputs)

    def training_step(self, batch: tuple[Tensor, Any], index: int) -> Tensor:
        return self._step(batch, "train", index)

    def validation_step(self, batch: tuple[Tensor, Any], index: int) -> None:
        self._step(batch, "val", index)

    def test_step(self, batch: tuple[Tensor, Any], index: int) -> None:
        self._step(batch, "test", index)

    def _step(self, batch: tuple[Tensor, Any], split: str, index: int) -> Tensor:
        images, targets = batch
        if split == "train":
            loss = self._training_loss(images, targets, index)
            self.log("train/loss", loss, on_epoch=True, on_step=True, batch_size=len(images))
            return loss
        outputs = self.task.for_evaluation(self(*self.task.inputs(images, targets)), targets)
        loss = self.task.loss(outputs, targets, 0.0)
        mean, metrics = self.losses[split], self.metrics[split]
        if self._counts(split, index):
            mean.update(loss, len(images))  # type: ignore[operator]
            metrics.update(outputs, targets)  # type: ignore[operator]
            if split == "test":
                self.tested.append(self.task.evidence_of_batch(outputs, targets))
        self.log(f"{split}/loss", mean, on_epoch=True, batch_size=len(images))  # type: ignore[arg-type]
        self.log_dict(metrics, on_epoch=True, prog_bar=True, batch_size=len(images))  # type: ignore[arg-type]
        return loss

    def _training_loss(self, images: Tensor, targets: Any, index: int) -> Tensor:
        key = [self.seed, self.current_epoch, index, _rank()]
        images, augmented = self.task.augment(images, targets, self.recipe, len(self.class_names), key)
        # Targets that are mixed are smoothed too.
        smoothing = self.recipe.label_smoothing if augmented is targets else 0.0
        return self.task.loss(self(*self.task.inputs(images, augmented)), augmented, smoothing)

    def _counts(self, split: str, index: int) -> bool:
        """Whether a batch is measured: not where this rank repeats an image that another one has (`RankBatches`)."""
        return not dist.is_initialized() or index not in self._sampler(split).repeated

    def _sampler(self, split: str) -> RankBatches:
        sampler = getattr(self.trainer, f"{split}_dataloaders").batch_sampler
        assert isinstance(sampler, RankBatches)
        return sampler

    def on_test_epoch_start(self) -> None:
        self.tested = []

    def on_test_epoch_end(self) -> None:
        """All ranks get the evidence of each, in the order of the images."""
        if not dist.is_initialized():
            return
        images = self._sampler("test").images(int(self.trainer.num_test_batches[0]))
        own = [torch.cat(parts).cpu() for parts in zip(*self.tested, strict=True)]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (images, own))
        order = torch.tensor([image for images, _ in everyone for image in images]).argsort()
        parts = zip(*(found for _, found in everyone if found), strict=True)
        self.tested = [tuple(torch.cat(part)[order] for part in parts)]

    def evidence(self) -> Evidence:
        """Of the whole test split, after `trainer.test`."""
        parts = [torch.cat(parts).cpu().numpy() for parts in zip(*self.tested, strict=True)]
        return self.task.evidence(parts, tuple(self.class_names), self.data)

    def train(self, mode: bool = True) -> TaskModule:
        """The statistics of a frozen BatchNorm stay as they are; its scale and shift are trained."""
        super().train(mode)
        if self.freezes_bn:
            for layer in backbone_of(self.net).modules():
                if isinstance(layer, BatchNorm):
                    layer.eval()
        return self

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Seed what a network may draw from (dropout, stochastic depth) by seed, epoch, batch and rank.

        A resumed run draws what an uninterrupted one does, and every rank draws for its own images.
        """
        key = np.random.SeedSequence([self.seed, self.current_epoch, index, _rank()])
        draws = key.generate_state(2, np.uint64)
        torch.manual_seed(int(draws[0]))
        random.seed(int(draws[1]))
        np.random.seed(int(draws[1]) % 2**32)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The class of each row of the head: whoever loads the weights matches classes by name."""
        checkpoint["class_names"] = self.class_names
        checkpoint["initial_weights"] = self.initial_weights

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A run that is resumed does not read `model.checkpoint` again."""
        self.initial_weights = checkpoint["initial_weights"]

    def configure_optimizers(self) -> Any:
        """AdamW and the recipe's schedule, which scales the rate of each group of parameters."""
        recipe = self.recipe
        lr = peak_rate(recipe, self.batch_size)
        # On a CPU one kernel for all parameters is an eighth of a small model's step; on GPUs torch chooses.
        fused = True if all(p.device.type == "cpu" for p in self.net.parameters()) else None
        optimizer = torch.optim.AdamW(parameter_groups(self.net, recipe, lr), lr=lr, eps=recipe.opt_eps, fused=fused)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, total, recipe, lr) / lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0

"""Image classification: cross entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.data.mixup import Mixup, mixup_target
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.module import RankBatches
from shunted_lab.nn import Pyramid
from shunted_lab.tasks import CLASSIFICATION
from shunted_lab.tasks.predictions import Predictions
from shunted_lab.tasks.schedule import learning_rate, peak_rate


class Classification(L.LightningModule):
    """Trains `net`, `(B, 3, H, W) -> (B, classes)`, by a recipe; `class_names` are in the order of the labels."""

    goal = CLASSIFICATION

    def __init__(self, net: nn.Module, recipe: RecipeConfig, class_names: Sequence[str], batch_size: int, seed: int):
        super().__init__()
        self.net = net
        self.recipe = recipe
        self.class_names = list(class_names)
        self.num_classes = len(class_names)
        self.batch_size = batch_size  # of one optimiser step, on all devices together
        self.seed = seed
        metrics = self.make_metrics()
        self.metrics = nn.ModuleDict({s: metrics.clone(prefix=f"{s}/") for s in ("val", "test")})
        self.losses = nn.ModuleDict({s: MeanLoss() for s in ("val", "test")})
        self.mixup = _mixup(recipe, self.num_classes)
        self.compiled: Callable[[Tensor], Tensor] | None = None  # takes the net's place, with the same weights
        self.predicted: list[tuple[Tensor, ...]] = []  # of the last test, batch by batch
        self.initial_weights: dict[str, Any] | None = None  # what became of `model.checkpoint` (`InitialWeights.note`)

    def make_metrics(self) -> MetricCollection:
        """What is measured on the validation and test splits."""
        accuracies: dict[str, Any] = {"top1": MulticlassAccuracy(self.num_classes, average="micro")}
        if self.num_classes > 5:
            accuracies["top5"] = MulticlassAccuracy(self.num_classes, average="micro", top_k=5)
        return MetricCollection(accuracies)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Of labels (B,), or of probabilities (B, num_classes) after mixup."""
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def predict(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """What is kept of a test batch: labels, classes and their probability."""
        confidence, predicted = logits.float().softmax(1).max(1)
        return labels, predicted, confidence

    def predictions(self) -> Predictions:
        """Of the whole test split, after `trainer.test`."""
        labels, predicted, *rest = (torch.cat(parts).cpu().numpy() for parts in zip(*self.predicted, strict=True))
        return Predictions(labels, predicted, rest[0] if rest else None, tuple(self.class_names))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images) if self.compiled is None else self.compiled(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return self._step(batch, "train", index)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._step(batch, "val", index)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self._step(batch, "test", index)

    def _step(self, batch: tuple[Tensor, Tensor], split: str, index: int) -> Tensor:
        images, labels = batch
        training = split == "train"
        targets: Tensor = labels
        if training and self.mixup is not None:
            images, targets = self._mix(images, labels, index)
        logits = self(images)
        smoothing = self.recipe.label_smoothing if training and self.mixup is None else 0.0
        loss = self.loss(logits.float(), targets, smoothing)
        counted = training or not dist.is_initialized() or index not in self._shares(split).repeated
        if training:
            self.log("train/loss", loss, on_epoch=True, on_step=True, batch_size=len(images))
            return loss
        mean, metrics = self.losses[split], self.metrics[split]
        if counted:
            mean.update(loss, len(images))  # type: ignore[operator]
            metrics.update(logits, labels)  # type: ignore[operator]
        self.log(f"{split}/loss", mean, on_epoch=True, batch_size=len(images))  # type: ignore[arg-type]
        self.log_dict(metrics, on_epoch=True, prog_bar=True, batch_size=len(images))  # type: ignore[arg-type]
        if split == "test" and counted:
            self.predicted.append(self.predict(logits, labels))
        return loss

    def on_test_epoch_start(self) -> None:
        self.predicted = []

    def on_test_epoch_end(self) -> None:
        """All ranks get what each has predicted, in the order of the images."""
        if not dist.is_initialized():
            return
        images = self._shares("test").images(int(self.trainer.num_test_batches[0]))
        own = [torch.cat(parts).cpu() for parts in zip(*self.predicted, strict=True)]
        everyone: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, (images, own))
        order = torch.tensor([image for images, _ in everyone for image in images]).argsort()
        parts = zip(*(found for _, found in everyone if found), strict=True)
        self.predicted = [tuple(torch.cat(part)[order] for part in parts)]

    def _shares(self, split: str) -> RankBatches:
        sampler = getattr(self.trainer, f"{split}_dataloaders").batch_sampler
        assert isinstance(sampler, RankBatches)
        return sampler

    def _mix(self, images: Tensor, labels: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Mixup and CutMix by timm: (B, 3, H, W) and (B,) -> (B, 3, H, W) and (B, num_classes).

        timm draws from numpy's global generator: it is seeded for this batch and rank, and put back afterwards. timm
        mixes pairs of images and takes an even number of them; of an odd batch the last image stays as it is.
        """
        assert self.mixup is not None
        even = len(images) // 2 * 2
        state = np.random.get_state()
        np.random.seed([self.seed, self.current_epoch, index, _rank()])
        try:
            mixed, targets = self.mixup(images[:even], labels[:even])
        finally:
            np.random.set_state(state)
        if even == len(images):
            return mixed, targets
        last = mixup_target(labels[even:], self.num_classes, smoothing=self.recipe.label_smoothing)
        return torch.cat([mixed, images[even:]]), torch.cat([targets, last])

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
        """AdamW; a linear warm-up and a cosine, which `recipe.layer_decay` scales layer by layer."""
        recipe = self.recipe
        exempt = self.net.no_weight_decay() if isinstance(self.net, Pyramid) else ()
        lr = peak_rate(recipe, self.batch_size)
        if recipe.layer_decay is None:
            groups = param_groups_weight_decay(self.net, recipe.weight_decay, no_weight_decay_list=exempt)
        else:
            groups = param_groups_layer_decay(self.net, recipe.weight_decay, exempt, layer_decay=recipe.layer_decay)
            groups = [group | {"lr": lr * group["lr_scale"]} for group in groups]
        optimizer = torch.optim.AdamW(groups, lr=lr, eps=recipe.opt_eps)
        total = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate(step, total, recipe, lr) / lr
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MeanLoss(Metric):
    """The mean over the images of all ranks. Lightning's own rounds their number down between ranks, and torchmetrics'
    MeanMetric either removes NaN or leaves the weights out."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, images: int) -> None:
        self.total += loss * images
        self.images += images

    def compute(self) -> Tensor:
        return self.total / self.images


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _mixup(recipe: RecipeConfig, num_classes: int) -> Mixup | None:
    if recipe.mixup == recipe.cutmix == 0:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)

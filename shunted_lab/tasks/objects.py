"""Which classes have an object in the image? Several labels an image, and recall by the size of the object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.tasks import OBJECTS
from shunted_lab.tasks.classification import Classification


def found_of(logits: Tensor, sizes: Tensor) -> Tensor:
    """(B, K) booleans: the classes of the n highest scores, where n is the number of objects in the image.

    Args:
        logits: (B, K) scores.
        sizes: (B, K) sizes of the objects, 0 where a class has none.
    """
    rank = logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < (sizes > 0).sum(1, keepdim=True)


class ObjectRecall(Metric):
    """Share of the objects, of sizes in [low, high), whose class is among the highest scores (see `found_of`)."""

    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, low: float = 0.0, high: float = 2.0):
        super().__init__()
        self.low, self.high = low, high
        self.add_state("hits", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, sizes: Tensor) -> None:
        wanted = (sizes > 0) & (sizes >= self.low) & (sizes < self.high)
        self.hits += (found_of(logits, sizes) & wanted).sum()
        self.total += wanted.sum()

    def compute(self) -> Tensor:
        return self.hits / self.total


class Objects(Classification):
    """Trains `net` by binary cross entropy on which classes are there.

    `bins`: name -> range of sizes [low, high) whose recall is reported by itself; each must have objects.
    """

    goal = OBJECTS

    def __init__(
        self,
        net: nn.Module,
        recipe: RecipeConfig,
        class_names: Sequence[str],
        batch_size: int,
        seed: int,
        bins: dict[str, tuple[float, float]],
    ):
        self.bins = bins  # before the metrics are made
        super().__init__(net, recipe, class_names, batch_size, seed)

    def make_metrics(self) -> MetricCollection:
        bins = {f"recall_{name}": ObjectRecall(*edges) for name, edges in self.bins.items()}
        return MetricCollection({"recall": ObjectRecall(), **bins}, compute_groups=False)

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """`targets` are sizes (B, K); smoothing moves both answers towards one half."""
        there = (targets > 0).to(logits.dtype)
        return F.binary_cross_entropy_with_logits(logits, there * (1 - smoothing) + smoothing / 2)

    def predict(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return labels > 0, found_of(logits, labels)

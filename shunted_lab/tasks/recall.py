"""Recall of objects by their size, for several labels per image."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def highest_scores(scores: Tensor, sizes: Tensor) -> Tensor:
    """(B, K) booleans: the classes of the n highest scores, where n is the number of objects in the image.

    Args:
        scores: (B, K) of each class.
        sizes: (B, K) sizes of the objects, 0 where a class has none.
    """
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < (sizes > 0).sum(1, keepdim=True)


class ObjectRecall(Metric):
    """Share of the objects, of sizes in [low, high), whose class is among the highest scores (`highest_scores`)."""

    full_state_update = False
    hits: Tensor
    total: Tensor

    def __init__(self, low: float = 0.0, high: float = 2.0):
        super().__init__()
        self.low, self.high = low, high
        self.add_state("hits", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, scores: Tensor, sizes: Tensor) -> None:
        wanted = (sizes > 0) & (sizes >= self.low) & (sizes < self.high)
        self.hits += (highest_scores(scores, sizes) & wanted).sum()
        self.total += wanted.sum()

    def compute(self) -> Tensor:
        return self.hits / self.total

"""A small detector: a pyramid, lateral convolutions and a head with a prior, called with a list of images."""

import math

import torch
from torch import Tensor, nn

from shunted_lab.nn import Pyramid

SMALL = {
    "embed_dims": [8, 8, 8, 8],
    "depths": [1, 2, 1, 1],
    "num_heads": [2, 2, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
    "rates": [[2, 1], [1], [1], [1]],
}
WIDTH, CLASSES = 6, 5


class PriorHead(nn.Module):
    """Its constructor sets the values, as the heads of torchvision do: every class starts at a probability of 0.01."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.logits = nn.Conv2d(WIDTH, CLASSES, 3, padding=1)
        self.set_values()

    def set_values(self) -> None:
        for conv in (self.tower, self.logits):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.logits.bias, -math.log(99))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.tower(x).relu())


class SeededHead(PriorHead):
    """The same head with values that are drawn under a seed of its name."""

    def init_own_weights(self) -> None:
        self.set_values()


class Detector(nn.Module):
    """`{"logits": [...], "sizes": [...]}` of a list of images (3, H, W).

    Args:
        attribute: the name under which the backbone is held.
        draws: numbers that the constructor draws before it builds the backbone.
        options: of the pyramid.
    """

    def __init__(self, make_head=PriorHead, attribute: str = "backbone", draws: int = 0, **options):
        super().__init__()
        torch.randn(draws)
        self.attribute = attribute
        self.add_module(attribute, Pyramid(**SMALL | options, num_classes=0))
        self.laterals = nn.ModuleList(nn.Conv2d(dim, WIDTH, 1) for dim in SMALL["embed_dims"])
        self.head = make_head()

    @property
    def pyramid(self) -> Pyramid:
        return getattr(self, self.attribute)

    def forward(self, images: list[Tensor]) -> dict[str, list]:
        maps = self.pyramid.forward_intermediates(torch.stack(images), intermediates_only=True)
        logits = [self.head(lateral(m)) for lateral, m in zip(self.laterals, maps, strict=True)]
        return {"logits": logits, "sizes": [image.shape[-2:] for image in images]}


def detect(net: nn.Module, images: Tensor) -> dict[str, list]:
    """How the detector is called: with a list of images."""
    return net(list(images))

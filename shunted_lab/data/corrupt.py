"""Images that cannot be decoded: up to a number of them are replaced in training, each with a warning."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import listed

NAMED = 10  # images that an error lists


class CorruptImages(ConfigError):
    """More images are corrupt than the run allows, or one that it is evaluated on."""


class Corrupt:
    """The images of a training split that could not be decoded, in any process of its loader.

    The processes share one byte of memory for each image. They only ever set it, so they need no lock, and an image
    counts once, whatever the epoch and copy.

    Args:
        count: images of the split.
        limit: `data.max_corrupt`.
    """

    def __init__(self, count: int, limit: int):
        self.limit = limit
        self.marks = torch.zeros(count, dtype=torch.uint8).share_memory_()

    @property
    def found(self) -> list[int]:
        return self.marks.nonzero().flatten().tolist()

    def note(self, index: int, name: str) -> bool:
        """Note that an image is corrupt, with a warning the first time. Returns whether there are more than `limit`."""
        if not self.marks[index]:
            self.marks[index] = 1
            warnings.warn(f"{name}; it is replaced by the next image of the split (data.max_corrupt)", stacklevel=2)
        return int(self.marks.sum()) > self.limit


def too_many(names: Sequence[str], corrupt: Corrupt) -> CorruptImages:
    """The error for more corrupt training images than may be replaced."""
    return CorruptImages(
        f"data.max_corrupt: {corrupt.limit} may be replaced, and {len(names)} of {len(corrupt.marks)} training images "
        f"could not be decoded so far: {listed(names, NAMED)}; repair or remove them"
    )


def refused(name: str, reason: object) -> CorruptImages:
    """The error for a corrupt image of a split that is evaluated."""
    return CorruptImages(
        f"data.root: {name} cannot be decoded ({reason}), and evaluation skips no image; repair or remove it"
    )

"""Images that cannot be decoded: replaced in training, a bounded number of them, and never passed over in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from shunted_lab.config.schema import ConfigError

NAMED = 10  # images that an error names


class CorruptImages(ConfigError):
    """More images are corrupt than the run allows, or one that it is evaluated on."""


class Corrupt:
    """Which images of a training split could not be decoded, in whatever process of its loader.

    One byte for each image lies in memory that the processes share. They only ever set it, so they need no lock, and an
    image counts once, in whichever epochs and copies it comes.

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
        """An image is corrupt; a warning the first time. Returns whether there are more than may be."""
        if not self.marks[index]:
            self.marks[index] = 1
            warnings.warn(f"{name}; it is replaced by the next image of the split (data.max_corrupt)", stacklevel=2)
        return int(self.marks.sum()) > self.limit


def too_many(names: Sequence[str], corrupt: Corrupt) -> CorruptImages:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return CorruptImages(
        f"data.max_corrupt: {corrupt.limit} may be replaced, and {len(names)} of {len(corrupt.marks)} training images "
        f"could not be decoded so far: {', '.join(names[:NAMED])}{more}; repair or remove them"
    )


def refused(name: str, reason: object) -> CorruptImages:
    return CorruptImages(
        f"data.root: {name} cannot be decoded ({reason}), and evaluation skips no image; repair or remove it"
    )

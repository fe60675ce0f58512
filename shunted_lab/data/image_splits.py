"""Splits of images with labels and names, and how a validation split is held out of the training split; no torch."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from PIL import Image

from shunted_lab.data.decode import decode

S = TypeVar("S", bound="ImageSplit")


class ImageSplit(Protocol):
    """Images of a split, decoded one by one, with a label and a name for each.

    It holds no function and nothing open, so that it can be sent to the workers of a loader that are spawned.
    """

    @property
    def labels(self) -> Sequence[int]: ...

    @property
    def names(self) -> Sequence[str]: ...

    def decode(self, index: int) -> Image.Image:
        """An image, RGB. It may raise `Undecodable`, and OSError where a file cannot be read; from any thread."""

    def where(self, index: int) -> str:
        """Where an image lies, for messages."""

    def take(self: S, indices: Sequence[int]) -> S:
        """Some of the images, in this order."""


@dataclass(frozen=True)
class FileSplit:
    """Images in files."""

    paths: Sequence[str]
    labels: Sequence[int]
    names: Sequence[str]

    def decode(self, index: int) -> Image.Image:
        return decode(Path(self.paths[index]).read_bytes())

    def where(self, index: int) -> str:
        return self.paths[index]

    def take(self, indices: Sequence[int]) -> FileSplit:
        return FileSplit(*(picked(part, indices) for part in (self.paths, self.labels, self.names)))


def picked(items: Sequence, indices: Sequence[int]) -> list:
    """The items of these indices."""
    return [items[index] for index in indices]


def three_splits(found: Mapping[str, S], val_fraction: float) -> tuple[S, S, S]:
    """Train, val and test of the splits `train`, `val` and possibly `test` of a data set.

    Without a test split, val serves as the test split, and the validation split is held out of train (`hold_out`).
    """
    if "test" in found:
        return found["train"], found["val"], found["test"]
    train = found["train"]
    kept, held = hold_out(train.labels, train.names, val_fraction)
    return train.take(kept), train.take(held), found["val"]


def hold_out(labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Indices that are kept for training, and those held out: of each class the `fraction` whose names hash lowest.

    The rule has no seed: all runs share the split. Each class keeps at least one image.
    """
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    held: set[int] = set()
    for group in groups.values():
        ranked = sorted(group, key=lambda index: (zlib.crc32(os.fsencode(names[index])), names[index]))
        held.update(ranked[: min(math.ceil(len(group) * fraction), len(group) - 1)])
    return [i for i in range(len(labels)) if i not in held], sorted(held)

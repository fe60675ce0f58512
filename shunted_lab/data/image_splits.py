"""The splits of a data set of image files, as lists of files; without torch."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from shunted_lab.config.data import FolderConfig, INat2018Config
from shunted_lab.data.decode import decode
from shunted_lab.data.inat import read_lists
from shunted_lab.data.listing import SplitFolder, list_split, splits_of, tested_split


@dataclass(frozen=True)
class ImageSplit:
    """Images, either paths or arrays `(H, W, 3)`, with their labels and a name for each. Calls give PIL images.

    It holds no function, so that it can be sent to the workers of a loader that are spawned.
    """

    images: Sequence[Any]
    labels: Sequence[int]
    names: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        image = self.images[index]
        return decode(self.content(index)) if isinstance(image, str) else Image.fromarray(image)

    def content(self, index: int) -> bytes:
        """The bytes of an image file."""
        return Path(self.images[index]).read_bytes()

    def where(self, index: int) -> str:
        return str(self.images[index])

    def take(self, indices: Sequence[int]) -> ImageSplit:
        images, labels, names = ([part[i] for i in indices] for part in (self.images, self.labels, self.names))
        return ImageSplit(images, labels, names)  # type: ignore[arg-type]  # mypy sees the union of the three


def read_splits(data: FolderConfig) -> tuple[list[str], dict[str, ImageSplit]]:
    """The classes in the order of their labels, and the splits that lie on disk: train, val, and test if it is there.

    Where only the test split is there, train is empty.
    """
    root = Path(data.root)
    if isinstance(data, INat2018Config):
        lists = read_lists(data, root)
        return lists.classes, {name: ImageSplit(one.paths, one.labels, one.names) for name, one in lists.splits.items()}
    if not (root / "train").exists():  # only to be tested
        tested = list_split(root / tested_split(data, root))
        return tested.classes, {"train": ImageSplit([], [], []), "val": _images_of(tested)}
    listed = {name: list_split(root / name) for name in splits_of(data, root)}
    return listed["train"].classes, {name: _images_of(split) for name, split in listed.items()}


def _images_of(split: SplitFolder) -> ImageSplit:
    files = split.files()
    return ImageSplit([path for path, _, _ in files], [label for _, _, label in files], [name for _, name, _ in files])


class Split(Protocol):
    """Images with labels and names, of which some can be taken."""

    @property
    def labels(self) -> Sequence[int]: ...

    @property
    def names(self) -> Sequence[str]: ...

    def take(self, indices: Sequence[int]) -> Any: ...


S = TypeVar("S", bound=Split)


def three_splits(found: Mapping[str, S], val_fraction: float) -> tuple[S, S, S]:
    """Train, val and test. Without a test split val serves as the test, and val is held out of train (`hold_out`)."""
    if "test" in found:
        return found["train"], found["val"], found["test"]
    train = found["train"]
    kept, held = hold_out(train.labels, train.names, val_fraction)
    return train.take(kept), train.take(held), found["val"]


def hold_out(labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Indices that are kept, and those held back: of each class the `fraction` whose names hash lowest.

    The rule knows no seed: all runs share the split. A class of one image keeps it.
    """
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    held: set[int] = set()
    for group in groups.values():
        ranked = sorted(group, key=lambda index: (zlib.crc32(os.fsencode(names[index])), names[index]))
        held.update(ranked[: min(math.ceil(len(group) * fraction), len(group) - 1)])
    return [i for i in range(len(labels)) if i not in held], sorted(held)

"""data=imagenet: ImageNet-1K in the usual folders, checked for its 1000 classes and the least number of images."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shunted_lab.config.data import DataFacts
from shunted_lab.config.schema import option
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.identity import contents, identity_of, spread
from shunted_lab.data.listing import SplitFolder, classes_of, list_split, note_of_unread

TRAIN_MIN = 732  # images in the smallest training class
VAL = 50  # images in every validation class


@dataclass
class ImageNetConfig(FolderConfig):
    """ImageNet-1K in the usual folders: `root/train/n01440764/*.JPEG`, `root/val/n01440764/*.JPEG`."""

    name: str = "imagenet"
    num_classes: int | None = option(1000, "number of classes; fixed")
    val_fraction: float = option(0.01, "share of train/ held out for validation; val/ is the test split")

    reads_test: ClassVar[bool] = False  # its test images have no labels

    @property
    def expected(self) -> str:
        return "train/n01440764/*.JPEG and val/n01440764/*.JPEG in it, for 1000 classes"

    def check_files(self, tested_only: bool) -> DataFacts:
        root = self.root_folder()
        synsets = imagenet_classes()
        least = {"train": TRAIN_MIN, "val": VAL}
        splits = [self._check_synsets(root / name, synsets, least[name]) for name in self.split_names(tested_only)]
        listed = [(split.name, split.images) for split in splits]
        one_each = [(f"{s.name}/{c}/{i}", f"{s.path}/{c}/{i}") for s in splits for c, i in _one_of_each(s)]
        sample = contents([name for name, _ in one_each], [path for _, path in one_each])
        return DataFacts(tuple(synsets), identity_of(listed, sample), tuple(note_of_unread(self.name, splits)))

    def _check_synsets(self, folder: Path, synsets: list[str], least: int) -> SplitFolder:
        there = classes_of(folder) if folder.is_dir() else []
        for name in synsets:
            if name not in there:
                raise self.absent(folder / name)
        for name in sorted(set(there) - set(synsets)):
            raise self.absent(folder / name, "is not a class of ImageNet-1K")
        split = list_split(folder)
        for name, images in split.images.items():
            if len(images) < least:
                what = f"has {len(images)} images; expected at least {least} (incompletely unpacked?)"
                raise self.absent(folder / name, what)
        return split


def _one_of_each(split: SplitFolder) -> list[tuple[str, str]]:
    """A class and one of its images, for each class."""
    return [(name, images[spread(images, 1)[0]]) for name, images in split.images.items()]


def imagenet_classes() -> list[str]:
    """The 1000 synsets of ImageNet-1K, from timm's package data (without importing timm)."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()

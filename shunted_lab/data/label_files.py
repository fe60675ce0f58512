"""Images in files with a PNG of class numbers for each: what is read, and how it is checked; no torch."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from omegaconf import MISSING

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import OF_MAPS, RecipeConfig
from shunted_lab.config.schema import ConfigError, at_least, option, path_option, require
from shunted_lab.data.identity import contents, identity_of, sizes
from shunted_lab.data.image_files import IMAGENET
from shunted_lab.data.listing import is_image, unreadable

if TYPE_CHECKING:
    from shunted_lab.data.geometry import ImageSizes
    from shunted_lab.data.labelled import LabelledFiles
    from shunted_lab.data.module import Splits


@dataclass
class LabelFilesConfig(DataConfig):
    """Images and label maps in files below `root`. Without a test split, val is tested on, and part of train validates.

    A data set implements `folders`, `read_class_names` and `expected`.
    """

    root: str = path_option(MISSING, "folder of the data set", affects_result=False, absolute=True)
    image_size: int = option(512, "pixels on each side of a training crop; evaluation resizes the shorter side to it")
    long_ratio: float = option(4.0, "longest side of an image that is evaluated, as a multiple of image_size")
    align: int = option(32, "images that are evaluated are stretched to multiples of so many pixels; 1: not")
    batch_size: int = option(16, "images in a training batch")
    val_fraction: float = option(0.05, "share of the training images held out for validation, where val is the test")
    max_corrupt: int = option(
        10,
        "largest number of training images that cannot be read and are replaced by the next one; more end the run",
        affects_result=False,
    )

    targets: ClassVar[tuple[str, ...]] = ("label map",)
    augments: ClassVar[tuple[str, ...]] = OF_MAPS
    zero_is_ignored: ClassVar[bool] = False  # whether label 0 is not counted, and class k has the label k + 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "is not between 0 and 1")
        require(self.long_ratio >= 1, "data.long_ratio", self.long_ratio, "is below 1")
        at_least(1, "data", self, "align")
        at_least(0, "data", self, "max_corrupt")

    @property
    @abstractmethod
    def expected(self) -> str:
        """What must lie in `root`, for messages."""

    @abstractmethod
    def folders(self) -> dict[str, tuple[str, str]]:
        """train, val, and test if there is one -> the folders of its images and of its label maps, below `root`."""

    @abstractmethod
    def read_class_names(self) -> list[str]:
        """The classes in the order of their numbers."""

    @property
    def stats(self) -> Stats:
        return IMAGENET

    @property
    def input_size(self) -> tuple[int, int]:
        """The largest image that is evaluated: published costs are counted at 512 x 2048."""
        return self.image_size, int(self.image_size * self.long_ratio)

    @property
    def preparation(self) -> str:
        long = int(self.image_size * self.long_ratio)
        return f"shorter side {self.image_size}, at most {long} long, evaluated at the original size"

    def check(self, tested_only: bool = False) -> DataFacts:
        """Check that every image has its label map, and the reverse.

        Raises:
            ConfigError: naming the first file or folder that is missing.
        """
        root = Path(self.root)
        if not root.is_dir():
            state = "is not a folder" if root.exists() else "does not exist"
            raise ConfigError(f"data.root: '{self.root}' {state}; data={self.name} expects {self.expected}")
        names = self.read_class_names()
        if self.num_classes is not None and self.num_classes != len(names):
            raise ConfigError(f"data.num_classes: {self.num_classes}, but '{self.root}' has {len(names)} classes")
        folders = self.folders()
        if tested_only and not (root / folders["train"][0]).exists():
            folders = {name: pair for name, pair in folders.items() if name != "train"}
        pairs = [pair for both in folders.values() for pair in self._pairs(*both)]
        images = [image for image, _ in pairs]
        files = [file for pair in pairs for file in pair]
        short = [os.path.relpath(file, root) for file in files]
        identity = identity_of(names, list(zip(short, sizes(files), strict=True)), contents(short, files))
        if "test" not in folders and "train" in folders and len(self._pairs(*folders["train"])) < 2:
            raise ConfigError(f"data.root: '{self.root}' has 1 training image, and none is left for validation")
        return DataFacts(tuple(names), identity, tuple(self.notes(len(images))))

    def notes(self, images: int) -> Sequence[str]:
        """Lines for the plan."""
        return ()

    def _pairs(self, images: str, labels: str) -> list[tuple[str, str]]:
        """The files of images and of their label maps, by name.

        Raises:
            ConfigError: for a folder that is missing or empty, and for a file without its partner.
        """
        root = Path(self.root)
        found: list[dict[str, str]] = []
        for folder in (root / images, root / labels):
            try:
                with os.scandir(folder) as entries:
                    names = sorted(e.name for e in entries if is_image(e.name) and not e.name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                raise ConfigError(f"data.root: {folder} is absent; data={self.name} expects {self.expected}") from None
            except OSError as error:
                raise unreadable(str(folder), error) from None
            found.append({Path(name).stem: f"{folder}/{name}" for name in names})
        if not found[0]:
            raise ConfigError(f"data.root: {root / images} has no images; data={self.name} expects {self.expected}")
        for (mine, theirs), kind in (((found[0], found[1]), "label map"), ((found[1], found[0]), "image")):
            for stem, path in mine.items():
                if stem not in theirs:
                    where = root / (labels if kind == "label map" else images)
                    raise ConfigError(f"data.root: {path} has no {kind} of its name in {where}")
        return [(path, found[1][stem]) for stem, path in found[0].items()]

    def split_files(self) -> tuple[LabelledFiles, LabelledFiles, LabelledFiles]:
        """Train, val and test; the files are taken as checked. Train is empty where it is absent."""
        from shunted_lab.data.image_splits import hold_out
        from shunted_lab.data.labelled import LabelledFiles

        folders, classes = self.folders(), len(self.read_class_names())
        parts = {}
        for name, both in folders.items():
            pairs = self._pairs(*both) if name != "train" or (Path(self.root) / both[0]).exists() else []
            parts[name] = LabelledFiles(pairs, classes, self.zero_is_ignored)
        if "test" in parts:
            return parts["train"], parts["val"], parts["test"]
        train = parts["train"]
        if not train.pairs:
            return train, train, parts["val"]
        kept, held = hold_out(train.labels, train.names, self.val_fraction)
        return train.take(kept), train.take(held), parts["val"]

    def check_evaluated(self, identity: str, say: Callable[[str], None]) -> None:
        """Read every label map, and the images that are evaluated, unless this machine has done so before.

        Raises:
            ConfigError: for those that cannot be read; all are counted, and the first are named.
        """
        from shunted_lab.data.evaluated import Evaluated, check_decodable

        def splits() -> list[LabelledFiles]:
            train, val, test = self.split_files()
            return [train.labels_only(), val, test]

        what = "label maps and images of val and test"
        check_decodable(Evaluated(self.name, self.root, identity, self.val_fraction, splits, what), say)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.label_crops import label_splits

        files, names = self.split_files(), self.read_class_names()
        return label_splits(files, names, self.sizes, self.stats, recipe, seed, self.max_corrupt)

    @property
    def sizes(self) -> ImageSizes:
        """How large images are evaluated."""
        from shunted_lab.data.geometry import ImageSizes

        return ImageSizes(self.image_size, self.image_size * self.long_ratio, self.align)

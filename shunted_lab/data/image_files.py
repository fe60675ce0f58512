"""What the data sets of users' image files share: their options, their checks, and how images are transformed."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import ConfigError, at_least, one_of, option, path_option, require

if TYPE_CHECKING:
    from shunted_lab.data.image_splits import ImageSplit
    from shunted_lab.data.module import Splits

IMAGENET: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as in timm and torchvision


@dataclass
class ImageFilesConfig(DataConfig):
    """Images that lie in files below `root`. Without a test split, val is tested on, and part of train validates.

    A data set implements `expected`, `check_files` and `read_splits`.
    """

    root: str = path_option(MISSING, "folder of the data set", affects_result=False, absolute=True)
    val_fraction: float = option(0.1, "share of train/ held out for validation, where val/ is the test split")
    crop_pct: float = option(0.875, "evaluation: centre crop / resized shorter side")
    interpolation: str = option("bicubic", "resizing: bicubic, bilinear")
    max_corrupt: int = option(
        10,
        "largest number of training images that cannot be decoded and are replaced by the next one; more end the run",
        affects_result=False,
    )
    resize: str = option("fast", "training images are resized by torch (fast) or Pillow (exact); evaluation by Pillow")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "is not between 0 and 1")
        at_least(0, "data", self, "max_corrupt")
        require(0 < self.crop_pct <= 1, "data.crop_pct", self.crop_pct, "is not above 0 and at most 1")
        one_of("data.interpolation", self.interpolation, ("bicubic", "bilinear"))
        one_of("data.resize", self.resize, ("fast", "exact"))

    @property
    @abstractmethod
    def expected(self) -> str:
        """What must lie in `root`, for messages."""

    @abstractmethod
    def check_files(self, tested_only: bool) -> DataFacts:
        """Check that all files are there, without torch; `check` also counts the classes."""

    @abstractmethod
    def read_splits(self) -> tuple[list[str], Any]:
        """The classes in the order of their labels, and name -> `ImageSplit`: train, val, and test if there is one.

        Where only the test split is there, it is val, and train is empty.
        """

    @property
    def stats(self) -> Stats:
        return IMAGENET

    @property
    def preparation(self) -> str:
        how = f"centre crop {self.crop_pct:g} of the resized shorter side, {self.interpolation}"
        return f"{super().preparation}, {how}"

    @property
    def class_level(self) -> str:
        """Which level of a taxonomy the classes are, for messages; empty where there is only one."""
        return ""

    def check(self, tested_only: bool = False) -> DataFacts:
        """Check that the files are complete.

        Args:
            tested_only: nothing is trained: the training split may be absent, or too small to hold any image out.

        Raises:
            ConfigError: with the expected tree and the first path that is absent, for fewer than two classes, and for
                too few images to hold a validation split out.
        """
        facts = self.check_files(tested_only)
        if self.num_classes is not None and self.num_classes != facts.num_classes:
            there = f"'{self.root}' has {facts.num_classes} classes"
            raise ConfigError(f"data.num_classes: {self.num_classes}, but {there}")
        if facts.num_classes < 2:
            only = f"1 class{self.class_level}, '{facts.class_names[0]}'"
            raise ConfigError(f"data.root: '{self.root}' has {only}; a classifier needs at least 2")
        return facts

    def check_evaluated(self, identity: str, say: Callable[[str], None]) -> None:
        """Decode every image of the validation and test splits, unless this machine has done so before.

        Raises:
            ConfigError: for images that cannot be decoded; all are counted, and the first are named.
        """
        from shunted_lab.data.evaluated import Evaluated, check_decodable

        check_decodable(Evaluated(self.name, self.root, identity, self.val_fraction, self.undecoded_splits), say)

    def undecoded_splits(self) -> Sequence[ImageSplit]:
        """The splits that runs are evaluated on and whose images may not be decodable."""
        return self.three_splits()[1][1:]

    def three_splits(self) -> tuple[list[str], tuple[Any, Any, Any]]:
        """The classes, and the images of train, val and test."""
        from shunted_lab.data.image_splits import three_splits

        classes, found = self.read_splits()
        return classes, three_splits(found, self.val_fraction)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        classes, splits = self.three_splits()
        return self.transformed(splits, classes, recipe, seed)

    def transformed(
        self, splits: Sequence[ImageSplit], class_names: list[str], recipe: RecipeConfig, seed: int
    ) -> Splits:
        """Train, val and test with the transforms of timm."""
        from shunted_lab.data.corrupt import Corrupt
        from shunted_lab.data.dataset import TransformedImages
        from shunted_lab.data.module import Splits
        from shunted_lab.data.transforms import eval_transform, train_transform

        transform = train_transform(recipe, self.image_size, self.interpolation, self.stats, self.resize == "fast")
        corrupt = Corrupt(len(splits[0].labels), self.max_corrupt)
        train = TransformedImages(splits[0], splits[0].labels, transform, recipe, seed, corrupt)
        plain = eval_transform(self.image_size, self.interpolation, self.crop_pct, self.stats)
        val, test = (TransformedImages(split, split.labels, plain) for split in splits[1:])
        return Splits(train, val, test, class_names)

    def root_folder(self) -> Path:
        """`root`, if it is a folder.

        Raises:
            ConfigError: if it is not.
        """
        root = Path(self.root)
        if not root.is_dir():
            state = "is not a folder" if root.exists() else "does not exist"
            raise ConfigError(f"data.root: '{self.root}' {state}; data={self.name} expects {self.expected}")
        return root

    def absent(self, path: Path, what: str = "is absent") -> ConfigError:
        """The error for a path below `root` that is not as it must be."""
        return ConfigError(f"data.root: {path} {what}; data={self.name} expects {self.expected}")

    def check_held_out(self, labels: Iterable[int]) -> None:
        """Refuse training images of which none would be held out for validation, since each class keeps one.

        Args:
            labels: of the training images.
        """
        counts = Counter(labels)
        if max(counts.values()) < 2:
            raise ConfigError(
                f"data.val_fraction: {self.val_fraction:g} of the training images leaves none for validation: "
                f"'{self.root}' has {len(counts)} of them in {len(counts)} classes, and each class keeps one; "
                "add training images, or give the data a test split, so that val is the validation"
            )

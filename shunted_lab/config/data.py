"""What all data sets share: the base class that each one implements, in a module of its own.

A data set is a dataclass derived from `DataConfig`, registered with one line in `config.groups.DATA_SETS` or chosen by
its dotted path, `data=my_module.MyData`. Its module is imported by every `--help`: it imports torch, and whatever else
takes time, inside of its methods.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from omegaconf import MISSING

from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import at_least, option, require

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]  # mean and standard deviation, RGB in [0, 1]

D = TypeVar("D", bound="DataConfig")


@dataclass(frozen=True)
class DataFacts:
    """What a plan needs to know of a data set.

    Args:
        class_names: in the order of the labels.
        identity: tells data sets of one name apart (folders with other images, see `data.identity`); empty where the
            name is enough.
        notes: lines for the plan, e.g. of files that are not read.
    """

    class_names: tuple[str, ...]
    identity: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


@dataclass
class DataConfig(ABC):
    """The options of a data set, and what the framework asks it for.

    A data set implements `stats`, `check` and `make_splits`; the other methods have a default. Options are fields made
    by `schema.option`; each is a key `data.NAME` with a line of help.
    """

    name: str = MISSING  # that it was chosen by: registered, or a dotted path
    image_size: int = option(224, "pixels on each side of an image as the model sees it; at least 32")
    batch_size: int = option(128, "images in a training batch")
    num_classes: int | None = option(None, "number of classes; null: as many as the data set has")

    synthetic: ClassVar[bool] = False  # stated wherever results are shown
    augments: ClassVar[tuple[str, ...]] = ()  # of `recipe.OF_DATA`, what it augments images by
    # Names the split of pictures that several data sets share: weights trained on one split are not tested on another.
    # Empty: no other data set has these pictures.
    regions: ClassVar[str] = ""
    targets: ClassVar[tuple[str, ...]] = ("label",)  # what each image can have; a task names one that it needs

    def __post_init__(self) -> None:
        # Strides reach 32 in the fourth stage.
        require(self.image_size >= 32, "data.image_size", self.image_size, "is too small for four stages: at least 32")
        at_least(1, "data", self, "batch_size")

    def splits_otherwise(self, other: DataConfig) -> bool:
        """Whether both have the same pictures in different splits, so that one tests what the other trains on."""
        return bool(self.regions and other.regions) and self.regions != other.regions

    def for_target(self, target: str) -> DataConfig:
        """The data set as a task sees it that needs `target`, one of `targets`: with these classes and splits.

        A data set with more than one target returns an instance of a subclass, with the same options.
        """
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of an image, at which costs are counted and measured."""
        return self.image_size, self.image_size

    @property
    @abstractmethod
    def stats(self) -> Stats:
        """Mean and standard deviation that images are normalized with."""

    @abstractmethod
    def check(self, tested_only: bool = False) -> DataFacts:
        """Check that the data set is complete, before anything is trained. It imports no torch.

        Args:
            tested_only: nothing is trained: the training and validation splits may be absent.

        Raises:
            ConfigError: in one line with the key and what is expected.
        """

    @abstractmethod
    def make_splits(self, recipe: RecipeConfig, seed: int) -> Any:
        """The three splits (`data.module.Splits`), the training split with the recipe's augmentation.

        Batches are `(B, 3, image_size, image_size)` float32 images and their targets: `(B,)` int64 labels; for `sizes`
        `(B, K)` float32, the size of each class's object; for `label map` `data.label_maps.LabelMaps`; for `boxes` and
        `masks` `data.objects.Objects`. The files are taken as checked. With the epoch and the number of the image,
        `seed` is the only source of the augmentation.
        """

    def check_recipe(self, recipe: RecipeConfig) -> None:  # noqa: B027  # by default nothing is refused
        """Refuse options of a recipe that this data set cannot be trained with.

        Raises:
            ConfigError: for the first of them.
        """

    def check_evaluated(self, identity: str, say: Callable[[str], None]) -> None:  # noqa: B027  # nor checked
        """Check before training what would otherwise fail during evaluation, e.g. decode the images of val and test.

        Args:
            identity: of the data (`DataFacts.identity`), by which this machine remembers what it has checked.
            say: gets a line now and then where it takes long.

        Raises:
            ConfigError: for images that cannot be evaluated.
        """

    def smoke(self: D, batch_size: int) -> D:
        """The same data set for a smoke test: small batches, and nothing that takes long to prepare."""
        return dataclasses.replace(self, batch_size=batch_size)

    @property
    def description(self) -> str:
        """The data set in a caption: its name, and what sets it apart from another configuration of it."""
        return self.name

    @property
    def preparation(self) -> str:
        """How images are prepared for evaluation: `64 x 64`, and how they come to that size."""
        return f"{self.image_size} x {self.image_size}"

    @property
    def is_remote(self) -> bool:
        """Whether images are downloaded when they are first read, so that the first steps take longer."""
        return False

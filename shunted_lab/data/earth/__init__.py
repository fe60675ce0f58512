"""data=earth and data=earth32: satellite colour with land-cover labels. README.md is their data card."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import option, require

if TYPE_CHECKING:
    from shunted_lab.data.earth.tiles import Tiling
    from shunted_lab.data.module import Splits

# Raised when tiles, labels or splits change:
IDENTITY = "earth-1"
MAPS_IDENTITY = "earth-maps-1"  # with label maps
EARTH32_IDENTITY = "earth32-1"
REGIONS = "blocks of 15 degrees"


class Tiled(DataConfig):
    """What both tilings have in common: nine classes, and statistics of the training tiles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 9, "data.num_classes", self.num_classes, "is wrong: earth has 9 classes")

    @property
    @abstractmethod
    def tiling(self) -> Tiling: ...

    @property
    def stats(self) -> Stats:
        return self.tiling.stats

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.earth.datasets import earth_splits

        return earth_splits(self.tiling, self.image_size, recipe, seed)


@dataclass
class EarthConfig(Tiled):
    """Satellite colour with land-cover labels; ships with the package (`data/earth/README.md`)."""

    name: str = "earth"
    image_size: int = option(64, "pixels on each side; tiles of 64 are resized to it")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(9, "number of classes; fixed")

    regions: ClassVar[str] = REGIONS
    targets: ClassVar[tuple[str, ...]] = ("label", "label map")

    def check(self, tested_only: bool = False) -> DataFacts:
        return facts(IDENTITY)

    @property
    def tiling(self) -> Tiling:
        from shunted_lab.data.earth.tiles import EARTH

        return EARTH

    def for_target(self, target: str) -> EarthConfig:
        return EarthMaps(**dataclasses.asdict(self)) if target == "label map" else self


@dataclass
class EarthMaps(EarthConfig):
    """data=earth with the land cover of each pixel. Tiles that are evaluated do not overlap."""

    def for_target(self, target: str) -> EarthConfig:
        return self if target == "label map" else EarthConfig(**dataclasses.asdict(self))

    def check(self, tested_only: bool = False) -> DataFacts:
        return facts(MAPS_IDENTITY)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.earth.datasets import earth_map_splits

        return earth_map_splits(self.image_size, recipe, seed)


@dataclass
class Earth32Config(Tiled):
    """data=earth in smaller tiles and blocks, half of them for the test: for comparing variants with many seeds."""

    name: str = "earth32"
    image_size: int = option(32, "pixels on each side; tiles of 32 are resized to it")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(9, "number of classes; fixed")

    regions: ClassVar[str] = "blocks of 7.5 degrees"

    def check(self, tested_only: bool = False) -> DataFacts:
        return facts(EARTH32_IDENTITY)

    @property
    def tiling(self) -> Tiling:
        from shunted_lab.data.earth.tiles import EARTH32

        return EARTH32


def facts(identity: str) -> DataFacts:
    """What a plan needs to know of one of these data sets."""
    from shunted_lab.data.earth.tiles import CLASS_NAMES

    return DataFacts(tuple(CLASS_NAMES), identity)

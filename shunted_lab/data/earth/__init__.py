"""data=earth: satellite colour with land-cover labels, which ships with the package. README.md is its data card."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import option, require

if TYPE_CHECKING:
    from shunted_lab.data.module import Splits

IDENTITY = "earth-1"  # raised when its tiles, labels or splits change
MAPS_IDENTITY = "earth-maps-1"  # those for label maps


@dataclass
class EarthConfig(DataConfig):
    """Satellite colour with land-cover labels; ships with the package (`data/earth/README.md`)."""

    name: str = "earth"
    image_size: int = option(64, "pixels on each side; tiles of 64 are resized to it")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(9, "number of classes; fixed")

    targets: ClassVar[tuple[str, ...]] = ("label", "label map")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 9, "data.num_classes", self.num_classes, "is wrong: earth has 9 classes")

    @property
    def stats(self) -> Stats:
        from shunted_lab.data.earth.tiles import STATS

        return STATS

    def check(self, tested_only: bool = False) -> DataFacts:
        from shunted_lab.data.earth.tiles import CLASS_NAMES

        return DataFacts(tuple(CLASS_NAMES), IDENTITY)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.earth.datasets import earth_splits

        return earth_splits(self.image_size, recipe, seed)

    def for_target(self, target: str) -> EarthConfig:
        return EarthMaps(**dataclasses.asdict(self)) if target == "label map" else self


@dataclass
class EarthMaps(EarthConfig):
    """data=earth with the land cover of each pixel. Tiles that are evaluated do not overlap."""

    def for_target(self, target: str) -> EarthConfig:
        return self if target == "label map" else EarthConfig(**dataclasses.asdict(self))

    def check(self, tested_only: bool = False) -> DataFacts:
        return DataFacts(super().check().class_names, MAPS_IDENTITY)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.earth.datasets import earth_map_splits

        return earth_map_splits(self.image_size, recipe, seed)

"""data=scales: SYNTHETIC scenes of two shapes whose sizes differ by a known factor. README.md is its data card."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.config.schema import at_least, option, path_option, require
from shunted_lab.data import earth
from shunted_lab.data.cache import cache_folder

if TYPE_CHECKING:
    from shunted_lab.data.module import Splits
    from shunted_lab.data.scales.scene import Scene, Scenes

IDENTITY = f"scales-2, {earth.IDENTITY}"  # raised when its scenes change; their textures are of earth
HIDING = ("mixup", "cutmix", "random_resized_crop", "rand_augment", "color_jitter", "random_erasing")


@dataclass
class ScalesConfig(DataConfig):
    """SYNTHETIC: two shapes over real textures, whose sizes differ by a known factor (`data/scales/README.md`)."""

    name: str = "scales"
    image_size: int = option(128, "pixels on each side")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(6, "number of classes; fixed")
    size_ratio: float = option(4.0, "diameter of an image's larger object over that of the smaller: 1 to 16")
    scene_seed: int = option(0, "seed of the scenes; all runs of an experiment see the same scenes")
    train_images: int = option(4000, "training scenes")
    val_images: int = option(500, "validation scenes")
    test_images: int = option(1000, "test scenes")
    cache: str | None = path_option(
        None, "folder that caches rendered scenes; null: ~/.cache/shunted_lab", affects_result=False, absolute=True
    )

    synthetic: ClassVar[bool] = True
    regions: ClassVar[str] = earth.REGIONS
    targets: ClassVar[tuple[str, ...]] = (
        "sizes",
        "label map",
        "boxes",
        "masks",
    )  # sizes: (6,) of each class's object, 0 for none

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 6, "data.num_classes", self.num_classes, "is wrong: scales has 6 classes")
        require(1 <= self.size_ratio <= 16, "data.size_ratio", self.size_ratio, "is not between 1 and 16")
        require(self.image_size >= 64, "data.image_size", self.image_size, "is too small for its objects: at least 64")
        at_least(0, "data", self, "scene_seed")
        at_least(1, "data", self, "train_images", "val_images", "test_images")

    @property
    def stats(self) -> Stats:
        return earth.EarthConfig().stats  # its textures are tiles of earth

    @property
    def description(self) -> str:
        return f"{self.name}, size ratio {self.size_ratio:g}"

    def check(self, tested_only: bool = False) -> DataFacts:
        from shunted_lab.data.scales.scene import CLASS_NAMES

        return DataFacts(tuple(CLASS_NAMES), IDENTITY)

    def check_recipe(self, recipe: RecipeConfig) -> None:
        for name in HIDING:
            value = getattr(recipe, name)
            require(not value, f"recipe.{name}", value, "would cut or hide objects of data=scales; take recipe=lite")
        value = recipe.repeated_aug
        require(value == 1, "recipe.repeated_aug", value, "is not supported for data=scales")

    def smoke(self, batch_size: int) -> ScalesConfig:
        return replace(self, batch_size=batch_size, train_images=64, val_images=32, test_images=32)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.scales.datasets import scales_splits

        return scales_splits(
            [self.scenes(split) for split in ("train", "val", "test")], cache_folder(self.cache), recipe, seed
        )

    def for_target(self, target: str) -> ScalesConfig:
        return _of_target(self, target)

    def scenes(self, split: str) -> Scenes:
        """The scenes of a split; all runs of an experiment see the same ones, whatever their seed."""
        from shunted_lab.data.scales.scene import Scenes

        return Scenes(self.scene_seed, split, getattr(self, f"{split}_images"), self.image_size, self.size_ratio)

    def scene(self, split: str, index: int) -> Scene:
        """A scene with its boxes and masks, drawn again: it is the image that a run has seen."""
        return self.scenes(split).draw(index)

    def size_ranges(self) -> list[tuple[str, tuple[float, float]]]:
        """The named ranges of sizes [low, high) that objects have, as shares of the image's side."""
        from shunted_lab.data.scales.scene import size_ranges

        return size_ranges(self.size_ratio)


@dataclass
class ScalesMaps(ScalesConfig):
    """data=scales with the class of each pixel, 0 for the background."""

    def check(self, tested_only: bool = False) -> DataFacts:
        facts = super().check(tested_only)
        return replace(facts, class_names=("background", *facts.class_names))

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.scales.datasets import scales_map_splits

        scenes = [self.scenes(split) for split in ("train", "val", "test")]
        return scales_map_splits(scenes, cache_folder(self.cache), recipe, seed, [r for _, r in self.size_ranges()])


@dataclass
class ScalesBoxes(ScalesConfig):
    """data=scales with a class and a box for each object."""

    has_masks: ClassVar[bool] = False

    def area_ranges(self) -> list[tuple[str, tuple[float, float]]]:
        """The ranges of areas, pixels squared, of boxes whose sides are sizes of `size_ranges`."""
        side = self.image_size
        return [(name, ((low * side) ** 2, (high * side) ** 2)) for name, (low, high) in self.size_ranges()]

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.scales.datasets import scales_object_splits

        scenes = [self.scenes(split) for split in ("train", "val", "test")]
        ranges = self.area_ranges()
        return scales_object_splits(scenes, cache_folder(self.cache), recipe, seed, ranges, self.has_masks)


@dataclass
class ScalesInstances(ScalesBoxes):
    """data=scales with a class, a box and a mask for each object."""

    has_masks: ClassVar[bool] = True


def _of_target(data: ScalesConfig, target: str) -> ScalesConfig:
    """The same options as the class that has the target."""
    kinds = {"sizes": ScalesConfig, "label map": ScalesMaps, "boxes": ScalesBoxes, "masks": ScalesInstances}
    kind = kinds[target]
    return data if type(data) is kind or type(data) not in kinds.values() else kind(**asdict(data))

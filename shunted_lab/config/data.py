"""The configuration of each data set. What they share is in `DataConfig`; `shunted_lab.data` reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from omegaconf import MISSING

from shunted_lab.config.schema import at_least, one_of, option, path_option, require

INAT_LEVELS = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")


@dataclass
class DataConfig:
    """What every data set has. Batches are `(B, 3, image_size, image_size)` images and `(B,)` labels."""

    name: str = MISSING
    image_size: int = option(224, "pixels on each side of an image as the model sees it; at least 32")
    batch_size: int = option(128, "images in a training batch")
    num_classes: int | None = option(None, "number of classes; null: as many as the data set has")

    synthetic: ClassVar[bool] = False  # said wherever results are shown
    targets: ClassVar[str] = "label"  # what each image has; a task takes the data that have what it needs

    def __post_init__(self) -> None:
        # Strides reach 32 in the fourth stage.
        require(self.image_size >= 32, "data.image_size", self.image_size, "is too small for four stages: at least 32")
        at_least(1, "data", self, "batch_size")


@dataclass
class EarthConfig(DataConfig):
    """Satellite colour with land-cover labels; ships with the package (`data/earth/README.md`)."""

    name: str = "earth"
    image_size: int = option(64, "pixels on each side; tiles of 64 are resized to it")
    batch_size: int = option(64, "images in a training batch")
    num_classes: int | None = option(9, "number of classes; fixed")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 9, "data.num_classes", self.num_classes, "is wrong: earth has 9 classes")


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
    targets: ClassVar[str] = "sizes"  # (6,) of each class's object, 0 where there is none

    def size_ranges(self) -> list[tuple[str, tuple[float, float]]]:
        """The named ranges of sizes [low, high) that objects have, as shares of the image's side."""
        from shunted_lab.data.scales.scene import size_ranges

        return size_ranges(self.size_ratio)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_classes == 6, "data.num_classes", self.num_classes, "is wrong: scales has 6 classes")
        require(1 <= self.size_ratio <= 16, "data.size_ratio", self.size_ratio, "is not between 1 and 16")
        require(self.image_size >= 64, "data.image_size", self.image_size, "is too small for its objects: at least 64")
        at_least(0, "data", self, "scene_seed")
        at_least(1, "data", self, "train_images", "val_images", "test_images")


@dataclass
class FolderConfig(DataConfig):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*` (and `root/test/CLASS/*`, where there is one)."""

    name: str = "folder"
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


@dataclass
class ImageNetConfig(FolderConfig):
    """ImageNet-1K in the usual folders: `root/train/n01440764/*.JPEG`, `root/val/n01440764/*.JPEG`."""

    name: str = "imagenet"
    num_classes: int | None = option(1000, "number of classes; fixed")
    val_fraction: float = option(0.01, "share of train/ held out for validation; val/ is the test split")


@dataclass
class CIFAR100Config(FolderConfig):
    """CIFAR-100 as torchvision unpacks it: `root/cifar-100-python/{train,test,meta}`."""

    name: str = "cifar100"
    image_size: int = option(32, "pixels on each side; images of 32 are resized to it")
    num_classes: int | None = option(100, "number of classes; fixed")
    crop_pct: float = option(1.0, "evaluation: centre crop / resized shorter side")


@dataclass
class INat2018Config(FolderConfig):
    """iNaturalist 2018: `root/{train2018,val2018,categories}.json` and the images below `root/train_val2018`."""

    name: str = "inat2018"
    val_fraction: float = option(
        0.02,
        "share of each class's training images held out for validation, rounded up; the val list is the test split",
    )
    category: str = option("name", f"level of the class labels: {', '.join(INAT_LEVELS)}")

    year: ClassVar[int] = 2018

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.category", self.category, INAT_LEVELS)


@dataclass
class INat2019Config(INat2018Config):
    """iNaturalist 2019: as 2018, with `train2019.json`, `val2019.json` and `train_val2019`."""

    name: str = "inat2019"

    year: ClassVar[int] = 2019


@dataclass
class ShardsConfig(FolderConfig):
    """Images in tars, as `python -m shunted_lab.convert` writes them: for slow file systems and object storage."""

    name: str = "shards"
    root: str = path_option(MISSING, "folder of the shards, or their fsspec URL", affects_result=False, absolute=True)
    mix_shards: int = option(16, "training shards whose images are shuffled together")
    cache: str | None = path_option(
        None,
        "folder that caches the shards of a URL; null: ~/.cache/shunted_lab/shards",
        affects_result=False,
        absolute=True,
    )
    cache_gb: float = option(
        50.0,
        "largest size of the cache in gigabytes (1e9 bytes); the least recently used shards are removed",
        affects_result=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "data", self, "mix_shards")
        require(self.cache_gb > 0, "data.cache_gb", self.cache_gb, "is not above 0")

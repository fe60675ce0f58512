"""data=coco: COCO, or any images with annotations in COCO's format."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from omegaconf import MISSING

from shunted_lab.config.data import DataConfig, DataFacts, Stats
from shunted_lab.config.recipe import OF_BOXES, RecipeConfig
from shunted_lab.config.schema import ConfigError, at_least, option, path_option, require
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.identity import identity_of
from shunted_lab.data.image_files import IMAGENET
from shunted_lab.data.listing import unreadable

if TYPE_CHECKING:
    from shunted_lab.data.coco.annotations import Annotations
    from shunted_lab.data.geometry import ImageSizes
    from shunted_lab.data.module import Splits

SPLITS = ("train", "val")
COUNTED_WIDTH = 1.6  # of the height, in pixels: published costs are of 800 x 1280
AREAS = (("small", (0.0, 32.0**2)), ("medium", (32.0**2, 96.0**2)), ("large", (96.0**2, 1e10)))


@dataclass
class CocoConfig(DataConfig):
    """COCO 2017, or a folder with annotations in its format; val is tested on, and part of train validates.

    COCO's own names of files need only `data.root`. For others give `data.train_json`, `data.val_json`,
    `data.train_images` and `data.val_images`, below `data.root` or absolute.
    """

    name: str = "coco"
    root: str = path_option(MISSING, "folder of the data set", affects_result=False, absolute=True)
    year: int = option(2017, "of COCO, in the names of its files", affects_result=False)
    train_json: str | None = option(
        None, "annotations of train; null: annotations/instances_trainYEAR.json", affects_result=False
    )
    val_json: str | None = option(
        None, "annotations of val; null: annotations/instances_valYEAR.json", affects_result=False
    )
    train_images: str | None = option(None, "folder of the images of train; null: trainYEAR", affects_result=False)
    val_images: str | None = option(None, "folder of the images of val; null: valYEAR", affects_result=False)
    image_size: int = option(800, "pixels of the shorter side of an image")
    long_side: int = option(1333, "pixels of the longer side, at most")
    batch_size: int = option(16, "images in a training batch")
    val_fraction: float = option(0.01, "share of the training images held out for validation")
    max_corrupt: int = option(
        10,
        "largest number of training images that cannot be read and are replaced by the next one; more end the run",
        affects_result=False,
    )
    cache: str | None = path_option(
        None, "folder that caches parsed annotations; null: ~/.cache/shunted_lab", affects_result=False, absolute=True
    )

    targets: ClassVar[tuple[str, ...]] = ("boxes", "masks")
    augments: ClassVar[tuple[str, ...]] = OF_BOXES
    has_masks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.long_side >= self.image_size, "data.long_side", self.long_side, "is below data.image_size")
        require(0 < self.val_fraction < 1, "data.val_fraction", self.val_fraction, "is not between 0 and 1")
        at_least(0, "data", self, "max_corrupt")

    @property
    def stats(self) -> Stats:
        return IMAGENET

    @property
    def input_size(self) -> tuple[int, int]:
        """800 x 1280, at which costs are published."""
        return self.image_size, round(self.image_size * COUNTED_WIDTH)

    @property
    def preparation(self) -> str:
        return f"shorter side {self.image_size}, at most {self.long_side} long, evaluated at the original size"

    def area_ranges(self) -> list[tuple[str, tuple[float, float]]]:
        """COCO's ranges of areas, pixels squared, at the original size."""
        return list(AREAS)

    def for_target(self, target: str) -> CocoConfig:
        kinds = {"boxes": CocoConfig, "masks": CocoInstances}
        kind = kinds[target]
        return self if type(self) is kind or type(self) not in kinds.values() else kind(**asdict(self))

    def files(self, split: str) -> tuple[Path, Path]:
        """The annotations of train or val, and the folder of its images."""
        given = getattr(self, f"{split}_json"), getattr(self, f"{split}_images")
        usual = f"annotations/instances_{split}{self.year}.json", f"{split}{self.year}"
        json, images = (Path(self.root) / (own or name) for own, name in zip(given, usual, strict=True))
        return json, images

    def annotations(self, split: str) -> Annotations:
        """The parsed annotations of train or val; parsed now unless they are in the cache.

        Raises:
            ConfigError: for a file that is not there, or not in COCO's format.
        """
        from shunted_lab.data.coco.annotations import parsed

        return parsed(self.files(split)[0], f"data.{split}_json", cache_folder(self.cache) / "coco")

    def check(self, tested_only: bool = False) -> DataFacts:
        """Check annotations, and that every image has its file.

        Raises:
            ConfigError: naming the first that is missing or wrong.
        """
        if not Path(self.root).is_dir():
            state = "is not a folder" if Path(self.root).exists() else "does not exist"
            json, images = (path.relative_to(self.root) for path in self.files("train"))
            raise ConfigError(f"data.root: '{self.root}' {state}; data={self.name} expects {json}, {images}, and so on")
        splits = [s for s in SPLITS if s == "val" or not tested_only or self.files(s)[0].exists()]
        found = {split: self.annotations(split) for split in splits}
        for split, each in found.items():
            self._check_files(split, each)
        val, train = found["val"], found.get("train")
        if train is not None and train.categories != val.categories:
            only = sorted(set(train.names) ^ set(val.names)) or "the same names with other numbers"
            raise ConfigError(f"data.val_json: its categories differ from those of data.train_json: {only}")
        if self.num_classes is not None and self.num_classes != len(val.names):
            raise ConfigError(f"data.num_classes: {self.num_classes}, but '{self.root}' has {len(val.names)} classes")
        notes = []
        if train is not None:
            kept, held = self._trained(train)
            if not len(kept):
                raise ConfigError(f"data.train_json: {self.files('train')[0]} has no image with an object to train")
            total = len(train.image_id) - len(held)
            notes.append(f"{self.name}: {len(kept):,} of {total:,} training images have objects; others are left out")
        identity = identity_of([(split, each.digest) for split, each in found.items()])
        return DataFacts(tuple(val.names), identity, tuple(notes))

    def _check_files(self, split: str, annotations: Annotations) -> None:
        """Refuse annotations of images that are not in the folder, which is listed once."""
        json, folder = self.files(split)
        key = f"data.{split}_images"
        if not len(annotations.image_id):
            raise ConfigError(f"data.{split}_json: {json} has no images")
        if self.has_masks and not annotations.kind.any():
            raise ConfigError(
                f"data.{split}_json: {json} has no segmentation: it can train task=retinanet, but no masks"
            )
        there: set[str] = set()
        try:
            for inner in sorted({os.path.dirname(name) for name in annotations.image_name.tolist()}):
                with os.scandir(folder / inner) as entries:
                    there.update(os.path.join(inner, entry.name) for entry in entries)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"{key}: {error.filename} is absent; images of {json} must be there") from None
        except OSError as error:
            raise unreadable(str(folder), error) from None
        absent = [name for name in annotations.image_name.tolist() if name not in there]
        if absent:
            count = f"{len(absent):,} of {len(annotations.image_id):,}"
            raise ConfigError(f"{key}: {folder} lacks {count} images of {json}, first '{absent[0]}'")

    def _trained(self, train: Annotations) -> tuple[Any, Any]:
        """Numbers of the images of train that are trained, and of those held out for validation."""
        import numpy as np

        from shunted_lab.data.image_splits import hold_out

        names = train.image_name.tolist()
        kept, held = (np.array(part, int) for part in hold_out([0] * len(names), names, self.val_fraction))
        return kept[train.trainable()[kept]], held

    def check_evaluated(self, identity: str, say: Callable[[str], None]) -> None:
        """Decode every image of val and test once.

        Raises:
            ConfigError: for those that cannot be read, or are of another size than their annotation says.
        """
        from shunted_lab.data.coco.images import CocoImages
        from shunted_lab.data.evaluated import Evaluated, check_decodable

        def splits() -> list[CocoImages]:
            found = []
            if self.files("train")[0].exists():
                train = self.annotations("train")
                found.append(CocoImages(train, self.files("train")[1], self._trained(train)[1]))
            val = self.annotations("val")
            return [*found, CocoImages(val, self.files("val")[1], range(len(val.image_id)))]

        check_decodable(Evaluated(self.name, self.root, identity, self.val_fraction, splits), say)

    @property
    def sizes(self) -> ImageSizes:
        """How large images are evaluated."""
        from shunted_lab.data.geometry import ImageSizes

        return ImageSizes(self.image_size, self.long_side, 1)

    def make_splits(self, recipe: RecipeConfig, seed: int) -> Splits:
        from shunted_lab.data.coco.datasets import coco_splits
        from shunted_lab.data.coco.images import CocoImages

        val = self.annotations("val")
        test = CocoImages(val, self.files("val")[1], range(len(val.image_id)))
        train, held = test.take([]), test.take([])
        if self.files("train")[0].exists():
            both = self.annotations("train")
            train, held = (CocoImages(both, self.files("train")[1], part) for part in self._trained(both))
        return coco_splits((train, held, test), self, recipe, seed)


@dataclass
class CocoInstances(CocoConfig):
    """COCO with the masks of its objects."""

    has_masks: ClassVar[bool] = True

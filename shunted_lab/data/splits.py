"""Train, validation and test side of each data set. The test side is never used to choose anything."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import CIFAR100, ImageFolder

from shunted_lab.config import (
    CIFAR100Config,
    DataConfig,
    EarthConfig,
    FolderConfig,
    INat2018Config,
    RecipeConfig,
    ScalesConfig,
    ShardsConfig,
)
from shunted_lab.data.augment import Pictures, Stats, eval_transform, train_transform
from shunted_lab.data.corrupt import Corrupt
from shunted_lab.data.decode import decode
from shunted_lab.data.inat import read_lists
from shunted_lab.data.layout import classes_of, sides_of, tested_side
from shunted_lab.data.module import ShardOrder, Splits
from shunted_lab.data.tar_reader import TarSide, open_sides

IMAGENET: Stats = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
CIFAR: Stats = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # of the 50,000 training images


@dataclass(frozen=True)
class Side:
    """Images, either paths or arrays `(H, W, 3)`, with their labels and a name for each. Calls give PIL images.

    It holds no function, so that it can be sent to the workers of a loader that are spawned.
    """

    images: Sequence[Any]
    labels: Sequence[int]
    names: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        image = self.images[index]
        return decode(Path(image).read_bytes()) if isinstance(image, str) else Image.fromarray(image)

    def where(self, index: int) -> str:
        return str(self.images[index])

    def take(self, indices: Sequence[int]) -> Side:
        images, labels, names = ([part[i] for i in indices] for part in (self.images, self.labels, self.names))
        return Side(images, labels, names)  # type: ignore[arg-type]  # mypy sees the union of the three


def make_splits(data: DataConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """The sides of a data set, with the recipe's augmentation on the training side."""
    if isinstance(data, EarthConfig):
        from shunted_lab.data.earth.datasets import earth_splits

        return earth_splits(data, recipe, seed)
    if isinstance(data, ScalesConfig):
        from shunted_lab.data.scales.datasets import scales_splits

        return scales_splits(data, recipe, seed)
    assert isinstance(data, FolderConfig)
    if isinstance(data, CIFAR100Config):
        return _cifar100(data, recipe, seed)
    if isinstance(data, ShardsConfig):
        return _shards(data, recipe, seed)
    return _folders(data, recipe, seed)


def stats_of(data: DataConfig) -> Stats:
    """Mean and standard deviation that images of a data set are normalised with."""
    if isinstance(data, EarthConfig | ScalesConfig):
        from shunted_lab.data.earth.datasets import STATS

        return STATS
    return CIFAR if isinstance(data, CIFAR100Config) else IMAGENET


def _folders(data: FolderConfig, recipe: RecipeConfig, seed: int) -> Splits:
    classes, found = read_sides(data)
    train, val = found["train"], found["val"]
    if "test" in found:
        sides = [train, val, found["test"]]
    else:
        kept, held = hold_out(train.labels, train.names, data.val_fraction)
        sides = [train.take(kept), train.take(held), val]
    return _splits(data, recipe, seed, sides, classes, IMAGENET)


def read_sides(data: FolderConfig) -> tuple[list[str], dict[str, Side]]:
    """The classes in the order of their labels, and the sides that lie on disk: train, val, and test if it is there.

    Where there is no test, val serves as the test and the validation is held out of train (`hold_out`).
    """
    root = Path(data.root).expanduser()
    if isinstance(data, INat2018Config):
        lists = read_lists(data, root)
        return lists.classes, {side: Side(one.paths, one.labels, one.names) for side, one in lists.sides.items()}
    if not (root / "train").exists():  # only to be tested
        tested = _folder_side(root, tested_side(root))
        return classes_of(root / tested_side(root)), {"train": Side([], [], []), "val": tested}
    return classes_of(root / "train"), {side: _folder_side(root, side) for side in sides_of(root)}


def _folder_side(root: Path, side: str) -> Side:
    """The images of `root/train`, `root/val` or `root/test`, sorted; each is named by its path below `root`."""
    samples = ImageFolder(str(root / side)).samples
    names = [Path(path).relative_to(root).as_posix() for path, _ in samples]
    return Side([path for path, _ in samples], [label for _, label in samples], names)


def _shards(data: ShardsConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """The sides that data=folder would have, image by image and number by number; only the order is another."""
    index, found = open_sides(data)
    train, val = found["train"], found["val"]
    if "test" in found:
        sides = [train, val, found["test"]]
    else:
        kept, held = hold_out(train.labels, train.names, data.val_fraction)
        held.sort(key=lambda number: train.places[number, :2].tolist())  # shard after shard: no order matters here
        sides = [train.take(kept), train.take(held), val]
    splits = _splits(data, recipe, seed, sides, index.classes, IMAGENET)
    return replace(splits, shuffle=ShardOrder(sides[0].places[:, 0], data.mix_shards))


def _cifar100(data: CIFAR100Config, recipe: RecipeConfig, seed: int) -> Splits:
    train, test = (CIFAR100(str(Path(data.root).expanduser()), train=side) for side in (True, False))
    sides = [Side(found.data, found.targets, [str(i) for i in range(len(found.targets))]) for found in (train, test)]
    kept, held = hold_out(sides[0].labels, sides[0].names, data.val_fraction)
    return _splits(data, recipe, seed, [sides[0].take(kept), sides[0].take(held), sides[1]], train.classes, CIFAR)


def _splits(
    data: FolderConfig,
    recipe: RecipeConfig,
    seed: int,
    sides: Sequence[Side | TarSide],
    class_names: list[str],
    stats: Stats,
) -> Splits:
    fast = data.resize == "fast"
    transform = train_transform(recipe, data.image_size, data.interpolation, stats, fast)
    corrupt = Corrupt(len(sides[0].labels), data.max_corrupt)
    train = Pictures(sides[0], sides[0].labels, transform, recipe, seed, corrupt)
    plain = eval_transform(data.image_size, data.interpolation, data.crop_pct, stats)
    val, test = (Pictures(side, side.labels, plain) for side in sides[1:])
    return Splits(train, val, test, class_names)


def hold_out(labels: Sequence[int], names: Sequence[str], fraction: float) -> tuple[list[int], list[int]]:
    """Indices that are kept, and those held back: of each class the `fraction` whose names hash lowest.

    The rule knows no seed: all runs share the split. A class of one image keeps it.
    """
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    held: set[int] = set()
    for group in groups.values():
        ranked = sorted(group, key=lambda index: (zlib.crc32(names[index].encode()), names[index]))
        held.update(ranked[: min(math.ceil(len(group) * fraction), len(group) - 1)])
    return [i for i in range(len(labels)) if i not in held], sorted(held)

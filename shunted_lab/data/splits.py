"""Train, validation and test side of each data set. The test side is never used to choose anything."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import CIFAR100, ImageFolder

from shunted_lab.config import CIFAR100Config, ConfigError, DataConfig, EarthConfig, FolderConfig, RecipeConfig
from shunted_lab.data.augment import Pictures, Stats, eval_transform, train_transform
from shunted_lab.data.module import Splits

IMAGENET: Stats = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
CIFAR: Stats = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # of the 50,000 training images

Side = tuple[Callable[[int], Image.Image], Sequence[int], Sequence[str]]  # picture, labels, a name for each


def make_splits(data: DataConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """The sides of a data set, with the recipe's augmentation on the training side."""
    if isinstance(data, EarthConfig):
        from shunted_lab.data.earth.datasets import earth_splits

        return earth_splits(data, recipe, seed)
    assert isinstance(data, FolderConfig)
    if isinstance(data, CIFAR100Config):
        return _cifar100(data, recipe, seed)
    return _folders(data, recipe, seed)


def _folders(data: FolderConfig, recipe: RecipeConfig, seed: int) -> Splits:
    root = Path(data.root).expanduser()
    train = ImageFolder(str(root / "train"))
    if (root / "test").is_dir():
        val, test = ImageFolder(str(root / "val")), ImageFolder(str(root / "test"))
        sides = [_side(train, root), _side(val, root), _side(test, root)]
    else:
        whole = _side(train, root)
        kept, held = hold_out(whole[1], whole[2], data.val_fraction)
        sides = [_take(whole, kept), _take(whole, held), _side(ImageFolder(str(root / "val")), root)]
    return _splits(data, recipe, seed, sides, train.classes, IMAGENET)


def _side(folder: ImageFolder, root: Path) -> Side:
    names = [Path(path).relative_to(root).as_posix() for path, _ in folder.samples]
    return lambda index: folder.loader(folder.samples[index][0]), folder.targets, names


def _cifar100(data: CIFAR100Config, recipe: RecipeConfig, seed: int) -> Splits:
    try:
        train, test = (
            CIFAR100(str(Path(data.root).expanduser()), train=side, download=False) for side in (True, False)
        )
    except RuntimeError as error:
        raise ConfigError(f"data.root: '{data.root}': {str(error).splitlines()[0]} unpack the archive again") from None

    def side(found: CIFAR100) -> Side:
        names = [str(index) for index in range(len(found.targets))]
        return lambda index: Image.fromarray(found.data[index]), found.targets, names

    kept, held = hold_out(train.targets, side(train)[2], data.val_fraction)
    sides = [_take(side(train), kept), _take(side(train), held), side(test)]
    return _splits(data, recipe, seed, sides, train.classes, CIFAR)


def _splits(
    data: FolderConfig, recipe: RecipeConfig, seed: int, sides: list[Side], class_names: list[str], stats: Stats
) -> Splits:
    train = Pictures(*sides[0][:2], train_transform(recipe, data.image_size, data.interpolation, stats), recipe, seed)
    transform = eval_transform(data.image_size, data.interpolation, data.crop_pct, stats)
    return Splits(train, Pictures(*sides[1][:2], transform), Pictures(*sides[2][:2], transform), class_names)


def _take(side: Side, indices: Sequence[int]) -> Side:
    picture, labels, names = side
    return lambda index: picture(indices[index]), [labels[i] for i in indices], [names[i] for i in indices]


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

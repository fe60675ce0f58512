"""The data sets that a run sees, split by split. The test split is never used to choose anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.datasets import CIFAR100

from shunted_lab.config.data import CIFAR100Config, DataConfig, EarthConfig, FolderConfig, ScalesConfig, ShardsConfig
from shunted_lab.config.recipe import RecipeConfig
from shunted_lab.data.augment import Pictures, Stats, eval_transform, train_transform
from shunted_lab.data.corrupt import Corrupt
from shunted_lab.data.image_splits import ImageSplit, read_splits, three_splits
from shunted_lab.data.module import ShardOrder, Splits
from shunted_lab.data.tar_reader import TarSplit, open_splits

IMAGENET: Stats = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
CIFAR: Stats = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))  # of the 50,000 training images


def make_splits(data: DataConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """The splits of a data set, with the recipe's augmentation on the training split."""
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
    classes, found = read_splits(data)
    return _splits(data, recipe, seed, three_splits(found, data.val_fraction), classes, IMAGENET)


def _shards(data: ShardsConfig, recipe: RecipeConfig, seed: int) -> Splits:
    """The splits that data=folder would have, image by image and number by number; only the order is another."""
    index, found = open_splits(data)
    train, val, test = three_splits(found, data.val_fraction)
    splits = _splits(data, recipe, seed, (train, val.in_order_of_shards(), test), index.classes, IMAGENET)
    return replace(splits, shuffle=ShardOrder(train.places[:, 0], data.mix_shards))


def _cifar100(data: CIFAR100Config, recipe: RecipeConfig, seed: int) -> Splits:
    train, test = (CIFAR100(str(Path(data.root)), train=first) for first in (True, False))
    found = [ImageSplit(one.data, one.targets, [str(i) for i in range(len(one.targets))]) for one in (train, test)]
    splits = three_splits({"train": found[0], "val": found[1]}, data.val_fraction)
    return _splits(data, recipe, seed, splits, train.classes, CIFAR)


def _splits(
    data: FolderConfig,
    recipe: RecipeConfig,
    seed: int,
    splits: Sequence[ImageSplit | TarSplit],
    class_names: list[str],
    stats: Stats,
) -> Splits:
    fast = data.resize == "fast"
    transform = train_transform(recipe, data.image_size, data.interpolation, stats, fast)
    corrupt = Corrupt(len(splits[0].labels), data.max_corrupt)
    train = Pictures(splits[0], splits[0].labels, transform, recipe, seed, corrupt)
    plain = eval_transform(data.image_size, data.interpolation, data.crop_pct, stats)
    val, test = (Pictures(split, split.labels, plain) for split in splits[1:])
    return Splits(train, val, test, class_names)

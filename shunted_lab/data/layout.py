"""Is the data set there, and whole? Answered before training, without torch."""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config.data import (
    CIFAR100Config,
    DataConfig,
    EarthConfig,
    FolderConfig,
    ImageNetConfig,
    INat2018Config,
    ScalesConfig,
    ShardsConfig,
)
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.expected import absent, root_of
from shunted_lab.data.identity import contents, identity_of, sizes, spread
from shunted_lab.data.inat import check_images, read_lists
from shunted_lab.data.listing import (
    SplitFolder,
    classes_of,
    list_split,
    note_of_unread,
    splits_of,
    tested_split,
)

EARTH = "earth-1"  # to be raised when its tiles, labels or splits change
SCALES = f"scales-2, {EARTH}"  # likewise
IMAGENET_TRAIN_MIN = 732  # images in the smallest training class of ImageNet-1K
IMAGENET_VAL = 50  # images in every validation class
CIFAR100_FILES = {  # name: MD5, as in torchvision
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


@dataclass(frozen=True)
class DataFacts:
    """What a plan needs to know of a data set.

    Args:
        class_names: in the order of the labels.
        identity: tells data sets of one name apart (folders with other images, see `identity.py`); empty where the name
            says it all.
        notes: lines for the plan, e.g. of files that are not read.
    """

    class_names: tuple[str, ...]
    identity: str = ""
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def check_data(data: DataConfig, tested_only: bool = False) -> DataFacts:
    """Check that a data set is complete.

    Args:
        tested_only: for who only tests: an image folder without `train/` will do, and nothing need be left for
            validation.

    Raises:
        ConfigError: with the expected tree and the first path that is absent, for fewer than two classes, and for too
            few images to hold a validation split out.
    """
    # numpy and Pillow are imported for those who need them
    if isinstance(data, EarthConfig):
        from shunted_lab.data.earth.tiles import CLASS_NAMES as EARTH_CLASSES

        return DataFacts(tuple(EARTH_CLASSES), EARTH)
    if isinstance(data, ScalesConfig):
        from shunted_lab.data.scales.scene import CLASS_NAMES as SCALES_CLASSES

        return DataFacts(tuple(SCALES_CLASSES), SCALES)
    assert isinstance(data, FolderConfig)
    facts = _check_shards(data, tested_only) if isinstance(data, ShardsConfig) else _check_root(data, tested_only)
    if data.num_classes is not None and data.num_classes != facts.num_classes:
        raise ConfigError(f"data.num_classes: {data.num_classes}, but '{data.root}' has {facts.num_classes} classes")
    if facts.num_classes < 2:
        level = f" at the level {data.category} (data.category)" if isinstance(data, INat2018Config) else ""
        only = f"1 class{level}, '{facts.class_names[0]}'"
        raise ConfigError(f"data.root: '{data.root}' has {only}; a classifier needs at least 2")
    return facts


def _check_root(data: FolderConfig, tested_only: bool) -> DataFacts:
    root = root_of(data)
    if isinstance(data, INat2018Config):
        return _check_inat(data, root, tested_only)
    if isinstance(data, CIFAR100Config):
        return _check_cifar100(data, root)
    alone = tested_only and not (root / "train").exists()
    names = [tested_split(data, root)] if alone else splits_of(data, root)
    if isinstance(data, ImageNetConfig):
        return _check_imagenet(data, root, names)
    return _check_folder(data, root, names, tested_only)


def _check_shards(data: ShardsConfig, tested_only: bool) -> DataFacts:
    from shunted_lab.data.tars import open_index  # numpy and fsspec, for those who need them

    index = open_index(data.root)
    index.check(data)
    few = sum(shard.count for shard in index.splits["train"]) <= len(index.classes)  # else a class has two
    if few and "test" not in index.splits and not tested_only:
        from shunted_lab.data.tar_reader import open_splits

        _check_held_out(data, open_splits(data)[1]["train"].labels)
    return DataFacts(tuple(index.classes), index.identity)


def _check_held_out(data: FolderConfig, labels: Iterable[int]) -> None:
    """Refuse training images of which none would be held out for validation, since each class keeps its last one."""
    counts = Counter(labels)
    if max(counts.values()) < 2:
        raise ConfigError(
            f"data.val_fraction: {data.val_fraction:g} of the training images leaves none for validation: "
            f"'{data.root}' has {len(counts)} of them in {len(counts)} classes, and each class keeps one; "
            "add training images, or give the data a test split, so that val is the validation"
        )


def _check_cifar100(data: FolderConfig, root: Path) -> DataFacts:
    for name, md5 in CIFAR100_FILES.items():
        path = root / "cifar-100-python" / name
        if not path.is_file():
            raise absent(data, path)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise absent(data, path, "is damaged (its MD5 differs); unpack the archive again")
    with open(root / "cifar-100-python" / "meta", "rb") as file:
        meta = pickle.load(file, encoding="latin1")  # its MD5 is right: it holds what torchvision's loader unpickles
    return DataFacts(tuple(meta["fine_label_names"]))


def _check_imagenet(data: FolderConfig, root: Path, names: list[str]) -> DataFacts:
    synsets = imagenet_classes()
    least = {"train": IMAGENET_TRAIN_MIN, "val": IMAGENET_VAL}
    splits = [_check_synsets(data, root / name, synsets, least[name]) for name in names]
    listed = [(split.name, split.images) for split in splits]
    one_each = [(f"{s.name}/{c}/{i}", f"{s.path}/{c}/{i}") for s in splits for c, i in _one_of_each(s)]
    sample = contents([name for name, _ in one_each], [path for _, path in one_each])
    return DataFacts(tuple(synsets), identity_of(listed, sample), tuple(note_of_unread(data.name, splits)))


def _check_synsets(data: FolderConfig, folder: Path, synsets: list[str], least: int) -> SplitFolder:
    there = classes_of(folder) if folder.is_dir() else []
    for name in synsets:
        if name not in there:
            raise absent(data, folder / name)
    for name in sorted(set(there) - set(synsets)):
        raise absent(data, folder / name, "is not a class of ImageNet-1K")
    split = list_split(folder)
    for name, images in split.images.items():
        if len(images) < least:
            what = f"has {len(images)} images; expected at least {least} (incompletely unpacked?)"
            raise absent(data, folder / name, what)
    return split


def _one_of_each(split: SplitFolder) -> list[tuple[str, str]]:
    """A class and one of its images, for each class."""
    return [(name, images[spread(images, 1)[0]]) for name, images in split.images.items()]


def _check_inat(data: INat2018Config, root: Path, tested_only: bool) -> DataFacts:
    lists = read_lists(data, root)
    check_images(data, lists)
    if not tested_only:
        _check_held_out(data, lists.splits["train"].labels)
    names = [name for split in lists.splits.values() for name in split.names]
    paths = [path for split in lists.splits.values() for path in split.paths]
    return DataFacts(tuple(lists.classes), identity_of(lists.identity, contents(names, paths)))


def _check_folder(data: FolderConfig, root: Path, names: list[str], tested_only: bool) -> DataFacts:
    for name in names:
        if not (root / name).is_dir():
            raise absent(data, root / name)
    splits = [list_split(root / name) for name in names]
    classes = sorted({name for split in splits for name in split.classes})
    if not splits[0].classes:
        raise absent(data, splits[0].path / "CLASS")
    for split in splits:
        for name in classes:
            if name not in split.images:
                raise absent(data, split.path / name)
            if not split.images[name]:
                raise absent(data, split.path / name, "has no images")
    if "test" not in names and not tested_only:
        _check_held_out(data, [label for _, _, label in splits[0].files()])
    return DataFacts(tuple(classes), _identity(splits), tuple(note_of_unread(data.name, splits)))


def _identity(splits: list[SplitFolder]) -> str:
    """Of an image folder: the class, the name and the size of every image, and the content of a sample."""
    files = [file for split in splits for file in split.files()]
    paths, names = [path for path, _, _ in files], [name for _, name, _ in files]
    return identity_of(list(zip(names, sizes(paths), strict=True)), contents(names, paths))


def imagenet_classes() -> list[str]:
    """The 1000 synsets of ImageNet-1K, from timm's package data (without importing timm)."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()

"""Is the data set there, and whole? Answered before training, without torch."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config import (
    CIFAR100Config,
    ConfigError,
    DataConfig,
    EarthConfig,
    FolderConfig,
    ImageNetConfig,
    INat2018Config,
    INat2019Config,
    ScalesConfig,
    ShardsConfig,
)

EARTH = "earth-1"  # to be counted up when its tiles, labels or sides change
SCALES = f"scales-2, {EARTH}"  # likewise
IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
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

    `class_names` are in the order of the labels. `identity` tells data sets of one name apart (folders with other
    images); empty where the name says it all.
    """

    class_names: tuple[str, ...]
    identity: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def check_data(data: DataConfig, tested_only: bool = False) -> DataFacts:
    """Check that a data set is complete.

    Args:
        tested_only: an image folder without `train/` will do; who only tests has no use for it.

    Raises:
        ConfigError: with the expected tree and the first path that is absent.
    """
    # numpy and Pillow are imported for those who need them
    if isinstance(data, EarthConfig):
        from shunted_lab.data.earth.tiles import CLASS_NAMES as EARTH_CLASSES

        return DataFacts(tuple(EARTH_CLASSES), EARTH)
    if isinstance(data, ScalesConfig):
        from shunted_lab.data.scales.scene import CLASS_NAMES as SCALES_CLASSES

        return DataFacts(tuple(SCALES_CLASSES), SCALES)
    assert isinstance(data, FolderConfig)
    if isinstance(data, ShardsConfig):
        facts = _check_shards(data)
    else:
        root = _root(data)
        alone = tested_only and type(data) in _TESTED and not (root / "train").exists()
        facts = _TESTED[type(data)](data, root, tested_side(root)) if alone else _CHECKS[type(data)](data, root)
    if data.num_classes is not None and data.num_classes != facts.num_classes:
        raise ConfigError(f"data.num_classes: {data.num_classes}, but '{data.root}' has {facts.num_classes} classes")
    return facts


def cache_folder(cache: str | None) -> Path:
    """`data.cache`, or `shunted_lab` in the user's folder of caches (XDG_CACHE_HOME)."""
    if cache is not None:
        return Path(cache).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shunted_lab"


def _root(data: FolderConfig) -> Path:
    root = Path(data.root).expanduser()
    if not root.is_dir():
        state = "is not a folder" if root.exists() else "does not exist"
        raise ConfigError(f"data.root: '{data.root}' {state}; data={data.name} expects {_tree(data)}")
    return root


def _check_shards(data: ShardsConfig) -> DataFacts:
    from shunted_lab.data.tars import open_index  # numpy and fsspec, for those who need them

    index = open_index(data.root)
    index.check(data)
    return DataFacts(tuple(index.classes), index.identity)


def _tree(data: FolderConfig) -> str:
    if isinstance(data, CIFAR100Config):
        return "cifar-100-python/{train,test,meta} in it"
    if isinstance(data, ImageNetConfig):
        return "train/n01440764/*.JPEG and val/n01440764/*.JPEG in it, for 1000 classes"
    if isinstance(data, INat2018Config):
        year, images = data.year, f"train_val{data.year}"
        return (
            f"train{year}.json, val{year}.json, categories.json and {images}/SUPERCATEGORY/ID/*.jpg in it "
            f"(or {images}/ID/*.jpg)"
        )
    return "train/CLASS/*.jpg and val/CLASS/*.jpg (and test/CLASS/*.jpg, if there is one) in it"


def absent(data: FolderConfig, path: Path, what: str = "is absent") -> ConfigError:
    """The error for a path below `data.root` that is not as it must be."""
    return ConfigError(f"data.root: {path} {what}; data={data.name} expects {_tree(data)}")


def _check_cifar100(data: FolderConfig, root: Path) -> DataFacts:
    for name, md5 in CIFAR100_FILES.items():
        path = root / "cifar-100-python" / name
        if not path.is_file():
            raise absent(data, path)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "md5").hexdigest() != md5:
                raise absent(data, path, "is damaged (its MD5 is another); unpack the archive again")
    with open(root / "cifar-100-python" / "meta", "rb") as file:
        meta = pickle.load(file, encoding="latin1")  # its MD5 is right: no other code runs than torchvision runs
    return DataFacts(tuple(meta["fine_label_names"]))


def _check_imagenet(data: FolderConfig, root: Path, only: str | None = None) -> DataFacts:
    synsets = imagenet_classes()
    for side, least in (("train", IMAGENET_TRAIN_MIN), ("val", IMAGENET_VAL)):
        if only not in (None, side):
            continue
        for name in synsets:
            folder = root / side / name
            if not folder.is_dir():
                raise absent(data, folder)
            count = len(_images(folder))
            if count < least:
                raise absent(data, folder, f"has {count} images, and at least {least} belong there (half unpacked?)")
        for name in sorted(set(classes_of(root / side)) - set(synsets)):
            raise absent(data, root / side / name, "is no class of ImageNet-1K")
    return DataFacts(tuple(synsets))


def _check_inat(data: FolderConfig, root: Path) -> DataFacts:
    from shunted_lab.data.inat import check_images, read_lists  # it imports this module

    assert isinstance(data, INat2018Config)
    lists = read_lists(data, root)
    check_images(data, lists)
    return DataFacts(tuple(lists.classes), lists.identity)


def _check_folder(data: FolderConfig, root: Path, only: str | None = None) -> DataFacts:
    sides = sides_of(root) if only is None else [only]
    for side in sides:
        if not (root / side).is_dir():
            raise absent(data, root / side)
    names = {side: set(classes_of(root / side)) for side in sides}
    digest = hashlib.sha256()
    for side in sides:
        for name in sorted(set.union(*names.values())):
            folder = root / side / name
            if name not in names[side]:
                raise absent(data, folder)
            images = _images(folder)
            if not images:
                raise absent(data, folder, "has no images")
            digest.update(repr((side, name, images)).encode())
    first = sides[0]
    if not names[first]:
        raise absent(data, root / first / "CLASS")
    return DataFacts(tuple(sorted(names[first])), digest.hexdigest()[:16])


def sides_of(root: Path) -> list[str]:
    """`train`, `val`, and `test` if it has classes: images without labels, as ImageNet's, are no test side."""
    return ["train", "val", *(["test"] if (root / "test").is_dir() and classes_of(root / "test") else [])]


def tested_side(root: Path) -> str:
    """The folder of the test side: `test`, or `val` where there is none."""
    return sides_of(root)[-1]


def classes_of(folder: Path) -> list[str]:
    """Names of the classes below `train`, `val` or `test`, in the order of their labels."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


def _images(folder: Path) -> list[tuple[str, int]]:
    """Names and bytes of the images below a class's folder, sorted."""
    found: list[tuple[str, int]] = []
    for where, _, names in os.walk(folder):
        paths = [os.path.join(where, name) for name in names if name.lower().endswith(IMAGES)]
        found += [(os.path.relpath(path, folder), os.path.getsize(path)) for path in paths]
    return sorted(found)


def imagenet_classes() -> list[str]:
    """The 1000 synsets of ImageNet-1K, from timm's package data (without importing timm)."""
    spec = importlib.util.find_spec("timm")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt").read_text().split()


_CHECKS = {
    FolderConfig: _check_folder,
    ImageNetConfig: _check_imagenet,
    INat2018Config: _check_inat,
    INat2019Config: _check_inat,
    CIFAR100Config: _check_cifar100,
}
_TESTED = {FolderConfig: _check_folder, ImageNetConfig: _check_imagenet}

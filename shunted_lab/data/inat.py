"""data=inat2018 and data=inat2019: iNaturalist, read as DeiT's and PVT's `INatDataset` reads it.

An image's category id is in its path, `train_val2018/SUPERCATEGORY/ID/FILE`, and is the index of an entry in
categories.json, whose value at `data.category` is the image's class. Classes are numbered in the order in which the
annotations of train{year}.json first name them, for both lists; nothing else is taken from annotations.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from shunted_lab.config.data import DataFacts
from shunted_lab.config.schema import ConfigError, one_of, option
from shunted_lab.data.identity import contents, identity_of
from shunted_lab.data.image_files import ImageFilesConfig

if TYPE_CHECKING:
    from shunted_lab.data.image_splits import FileSplit

LEVELS = ("kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name")
CATEGORIES = "categories.json"


@dataclass
class INat2018Config(ImageFilesConfig):
    """iNaturalist 2018: `root/{train2018,val2018,categories}.json` and the images below `root/train_val2018`."""

    name: str = "inat2018"
    val_fraction: float = option(
        0.02,
        "share of each class's training images held out for validation, rounded up; the val list is the test split",
    )
    category: str = option("name", f"level of the class labels: {', '.join(LEVELS)}")

    year: ClassVar[int] = 2018

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("data.category", self.category, LEVELS)

    @property
    def expected(self) -> str:
        year, images = self.year, f"train_val{self.year}"
        return (
            f"train{year}.json, val{year}.json, categories.json and {images}/SUPERCATEGORY/ID/*.jpg in it "
            f"(or {images}/ID/*.jpg)"
        )

    @property
    def class_level(self) -> str:
        return f" at the level {self.category} (data.category)"

    def check_files(self, tested_only: bool) -> DataFacts:
        self.root_folder()
        lists = read_lists(self)
        check_images(self, lists)
        if not tested_only:
            self.check_held_out(lists.splits["train"].labels)
        names = [name for split in lists.splits.values() for name in split.names]
        paths = [path for split in lists.splits.values() for path in split.paths]
        return DataFacts(tuple(lists.classes), identity_of(lists.identity, contents(names, paths)))

    def read_splits(self) -> tuple[list[str], dict[str, FileSplit]]:
        lists = read_lists(self)
        return lists.classes, lists.splits

    def list_path(self, split: str) -> Path:
        """The file of the list of a split."""
        return Path(self.root) / f"{split}{self.year}.json"


@dataclass
class INat2019Config(INat2018Config):
    """iNaturalist 2019: as 2018, with `train2019.json`, `val2019.json` and `train_val2019`."""

    name: str = "inat2019"

    year: ClassVar[int] = 2019


@dataclass(frozen=True)
class Lists:
    """The classes in the order of their labels, and the splits `train` and `val` in the order of their lists.

    The name of an image is its path in the list, wherever it lies: all layouts hold out the same images and share their
    identity.
    """

    classes: list[str]
    splits: dict[str, FileSplit]

    @cached_property
    def identity(self) -> str:
        """16 hex digits over classes, names and labels; a year's names are below its own folder."""
        splits = {split: [list(found.names), list(found.labels)] for split, found in self.splits.items()}
        return hashlib.sha256(json.dumps([self.classes, splits]).encode()).hexdigest()[:16]


def read_lists(data: INat2018Config) -> Lists:
    """Read categories.json, train{year}.json and val{year}.json. Of the images, only the first is looked for.

    Raises:
        ConfigError: for a list that is absent, damaged or of another form, and for a category that has no class.
    """
    from shunted_lab.data.image_splits import FileSplit

    root = Path(data.root)
    values = _category_values(data)
    lists = {split: _load(data, data.list_path(split), dict) for split in ("train", "val")}
    numbers: dict[str, int] = {}
    for category in _annotated(data, lists["train"], len(values)):
        numbers.setdefault(values[category], len(numbers))
    found = {split: _labelled(data, split, lists[split], values, numbers) for split in lists}
    moved = _is_moved(data, root, found["train"][0][0])
    splits = {
        split: FileSplit([_place(root, name, moved) for name in names], labels, names)
        for split, (names, labels) in found.items()
    }
    return Lists(list(numbers), splits)


def check_images(data: INat2018Config, lists: Lists) -> None:
    """Check that every image is there. Each folder is listed once, instead of asking for half a million files.

    Raises:
        ConfigError: with the first path that is absent.
    """
    there: dict[str, set[str]] = {}
    for split in lists.splits.values():
        for path in split.paths:
            folder, _, name = path.rpartition("/")
            if folder not in there:
                there[folder] = _files(folder)
            if name not in there[folder]:
                raise data.absent(Path(path))


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):  # the first of its images will be named
        return set()


def _load(data: INat2018Config, path: Path, kind: type) -> Any:
    if not path.is_file():
        raise data.absent(path)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise data.absent(path, "is damaged (not JSON); unpack the archive again") from None
    if not isinstance(found, kind):
        raise data.absent(path, f"is not {'an object' if kind is dict else 'a list'} in JSON")
    return found


def _rows(data: INat2018Config, path: Path, found: dict[str, Any], key: str) -> list[Any]:
    rows = found.get(key)
    if not isinstance(rows, list) or not rows:
        raise data.absent(path, f"has no list of {key}")
    return rows


def _category_values(data: INat2018Config) -> list[str]:
    """What `data.category` is of each category id."""
    path = Path(data.root) / CATEGORIES
    values = []
    for category, row in enumerate(_load(data, path, list)):
        value = row.get(data.category) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value:
            raise data.absent(path, f"has no {data.category} (data.category) for category {category}")
        values.append(value)
    return values


def _annotated(data: INat2018Config, train: dict[str, Any], count: int) -> Iterator[int]:
    """The category of each annotation, below `count`."""
    path = data.list_path("train")
    for number, row in enumerate(_rows(data, path, train, "annotations")):
        category = row.get("category_id") if isinstance(row, dict) else None
        if type(category) is not int:
            raise data.absent(path, f"has no category_id in annotations[{number}]")
        if not 0 <= category < count:
            raise _outside(data, path, category, count)
        yield category


def _outside(data: INat2018Config, path: Path, category: int, count: int) -> ConfigError:
    return data.absent(path, f"has category {category}, and {CATEGORIES} ends with {count - 1}")


def _labelled(
    data: INat2018Config, split: str, found: dict[str, Any], values: list[str], numbers: dict[str, int]
) -> tuple[list[str], list[int]]:
    """The names of a list's images, and their labels."""
    path, folder = data.list_path(split), f"train_val{data.year}"
    form = re.compile(folder + r"/(?!\.{1,2}/)[^/\n]+/(\d+)/(?!\.{1,2}$)[^/\n]+")
    names, labels = [], []
    for number, row in enumerate(_rows(data, path, found, "images")):
        name = row.get("file_name") if isinstance(row, dict) else None
        match = form.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise data.absent(path, f"has no file_name {folder}/SUPERCATEGORY/ID/FILE in images[{number}]: {name!r}")
        category = int(match[1])
        if category >= len(values):
            raise _outside(data, path, category, len(values))
        value = values[category]
        if value not in numbers:
            what = f"has category {category} ({value!r}), which no annotation of train{data.year}.json has"
            raise data.absent(path, what)
        names.append(match[0])
        labels.append(numbers[value])
    return names, labels


def _place(root: Path, name: str, moved: bool) -> str:
    """Where an image lies: as the archive unpacks, or moved to where the official loader reads it."""
    if not moved:
        return f"{root}/{name}"
    folder, _, category, file = name.split("/")
    return f"{root}/{folder}/{category}/{file}"


def _is_moved(data: INat2018Config, root: Path, first: str) -> bool:
    for moved in (True, False):
        if os.path.isfile(_place(root, first, moved)):
            return moved
    raise data.absent(root / first)

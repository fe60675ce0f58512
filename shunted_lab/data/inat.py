"""The lists of iNaturalist 2018 and 2019, read as DeiT's and PVT's `INatDataset` reads them; without torch.

An image's category id is in its path, `train_val2018/SUPERCATEGORY/ID/FILE`, and is the place of an entry in
categories.json, whose value at `data.category` is the image's class. Classes are numbered in the order in which the
annotations of train{year}.json first name them, for both lists; nothing else is taken from annotations.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from shunted_lab.config.data import INat2018Config
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.expected import absent

CATEGORIES = "categories.json"


@dataclass(frozen=True)
class Listed:
    """The images of one list, in its order, and as often as it has them: where they lie, their labels, their names.

    A name is the path in the list, wherever the image lies: all layouts share what is held out and their identity.
    """

    paths: list[str]
    labels: list[int]
    names: list[str]


@dataclass(frozen=True)
class Lists:
    """The classes in the order of their numbers, and the splits `train` and `val`."""

    classes: list[str]
    splits: dict[str, Listed]

    @cached_property
    def identity(self) -> str:
        """16 hex digits over classes, names and labels; a year's names are below its own folder."""
        splits = {split: [found.names, found.labels] for split, found in self.splits.items()}
        return hashlib.sha256(json.dumps([self.classes, splits]).encode()).hexdigest()[:16]


def read_lists(data: INat2018Config, root: Path) -> Lists:
    """Read categories.json, train{year}.json and val{year}.json. Of the images, only the first is looked for.

    Raises:
        ConfigError: for a list that is absent, damaged or of another form, and for a category that has no class.
    """
    values = _category_values(data, root)
    lists = {split: _load(data, root / f"{split}{data.year}.json", dict) for split in ("train", "val")}
    numbers: dict[str, int] = {}
    for category in _annotated(data, root, lists["train"], len(values)):
        numbers.setdefault(values[category], len(numbers))
    found = {split: _labelled(data, root, split, lists[split], values, numbers) for split in lists}
    moved = _is_moved(data, root, found["train"][0][0])
    splits = {
        split: Listed([_place(root, name, moved) for name in names], labels, names)
        for split, (names, labels) in found.items()
    }
    return Lists(list(numbers), splits)


def check_images(data: INat2018Config, lists: Lists) -> None:
    """Check that every image is there. Each folder is listed once: half a million images are not asked for one by one.

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
                raise absent(data, Path(path))


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):  # the first of its images will be named
        return set()


def _load(data: INat2018Config, path: Path, kind: type) -> Any:
    if not path.is_file():
        raise absent(data, path)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise absent(data, path, "is damaged (not JSON); unpack the archive again") from None
    if not isinstance(found, kind):
        raise absent(data, path, f"is not {'an object' if kind is dict else 'a list'} in JSON")
    return found


def _rows(data: INat2018Config, path: Path, found: dict[str, Any], key: str) -> list[Any]:
    rows = found.get(key)
    if not isinstance(rows, list) or not rows:
        raise absent(data, path, f"has no list of {key}")
    return rows


def _category_values(data: INat2018Config, root: Path) -> list[str]:
    """What `data.category` is of each category id."""
    path = root / CATEGORIES
    values = []
    for category, row in enumerate(_load(data, path, list)):
        value = row.get(data.category) if isinstance(row, dict) else None
        if not isinstance(value, str) or not value:
            raise absent(data, path, f"has no {data.category} (data.category) for category {category}")
        values.append(value)
    return values


def _annotated(data: INat2018Config, root: Path, train: dict[str, Any], count: int) -> Iterable[int]:
    """The category of each annotation, below `count`."""
    path = root / f"train{data.year}.json"
    for number, row in enumerate(_rows(data, path, train, "annotations")):
        category = row.get("category_id") if isinstance(row, dict) else None
        if type(category) is not int:
            raise absent(data, path, f"has no category_id in annotations[{number}]")
        if not 0 <= category < count:
            raise _outside(data, path, category, count)
        yield category


def _outside(data: INat2018Config, path: Path, category: int, count: int) -> ConfigError:
    return absent(data, path, f"has category {category}, and {CATEGORIES} ends with {count - 1}")


def _labelled(
    data: INat2018Config, root: Path, split: str, found: dict[str, Any], values: list[str], numbers: dict[str, int]
) -> tuple[list[str], list[int]]:
    """The names of a list's images, and their labels."""
    path, folder = root / f"{split}{data.year}.json", f"train_val{data.year}"
    form = re.compile(folder + r"/(?!\.{1,2}/)[^/\n]+/(\d+)/(?!\.{1,2}$)[^/\n]+")
    names, labels = [], []
    for number, row in enumerate(_rows(data, path, found, "images")):
        name = row.get("file_name") if isinstance(row, dict) else None
        match = form.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise absent(data, path, f"has no file_name {folder}/SUPERCATEGORY/ID/FILE in images[{number}]: {name!r}")
        category = int(match[1])
        if category >= len(values):
            raise _outside(data, path, category, len(values))
        value = values[category]
        if value not in numbers:
            what = f"has category {category} ({value!r}), which no annotation of train{data.year}.json has"
            raise absent(data, path, what)
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
    raise absent(data, root / first)

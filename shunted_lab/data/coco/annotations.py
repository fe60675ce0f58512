"""Annotations in COCO's format, parsed once into arrays in files, which all processes of a machine share; no torch.

The JSON of COCO 2017 has 448 MB, and Python's objects of it several GB: no worker of a loader holds them. Numbers are
kept as float64, as they stand in the file: masks are those that pycocotools draws.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.files import atomic_folder, digest_of, write_json, write_text

VERSION = 1  # raised when the arrays of a file change
LEAST = 32  # pixels of the sides of an image that is trained
NO_SEGMENT, POLYGONS, COUNTS, STRING = range(4)  # kinds of a segmentation: none, polygons, run lengths, compressed ones
ARRAYS = (
    "image_id",  # (I,) int64
    "image_size",  # (I, 2) int32: height, width
    "image_name",  # (I,) text
    "first",  # (I + 1,) int64: where the objects of an image begin
    "label",  # (A,) int32: 0 to K - 1, in the order of the categories' numbers
    "box",  # (A, 4) float64: x, y, width, height
    "area",  # (A,) float64: of the segmentation
    "crowd",  # (A,) bool
    "clean",  # (A,) bool: whether it is trained
    "kind",  # (A,) uint8
    "part",  # (A + 1,) int64: where the polygons of an object begin
    "number",  # (P + 1,) int64: where the numbers of a polygon begin
    "numbers",  # (M,) float64: coordinates, run lengths, or the characters of compressed ones
)


class Annotations:
    """Images and objects of one file, the objects sorted by image; arrays as in `ARRAYS`.

    Arrays are mapped when they are first asked for, by each process itself: nothing is copied to a loader's workers.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return Annotations, (self.folder,)

    def __getattr__(self, name: str) -> Any:
        if name not in ARRAYS:
            raise AttributeError(name)
        array = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        self.__dict__[name] = array
        return array

    @property
    def digest(self) -> str:
        """Of the JSON."""
        return self.folder.name

    @cached_property
    def categories(self) -> list[list[Any]]:
        """Number and name of each class, by number."""
        found: list[list[Any]] = json.loads((self.folder / "categories.json").read_text())
        return found

    @property
    def names(self) -> list[str]:
        return [name for _, name in self.categories]

    def objects_of(self, image: int) -> slice:
        """The objects of an image."""
        return slice(int(self.first[image]), int(self.first[image + 1]))

    def trainable(self) -> np.ndarray:
        """(I,) whether an image has an object to train, and sides of at least `LEAST` pixels."""
        before = np.append(0, np.cumsum(self.clean))  # objects that can be trained
        some = before[self.first[1:]] > before[self.first[:-1]]
        return np.asarray(some & (self.image_size.min(1) >= LEAST))

    def segment(self, number: int) -> Any:
        """The segmentation of an object, as pycocotools knows it; None where there is none."""
        parts = [self._numbers(i) for i in range(int(self.part[number]), int(self.part[number + 1]))]
        kind = int(self.kind[number])
        if kind == POLYGONS:
            return [part.tolist() for part in parts]
        if kind == NO_SEGMENT:
            return None
        image = int(np.searchsorted(self.first, number, side="right")) - 1
        counts = parts[0].astype(np.int64).tolist()
        size = self.image_size[image].tolist()
        return {"size": size, "counts": bytes(counts) if kind == STRING else counts}

    def _numbers(self, part: int) -> np.ndarray:
        return np.asarray(self.numbers[int(self.number[part]) : int(self.number[part + 1])])


def parsed(file: Path, key: str, cache: Path) -> Annotations:
    """The annotations in a JSON file, from the cache, or parsed into it.

    Args:
        key: of the configuration, for messages.
        cache: gets a folder for each content.

    Raises:
        ConfigError: for a file that cannot be read, or is not in COCO's format.
    """
    try:
        digest = _digest(file, cache)
        folder = cache / digest
        if not folder.exists():
            _write(_parse(file, key), folder)
        return Annotations(folder)
    except FileNotFoundError as error:
        raise ConfigError(f"{key}: {error.filename} does not exist") from None
    except OSError as error:
        where = (
            f"{key}: {file} cannot be read" if error.filename == str(file) else f"data.cache: {cache} cannot be used"
        )
        raise ConfigError(f"{where} ({error.strerror})") from None


def _digest(file: Path, cache: Path) -> str:
    """32 hex digits of the content and of `VERSION`, kept in the cache while the file's time and size stay."""
    state = file.stat()
    key = hashlib.sha256(repr((str(file), state.st_mtime_ns, state.st_size, VERSION)).encode()).hexdigest()[:32]
    note = cache / f"{key}.digest"
    if note.exists():
        return note.read_text().strip()
    found = hashlib.sha256(f"{VERSION} {digest_of(file)}".encode()).hexdigest()[:32]
    cache.mkdir(parents=True, exist_ok=True)
    write_text(note, found)
    return found


def _write(arrays: dict[str, Any], folder: Path) -> None:
    with atomic_folder(folder) as temporary:
        write_json(temporary / "categories.json", arrays.pop("categories"))
        for name, values in arrays.items():
            np.save(temporary / f"{name}.npy", values)


def _parse(file: Path, key: str) -> dict[str, Any]:
    """The arrays of a JSON file."""
    where = f"{key}: {file}"
    try:
        with open(file, "rb") as opened:
            found = json.load(opened)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON, or is cut off ({error})") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(found, dict) or any(not isinstance(found.get(name), list) for name in parts):
        raise ConfigError(f"{where} is not in COCO's format: it needs lists of images, annotations and categories")
    try:
        images, annotations, categories = (found.pop(name) for name in parts)
        del found
        classes = _categories(categories, where)
        arrays = _images(images, where)
        numbers = {int(number): i for i, number in enumerate(arrays["image_id"].tolist())}
        return arrays | _objects(annotations, numbers, classes, arrays["image_size"], where) | {"categories": classes}
    except (KeyError, TypeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"has a value of a wrong type: {error}"
        raise ConfigError(f"{where} is not in COCO's format: an entry {what}") from None


def _categories(categories: Sequence[Any], where: str) -> list[list[Any]]:
    found = sorted([int(each["id"]), str(each["name"])] for each in categories)
    for column, what in enumerate(("id", "name")):
        if twice := _first_twice([each[column] for each in found]):
            raise ConfigError(f"{where} has the category {what} {twice[0]!r} twice")
    if not found:
        raise ConfigError(f"{where} has no categories")
    return found


def _images(images: Sequence[Any], where: str) -> dict[str, Any]:
    names = [str(each["file_name"]) for each in images]
    identity = np.array([each["id"] for each in images], np.int64)
    sizes = np.array([[each["height"], each["width"]] for each in images], np.int32).reshape(-1, 2)
    for values, what in ((identity.tolist(), "id"), (names, "file_name")):
        if twice := _first_twice(values):
            raise ConfigError(f"{where} has an image with the {what} {twice[0]!r} twice")
    if (sizes < 1).any():
        wrong = int(np.flatnonzero((sizes < 1).any(1))[0])
        raise ConfigError(f"{where}: image '{names[wrong]}' has no size: {sizes[wrong].tolist()}")
    return {"image_id": identity, "image_size": sizes, "image_name": np.array(names, np.str_)}


def _objects(
    annotations: list[Any], images: dict[int, int], categories: list[list[Any]], sizes: np.ndarray, where: str
) -> dict[str, Any]:
    """Arrays of the objects, sorted by image; `images` and `categories` tell their numbers."""
    identity = np.array([each["id"] for each in annotations], np.int64)
    if twice := _first_twice(identity.tolist()):
        raise ConfigError(f"{where} has an annotation with the id {twice[0]} twice")
    if len(identity) and identity.min() < 1:
        raise ConfigError(f"{where} has an annotation with the id {identity.min()}; ids begin at 1 in COCO's format")
    labels = {number: label for label, (number, _) in enumerate(categories)}
    for name, known in (("image_id", images), ("category_id", labels)):
        for each in annotations:
            if each[name] not in known:
                raise ConfigError(f"{where}: annotation {each['id']} has the {name} {each[name]}, which is not known")
    image = np.array([images[each["image_id"]] for each in annotations], np.int64)
    order = np.argsort(image, kind="stable")
    annotations = [annotations[i] for i in order.tolist()]
    image = image[order]
    boxes = _boxes(annotations, where)
    crowd, ignore = (np.array([bool(each.get(n, 0)) for each in annotations], bool) for n in ("iscrowd", "ignore"))
    default = boxes[:, 2] * boxes[:, 3]
    area = np.array([each.get("area", own) for each, own in zip(annotations, default, strict=True)], np.float64)
    arrays = {
        "first": np.searchsorted(image, np.arange(len(sizes) + 1)),
        "label": np.array([labels[each["category_id"]] for each in annotations], np.int32),
        "box": boxes,
        "area": area,
        "crowd": crowd,
        "clean": _are_clean(boxes, area, sizes[image]) & ~crowd & ~ignore,
    }
    return arrays | _segments(annotations, image, sizes, where)


def _are_clean(boxes: np.ndarray, area: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether objects can be trained (mmdet's `_parse_ann_info`): with an area, a pixel wide and high, and within their
    images, whose height and width are `sizes`."""
    x, y, w, h = boxes.T
    height, width = sizes.T
    inside = (np.minimum(x + w, width) > np.maximum(x, 0)) & (np.minimum(y + h, height) > np.maximum(y, 0))
    return np.asarray((area > 0) & (w >= 1) & (h >= 1) & inside)


def _boxes(annotations: Sequence[Any], where: str) -> np.ndarray:
    wrong = next((each for each in annotations if len(each["bbox"]) != 4), None)
    if wrong is not None:
        raise ConfigError(f"{where}: annotation {wrong['id']} has a box of {len(wrong['bbox'])} numbers, not 4")
    boxes = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise ConfigError(f"{where}: annotation {annotations[first]['id']} has the box {boxes[first].tolist()}")
    return boxes


def _segments(annotations: list[Any], image: np.ndarray, sizes: np.ndarray, where: str) -> dict[str, Any]:
    """Kinds, parts and numbers of the segmentations; they are taken out of `annotations` one by one, for memory."""
    kinds = np.zeros(len(annotations), np.uint8)
    parts, lengths, pieces, block = [0], [0], [], []
    for i, each in enumerate(annotations):
        kinds[i], found = _segment(each, sizes[image[i]].tolist(), where)
        for numbers in found:
            block.append(numbers)
            lengths.append(lengths[-1] + len(numbers))
        parts.append(parts[-1] + len(found))
        annotations[i] = None
        if len(block) >= 10_000:
            pieces.append(_flat(block))
            block = []
    pieces.append(_flat(block))
    return {
        "kind": kinds,
        "part": np.array(parts, np.int64),
        "number": np.array(lengths, np.int64),
        "numbers": np.concatenate(pieces),
    }


def _flat(block: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([value for numbers in block for value in numbers], np.float64)


def _segment(each: Any, size: list[int], where: str) -> tuple[int, list[Sequence[float]]]:
    """Kind and parts of a segmentation; polygons of fewer than three points are left out."""
    found = each.get("segmentation")
    if not found:
        return NO_SEGMENT, []
    if isinstance(found, dict):
        if list(found["size"]) != size:
            raise ConfigError(
                f"{where}: annotation {each['id']} has run lengths of {found['size']}, and its image {size} pixels"
            )
        counts = found["counts"]
        return (STRING, [list(counts.encode())]) if isinstance(counts, str) else (COUNTS, [counts])
    for polygon in found:
        if len(polygon) % 2:
            raise ConfigError(f"{where}: annotation {each['id']} has a polygon of {len(polygon)} numbers, which is odd")
    kept = [polygon for polygon in found if len(polygon) >= 6]
    return (POLYGONS, kept) if kept else (NO_SEGMENT, [])


def _first_twice(values: Sequence[Any]) -> list[Any]:
    """The first value that occurs twice, if any, in a list."""
    if len(set(values)) == len(values):
        return []
    seen: set[Any] = set()
    return list(_repeated(values, seen))[:1]


def _repeated(values: Sequence[Any], seen: set[Any]) -> Iterator[Any]:
    for value in values:
        if value in seen:
            yield value
        seen.add(value)

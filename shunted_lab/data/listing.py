"""What lies in a folder of images: its splits, their classes and files, from names alone.

Folders are scanned, and no file is asked for its size or kind: on a network file system a million such questions take
minutes. The check, the identity of the data and the loader all list with this module, so that they see the same files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from shunted_lab.config.schema import ConfigError
from shunted_lab.output.quantities import listed

IMAGES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
SYSTEM = frozenset(  # folders that systems and storage servers make; hidden ones begin with a dot
    {
        "__MACOSX",
        "@eaDir",
        "@Recycle",
        "@Recently-Snapshot",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "RECYCLER",
        "System Volume Information",
        "lost+found",
    }
)
THREADS = 16  # requests to a file system at a time
EXTENSIONS = 5  # of files that are not read, which a note names

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class SplitFolder:
    """The folder of a split.

    `images` has for each class, in the order of the labels, the paths of its images below the class's folder, in the
    order of torchvision's ImageFolder. `unread` are the paths below the split's folder of files that are not images.
    """

    path: Path
    images: dict[str, list[str]]
    unread: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def classes(self) -> list[str]:
        return list(self.images)

    def files(self) -> list[tuple[str, str, int]]:
        """For each image its path, its name below the root of the data set, and its label."""
        return [
            (f"{self.path}/{name}/{image}", f"{self.path.name}/{name}/{image}", label)
            for label, (name, images) in enumerate(self.images.items())
            for image in images
        ]


def classes_of(folder: Path) -> list[str]:
    """Names of the classes below `train`, `val` or `test`, in the order of their labels."""
    return sorted(entry.name for entry in _scan(str(folder)) if _is_folder(entry))


def list_split(folder: Path) -> SplitFolder:
    """List `train`, `val` or `test`.

    Raises:
        ConfigError: for a folder that cannot be listed.
    """
    real = os.path.realpath(folder)
    entries = sorted(_scan(str(folder)), key=lambda entry: entry.name)
    classes = [entry for entry in entries if _is_folder(entry)]
    scanned = in_threads(lambda entry: _list_class(entry.path, _real(entry, real)), classes)
    images = {entry.name: images for entry, (images, _) in zip(classes, scanned, strict=True)}
    unread = [entry.name for entry in entries if not _is_folder(entry)]
    unread += [f"{entry.name}/{name}" for entry, (_, others) in zip(classes, scanned, strict=True) for name in others]
    return SplitFolder(folder, images, unread)


def note_of_unread(name: str, splits: Iterable[SplitFolder]) -> list[str]:
    """What is said of the files below the splits' folders that are not read; nothing where there are none.

    Args:
        name: what the data set is called.
    """
    unread = [f"{split.name}/{path}" for split in splits for path in split.unread]
    if not unread:
        return []
    kinds = Counter(_kind(path) for path in unread).most_common()
    shown = listed([f"{kind} ({count:,})" for kind, count in kinds], EXTENSIONS)
    count = "1 file is" if len(unread) == 1 else f"{len(unread):,} files are"
    return [f"data={name}: {count} not read, by extension: {shown}; e.g. {unread[0]}"]


def in_threads(call: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """`call` of each item, many at a time: a file system is waited for, not computed with."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, items))


def unreadable(path: str, error: OSError) -> ConfigError:
    """The error for a file or folder that is there and cannot be read."""
    return ConfigError(f"data.root: {path} cannot be read ({error.strerror})")


def _list_class(folder: str, real: str) -> tuple[list[str], list[str]]:
    """The images and the other files below a class's folder, in the order of ImageFolder; links are followed.

    Args:
        real: the folder's path without links.
    """
    found: list[tuple[str, list[str]]] = []
    # A link to a folder that it lies in would lead round in a circle.
    waiting = [("", folder, real, frozenset((real, *map(str, Path(real).parents))))]
    while waiting:
        inside, path, real, above = waiting.pop()
        names = []
        for entry in _scan(path):
            if not _is_folder(entry):
                names.append(f"{inside}{entry.name}")
                continue
            target = _real(entry, real)
            if target not in above:
                waiting.append((f"{inside}{entry.name}/", entry.path, target, above | {target}))
        found.append((inside.rstrip("/"), sorted(names)))
    files = [name for _, names in sorted(found) for name in names]
    return [name for name in files if is_image(name)], [name for name in files if not is_image(name)]


def is_image(name: str) -> bool:
    """Whether a file is one that is read, by its extension."""
    return name.lower().endswith(IMAGES)


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEM]
    except OSError as error:
        raise unreadable(path, error) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; only a link is looked up."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _real(entry: os.DirEntry[str], real: str) -> str:
    """The path without links of what lies in a folder of that path without links."""
    return os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(real, entry.name)


def _kind(path: str) -> str:
    """The extension of a file; an image can only be beside the classes, where it has no label."""
    extension = os.path.splitext(path)[1].lower() or "none"
    return f"{extension} outside of a class" if is_image(path) else extension

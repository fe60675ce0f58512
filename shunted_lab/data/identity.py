"""What tells two data sets of the same kind apart: names, labels, sizes and the content of files, at a bounded cost.

The content of up to `SAMPLE` images is read, of more images those whose names hash lowest, so that they are spread
evenly over splits and classes. At most `BUDGET` bytes are read in all: of a file that is larger than its share, the
beginning and the end. A link counts as what it points to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import BinaryIO

from shunted_lab.data.listing import THREADS, in_threads, unreadable

SAMPLE = 5000  # images whose content is read, at most
BUDGET = 4_000_000_000  # bytes that are read, at most
BLOCK = 1 << 20  # bytes that are read at a time


def identity_of(*parts: object) -> str:
    """16 hex digits over the `repr` of all parts."""
    found = hashlib.sha256()
    for part in parts:
        found.update(repr(part).encode())
    return found.hexdigest()[:16]


def sizes(paths: Sequence[str]) -> list[int]:
    """Bytes of each file.

    Raises:
        ConfigError: for one that cannot be read.
    """
    length = -(-len(paths) // THREADS) or 1
    pieces = [paths[start : start + length] for start in range(0, len(paths), length)]
    return [size for piece in in_threads(lambda piece: [_size(path) for path in piece], pieces) for size in piece]


def contents(names: Sequence[str], paths: Sequence[str]) -> list[tuple[str, str]]:
    """Name and digest of the content of the images that are read (see above), sorted.

    Raises:
        ConfigError: for one that cannot be read.
    """
    chosen = spread(names, SAMPLE)
    share = BUDGET // max(1, len(chosen))
    digests = in_threads(lambda index: _content(paths[index], share), chosen)
    return sorted((names[index], digest) for index, digest in zip(chosen, digests, strict=True))


def spread(names: Sequence[str], count: int) -> list[int]:
    """Indices of the `count` names that hash lowest, whatever their order; of fewer names all."""
    if len(names) <= count:
        return list(range(len(names)))
    hashed = [hashlib.blake2b(os.fsencode(name), digest_size=8).digest() for name in names]
    return sorted(range(len(names)), key=lambda index: (hashed[index], names[index]))[:count]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise unreadable(path, error) from None


def _content(path: str, share: int) -> str:
    """The digest of a file; of a larger one than `share` bytes its size, its beginning and its end."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= share:
                return hashlib.file_digest(file, "sha256").hexdigest()
            found = hashlib.sha256(str(size).encode())
            for start in (0, size - share // 2):
                file.seek(start)
                _update(found, file, share // 2)
            return found.hexdigest()
    except OSError as error:
        raise unreadable(path, error) from None


def _update(found: hashlib._Hash, file: BinaryIO, length: int) -> None:
    while length > 0 and (block := file.read(min(length, BLOCK))):
        found.update(block)
        length -= len(block)

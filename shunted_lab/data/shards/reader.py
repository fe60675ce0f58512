"""Reads single images out of the tars, in any order and from any process or thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from shunted_lab.data.decode import decode
from shunted_lab.data.image_splits import picked
from shunted_lab.data.shards.format import EXPECTED, INDEX, Index, Shard, Table, truncated

OPEN_FILES = 64  # tars that a process holds open at most


class Source(Protocol):
    """Where the tars lie. It is sent to the workers of a loader and holds nothing open."""

    def open(self, number: int) -> int:
        """A descriptor of the tar of a shard, which has all its bytes."""

    def where(self, number: int) -> str:
        """The path or URL of a shard's tar."""

    def used(self, file: int) -> None:
        """An image was read from this descriptor."""

    def table(self, shard: Shard) -> bytes | None:
        """The content of a table, if it is stored on this machine."""

    def keep(self, shard: Shard, content: bytes) -> None:
        """Store a table that was fetched."""


@dataclass(frozen=True)
class LocalTars:
    """Tars in a folder of this machine."""

    folder: str
    shards: list[Shard]

    def open(self, number: int) -> int:
        shard = self.shards[number]
        path = os.path.join(self.folder, shard.tar)
        file = os.open(path, os.O_RDONLY)
        if (size := os.fstat(file).st_size) != shard.bytes:
            os.close(file)
            raise truncated(path, size, shard.bytes)
        return file

    def where(self, number: int) -> str:
        return os.path.join(self.folder, self.shards[number].tar)

    def used(self, file: int) -> None:
        pass

    def table(self, shard: Shard) -> bytes | None:
        return None

    def keep(self, shard: Shard, content: bytes) -> None:
        pass


class Reader:
    """Reads pieces of tars. Descriptors are opened at first use, at most `OPEN_FILES` of them, and are not pickled.

    A forked process may use those of its parent: `os.pread` moves no position that they share. One thread reads at a
    time.
    """

    def __init__(self, source: Source):
        self.source = source
        self._files: dict[int, int] = {}  # shard -> descriptor, the one used last at the end
        self._lock = threading.Lock()

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset` on."""
        with self._lock:
            file = self._files.pop(number, None)
            if file is None:
                self._close_some()
                file = self.source.open(number)
            self._files[number] = file
            self.source.used(file)
            return os.pread(file, length, offset)

    def _close_some(self) -> None:
        """Make room for one more. Files that the cache has deleted are closed too: until then they take space."""
        gone = [number for number, file in self._files.items() if os.fstat(file).st_nlink == 0]
        self._close({*gone, *list(self._files)[: max(0, len(self._files) - OPEN_FILES + 1)]})

    def _close(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            os.close(self._files.pop(number))

    def __del__(self) -> None:
        self._close(list(self._files))

    def __reduce__(self) -> tuple[type[Reader], tuple[Source]]:
        return Reader, (self.source,)


@dataclass(frozen=True)
class TarSplit:
    """Images in tars, numbered as the split of data=folder.

    `places` is (n, 3): shard, offset and length.
    """

    reader: Reader
    places: np.ndarray
    labels: Sequence[int]
    names: Sequence[str]

    def decode(self, index: int) -> Image.Image:
        return decode(self.content(index))

    def where(self, index: int) -> str:
        """The file that was converted, and the tar that its bytes are in."""
        return f"{self.names[index]} in {self.reader.source.where(int(self.places[index, 0]))}"

    def content(self, index: int) -> bytes:
        """The bytes of the original file."""
        return self.reader.read(*self.places[index].tolist())

    def take(self, indices: Sequence[int]) -> TarSplit:
        labels, names = (picked(part, indices) for part in (self.labels, self.names))
        return TarSplit(self.reader, self.places[list(indices)], labels, names)

    def in_order_of_shards(self) -> TarSplit:
        """The same images shard after shard, for a split that is not shuffled."""
        return self.take(np.lexsort((self.places[:, 1], self.places[:, 0])).tolist())


def open_splits(index: Index, source: Source) -> dict[str, TarSplit]:
    """The splits of an index, with all tables read.

    Raises:
        ConfigError: if a table is absent or damaged, or has a label that is not a class.
    """
    shards = index.shards
    tables = dict(zip(shards, _tables(index, source), strict=True))
    for shard, table in tables.items():
        _check_labels(index, shard, table)
    numbers = {shard: number for number, shard in enumerate(shards)}
    reader = Reader(source)
    return {
        name: _split(reader, [(numbers[shard], tables[shard]) for shard in rows]) for name, rows in index.splits.items()
    }


def _tables(index: Index, source: Source) -> list[Table]:
    contents = {shard: source.table(shard) for shard in index.shards}
    tables = {shard: whole for shard, found in contents.items() if found and (whole := _whole(shard, found))}
    asked = [shard for shard in index.shards if shard not in tables]
    try:
        fetched = index.root.read_all([shard.table for shard in asked])
    except FileNotFoundError as error:
        raise index.root.error(f"{error.filename or error} is absent; {EXPECTED}") from None
    for shard, content in zip(asked, fetched, strict=True):
        table = _whole(shard, content)
        if table is None:
            raise index.root.error(f"{index.root.where}/{shard.table} is damaged; convert the folder again")
        source.keep(shard, content)
        tables[shard] = table
    return [tables[shard] for shard in index.shards]


def _whole(shard: Shard, content: bytes) -> Table | None:
    table = Table.unpack(content)
    return table if table is not None and table.digest == shard.digest else None


def _check_labels(index: Index, shard: Shard, table: Table) -> None:
    strange = table.labels[(table.labels < 0) | (table.labels >= len(index.classes))]
    if len(strange):
        raise index.root.error(
            f"{index.root.where}/{shard.table} has label {strange[0]}, and {INDEX} has {len(index.classes)} classes; "
            "convert the folder again"
        )


def _split(reader: Reader, tables: list[tuple[int, Table]]) -> TarSplit:
    numbers = np.concatenate([table.numbers for _, table in tables])
    rows = [np.stack([np.full(len(t.names), shard), t.offsets, t.lengths], 1) for shard, t in tables]
    order = np.argsort(numbers)
    names = [name for _, table in tables for name in table.names]
    labels = np.concatenate([table.labels for _, table in tables])[order].tolist()
    return TarSplit(reader, np.concatenate(rows)[order], labels, [names[i] for i in order.tolist()])

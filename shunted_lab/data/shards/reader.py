"""Reads images out of the tars of `data=shards`, each on its own, in any order and from any process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from shunted_lab.config.data import ShardsConfig
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.decode import decode
from shunted_lab.data.tars import EXPECTED, INDEX, Index, Shard, Table, open_index, truncated

OPEN_FILES = 64  # tars that a process holds open at most


class Source(Protocol):
    """Where the tars lie. It is sent to the workers of a loader, and holds nothing open."""

    def open(self, number: int) -> int:
        """A descriptor of the tar of a shard, which is whole."""

    def where(self, number: int) -> str:
        """The path or URL of a shard's tar."""

    def used(self, file: int) -> None:
        """An image was read from this descriptor."""

    def table(self, shard: Shard) -> bytes | None:
        """The content of the table where it is at hand."""

    def keep(self, shard: Shard, content: bytes) -> None:
        """A table was fetched."""


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
    """Reads pieces of tars. Descriptors are opened at first use, at most `OPEN_FILES` of them, and not sent anywhere.

    A forked process may go on with those of its parent: `os.pread` moves no position that they share.
    """

    def __init__(self, source: Source):
        self.source = source
        self._files: dict[int, int] = {}  # shard -> descriptor, the one used last at the end

    def read(self, number: int, offset: int, length: int) -> bytes:
        """`length` bytes of a shard from `offset` on."""
        file = self._files.pop(number, None)
        if file is None:
            self._close_some()
            file = self.source.open(number)
        self._files[number] = file
        self.source.used(file)
        return os.pread(file, length, offset)

    def _close_some(self) -> None:
        """Make room for one more. Files that the cache has deleted go too: they take space until they are closed."""
        gone = [number for number, file in self._files.items() if os.fstat(file).st_nlink == 0]
        self._close({*gone, *list(self._files)[: max(0, len(self._files) - OPEN_FILES + 1)]})

    def _close(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            os.close(self._files.pop(number))

    def __del__(self) -> None:
        self._close(list(self._files))

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_files": {}}


@dataclass(frozen=True)
class TarSplit:
    """Images in tars with their labels and names; calls give PIL images. Numbered as the split of data=folder.

    `places` is (n, 3): shard, offset and length.
    """

    reader: Reader
    places: np.ndarray
    labels: Sequence[int]
    names: Sequence[str]

    def __call__(self, index: int) -> Image.Image:
        return decode(self.content(index))

    def where(self, index: int) -> str:
        """The file that was converted, and the tar that its bytes are in."""
        return f"{self.names[index]} in {self.reader.source.where(int(self.places[index, 0]))}"

    def content(self, index: int) -> bytes:
        """The bytes of the original file."""
        return self.reader.read(*self.places[index].tolist())

    def take(self, indices: Sequence[int]) -> TarSplit:
        labels, names = ([part[i] for i in indices] for part in (self.labels, self.names))
        return TarSplit(self.reader, self.places[list(indices)], labels, names)  # type: ignore[arg-type]

    def in_order_of_shards(self) -> TarSplit:
        """The same images shard after shard, for a split that is not shuffled."""
        return self.take(np.lexsort((self.places[:, 1], self.places[:, 0])).tolist())


def open_splits(data: ShardsConfig) -> tuple[Index, dict[str, TarSplit]]:
    """The index of a data set, and its splits with all tables read.

    Raises:
        ConfigError: if a table is absent or damaged, or has a label that is not a class.
    """
    index = open_index(data.root)
    shards = index.shards
    source: Source = LocalTars(index.root.path, shards)
    if index.root.remote:
        from shunted_lab.data.tar_cache import CachedTars  # not on Windows

        folder = Path(data.cache) if data.cache is not None else cache_folder(None) / "shards"
        source = CachedTars(data.root, shards, folder.absolute(), index.identity, int(data.cache_gb * 1e9))
    tables = dict(zip(shards, _tables(index, source), strict=True))
    for shard, table in tables.items():
        _check_labels(index, shard, table)
    numbers = {shard: number for number, shard in enumerate(shards)}
    reader = Reader(source)
    return index, {
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

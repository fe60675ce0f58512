"""Shards: tars of images in the form of WebDataset, with an index by which every image is read on its own.

A root holds `shards.json` (version, classes, whether all images were decoded, and per split the shards with their
bytes and counts) and for each shard `train-00000.tar` and `train-00000.npz`. The tar has two members per image:
`KEY.jpg` with the bytes of the original file, `KEY.cls` with its label as decimal text. The table in the .npz says of
each image its number in the split as data=folder counts it, where its bytes lie in the tar, its label, and its name in
the folder that was converted; and it has a digest of all their bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zipfile import BadZipFile

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem

from shunted_lab.config.data import ShardsConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.identity import identity_of

VERSION = 2
INDEX = "shards.json"
UNFINISHED = "unfinished.json"  # there until INDEX is
TOGETHER = 16  # small requests to a file system at a time
EXPECTED = f"data=shards expects {INDEX} and the .tar and .npz files that python -m shunted_lab.convert writes"


class Root:
    """A folder, or a URL of any file system that fsspec knows.

    Args:
        where: as the user wrote it.
        key: the key that it was written for, named in errors.

    Raises:
        ConfigError: for a protocol that is not known, or whose package is not installed.
    """

    def __init__(self, where: str, key: str = "data.root"):
        self.where = where.rstrip("/") if where.strip("/") else where
        self.key = key
        self.remote = "://" in where or "::" in where
        place = self.where if self.remote else os.path.abspath(where)
        try:
            self.fs, self.path = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise self.error(f"'{where}' cannot be opened: {error}") from None
        self.local = isinstance(self.fs, LocalFileSystem)  # also of file://, which is read through the cache

    def join(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        return self.read_all([name])[0]

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of files, many at a time.

        Raises:
            FileNotFoundError: if one is absent.
            ConfigError: if one cannot be read.
        """
        try:
            with ThreadPoolExecutor(TOGETHER) as pool:
                return list(pool.map(self.fs.cat_file, map(self.join, names)))  # fs.cat takes [ and ? for patterns
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.error(f"'{self.where}' cannot be read: {error}") from None

    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes of all that lies there; None where the file system lists no size."""
        try:
            listed = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self.error(f"'{self.where}' cannot be listed: {error}") from None
        found = {entry["name"].rstrip("/"): entry.get("size") for entry in listed}
        return {path.rpartition("/")[2]: size for path, size in found.items() if path != self.path.rstrip("/")}

    def sizes_of(self, names: Sequence[str]) -> dict[str, int]:
        """Name -> bytes of those of `names` that are there. What is not listed is asked for by name: a plain web server
        lists nothing."""
        sizes = self.sizes()
        known = {name: size for name in names if (size := sizes.get(name)) is not None}
        asked = [name for name in names if name not in known] if self.remote else []
        with ThreadPoolExecutor(TOGETHER) as pool:
            known |= {name: size for name, size in zip(asked, pool.map(self._size, asked), strict=True) if size >= 0}
        return known

    def _size(self, name: str) -> int:
        try:
            return int(self.fs.info(self.join(name))["size"] or 0)
        except FileNotFoundError:
            return -1

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.key}: {' '.join(what.split())}")


@dataclass(frozen=True)
class Shard:
    """A row of the index: the shard's name, the bytes of its tar, its images, and the digest of its table."""

    name: str
    bytes: int
    count: int
    digest: str

    @property
    def tar(self) -> str:
        return f"{self.name}.tar"

    @property
    def table(self) -> str:
        return f"{self.name}.npz"


@dataclass(frozen=True)
class Table:
    """The images of one shard, in their order in the tar; the arrays are (n,) int64, offsets and lengths in bytes.

    `content` is the digest of the images' bytes (`digest_of_images`); empty until they have been read.
    """

    numbers: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    names: list[str]
    content: str = ""

    @cached_property
    def digest(self) -> str:
        """Of what the table says: the bytes of an .npz depend on the versions of numpy and zlib."""
        found = hashlib.sha256("\0".join([self.content, *self.names]).encode())
        for array in self._arrays().values():
            found.update(array.astype("<i8").tobytes())
        return found.hexdigest()[:16]

    def pack(self) -> bytes:
        file = io.BytesIO()
        names, content = np.array(self.names, np.str_), np.array(self.content, np.str_)
        np.savez_compressed(file, names=names, content=content, **self._arrays())
        return file.getvalue()

    @staticmethod
    def unpack(content: bytes) -> Table | None:
        """None where the content is damaged."""
        try:
            with np.load(io.BytesIO(content)) as found:
                arrays = {name: found[name] for name in ("numbers", "offsets", "lengths", "labels")}
                return Table(**arrays, names=found["names"].tolist(), content=found["content"].item())
        except (BadZipFile, ValueError, KeyError, EOFError, OSError):
            return None

    def _arrays(self) -> dict[str, Any]:
        return {"numbers": self.numbers, "offsets": self.offsets, "lengths": self.lengths, "labels": self.labels}


def digest_of_images(contents: Iterable[bytes]) -> str:
    """16 hex digits over the bytes of images, of known lengths."""
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Index:
    """What `shards.json` says.

    `verified`: every image was decoded when it was converted. `identity` is a hash of classes and splits, and with the
    tables' digests in them, of all tables and of the bytes of all images.
    """

    root: Root
    classes: list[str]
    splits: dict[str, list[Shard]]
    verified: bool
    identity: str

    @property
    def shards(self) -> list[Shard]:
        """Those of all splits; their numbers are places in this list."""
        return [shard for shards in self.splits.values() for shard in shards]

    def check(self, data: ShardsConfig) -> None:
        """Check that every shard is there and whole, and that the cache is large enough for it.

        Raises:
            ConfigError: with the first file that is absent or has another size.
        """
        found = self.root.sizes_of([name for shard in self.shards for name in (shard.tar, shard.table)])
        for shard in self.shards:
            for name in (shard.tar, shard.table):
                if name not in found:
                    raise self.root.error(f"{self.root.where}/{name} is absent; {EXPECTED}")
            if found[shard.tar] != shard.bytes:
                raise truncated(f"{self.root.where}/{shard.tar}", found[shard.tar], shard.bytes)
        largest = sorted((shard.bytes for shard in self.shards), reverse=True)
        least = sum(largest[: data.mix_shards]) / 1e9
        if self.root.remote and data.cache_gb < least:
            raise ConfigError(
                f"data.cache_gb: {data.cache_gb:g} is too small, so that shards would be fetched repeatedly: at least "
                f"{least:.3g} for the {min(data.mix_shards, len(largest))} shards that are shuffled together "
                "(data.mix_shards)"
            )


def open_index(where: str) -> Index:
    """Read `shards.json` of a folder or URL.

    Raises:
        ConfigError: if it is absent, damaged or of another version.
    """
    root = Root(where)
    try:
        content = root.read(INDEX)
    except FileNotFoundError:
        unfinished = UNFINISHED in root.sizes()
        state = (
            "is missing, since the conversion is not finished; the same command resumes it"
            if unfinished
            else "is absent"
        )
        raise root.error(f"{root.where}/{INDEX} {state}; {EXPECTED}") from None
    try:
        found = json.loads(content)
        version = found["version"]
        if version == VERSION:
            splits = {name: [Shard(**row) for row in rows] for name, rows in found["splits"].items()}
            identity = identity_of(found["classes"], found["splits"])
            return Index(root, found["classes"], splits, found["verified"], identity)
    except (ValueError, KeyError, TypeError):
        raise root.error(f"{root.where}/{INDEX} is damaged; convert the folder again") from None
    raise root.error(
        f"{root.where}/{INDEX} has version {version}; this version of shunted_lab reads {VERSION}; convert the folder "
        "again"
    )


def truncated(path: str, size: int, expected: int) -> ConfigError:
    return ConfigError(f"data.root: {path} has {size} bytes; expected {expected} (incompletely copied?)")

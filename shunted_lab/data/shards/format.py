"""The format of shards: tars of images as WebDataset reads them, and an index by which single images are read.

A folder holds `shards.json` (version, classes, whether all images were decoded, and the shards of each split with their
bytes and counts) and for each shard `train-00000.tar` and `train-00000.npz`. The tar has two members per image:
`KEY.jpg` with the bytes of the original file, `KEY.cls` with its label as decimal text. The table in the .npz has
for each image its number in the split as data=folder counts it, where its bytes lie in the tar, its label, and its name
in the folder that was converted; and a digest of the bytes of all images.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from zipfile import BadZipFile

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.identity import identity_of
from shunted_lab.data.shards.storage import StorageFolder

VERSION = 2
INDEX = "shards.json"
UNFINISHED = "unfinished.json"  # there until INDEX is
CONTENT = f"{INDEX} and the .tar and .npz files that python -m shunted_lab.convert writes"
EXPECTED = f"data=shards expects {CONTENT}"


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
        """Of the values: the bytes of an .npz depend on the versions of numpy and zlib."""
        found = hashlib.sha256("\0".join([self.content, *self.names]).encode())
        for array in self._arrays().values():
            found.update(array.astype("<i8").tobytes())
        return found.hexdigest()[:16]

    def pack(self) -> bytes:
        """The content of the .npz."""
        file = io.BytesIO()
        names, content = np.array(self.names, np.str_), np.array(self.content, np.str_)
        np.savez_compressed(file, names=names, content=content, **self._arrays())
        return file.getvalue()

    @staticmethod
    def unpack(content: bytes) -> Table | None:
        """The table of an .npz; None where the content is damaged."""
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
    """The content of `shards.json`.

    `verified`: every image was decoded when it was converted. `identity` is a hash of classes and splits. These contain
    the digests of the tables, so that it covers all tables and the bytes of all images.
    """

    root: StorageFolder
    classes: list[str]
    splits: dict[str, list[Shard]]
    verified: bool
    identity: str

    @property
    def shards(self) -> list[Shard]:
        """Those of all splits; the number of a shard is its index in this list."""
        return [shard for shards in self.splits.values() for shard in shards]

    def check(self, mix: int, cache: float) -> None:
        """Check that every shard is there with all its bytes, and that the cache of a URL is large enough.

        Args:
            mix: `data.mix_shards`.
            cache: `data.cache_gb`.

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
        least = sum(largest[:mix]) / 1e9
        if self.root.remote and cache < least:
            raise ConfigError(
                f"data.cache_gb: {cache:g} is too small, so that shards would be fetched repeatedly: at least "
                f"{least:.3g} for the {min(mix, len(largest))} shards that are shuffled together "
                "(data.mix_shards)"
            )


def open_index(where: str) -> Index:
    """Read `shards.json` of a folder or URL.

    Raises:
        ConfigError: if it is absent, damaged or of another version.
    """
    root = StorageFolder(where)
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
    """The error for a tar of another size than the index has."""
    return ConfigError(f"data.root: {path} has {size} bytes; expected {expected} (incompletely copied?)")

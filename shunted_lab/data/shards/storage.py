"""A folder of shards: a path, or a URL of any file system that fsspec knows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import fsspec
from fsspec.implementations.local import LocalFileSystem

from shunted_lab.config.paths import is_url
from shunted_lab.config.schema import ConfigError

REQUESTS = 16  # small requests to a file system at a time


class StorageFolder:
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
        self.remote = is_url(where)
        place = self.where if self.remote else os.path.abspath(where)
        try:
            self.fs, self.path = fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise self.error(f"'{where}' cannot be opened: {error}") from None
        self.local = isinstance(self.fs, LocalFileSystem)  # also of file://, which is read through the cache

    def join(self, name: str) -> str:
        """The path of a file, as the file system has it."""
        return f"{self.path.rstrip('/')}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a file (see `read_all`)."""
        return self.read_all([name])[0]

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of files, read concurrently.

        Raises:
            FileNotFoundError: if one is absent.
            ConfigError: if one cannot be read.
        """
        try:
            with ThreadPoolExecutor(REQUESTS) as pool:
                return list(pool.map(self.fs.cat_file, map(self.join, names)))  # fs.cat takes [ and ? for patterns
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self.error(f"'{self.where}' cannot be read: {error}") from None

    def sizes(self) -> dict[str, int | None]:
        """Name -> bytes of each file in the folder; None where the file system lists no size."""
        try:
            listed = self.fs.ls(self.path, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self.error(f"'{self.where}' cannot be listed: {error}") from None
        found = {entry["name"].rstrip("/"): entry.get("size") for entry in listed}
        return {path.rpartition("/")[2]: size for path, size in found.items() if path != self.path.rstrip("/")}

    def sizes_of(self, names: Sequence[str]) -> dict[str, int]:
        """Name -> bytes of those of `names` that are there. Files that are not listed are looked up by name, since a
        plain web server lists nothing."""
        sizes = self.sizes()
        known = {name: size for name in names if (size := sizes.get(name)) is not None}
        asked = [name for name in names if name not in known] if self.remote else []
        with ThreadPoolExecutor(REQUESTS) as pool:
            known |= {name: size for name, size in zip(asked, pool.map(self._size, asked), strict=True) if size >= 0}
        return known

    def _size(self, name: str) -> int:
        try:
            return int(self.fs.info(self.join(name))["size"] or 0)
        except FileNotFoundError:
            return -1

    def error(self, what: str) -> ConfigError:
        """An error that names the key, in one line."""
        return ConfigError(f"{self.key}: {' '.join(what.split())}")

"""Shards of a URL on this machine: each is fetched when it is first used, by one process for all processes.

The shards that were used longest ago are deleted.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.shards.format import Shard
from shunted_lab.data.shards.storage import StorageFolder
from shunted_lab.output.files import is_locked, locked, publish, write_bytes

ATTEMPTS = 3  # to fetch a shard, since a network may fail for a moment
WAIT = 0.05  # seconds between two checks of a cache that is full of files being fetched


@dataclass(frozen=True)
class CachedTars:
    """Tars of a URL, in `folder/identity`. `limit`: bytes in `folder` at most, with what other data sets have there.

    A file that is being fetched has its full size in its name, so that the space is taken before the bytes come.
    """

    url: str
    shards: list[Shard]
    folder: Path
    identity: str
    limit: int

    def open(self, number: int) -> int:
        """A descriptor of the tar. It stays readable when another process deletes the file.

        Raises:
            ConfigError: if the shard cannot be fetched, or the cache not be written.
        """
        shard = self.shards[number]
        path = self.folder / self.identity / shard.tar
        if (file := _open_whole(path, shard.bytes)) is not None:
            return file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(_lock_of(path), lambda: True):  # other processes wait for the lock and find the file
                if (file := _open_whole(path, shard.bytes)) is not None:
                    return file
                part = self._reserve(path, shard.bytes)
                try:
                    self._fetch(shard, part)
                    file = os.open(part, os.O_RDONLY)
                    publish(part, path)
                    return file
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"data.cache: {path} cannot be written ({error}); set data.cache=FOLDER") from None

    def where(self, number: int) -> str:
        return f"{self.url}/{self.shards[number].tar}"

    def used(self, file: int) -> None:
        """Store the time of use in the file; the kernel's time of access is often switched off."""
        with suppress(PermissionError):  # another user fetched it
            os.utime(file, ns=(time.time_ns(),) * 2)

    def table(self, shard: Shard) -> bytes | None:
        with suppress(OSError):
            return (self.folder / self.identity / shard.table).read_bytes()
        return None

    def keep(self, shard: Shard, content: bytes) -> None:
        path = self.folder / self.identity / shard.table
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, content)
        except OSError as error:
            raise ConfigError(f"data.cache: {path} cannot be written ({error}); set data.cache=FOLDER") from None

    def _fetch(self, shard: Shard, part: Path) -> None:
        for attempt in range(ATTEMPTS):
            try:
                root = StorageFolder(self.url)  # of this process: connections do not survive a fork
                root.fs.get_file(root.join(shard.tar), str(part))
                if (size := part.stat().st_size) != shard.bytes:
                    raise OSError(f"{size} bytes were received; expected {shard.bytes}")
                return
            except OSError as error:
                if attempt == ATTEMPTS - 1:
                    raise ConfigError(f"data.root: {self.url}/{shard.tar} cannot be fetched: {error}") from None
                time.sleep(2.0**attempt)

    def _reserve(self, path: Path, size: int) -> Path:
        """Wait for room, and make an empty file that counts with its full size."""
        part = path.with_name(f"{path.name}.{size}.part")
        part.unlink(missing_ok=True)  # of a process that died; the shard's lock is ours
        while True:
            with locked(self.folder / ".lock", lambda: True):
                if self._make_room(size):
                    part.touch()
                    return part
            time.sleep(WAIT)  # what others are fetching can be deleted once it is complete

    def _make_room(self, size: int) -> bool:
        """Delete the shards that were used longest ago until there is room for `size` bytes; False if there is none."""
        taken = 0
        for part in self.folder.glob("*/*.part"):
            if _abandoned(part):
                part.unlink(missing_ok=True)
            else:
                taken += int(part.name.split(".")[-2])
        found = []
        for path in self.folder.glob("*/*.tar"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime_ns, stat.st_size, path))
        taken += sum(bytes for _, bytes, _ in found)
        for _, bytes, path in sorted(found):
            if taken + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            taken -= bytes
        return taken + size <= self.limit


def _lock_of(tar: Path) -> Path:
    return tar.with_name(f".{tar.name}.lock")


def _abandoned(part: Path) -> bool:
    """Whether no process is fetching it any more: its lock is free."""
    return not is_locked(_lock_of(part.with_name(".".join(part.name.split(".")[:-2]))))


def _open_whole(path: Path, size: int) -> int | None:
    """A descriptor; None where there is no file, or one of another size: the disk was full, or lost power."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    if os.fstat(file).st_size == size:
        return file
    os.close(file)
    return None

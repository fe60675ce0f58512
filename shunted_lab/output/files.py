"""Files that are whole or absent, and locks between processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

TEMPORARY = ".tmp"  # how the name of a file that is being written ends; it begins with a dot


@contextmanager
def atomic(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file to write, which becomes `path` when the block ends without an exception.

    Until then, and after a kill, a full disk or a power failure, `path` is what it was before. Several processes may
    write the same path: the last one to finish wins.

    Args:
        sync: wait for the disk. Without, a power failure may leave an empty file, and 1,000 files take no time.

    Raises:
        OSError: if the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            yield file
        if sync:
            publish(temporary, path)
        else:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` when the block ends without an exception.

    Of several processes that write the same folder, the first one to finish wins, and an error of another one is not
    raised then.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield temporary
        if not folder.exists():
            temporary.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish(temporary: Path, path: Path) -> None:
    """Rename a finished file to `path`, in the same folder; its content reaches the disk before its name does."""
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(folder)
    finally:
        os.close(folder)


def write_bytes(path: Path, content: bytes, sync: bool = True) -> Path:
    """Write a file with `atomic`."""
    with atomic(path, sync) as file:
        file.write(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write a file in UTF-8 with `atomic`."""
    return write_bytes(path, text.encode())


def write_json(path: Path, value: Any, sync: bool = True) -> Path:
    """Write a JSON file with `atomic`."""
    return write_bytes(path, json.dumps(value, indent=2).encode(), sync)


def remove_temporaries(folder: Path) -> None:
    """Delete what killed processes have left half written in `folder`; call it while nobody else writes there."""
    for path in folder.glob(f".*{TEMPORARY}"):
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, waiting: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock between processes; it is released when the process ends, however it ends.

    Args:
        path: the lock's file; made if it is absent.
        waiting: asked while another process holds the lock; False gives up.

    Raises:
        BlockingIOError: if another process holds the lock and `waiting` has given up.
    """
    lock = FileLock(path, mode=0o666)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if not waiting():
                raise BlockingIOError(f"{path} is held by another process") from None
            time.sleep(0.1)
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock; also True for a file that may only be read, where that cannot be found out."""
    if not path.exists():
        return False
    try:
        with locked(path):
            return False
    except (BlockingIOError, PermissionError):
        return True
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return True


def digest_of(file: str | Path) -> str:
    """SHA-256 of the content of a file in hex digits; not read again while its time and size stay."""
    state = Path(file).stat()
    return _digest(str(file), state.st_mtime_ns, state.st_size)


@lru_cache
def _digest(file: str, time: int, size: int) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def digest_of_values(values: Any) -> str:
    """32 hex digits over plain values, as JSON has them."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

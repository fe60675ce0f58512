"""Can all images that runs are evaluated on be decoded? Answered before training, without torch.

Training replaces an image that cannot be decoded, and evaluation leaves none out: a truncated image in the test split
would be found after the last epoch. Every image of val and test is decoded once, and this machine remembers it by the
identity of the data.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shunted_lab.config.data import CIFAR100Config, DataConfig, FolderConfig, ShardsConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.decode import Undecodable, decode
from shunted_lab.data.identity import identity_of
from shunted_lab.data.image_splits import ImageSplit, read_splits, three_splits
from shunted_lab.data.tar_reader import TarSplit, open_splits
from shunted_lab.output.files import write_json

VERSION = 1  # to be raised when the decoder refuses more
TOGETHER = 256  # images between two looks at the clock
NAMED = 10  # images that an error names
QUIET, EVERY = 5.0, 30.0  # seconds until the progress is said, and between two lines of it


def check_evaluated(data: DataConfig, identity: str, say: Callable[[str], None]) -> None:
    """Decode every image of the validation and test splits, unless this machine has done so before.

    Shards whose images were all decoded when they were converted are trusted; `cifar100`, `earth` and `scales` have no
    files of images.

    Args:
        identity: of the data (`DataFacts.identity`).
        say: gets a line now and then where it takes long.

    Raises:
        ConfigError: for images that cannot be decoded; all are counted, and the first are named.
    """
    if not isinstance(data, FolderConfig) or isinstance(data, CIFAR100Config):
        return
    mark = _mark(data, identity)
    if mark.exists():
        return
    splits = _evaluated(data)
    count = sum(len(split.labels) for split in splits)
    broken = _undecodable(splits, lambda done: say(_progress(data, done, count)))
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ConfigError(
            f"data.root: {len(broken):,} of {count:,} images of val and test cannot be decoded: "
            f"{', '.join(broken[:NAMED])}{more}; evaluation skips no image: repair or remove them before training"
        )
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"data": data.name, "root": str(data.root), "images": count})


def _mark(data: FolderConfig, identity: str) -> Path:
    """The file that says that it has been done."""
    return cache_folder(None) / "decoded" / f"{identity_of(VERSION, data.name, identity, data.val_fraction)}.json"


def _evaluated(data: FolderConfig) -> Sequence[ImageSplit | TarSplit]:
    """Val and test."""
    if isinstance(data, ShardsConfig):
        index, found = open_splits(data)
        return [] if index.verified else three_splits(found, data.val_fraction)[1:]
    return three_splits(read_splits(data)[1], data.val_fraction)[1:]


def _undecodable(splits: Sequence[ImageSplit | TarSplit], progress: Callable[[int], None]) -> list[str]:
    """The images that cannot be decoded, each with the reason; `progress` gets the number of those that were tried."""
    images = [(split, index) for split in splits for index in range(len(split.labels))]
    found, said, start = [], QUIET, time.monotonic()
    with ThreadPoolExecutor() as pool:
        for first in range(0, len(images), TOGETHER):
            reasons = pool.map(_problem, images[first : first + TOGETHER])
            found += [reason for reason in reasons if reason is not None]
            if time.monotonic() - start > said:
                said = time.monotonic() - start + EVERY
                progress(min(first + TOGETHER, len(images)))
    return found


_reading = threading.Lock()  # a reader of tars is for one thread


def _problem(image: tuple[ImageSplit | TarSplit, int]) -> str | None:
    split, index = image
    try:
        if isinstance(split, TarSplit):
            with _reading:
                content = split.content(index)
        else:
            content = split.content(index)
        decode(content)
    except (Undecodable, OSError) as error:
        return f"{split.where(index)} ({error.strerror if isinstance(error, OSError) else error})"
    return None


def _progress(data: FolderConfig, done: int, count: int) -> str:
    return f"data={data.name}: decoding the images of val and test once, before training: {done:,} of {count:,}"

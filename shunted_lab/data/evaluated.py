"""Decode all images that runs are evaluated on, before anything is trained; no torch.

Training replaces an image that cannot be decoded, but evaluation skips none: a truncated image of the test split would
end a run after its last epoch. Every image of val and test is decoded once, and this machine remembers it by the
identity of the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.cache import cache_folder
from shunted_lab.data.decode import Undecodable
from shunted_lab.data.identity import identity_of
from shunted_lab.data.image_splits import ImageSplit
from shunted_lab.output.files import write_json
from shunted_lab.output.quantities import listed

VERSION = 1  # raised when the decoder refuses more
TOGETHER = 256  # images that are decoded between two readings of the clock
NAMED = 10  # images that an error lists
QUIET, EVERY = 5.0, 30.0  # seconds until the first line of progress, and between two lines


@dataclass(frozen=True)
class Evaluated:
    """The images that runs on a data set are evaluated on, before they are listed.

    Args:
        name: of the data set.
        root: its folder or URL.
        identity: of the data (`DataFacts.identity`).
        val_fraction: it decides which images are held out.
        splits: lists the splits whose images are to be decoded.
        what: what is decoded, for messages.
    """

    name: str
    root: str
    identity: str
    val_fraction: float
    splits: Callable[[], Sequence[ImageSplit]]
    what: str = "images of val and test"

    @property
    def mark(self) -> Path:
        """The file that says that all have been decoded on this machine."""
        key = identity_of(VERSION, self.name, self.identity, self.val_fraction)
        return cache_folder(None) / "decoded" / f"{key}.json"


def check_decodable(data: Evaluated, say: Callable[[str], None]) -> None:
    """Decode every image of the validation and test splits, unless this machine has done so before.

    Args:
        say: gets a line now and then where it takes long.

    Raises:
        ConfigError: for images that cannot be decoded; all are counted, and the first are named.
    """
    if data.mark.exists():
        return
    splits = data.splits()
    count = sum(len(split.labels) for split in splits)
    what = f"data={data.name}: decoding the {data.what} once, before training"
    broken = _undecodable(splits, lambda done: say(f"{what}: {done:,} of {count:,}"))
    if broken:
        raise ConfigError(
            f"data.root: {len(broken):,} of {count:,} {data.what} cannot be decoded: "
            f"{listed(broken, NAMED)}; evaluation skips no image: repair or remove them before training"
        )
    data.mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(data.mark, {"data": data.name, "root": data.root, "images": count})


def _undecodable(splits: Sequence[ImageSplit], progress: Callable[[int], None]) -> list[str]:
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


def _problem(image: tuple[ImageSplit, int]) -> str | None:
    split, index = image
    try:
        split.decode(index)
    except (Undecodable, OSError) as error:
        return f"{split.where(index)} ({error.strerror if isinstance(error, OSError) else error})"
    return None

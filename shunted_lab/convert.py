"""A folder of images as shards: python -m shunted_lab.convert data=folder data.root=/data/flowers out=/fast/flowers

Training images are written in a random order, so that reading shard after shard is nearly a full shuffle. The same
command resumes after a kill; `shards.json` is written last, and without it nothing is read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import MISSING

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import group, option, path_option, require
from shunted_lab.data import check_data
from shunted_lab.data.image_files import ImageFilesConfig
from shunted_lab.output.quantities import counted

FOLDERS = ("folder", "imagenet", "inat2018", "inat2019")  # what can be converted

HELP = """\
usage: python -m shunted_lab.convert [data=NAME] data.root=FOLDER out=FOLDER_OR_URL [key=value ...]

Writes a folder of images as shards: tars in the form of WebDataset with an index, for slow file systems and object
storage. The same command resumes after an interruption. Train on them with data=shards data.root=FOLDER_OR_URL.

  python -m shunted_lab.convert data=folder data.root=/data/flowers out=/fast/flowers
  python -m shunted_lab.convert data=imagenet data.root=/data/imagenet out=s3://bucket/imagenet
"""


@dataclass
class ConvertConfig:
    """The configuration of `python -m shunted_lab.convert`."""

    data: ImageFilesConfig = group("folder", FOLDERS)
    out: str = path_option(MISSING, "folder of the shards, or an fsspec URL, e.g. s3://bucket/flowers")
    shard_mb: float = option(
        256.0, "largest size of a shard in megabytes (1e6 bytes); a larger image gets its own shard"
    )
    shuffle_seed: int = option(0, "seed of the order in which training images are written")
    verify: bool = option(True, "decode every image, and refuse images that cannot be decoded")

    def __post_init__(self) -> None:
        require(self.shard_mb > 0, "shard_mb", self.shard_mb, "is not above 0")
        require(self.shuffle_seed >= 0, "shuffle_seed", self.shuffle_seed, "is negative")


def main(overrides: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 1 for a user's mistake, 130 after Ctrl-C."""
    try:
        return run_command(overrides, lambda: help_text(HELP, ConvertConfig, ["data"]), _act)
    except KeyboardInterrupt:
        print("stopped; the same command resumes", file=sys.stderr)
        return 130


def _act(overrides: list[str]) -> None:
    print(convert(compose_as(ConvertConfig, overrides)))


def convert(config: ConvertConfig) -> str:
    """Write the shards that are not written yet. Returns a line that says what has been written.

    Raises:
        ConfigError: for an incomplete folder, for `out` that holds anything but an unfinished conversion of the same
            images, and for images that cannot be read; then `shards.json` is not written.
    """
    from shunted_lab.data.shards.storage import StorageFolder
    from shunted_lab.data.shards.writer import Conversion, check_unwritten, plan_shards, write_shards

    facts = check_data(config.data)
    for note in facts.notes:
        print(note, file=sys.stderr)
    out = StorageFolder(config.out, "out")
    check_unwritten(out)
    classes, found = config.data.read_splits()
    plan = plan_shards(found, config.data.val_fraction, config.shard_mb * 1e6, config.shuffle_seed)
    write_shards(Conversion(config.data.root, classes, plan, config.verify), out)
    images = sum(len(shard.paths) for shard in plan)
    size = sum(shard.bytes for shard in plan) / 1e9
    return f"{counted(images, 'image')} in {counted(len(plan), 'shard')}, {size:.3g} GB: {config.out}"


if __name__ == "__main__":
    sys.exit(main())

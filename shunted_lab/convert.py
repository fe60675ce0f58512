"""A folder of images as shards: python -m shunted_lab.convert data=folder data.root=/data/flowers out=/fast/flowers

Training images are written in a random order, so that reading shard after shard is nearly a full shuffle. The same
command goes on after a kill; `shards.json` comes last, and without it nothing is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from omegaconf import MISSING

from shunted_lab.command import run_command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.data import DataConfig, FolderConfig
from shunted_lab.config.help import help_text
from shunted_lab.config.schema import ConfigError, group, option, path_option, require
from shunted_lab.data.decode import Undecodable, decode
from shunted_lab.data.identity import sizes as sizes_of_files
from shunted_lab.data.layout import check_data
from shunted_lab.output.files import atomic, locked
from shunted_lab.output.quantities import counted

if TYPE_CHECKING:
    import numpy as np

    from shunted_lab.data.image_splits import ImageSplit
    from shunted_lab.data.tars import Root, Shard, Table

BLOCK = tarfile.BLOCKSIZE
NAMED = 10  # corrupt images that an error names
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

    data: DataConfig = group("folder", FOLDERS)
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


@dataclass(frozen=True)
class Planned:
    """A shard before it is written: its place in the data set, its table, the bytes of its tar, and its images."""

    name: str
    split: str
    table: Table
    bytes: int
    paths: list[str]

    def row(self, table: Table) -> Shard:
        """The row of the index, with the table as it was written."""
        from shunted_lab.data.tars import Shard

        return Shard(self.name, self.bytes, len(self.paths), table.digest)


def convert(config: ConvertConfig) -> str:
    """Write what is not written yet. Returns a line that says what has been written.

    Raises:
        ConfigError: for an incomplete folder, for `out` that holds anything but an unfinished conversion of the same
            images, and for images that cannot be read; then `shards.json` is not written.
    """
    from shunted_lab.data.image_splits import read_splits
    from shunted_lab.data.tars import INDEX, UNFINISHED, VERSION, Root

    assert isinstance(config.data, FolderConfig)
    facts = check_data(config.data)
    for note in facts.notes:
        print(note, file=sys.stderr)
    out = Root(config.out, "out")
    sizes = out.sizes()
    if INDEX in sizes:
        raise out.error(f"'{config.out}' holds finished shards; delete them, or name another folder")
    classes, found = read_splits(config.data)
    plan = plan_shards(config, found)
    with _claimed(config, out, sizes, plan):
        tables = _write_all(config, out, sizes, plan)
        rows = [(shard.split, asdict(shard.row(table))) for shard, table in zip(plan, tables, strict=True)]
        splits = {name: [row for split, row in rows if split == name] for name in found}
        index = {"version": VERSION, "classes": classes, "verified": config.verify, "splits": splits}
        with _put(out, INDEX) as file:
            file.write(json.dumps(index, indent=1).encode())
        out.fs.rm_file(out.join(UNFINISHED))
    images = sum(len(shard.paths) for shard in plan)
    size = sum(shard.bytes for shard in plan) / 1e9
    return f"{counted(images, 'image')} in {counted(len(plan), 'shard')}, {size:.3g} GB: {config.out}"


def _write_all(config: ConvertConfig, out: Root, sizes: dict[str, int | None], plan: Sequence[Planned]) -> list[Table]:
    """Write the shards that are not written yet; the tables of all.

    Raises:
        ConfigError: for images that cannot be read or decoded, when all have been looked at.
    """
    from rich.console import Console
    from rich.progress import track

    from shunted_lab.data.tars import digest_of_images

    tables, broken = [], []
    shown = Console(stderr=True)
    with ThreadPoolExecutor() as pool:
        for shard in track(plan, "shards", console=shown, transient=True, disable=not shown.is_terminal):
            if (table := _written(out, sizes, shard)) is not None:
                tables.append(table)
                continue
            lengths = shard.table.lengths.tolist()
            loaded = list(pool.map(_load, shard.paths, lengths, [config.verify] * len(lengths)))
            contents = [content for content in loaded if content is not None]
            broken += [path for path, content in zip(shard.paths, loaded, strict=True) if content is None]
            if broken:  # nothing will be finished: the rest is only looked at
                continue
            tables.append(replace(shard.table, content=digest_of_images(contents)))
            with _put(out, f"{shard.name}.tar") as file:
                _write_tar(file, shard, contents)
            with _put(out, f"{shard.name}.npz") as file:
                file.write(tables[-1].pack())
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise ConfigError(
            f"data.root: {counted(len(broken), 'image')} cannot be read: {', '.join(broken[:NAMED])}{more}; "
            f"repair or remove them, delete '{config.out}', and convert again"
        )
    return tables


def plan_shards(config: ConvertConfig, splits: dict[str, ImageSplit]) -> list[Planned]:
    """Which image goes where, from the listing alone: an interrupted conversion finds the same again.

    Training images are shuffled. Those that are only evaluated stay in their order; where the validation is held out of
    train/, it has shards of its own, so that no run fetches shards twice.
    """
    import numpy as np

    from shunted_lab.data.image_splits import hold_out

    assert isinstance(config.data, FolderConfig)
    plan = []
    for name, found in splits.items():
        orders = [np.arange(len(found.images))]
        if name == "train":
            kept, held = np.arange(len(found.images)), np.arange(0)
            if "test" not in splits:
                kept, held = (
                    np.array(part, int) for part in hold_out(found.labels, found.names, config.data.val_fraction)
                )
            orders = [np.random.default_rng([config.shuffle_seed]).permutation(kept), held]
        lengths = np.array(sizes_of_files(found.images))
        cuts = [part for order in orders for part in _cut(order, lengths, config.shard_mb * 1e6)]
        for count, numbers in enumerate(cuts):
            plan.append(_planned(f"{name}-{count:05d}", name, numbers, lengths, found))
    return plan


def _cut(order: np.ndarray, lengths: np.ndarray, limit: float) -> Iterator[np.ndarray]:
    """Pieces of `order` whose images take at most `limit` bytes in a tar; a larger image is a piece."""
    start = total = 0
    for place, number in enumerate(order.tolist()):
        total += _space(lengths[number])
        if total > limit and place > start:
            yield order[start:place]
            start, total = place, _space(lengths[number])
    if start < len(order):
        yield order[start:]


def _space(length: int) -> int:
    """Bytes of an image and its label in a tar: two headers, and contents in whole blocks."""
    return 3 * BLOCK + -(-int(length) // BLOCK) * BLOCK


def _planned(name: str, split: str, numbers: np.ndarray, lengths: np.ndarray, found: ImageSplit) -> Planned:
    import numpy as np

    from shunted_lab.data.tars import Table

    ends = np.cumsum([_space(lengths[number]) for number in numbers])
    offsets = np.concatenate([[0], ends[:-1]]) + BLOCK
    labels = np.array([found.labels[number] for number in numbers])
    table = Table(numbers, offsets, lengths[numbers], labels, [found.names[number] for number in numbers])
    whole = -(-(int(ends[-1]) + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return Planned(name, split, table, whole, [found.images[number] for number in numbers])


def _load(path: str, length: int, verify: bool) -> bytes | None:
    """The bytes of an image; None if it cannot be read or decoded.

    Raises:
        ConfigError: if it changed since it was listed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    if len(content) != length:
        raise ConfigError(
            f"data.root: {path} changed while it was read; start again when no other process writes to it"
        )
    if verify:
        try:
            decode(content)
        except Undecodable:
            return None
    return content


def _write_tar(file: BinaryIO, shard: Planned, contents: Sequence[bytes]) -> None:
    """The images as WebDataset reads them, `KEY.jpg` and `KEY.cls` beside each other. The day changes no byte."""
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        rows = zip(shard.paths, shard.table.numbers, shard.table.labels, shard.table.offsets, contents, strict=True)
        for path, number, label, offset, content in rows:
            assert tar.offset + BLOCK == offset
            ending = Path(path).suffix.lower().replace(".jpeg", ".jpg")
            for name, data in ((f"{number:09d}{ending}", content), (f"{number:09d}.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    assert file.tell() == shard.bytes


def _written(out: Root, sizes: dict[str, int | None], shard: Planned) -> Table | None:
    """The table of a shard that an earlier attempt has finished; it comes after its tar."""
    from shunted_lab.data.tars import Table

    if sizes.get(f"{shard.name}.tar") != shard.bytes or f"{shard.name}.npz" not in sizes:
        return None
    table = Table.unpack(out.read(f"{shard.name}.npz"))
    return table if table is not None and replace(table, content="").digest == shard.table.digest else None


@contextmanager
def _claimed(config: ConvertConfig, out: Root, sizes: dict[str, int | None], plan: list[Planned]) -> Iterator[None]:
    """Leave a note of what is converted, by which the same conversion is known; nobody else writes meanwhile.

    Raises:
        ConfigError: if there is the note of another conversion, or something else, or another process writes.
    """
    from shunted_lab.data.tars import UNFINISHED

    digest = hashlib.sha256(repr([config.verify, *(shard.row(shard.table) for shard in plan)]).encode()).hexdigest()[
        :16
    ]
    note = {"root": str(config.data.root), "plan": digest}  # type: ignore[attr-defined]
    if UNFINISHED in sizes:
        found = json.loads(out.read(UNFINISHED))
        if found["plan"] != digest:
            raise out.error(
                f"'{config.out}' holds an unfinished conversion of '{found['root']}' with other images or options; "
                "delete it, or name another folder"
            )
    elif any(not name.startswith(".") for name in sizes):
        raise out.error(f"'{config.out}' is not empty; name a new folder")
    else:
        with _put(out, UNFINISHED) as file:
            file.write(json.dumps(note).encode())
    if not out.local:  # whoever else writes there writes the same bytes
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locked(Path(out.join(UNFINISHED))))
        except BlockingIOError:
            raise out.error(f"'{config.out}' is being written by another process") from None
        yield


@contextmanager
def _put(out: Root, name: str) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `out/name` when it is whole.

    In a folder it is renamed. An object storage shows no half objects, and where a URL's server does, the size tells.
    """
    try:
        if out.local:
            Path(out.path).mkdir(parents=True, exist_ok=True)
            with atomic(Path(out.join(name))) as file:
                yield file
            return
        with tempfile.TemporaryDirectory() as folder:
            with open(Path(folder) / name, "wb") as file:
                yield file
            out.fs.makedirs(out.path, exist_ok=True)
            out.fs.put_file(str(Path(folder) / name), out.join(name))
    except OSError as error:
        raise out.error(f"'{out.where}' cannot be written: {error}") from None


if __name__ == "__main__":
    sys.exit(main())

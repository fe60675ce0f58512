"""Writes shards: which image goes into which shard, and the files; an interrupted conversion is resumed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.decode import Undecodable, decode
from shunted_lab.data.identity import sizes as sizes_of_files
from shunted_lab.data.image_splits import FileSplit, hold_out
from shunted_lab.data.shards.format import INDEX, UNFINISHED, VERSION, Shard, Table, digest_of_images
from shunted_lab.data.shards.storage import StorageFolder
from shunted_lab.output.files import atomic, locked
from shunted_lab.output.quantities import counted, listed

BLOCK = tarfile.BLOCKSIZE
NAMED = 10  # corrupt images that an error lists


@dataclass(frozen=True)
class Planned:
    """A shard before it is written: name, split, table, bytes of its tar, and paths of its images."""

    name: str
    split: str
    table: Table
    bytes: int
    paths: list[str]

    def row(self, table: Table) -> Shard:
        """The row of the index, with the table as it was written."""
        return Shard(self.name, self.bytes, len(self.paths), table.digest)


@dataclass(frozen=True)
class Conversion:
    """Images to be written as shards.

    Args:
        source: the folder that they are in.
        classes: in the order of the labels.
        plan: the shards (see `plan_shards`).
        verify: whether every image is decoded.
    """

    source: str
    classes: list[str]
    plan: list[Planned]
    verify: bool

    @property
    def digest(self) -> str:
        """16 hex digits by which an unfinished conversion is recognized."""
        rows = [shard.row(shard.table) for shard in self.plan]
        return hashlib.sha256(repr([self.verify, *rows]).encode()).hexdigest()[:16]

    def index(self, tables: Sequence[Table]) -> dict[str, object]:
        """The content of `shards.json`, with the tables as they were written."""
        splits: dict[str, list[dict[str, object]]] = {shard.split: [] for shard in self.plan}
        for shard, table in zip(self.plan, tables, strict=True):
            splits[shard.split].append(asdict(shard.row(table)))
        return {"version": VERSION, "classes": self.classes, "verified": self.verify, "splits": splits}


def check_unwritten(out: StorageFolder) -> None:
    """Refuse a folder that holds finished shards."""
    if INDEX in out.sizes():
        raise out.error(f"'{out.where}' holds finished shards; delete them, or name another folder")


def write_shards(conversion: Conversion, out: StorageFolder) -> None:
    """Write the shards that are not written yet, then the index.

    Raises:
        ConfigError: for a folder that holds anything but an unfinished conversion of the same images, and for images
            that cannot be read; then the index is not written.
    """
    sizes = out.sizes()
    with _claimed(conversion, out, sizes):
        tables = _write_all(conversion, out, sizes)
        with _put(out, INDEX) as file:
            file.write(json.dumps(conversion.index(tables), indent=1).encode())
        out.fs.rm_file(out.join(UNFINISHED))


def plan_shards(splits: Mapping[str, FileSplit], val_fraction: float, limit: float, seed: int) -> list[Planned]:
    """Which image goes into which shard, from the listing alone, so that an interrupted conversion has the same plan.

    Training images are shuffled. Those that are only evaluated stay in their order; where the validation split is held
    out of train/, it has shards of its own, so that no run fetches shards twice.

    Args:
        val_fraction: `data.val_fraction`.
        limit: largest size of a shard in bytes; a larger image gets its own shard.
        seed: of the order of training images.
    """
    plan = []
    for name, found in splits.items():
        orders = [np.arange(len(found.paths))]
        if name == "train":
            kept, held = np.arange(len(found.paths)), np.arange(0)
            if "test" not in splits:
                kept, held = (np.array(part, int) for part in hold_out(found.labels, found.names, val_fraction))
            orders = [np.random.default_rng([seed]).permutation(kept), held]
        lengths = np.array(sizes_of_files(found.paths))
        cuts = [part for order in orders for part in _cut(order, lengths, limit)]
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


def _planned(name: str, split: str, numbers: np.ndarray, lengths: np.ndarray, found: FileSplit) -> Planned:
    ends = np.cumsum([_space(lengths[number]) for number in numbers])
    offsets = np.concatenate([[0], ends[:-1]]) + BLOCK
    labels = np.array([found.labels[number] for number in numbers])
    table = Table(numbers, offsets, lengths[numbers], labels, [found.names[number] for number in numbers])
    whole = -(-(int(ends[-1]) + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return Planned(name, split, table, whole, [found.paths[number] for number in numbers])


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
    """The images as WebDataset reads them: `KEY.jpg` and `KEY.cls` beside each other. No byte depends on the date."""
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


def _written(out: StorageFolder, sizes: Mapping[str, int | None], shard: Planned) -> Table | None:
    """The table of a shard that an earlier attempt has finished: it was written after its tar."""
    if sizes.get(f"{shard.name}.tar") != shard.bytes or f"{shard.name}.npz" not in sizes:
        return None
    table = Table.unpack(out.read(f"{shard.name}.npz"))
    return table if table is not None and replace(table, content="").digest == shard.table.digest else None


@contextmanager
def _claimed(conversion: Conversion, out: StorageFolder, sizes: Mapping[str, int | None]) -> Iterator[None]:
    """Store a note of what is converted, and keep other processes from writing.

    Raises:
        ConfigError: if there is the note of another conversion or any other file, or if another process writes.
    """
    note = {"root": conversion.source, "plan": conversion.digest}
    if UNFINISHED in sizes:
        found = json.loads(out.read(UNFINISHED))
        if found["plan"] != note["plan"]:
            raise out.error(
                f"'{out.where}' holds an unfinished conversion of '{found['root']}' with other images or options; "
                "delete it, or name another folder"
            )
    elif any(not name.startswith(".") for name in sizes):
        raise out.error(f"'{out.where}' is not empty; name a new folder")
    else:
        with _put(out, UNFINISHED) as file:
            file.write(json.dumps(note).encode())
    if not out.local:  # another process writes the same bytes
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locked(Path(out.join(UNFINISHED))))
        except BlockingIOError:
            raise out.error(f"'{out.where}' is being written by another process") from None
        yield


@contextmanager
def _put(out: StorageFolder, name: str) -> Iterator[BinaryIO]:
    """A file to write to, which becomes `out/name` when it is complete.

    In a folder it is renamed. An object storage shows complete objects only; on other servers the size tells.
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


def _write_all(conversion: Conversion, out: StorageFolder, sizes: Mapping[str, int | None]) -> list[Table]:
    """Write the shards that are not written yet. Returns the tables of all.

    Raises:
        ConfigError: for images that cannot be read or decoded, after all have been read.
    """
    from rich.console import Console
    from rich.progress import track

    tables, broken = [], []
    shown = Console(stderr=True)
    with ThreadPoolExecutor() as pool:
        for shard in track(conversion.plan, "shards", console=shown, transient=True, disable=not shown.is_terminal):
            if (table := _written(out, sizes, shard)) is not None:
                tables.append(table)
                continue
            lengths = shard.table.lengths.tolist()
            loaded = list(pool.map(_load, shard.paths, lengths, [conversion.verify] * len(lengths)))
            contents = [content for content in loaded if content is not None]
            broken += [path for path, content in zip(shard.paths, loaded, strict=True) if content is None]
            if broken:  # the index will not be written: the other images are only read
                continue
            tables.append(replace(shard.table, content=digest_of_images(contents)))
            with _put(out, f"{shard.name}.tar") as file:
                _write_tar(file, shard, contents)
            with _put(out, f"{shard.name}.npz") as file:
                file.write(tables[-1].pack())
    if broken:
        raise ConfigError(
            f"data.root: {counted(len(broken), 'image')} cannot be read: {listed(broken, NAMED)}; "
            f"repair or remove them, delete '{out.where}', and convert again"
        )
    return tables

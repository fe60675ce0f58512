"""Shards of a URL: the same images, through a bounded cache that processes share."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
import torch
from shard_folders import config_of, convert, files, order_of, refused

from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.shards import ShardsConfig, format, tar_cache
from shunted_lab.data.shards.storage import StorageFolder
from shunted_lab.data.shards.tar_cache import CachedTars

pytest_plugins = ["shard_fixtures"]


@pytest.fixture(params=["memory", "file"])
def url(request, source, finished, tmp_path) -> str:
    """The shards under a URL, written there by the converter."""
    where = f"memory://{tmp_path.name}/shards" if request.param == "memory" else f"file://{tmp_path}/remote"
    convert(source, where)
    fs, path = fsspec.core.url_to_fs(where)
    found = {entry["name"].rpartition("/")[2]: fs.cat_file(entry["name"]) for entry in fs.ls(path, detail=True)}
    assert found == files(finished)
    return where


def remote(url: str, folder: Path, shards: int = 4, **options: object) -> ShardsConfig:
    """With a cache of so many shards."""
    size = max(shard.bytes for shard in format.open_index(url).shards)
    return config_of(url, cache=str(folder / "cache"), cache_gb=shards * size / 1e9, **options)


def test_a_url_gives_what_a_folder_gives(url, finished, tmp_path):
    config = remote(url, tmp_path)
    assert check_data(config) == check_data(config_of(finished))
    here, there = (make_datamodule(c, LITE_RECIPE, 0).train_dataloader() for c in (config_of(finished), config))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(here, there, strict=True))


def test_the_cache_keeps_to_its_bound_and_forgets_what_was_used_longest_ago(url, tmp_path):
    config = remote(url, tmp_path)
    data = make_datamodule(config, LITE_RECIPE, 0)
    split, folder = data.splits.train.images, tmp_path / "cache"
    fetched = []
    for index in order_of(data):
        before = {path.name for path in folder.glob("*/*.tar")}
        split.content(index)
        after = {path.name for path in folder.glob("*/*.tar")}
        fetched += sorted(after - before)
        assert sum(path.stat().st_size for path in folder.glob("*/*.tar")) <= config.cache_gb * 1e9 + 1
    assert len(fetched) == len(set(fetched)) == len(set(split.places[:, 0].tolist()))  # each once in an epoch
    assert after < set(fetched) and not list(folder.glob("*/*.part"))
    assert sum(os.fstat(file).st_nlink == 0 for file in split.reader._files.values()) <= 1  # deleted ones are let go


def test_a_cache_that_is_too_small_is_refused(url, tmp_path):
    refused(
        remote(url, tmp_path, shards=2),
        r"^data\.cache_gb: .* is too small, .* at least .* for the 3 shards that are shuffled",
    )


def test_a_truncated_shard_of_a_url_is_refused(tmp_path, copied):
    os.truncate(copied / "val-00000.tar", 512)
    refused(config_of(f"file://{copied}"), r"^data\.root: .*/val-00000\.tar has 512 bytes")


def test_tables_are_fetched_once_and_again_if_they_are_damaged(url, tmp_path, monkeypatch):
    config = remote(url, tmp_path)
    make_datamodule(config, LITE_RECIPE, 0)
    (kept,) = (tmp_path / "cache").glob("*/train-00002.npz")
    kept.write_bytes(b"?")
    asked = []
    read = StorageFolder.read_all
    monkeypatch.setattr(StorageFolder, "read_all", lambda root, names: (asked.extend(names), read(root, names))[1])
    make_datamodule(config, LITE_RECIPE, 0)
    assert asked == ["shards.json", "train-00002.npz"]


def source_of(config: ShardsConfig) -> CachedTars:
    return make_datamodule(config, LITE_RECIPE, 0).splits.train.images.reader.source


def _fetch_all(source: CachedTars, log: Path, repeats: int) -> None:
    """In a process of its own: every shard a few times, and a line for each fetch."""
    fetch = CachedTars._fetch

    def noted(self, shard, part):
        with open(log, "a") as file:
            file.write(f"{shard.name}\n")
        fetch(self, shard, part)

    CachedTars._fetch = noted
    for _ in range(repeats):
        for number, shard in enumerate(source.shards):
            file = source.open(number)
            assert len(os.pread(file, 10**9, 0)) == shard.bytes
            source.used(file)
            os.close(file)


def _at_once(target: Callable, *args: object, processes: int = 4) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=target, args=args) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0


def test_processes_that_want_the_same_shard_fetch_it_once(copied, tmp_path):
    source = source_of(remote(f"file://{copied}", tmp_path, shards=99))
    _at_once(_fetch_all, source, tmp_path / "log", 2)
    fetched = (tmp_path / "log").read_text().split()
    assert sorted(fetched) == sorted(shard.name for shard in source.shards)


def test_processes_that_take_shards_from_one_another_all_get_them(copied, tmp_path):
    """The bound is smaller than what they want together: they wait, and nobody reads a half file."""
    source = source_of(remote(f"file://{copied}", tmp_path, shards=3))
    _at_once(_fetch_all, source, tmp_path / "log", 3)
    left = list((tmp_path / "cache").glob("*/*.tar"))
    assert sum(path.stat().st_size for path in left) <= source.limit and not list((tmp_path / "cache").glob("*/*.part"))


def test_what_a_dead_process_left_is_cleared_away(copied, tmp_path):
    source = source_of(remote(f"file://{copied}", tmp_path, shards=3))
    folder = source.folder / source.identity
    parts = [folder / f"{shard.tar}.{shard.bytes}.part" for shard in source.shards[:4]]
    for part in parts:
        part.write_bytes(b"half")
    (folder / source.shards[5].tar).write_bytes(b"of a full disk")
    for number in (0, 5):
        file = source.open(number)
        assert os.fstat(file).st_size == source.shards[number].bytes
        os.close(file)
    assert not any(part.exists() for part in parts)


def test_a_network_has_its_moments(copied, tmp_path, monkeypatch):
    source = source_of(remote(f"file://{copied}", tmp_path))
    monkeypatch.setattr(tar_cache.time, "sleep", lambda _: None)
    hidden = copied / "hidden"
    (copied / source.shards[0].tar).rename(hidden)
    with pytest.raises(ConfigError, match=rf"^data\.root: file://.*/{source.shards[0].tar} cannot be fetched: "):
        source.open(0)
    monkeypatch.setattr(tar_cache.time, "sleep", lambda _: hidden.rename(copied / source.shards[0].tar))
    os.close(source.open(0))


def test_a_cache_that_cannot_be_written_is_named(copied, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(ConfigError, match=r"^data\.cache: .* cannot be written .*; set data\.cache=FOLDER$"):
        source_of(remote(f"file://{copied}", tmp_path))


def test_workers_share_the_cache(url, finished, tmp_path):
    data = make_datamodule(remote(url, tmp_path), LITE_RECIPE, 0, num_workers=2)
    plain = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    for one, other in zip(plain.train_dataloader(), data.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])

"""A folder of photos and its shards, made once for each file of tests."""

import shutil
from pathlib import Path

import pytest
from shard_folders import TRAIN, convert, photos


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return photos(tmp_path_factory.mktemp("source"), train=TRAIN, val=5)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    """The shards of `source`; not to be changed."""
    out = tmp_path_factory.mktemp("shards") / "out"
    convert(source, out)
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))

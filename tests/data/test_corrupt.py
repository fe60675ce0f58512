"""Corrupt images: replaced and counted in training up to a bound, refused where they are evaluated on."""

import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab.config.compose import compose, compose_as
from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig, convert
from shunted_lab.data import make_datamodule
from shunted_lab.data.corrupt import CorruptImages
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.module import ImageData
from shunted_lab.data.shards import ShardsConfig
from shunted_lab.study.folder import TRACEBACK, Run, write_note
from shunted_lab.study.plan import data_facts, plan_runs
from shunted_lab.study.ranks import train_on_ranks
from shunted_lab.study.slots import Slot
from shunted_lab.study.training import _attempt, train_run
from shunted_lab.tasks.listener import RunListener

TRAIN = 24  # of each of the two classes; 10 % are held out
RECIPE = replace(LITE_RECIPE, random_resized_crop=True)
pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be decoded.*the next image of the split")


@pytest.fixture
def root(tmp_path) -> Path:
    """JPEGs, each of its own grey."""
    rng = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "in" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "in" / split / name / f"{number}.jpg")
    return tmp_path / "in"


def data_of(root: Path, recipe: RecipeConfig = RECIPE, num_workers: int = 0, **options) -> ImageData:
    config = FolderConfig(root=str(root), image_size=32, batch_size=8, **options)
    return make_datamodule(config, recipe, 0, num_workers)


def halve(data: ImageData, *indices: int, split: str = "train") -> list[str]:
    """Break images of a split; their paths."""
    paths = [getattr(data.splits, split).images.paths[index] for index in indices]
    for path in paths:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
    return paths


def epoch(data: ImageData, number: int = 0, loader=None) -> list:
    data.sampler.set_epoch(number)
    return list(loader or data.train_dataloader())


def refused(message: str):
    return pytest.raises(CorruptImages, match=message)


def test_the_next_image_takes_the_place_with_its_label_and_the_draws_of_the_key(root):
    data = data_of(root)
    split, count = data.splits.train, len(data.splits.train)
    edge = [*split.labels].index(1) - 1  # the last cat
    for index in (edge, count - 1):
        key = (3, index, 1)
        following = (index + 1) % count
        whole = split[key][0]
        halve(data, index)
        image, label = split[key]
        assert label == split.labels[following] != split.labels[index]
        halved = Path(split.images.paths[index])
        halved.write_bytes(Path(split.images.paths[following]).read_bytes())
        assert torch.equal(image, split[key][0]) and not torch.equal(image, whole)
    assert data.corrupt == [edge, count - 1]


def test_what_follows_is_corrupt_too(root):
    data = data_of(root)
    halve(data, 4, 5, 6)
    image, _ = data.splits.train[0, 4, 0]
    assert data.corrupt == [4, 5, 6]
    assert torch.equal(image, data.splits.train[0, 4, 0][0]) and data.corrupt == [4, 5, 6]


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_what_is_no_image_is_corrupt(root, content):
    data = data_of(root)
    Path(data.splits.train.images.paths[2]).write_bytes(content)
    with pytest.warns(
        UserWarning, match=r"/cat/.*\.jpg cannot be decoded \(.+\); it is replaced by the next image of the split"
    ):
        data.splits.train[0, 2, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.splits.train[1, 2, 0]  # said once
    assert data.corrupt == [2]


@pytest.mark.parametrize(("num_workers", "context"), [(0, None), (2, "fork"), (2, "spawn")])
def test_an_image_counts_once_whoever_loads_it_in_whichever_epoch(root, num_workers, context):
    data = data_of(root, replace(RECIPE, repeated_aug=2), num_workers, max_corrupt=3)
    plain = data_of(root, replace(RECIPE, repeated_aug=2))
    halve(data, 0, 9, 20)
    loader = data.train_dataloader()
    loader.multiprocessing_context = context
    for number in range(3):
        pairs = zip(epoch(data, number, loader), epoch(plain, number), strict=True)
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)
    assert data.corrupt == plain.corrupt == [0, 9, 20]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_more_than_the_bound_end_the_run_in_one_line(root, num_workers):
    data = data_of(root, num_workers=num_workers, max_corrupt=10)
    paths = halve(data, *range(14))
    said = r"^data\.max_corrupt: 10 may be replaced, and 1[1-4] of \d\d training images could not be decoded so far: "
    with refused(said + r".* and \d more; repair or remove them$") as error:
        for number in range(4):
            epoch(data, number)
    assert "\n" not in str(error.value) and sum(path in str(error.value) for path in paths) == 10


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bound_of_none_refuses_the_first(root, num_workers):
    data = data_of(root, num_workers=num_workers, max_corrupt=0)
    (path,) = halve(data, 5)
    with refused(rf"^data\.max_corrupt: 0 may be replaced, and 1 of \d+ .* so far: {path}; repair or remove them$"):
        epoch(data)
    with pytest.raises(ConfigError, match=r"^data\.max_corrupt: -1 is too small: at least 0$"):
        data_of(root, max_corrupt=-1)


def test_a_split_of_nothing_else_ends(root):
    data = data_of(root, max_corrupt=1000)
    count = len(data.splits.train)
    halve(data, *range(count))
    with refused(rf"^data\.max_corrupt: 1000 may be replaced, and {count} of {count} training images"):
        epoch(data)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("split", ["val", "test"])
def test_splits_that_are_evaluated_leave_nothing_out(root, split, num_workers):
    data = data_of(root, num_workers=num_workers)
    (path,) = halve(data, 1, split=split)
    with refused(
        rf"^data\.root: {path} cannot be decoded \(.+\), and evaluation skips no image; repair or remove it$"
    ) as error:
        list(getattr(data, f"{split}_dataloader")())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_missing_file_is_not_corrupt(root, num_workers):
    data = data_of(root, num_workers=num_workers)
    Path(data.splits.train.images.paths[3]).unlink()
    with pytest.raises(FileNotFoundError, match=r"\.jpg"):
        epoch(data)
    assert data.corrupt == []


def test_an_error_of_the_disk_is_not_corruption(root, monkeypatch):
    data = data_of(root)
    for error in (PermissionError(13, "Permission denied"), OSError(5, "Input/output error")):

        def fails(path, error=error):
            raise error

        monkeypatch.setattr(Path, "read_bytes", fails)
        with pytest.raises(OSError, match=error.strerror):
            data.splits.train[0, 0, 0]
    assert data.corrupt == []


def test_shards_name_the_file_and_its_tar(root, tmp_path):
    data = data_of(root)
    halve(data, 3, 7)
    halve(data, 2, split="test")
    convert(
        compose_as(ConvertConfig, [f"data.root={root}", f"out={tmp_path / 'out'}", "shard_mb=0.02", "verify=false"])
    )
    config = ShardsConfig(root=str(tmp_path / "out"), image_size=32, batch_size=8, max_corrupt=1)
    found = make_datamodule(config, RECIPE, 0)
    assert torch.equal(found.splits.train[0, 3, 0][0], data.splits.train[0, 3, 0][0]) and found.corrupt == [3]
    name = r"train/cat/\d+\.jpg in /.*/out/train-0000\d\.tar"
    with refused(rf"^data\.max_corrupt: 1 may be replaced, and 2 of .*: {name}, {name}; repair"):
        epoch(found)
    with refused(r"^data\.root: val/cat/2\.jpg in /.*/out/val-00000\.tar cannot be decoded"):
        list(found.test_dataloader())


def test_a_split_is_sent_with_what_it_knows_and_a_run_goes_on_with_it(root):
    data, again = data_of(root), data_of(root)
    assert data.state_dict() == {}
    halve(data, 3)
    data.splits.train[0, 3, 0]
    assert pickle.loads(pickle.dumps(data.splits.train)).corrupt.found == [3]
    again.load_state_dict(data.state_dict())
    assert again.corrupt == [3]


# --- runs ------------------------------------------------------------------------------------------------------------


def run_of(root: Path, tmp_path: Path, *words: str) -> Run:
    """A run of one epoch on the images."""
    data = ["data=folder", f"data.root={root}", "data.image_size=32", "data.batch_size=8", "recipe.epochs=1"]
    words = ("experiment=ablate_embed", f"runs_dir={tmp_path}/runs", "launch.accelerator=cpu", *data, *words)
    experiment = compose(list(words))
    run = plan_runs(experiment, data_facts(experiment))[0]
    write_note(run)
    return run


def test_the_result_of_a_run_names_what_was_replaced(root, tmp_path):
    (path,) = halve(data_of(root), 5)
    run = run_of(root, tmp_path)
    result = train_run(run)
    assert result["corrupt_images"] == [path]
    assert json.loads((run.folder / "result.json").read_text())["corrupt_images"] == [path]


def test_a_run_with_too_many_fails_with_one_line(root, tmp_path):
    paths = halve(data_of(root), 5, 6)
    run = run_of(root, tmp_path, "data.max_corrupt=1", "launch.num_workers=2")
    kind, said = _attempt(run.folder, RunListener(), Slot(0))
    assert kind == "failed" and said.startswith("data.max_corrupt: 1 may be replaced, and 2 of ")
    assert "\n" not in said and all(path in said for path in paths)
    assert (run.folder / TRACEBACK).read_text() == f"{said}\n"


@pytest.mark.slow
def test_ranks_of_a_run_put_together_what_each_has_replaced(root, tmp_path):
    paths = halve(data_of(root), *range(0, 12, 2))
    words = ("launch.devices_per_run=2", "launch.devices=2", "recipe.repeated_aug=1")
    run = run_of(root, tmp_path, *words)

    class Link(RunListener):
        def stopping(self):
            return False

        def epoch(self, epoch, metrics):
            return False

    found = train_on_ranks(run, Link())["corrupt_images"]
    assert found == paths

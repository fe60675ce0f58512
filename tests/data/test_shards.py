"""data=shards: a run reads the images of data=folder, in another order."""

import json
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from shard_folders import config_of, convert, order_of, photos, refused

from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.module import EpochSampler
from shunted_lab.data.shards import ShardsConfig, format, reader
from shunted_lab.data.shards.order import ShardOrder
from shunted_lab.tasks.classification import Classification

pytest_plugins = ["shard_fixtures"]


@pytest.mark.parametrize("test", [0, 3])
def test_splits_numbers_and_pixels_are_those_of_the_folder(tmp_path, test):
    source = photos(tmp_path / "in", train=10, val=3, **({"test": test} if test else {}))
    convert(source, tmp_path / "out", "data.val_fraction=0.2")
    options = {"image_size": 32, "val_fraction": 0.2}
    folder = make_datamodule(FolderConfig(root=str(source), **options), RecipeConfig(), 5).splits
    data = make_datamodule(ShardsConfig(root=str(tmp_path / "out"), **options), RecipeConfig(), 5).splits
    assert data.class_names == folder.class_names
    for split in ("train", "val", "test"):
        one, other = getattr(folder, split), getattr(data, split)
        assert list(one.images.names) == list(other.images.names) and list(one.labels) == list(other.labels)
        keys = [(3, i, 1) for i in range(len(one))] if split == "train" else range(len(one))
        assert all(torch.equal(one[key][0], other[key][0]) for key in keys)


def test_another_fraction_holds_out_what_the_folder_would(source, finished):
    data = make_datamodule(config_of(finished, val_fraction=0.4), LITE_RECIPE, 0).splits
    folder = make_datamodule(FolderConfig(root=str(source), val_fraction=0.4), LITE_RECIPE, 0).splits
    assert list(data.train.images.names) == list(folder.train.images.names)
    assert sorted(data.val.images.names) == sorted(folder.val.images.names)
    places = data.val.images.places
    assert np.array_equal(places, places[np.lexsort((places[:, 1], places[:, 0]))])


def test_what_changes_a_result_is_in_the_fingerprint(finished):
    base = config_of(finished)

    def fingerprint(data: ShardsConfig) -> str:
        from shunted_lab.config.groups import PRESETS

        run = RunConfig(
            PRESETS["model"]["shunted_lite"], data, Classification(), LITE_RECIPE, PRESETS["launch"]["local"], 0
        )
        return run.fingerprint(check_data(base).identity, {})

    assert fingerprint(base) == fingerprint(replace(base, root="elsewhere", cache="there", cache_gb=1.0))
    assert fingerprint(base) != fingerprint(replace(base, mix_shards=4))


# --- order ------------------------------------------------------------------------------------------------------------


def test_an_epoch_has_every_image_once_in_an_order_of_seed_and_epoch(finished):
    data, again, other = (make_datamodule(config_of(finished), LITE_RECIPE, seed) for seed in (0, 0, 1))
    orders = [order_of(data, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(len(data.splits.train))) for order in orders)
    assert orders[0] != orders[1] != orders[2] and order_of(other) != orders[0]
    assert order_of(again, 2) == orders[2]  # without the epochs before


def test_at_most_so_many_shards_are_read_at_a_time(finished):
    data = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    shard = data.splits.train.images.places[:, 0]
    sizes = {number: int((shard == number).sum()) for number in set(shard.tolist())}
    assert len(sizes) >= 6
    visited = [int(shard[index]) for index in order_of(data)]
    while visited:
        group = list(dict.fromkeys(visited))[:3]
        together, visited = visited[: (n := sum(sizes[number] for number in group))], visited[n:]
        assert set(together) == set(group) and (len(group) == 1 or together != sorted(together, key=group.index))


def test_the_order_of_shards_is_fixed_for_ever():
    """A change of it would make every run on shards another one under the same fingerprint."""
    sampler = EpochSampler(10, 1, shuffle=ShardOrder(np.array([0, 0, 0, 2, 2, 2, 1, 1, 1, 1]), 2))
    assert [index for _, index, _ in sampler] == [9, 7, 6, 0, 1, 2, 8, 5, 4, 3]


def test_all_shards_mixed_is_a_permutation_of_all():
    order = ShardOrder(np.repeat(np.arange(50), 20), 50)(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(1000))
    assert len(set((order[:100] // 20).tolist())) > 35


def test_workers_change_nothing(finished):
    def batches(num_workers: int) -> list:
        data = make_datamodule(config_of(finished), RecipeConfig(), 3, num_workers)
        data.sampler.set_epoch(2)
        return list(data.train_dataloader())

    for one, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_restart_within_an_epoch_neither_repeats_nor_skips(finished):
    whole = list(make_datamodule(config_of(finished), LITE_RECIPE, 0).train_dataloader())
    data = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    data.sampler.skip = 2 * 8
    rest = list(data.train_dataloader())
    assert all(torch.equal(one[0], other[0]) for one, other in zip(whole[2:], rest, strict=True))


def test_repeats_and_ranks_work_as_ever(finished, monkeypatch):
    from shunted_lab.data import module

    shuffle = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.shuffle
    n = sum(len(members) for members in shuffle.members)
    whole = list(EpochSampler(n, 0, 3, shuffle))
    assert len(whole) == n and [copy for _, _, copy in whole[:4]] == [0, 1, 2, 0]
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(module.dist, "get_rank", lambda rank=rank: rank)
        parts += list(EpochSampler(n, 0, 3, shuffle))
    assert sorted(parts) == sorted(whole)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_few_files_are_open_and_none_is_left(finished, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_FILES", 2)
    before = len(os.listdir("/dev/fd"))
    split = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.train.images
    for index in range(len(split.labels)):
        split.content(index)
        assert len(split.reader._files) <= 2 and len(os.listdir("/dev/fd")) <= before + 2
    split.reader.__del__()
    assert len(os.listdir("/dev/fd")) == before
    assert split.content(0)  # opened anew


def test_splits_can_be_sent_to_spawned_workers(finished):
    split = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.train
    expected = split[0, 0, 0][0]
    sent = pickle.loads(pickle.dumps(split))
    assert sent.images.reader._files == {} and torch.equal(sent[0, 0, 0][0], expected)


def test_a_truncated_shard_is_refused_before_training(copied):
    path = copied / "train-00001.tar"
    size = path.stat().st_size
    os.truncate(path, size - 512)
    refused(
        config_of(copied),
        rf"^data\.root: .*/train-00001\.tar has {size - 512} bytes; expected {size} \(incompletely copied\?\)$",
    )
    data = make_datamodule(config_of(copied), LITE_RECIPE, 0)  # and if it shrinks later
    with pytest.raises(ConfigError, match=r"train-00001\.tar has"):
        [data.splits.train.images.content(index) for index in range(len(data.splits.train))]


@pytest.mark.parametrize("name", ["train-00000.tar", "val-00000.npz", "shards.json"])
def test_an_absent_file_is_named(copied, name):
    (copied / name).unlink()
    refused(config_of(copied), rf"^data\.root: .*/{name} is absent; data=shards expects shards\.json and the \.tar")


def test_a_damaged_index_is_refused(copied):
    path = copied / "train-00000.npz"
    other = (copied / "train-00001.npz").read_bytes()
    for content in (other, other[:100], b""):
        path.write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"^data\.root: .*/train-00000\.npz is damaged; convert the folder again$"
        ):
            make_datamodule(config_of(copied), LITE_RECIPE, 0)
    whole = (copied / "shards.json").read_text()
    (copied / "shards.json").write_text(whole[:-5])
    refused(config_of(copied), r"/shards\.json is damaged")
    (copied / "shards.json").write_text(json.dumps(json.loads(whole) | {"version": 9}))
    refused(config_of(copied), r"/shards\.json has version 9; this version of shunted_lab reads 2")


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_that_is_no_class_is_refused(copied, label):
    table = format.Table.unpack((copied / "val-00000.npz").read_bytes())
    table.labels[1] = label
    (copied / "val-00000.npz").write_bytes(table.pack())
    index = json.loads((copied / "shards.json").read_text())
    index["splits"]["val"][0]["digest"] = table.digest
    (copied / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError) as error:
        make_datamodule(config_of(copied), LITE_RECIPE, 0)
    message = f"/val-00000.npz has label {label}, and shards.json has 2 classes; convert the folder again"
    assert str(error.value) == f"data.root: {copied}{message}"


def test_a_folder_of_images_is_not_taken_for_shards(source):
    refused(config_of(source), r"^data\.root: .*/shards\.json is absent; data=shards expects .*shunted_lab\.convert")
    with pytest.raises(ConfigError, match=r"^data\.mix_shards: 0 is too small: at least 1$"):
        config_of(source, mix_shards=0)
    with pytest.raises(ConfigError, match=r"^data\.cache_gb: 0 is not above 0$"):
        config_of(source, cache_gb=0)

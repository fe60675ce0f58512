"""data=folder: what is refused, and what is loaded, on small trees."""

import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from trees import refused, tree

from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.image_splits import hold_out

PAIR = {"cat": 2, "dog": 2}


def names(data, split: str) -> set[bytes]:
    """The images of a split, as bytes of their first pixel: each image of `tree` has its own grey."""
    part = getattr(data.splits, split)
    return {part.images.decode(index).convert("RGB").getpixel((0, 0)) for index in range(len(part))}


def test_folder_counts_its_classes(tmp_path):
    root = tree(tmp_path, train={"cat": 3, "dog": 4}, val={"cat": 1, "dog": 1})
    assert check_data(FolderConfig(root=str(root))).num_classes == 2
    assert check_data(FolderConfig(root=str(root), num_classes=2)).num_classes == 2
    refused(FolderConfig(root=str(root), num_classes=5), r"^data\.num_classes: 5, but .* has 2 classes$")


def test_a_root_that_does_not_exist_is_refused(tmp_path):
    refused(FolderConfig(root=str(tmp_path / "no")), r"^data\.root: '.*/no' does not exist; .*train/CLASS")
    (tmp_path / "file").touch()
    refused(FolderConfig(root=str(tmp_path / "file")), r"is not a folder")


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, r"/train is absent"),
        ({"train": {"cat": 1}}, r"/val is absent"),
        ({"train": {"ant": 1, "cat": 1, "dog": 1}, "val": {"ant": 1}}, r"/val/cat is absent"),
        ({"train": {"cat": 1}, "val": {"cat": 1, "dog": 1}}, r"/train/dog is absent"),
        ({"train": {"cat": 1, "dog": 0}, "val": {"cat": 1, "dog": 1}}, r"/train/dog has no images"),
        ({"train": PAIR, "val": PAIR, "test": {"cat": 1, "dog": 0}}, r"/test/dog has no images"),
        ({"train": PAIR, "val": PAIR, "test": {"fox": 1}}, r"/train/fox is absent"),
    ],
)
def test_a_half_unpacked_folder_is_refused_with_its_first_absent_path(tmp_path, splits, message):
    refused(
        FolderConfig(root=str(tree(tmp_path, **splits))),
        rf"^data\.root: .*{message}.*; data=folder expects train/CLASS",
    )


def test_a_folder_without_classes_is_refused(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
    refused(FolderConfig(root=str(tmp_path)), r"/train/CLASS is absent")


def test_one_class_is_refused(tmp_path):
    root = tree(tmp_path, train={"cat": 5}, val={"cat": 2})
    message = rf"^data\.root: '{root}' has 1 class, 'cat'; a classifier needs at least 2$"
    refused(FolderConfig(root=str(root)), message)
    with pytest.raises(ConfigError, match=message):
        check_data(FolderConfig(root=str(root)), tested_only=True)


def test_a_training_image_a_class_leaves_none_for_validation(tmp_path):
    root = tree(tmp_path, train={"cat": 1, "dog": 1, "fox": 1}, val={"cat": 1, "dog": 1, "fox": 1})
    config = FolderConfig(root=str(root), val_fraction=0.25)
    said = (
        rf"'{root}' has 3 of them in 3 classes, and each class keeps one; add training images, or give the data a test"
    )
    refused(config, rf"^data\.val_fraction: 0\.25 of the training images leaves none for validation: {said} split, ")
    assert check_data(config, tested_only=True).num_classes == 3
    shutil.copytree(root / "val", root / "test")
    assert check_data(config).num_classes == 3
    shutil.rmtree(root / "test")
    Image.new("RGB", (40, 36)).save(root / "train" / "fox" / "more.png")
    assert check_data(config).num_classes == 3
    assert make_datamodule(replace(config, image_size=32), LITE_RECIPE, 0).sizes == {"train": 3, "val": 1, "test": 3}


def test_identity_follows_the_files_and_not_the_place(tmp_path):
    splits = {"train": {"cat": 3, "dog": 3}, "val": PAIR}
    first, second = (FolderConfig(root=str(tree(tmp_path / name, **splits))) for name in "ab")
    assert check_data(first).identity == check_data(second).identity != ""
    Image.new("RGB", (40, 36)).save(tmp_path / "b" / "train" / "cat" / "new.png")
    assert check_data(first).identity != check_data(second).identity


def test_without_test_the_validation_is_held_out_of_train(tmp_path):
    root = tree(tmp_path, train={"cat": 10, "dog": 20}, val={"cat": 2, "dog": 3})
    config = FolderConfig(root=str(root), val_fraction=0.2, image_size=32, batch_size=8)
    data = make_datamodule(config, LITE_RECIPE, 0)
    assert data.sizes == {"train": 24, "val": 6, "test": 5} and data.class_names == ["cat", "dog"]
    parts = [names(data, split) for split in data.sizes]
    assert [len(part) for part in parts] == [24, 6, 5] and len(set.union(*parts)) == 35
    assert names(make_datamodule(config, LITE_RECIPE, 1), "val") == parts[1]  # whatever the seed
    assert list(data.splits.val.labels).count(0) == 2


def test_with_test_each_split_is_its_folder(tmp_path):
    root = tree(tmp_path, train={"cat": 5, "dog": 5}, val={"cat": 1, "dog": 2}, test={"cat": 4, "dog": 3})
    data = make_datamodule(FolderConfig(root=str(root), image_size=32), LITE_RECIPE, 0)
    assert data.sizes == {"train": 10, "val": 3, "test": 7}


def test_folder_batches_are_cropped_and_normalised(tmp_path):
    root = tree(tmp_path, train={"a": 4, "b": 4}, val={"a": 1, "b": 1})
    data = make_datamodule(FolderConfig(root=str(root), image_size=32, batch_size=4), RecipeConfig(), 0)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32 and labels.dtype == torch.int64
    images, labels = next(iter(data.test_dataloader()))
    assert images.shape == (2, 3, 32, 32) and labels.tolist() == [0, 1]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(images[1, :, 5, 5], (9 / 255 - mean) / std)  # the tenth image of the tree


def test_workers_and_seeds_are_paired_for_files_too(tmp_path):
    root = tree(tmp_path, train={"a": 9, "b": 9}, val={"a": 1, "b": 1})
    config = FolderConfig(root=str(root), image_size=32, batch_size=6)

    def batch(seed: int, num_workers: int = 0) -> torch.Tensor:
        return next(iter(make_datamodule(config, RecipeConfig(), seed, num_workers).train_dataloader()))[0]

    assert torch.equal(batch(0), batch(0, 2)) and not torch.equal(batch(0), batch(1))


def test_splits_can_be_sent_to_spawned_workers(tmp_path):
    root = tree(tmp_path, train={"a": 2}, val={"a": 1})
    split = make_datamodule(FolderConfig(root=str(root), image_size=32), LITE_RECIPE, 0).splits.train
    sent = pickle.loads(pickle.dumps(split))
    assert len(sent) == len(split) and torch.equal(sent[0, 0, 0][0], split[0, 0, 0][0])


def test_hold_out_takes_the_same_share_of_each_class_and_leaves_one():
    labels = [0] * 100 + [1] * 10 + [2]
    files = [str(index) for index in range(111)]
    kept, held = hold_out(labels, files, 0.2)
    assert sorted(kept + held) == list(range(111))
    assert [sum(labels[i] == label for i in held) for label in range(3)] == [20, 2, 0]
    reverse = hold_out(labels[::-1], files[::-1], 0.2)[1]
    assert sorted(110 - i for i in reverse) == held  # the names decide, not their order

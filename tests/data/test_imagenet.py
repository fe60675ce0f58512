"""data=imagenet: what is refused, and what is loaded, on small trees of a few classes."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from trees import refused, tree

from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data import imagenet as imagenet_module
from shunted_lab.data.imagenet import ImageNetConfig

WNIDS = ["n01440764", "n01443537", "n01484850"]


def test_the_list_of_synsets_is_the_one_of_imagenet():
    wnids = imagenet_module.imagenet_classes()
    assert len(set(wnids)) == 1000 and wnids == sorted(wnids) and wnids[:3] == WNIDS


@pytest.fixture
def imagenet(tmp_path, monkeypatch) -> ImageNetConfig:
    monkeypatch.setattr(imagenet_module, "imagenet_classes", lambda: WNIDS)
    monkeypatch.setattr(imagenet_module, "TRAIN_MIN", 4)
    monkeypatch.setattr(imagenet_module, "VAL", 2)
    root = tree(tmp_path, train=dict.fromkeys(WNIDS, 5), val=dict.fromkeys(WNIDS, 2))
    return ImageNetConfig(root=str(root), num_classes=3, image_size=32)


def test_imagenet_holds_validation_back_and_tests_on_val(imagenet):
    assert check_data(imagenet).num_classes == 3
    data = make_datamodule(imagenet, LITE_RECIPE, 0)
    assert data.sizes == {"train": 12, "val": 3, "test": 6} and data.class_names == WNIDS


def test_half_unpacked_imagenet_is_refused(imagenet):
    root = Path(imagenet.root)
    (root / "train" / WNIDS[1] / "4.png").unlink()
    assert check_data(imagenet).num_classes == 3
    (root / "train" / WNIDS[1] / "3.png").unlink()
    refused(imagenet, rf"^data\.root: .*/train/{WNIDS[1]} has 3 images; expected at least 4 .*expects train/n01440764")
    (root / "val").rename(root / "validation")
    Image.new("RGB", (40, 36)).save(root / "train" / WNIDS[1] / "3.png")
    refused(imagenet, rf"/val/{WNIDS[0]} is absent")


def test_imagenet_without_train_can_only_be_tested(imagenet):
    shutil.rmtree(Path(imagenet.root) / "train")
    assert check_data(imagenet, tested_only=True).num_classes == 3
    refused(imagenet, rf"/train/{WNIDS[0]} is absent")
    data = make_datamodule(imagenet, LITE_RECIPE, 0)
    assert data.sizes == {"train": 0, "val": 0, "test": 6} and data.num_classes == 3
    shutil.rmtree(Path(imagenet.root) / "val" / WNIDS[0])
    with pytest.raises(ConfigError, match=rf"/val/{WNIDS[0]} is absent"):
        check_data(imagenet, tested_only=True)


def test_fewer_classes_than_imagenet_has_are_refused(tmp_path):
    root = tree(tmp_path, train={WNIDS[0]: 732}, val={WNIDS[0]: 50})
    refused(ImageNetConfig(root=str(root)), rf"/train/{WNIDS[1]} is absent; data=imagenet")


def test_a_folder_that_is_no_synset_is_refused(imagenet):
    tree(Path(imagenet.root), train={"zebra": 1})
    refused(imagenet, r"/train/zebra is not a class of ImageNet-1K")


def test_unlabelled_test_images_are_not_a_test_split(imagenet):
    (Path(imagenet.root) / "test").mkdir()
    Image.new("RGB", (40, 36)).save(Path(imagenet.root) / "test" / "ILSVRC2012_test_00000001.JPEG")
    assert make_datamodule(imagenet, LITE_RECIPE, 0).sizes["test"] == 6

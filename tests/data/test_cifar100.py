"""data=cifar100: what is refused, and what is loaded, of a small file of the same form."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR100
from trees import refused

from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.data import check_data, make_datamodule
from shunted_lab.data import cifar100 as cifar100_module
from shunted_lab.data.cifar100 import CIFAR100Config


@pytest.fixture
def cifar100(tmp_path, monkeypatch) -> CIFAR100Config:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def split(n: int) -> dict:
        return {"data": rng.integers(0, 256, (n, 3072), np.uint8), "fine_labels": [i % 100 for i in range(n)]}

    contents = {"train": split(1000), "test": split(200), "meta": {"fine_label_names": [f"c{i}" for i in range(100)]}}
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(cifar100_module, "FILES", md5)
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    return CIFAR100Config(root=str(tmp_path))


def test_cifar100_loads(cifar100):
    assert check_data(cifar100).class_names == tuple(f"c{i}" for i in range(100))
    data = make_datamodule(replace(cifar100, image_size=48), LITE_RECIPE, 0)
    assert data.sizes == {"train": 900, "val": 100, "test": 200} and data.class_names[99] == "c99"
    assert sorted(data.splits.val.labels) == list(range(100))
    assert next(iter(data.train_dataloader()))[0].shape == (128, 3, 48, 48)
    images, labels = next(iter(make_datamodule(cifar100, RecipeConfig(), 0).test_dataloader()))
    assert images.shape == (128, 3, 32, 32) and labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_incomplete_cifar100_is_refused(cifar100, name):
    (Path(cifar100.root) / "cifar-100-python" / name).unlink()
    refused(cifar100, rf"cifar-100-python/{name} is absent; data=cifar100 expects cifar-100-python/")


def test_damaged_cifar100_is_refused(cifar100):
    path = Path(cifar100.root) / "cifar-100-python" / "train"
    path.write_bytes(path.read_bytes()[:-1])
    refused(cifar100, r"^data\.root: .*/train is damaged \(its MD5 differs\); unpack the archive again; data=cifar100")


def test_the_checksums_of_cifar100_are_torchvisions():
    listed = dict([*CIFAR100.train_list, *CIFAR100.test_list]) | {"meta": CIFAR100.meta["md5"]}
    assert listed == cifar100_module.FILES

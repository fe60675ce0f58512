"""Small image folders, and how a data set refuses one."""

from pathlib import Path

import pytest
from PIL import Image

from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data


def tree(root: Path, **splits: dict[str, int]) -> Path:
    """`tree(root, train={"cat": 3})` makes root/train/cat/0.png, 1.png, 2.png, each of another grey."""
    grey = 0
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40, 36), (grey % 256,) * 3).save(root / split / name / f"{number}.png")
                grey += 1
    return root


def refused(data, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_data(data)
    assert "\n" not in str(error.value)

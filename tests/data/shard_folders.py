"""Small folders of photos and the shards of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shunted_lab import convert as command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig
from shunted_lab.data import check_data
from shunted_lab.data.shards import ShardsConfig

TRAIN = 24  # images of each of the two classes
SMALL = 0.02  # megabytes: five or six of the images


def photos(root: Path, **splits: int) -> Path:
    """So many small JPEGs in `root/SPLIT/cat` and `root/SPLIT/dog`, each of its own noise."""
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def convert(source: Path, out: object, *more: str) -> str:
    words = [f"data.root={source}", f"out={out}", f"shard_mb={SMALL}", *more]
    return command.convert(compose_as(ConvertConfig, words))


def config_of(root: object, **options: object) -> ShardsConfig:
    return ShardsConfig(root=str(root), image_size=32, batch_size=8, **{"mix_shards": 3, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(config: ShardsConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_data(config)
    assert "\n" not in str(error.value)


def order_of(data, epoch: int = 0) -> list[int]:
    data.sampler.set_epoch(epoch)
    return [index for _, index, _ in data.sampler]

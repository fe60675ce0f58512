"""data=cifar100: CIFAR-100 as torchvision unpacks it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shunted_lab.config.data import DataFacts, Stats
from shunted_lab.config.schema import option
from shunted_lab.data.image_files import ImageFilesConfig

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

FOLDER = "cifar-100-python"
FILES = {  # name: MD5, as in torchvision
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


@dataclass
class CIFAR100Config(ImageFilesConfig):
    """CIFAR-100 as torchvision unpacks it: `root/cifar-100-python/{train,test,meta}`."""

    name: str = "cifar100"
    image_size: int = option(32, "pixels on each side; images of 32 are resized to it")
    num_classes: int | None = option(100, "number of classes; fixed")
    crop_pct: float = option(1.0, "evaluation: centre crop / resized shorter side")

    @property
    def expected(self) -> str:
        return f"{FOLDER}/{{train,test,meta}} in it"

    @property
    def stats(self) -> Stats:
        return (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of the 50,000 training images

    def check_files(self, tested_only: bool) -> DataFacts:
        folder = self.root_folder() / FOLDER
        for name, md5 in FILES.items():
            path = folder / name
            if not path.is_file():
                raise self.absent(path)
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "md5").hexdigest() != md5:
                    raise self.absent(path, "is damaged (its MD5 differs); unpack the archive again")
        with open(folder / "meta", "rb") as file:
            meta = pickle.load(
                file, encoding="latin1"
            )  # its MD5 is right: it holds what torchvision's loader unpickles
        return DataFacts(tuple(meta["fine_label_names"]))

    def check_evaluated(self, identity: str, say: Callable[[str], None]) -> None:
        """Nothing is to be decoded: the files hold pixels."""

    def read_splits(self) -> tuple[list[str], dict[str, PixelSplit]]:
        from torchvision.datasets import CIFAR100

        train, test = (CIFAR100(self.root, train=first) for first in (True, False))
        return train.classes, {name: _pixels(part) for name, part in (("train", train), ("val", test))}


@dataclass(frozen=True)
class PixelSplit:
    """Images in memory, each `(H, W, 3)` uint8. `names` are the numbers of the images in their file."""

    pixels: Sequence[np.ndarray]
    labels: Sequence[int]
    names: Sequence[str]

    def decode(self, index: int) -> Image.Image:
        from PIL import Image

        return Image.fromarray(self.pixels[index])

    def where(self, index: int) -> str:
        return self.names[index]

    def take(self, indices: Sequence[int]) -> PixelSplit:
        from shunted_lab.data.image_splits import picked

        return PixelSplit(*(picked(part, indices) for part in (self.pixels, self.labels, self.names)))


def _pixels(part: Any) -> PixelSplit:
    return PixelSplit(part.data, part.targets, [str(i) for i in range(len(part.targets))])

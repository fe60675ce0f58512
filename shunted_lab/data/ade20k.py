"""data=ade20k: ADE20K as the SceneParsing 150 benchmark has it (arXiv 1608.05442), 150 classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from shunted_lab.config.data import DataFacts
from shunted_lab.config.schema import ConfigError, option
from shunted_lab.data.label_files import LabelFilesConfig

WHERE = "ADEChallengeData2016.zip of data.csail.mit.edu/places/ADEchallenge"
IMAGES = {"train": 20_210, "val": 2_000}

NAMES = Path(__file__).with_suffix(".txt")  # the first name of each class in `objectInfo150.txt`


@dataclass
class ADE20KConfig(LabelFilesConfig):
    """ADE20K, SceneParsing 150: `root/images/{training,validation}` and `root/annotations/{training,validation}`."""

    name: str = "ade20k"
    num_classes: int | None = option(150, "number of classes; fixed")

    zero_is_ignored: ClassVar[bool] = True

    @property
    def expected(self) -> str:
        return f"images/training, images/validation, annotations/training, annotations/validation, as in {WHERE}"

    def folders(self) -> dict[str, tuple[str, str]]:
        return {
            split: (f"images/{name}", f"annotations/{name}")
            for split, name in (("train", "training"), ("val", "validation"))
        }

    def read_class_names(self) -> list[str]:
        return NAMES.read_text(encoding="utf-8").splitlines()

    def check(self, tested_only: bool = False) -> DataFacts:
        root = Path(self.root)
        full = [root / "index_ade20k.pkl", root / "images" / "ADE" / "training", root / "images" / "training" / "a"]
        for path in full:
            if path.exists():
                raise ConfigError(
                    f"data.root: {path} belongs to the full ADE20K, whose labels are not the 150 classes of the "
                    f"benchmark; download {WHERE}"
                )
        return super().check(tested_only)

    def notes(self, images: int) -> Sequence[str]:
        whole = sum(IMAGES.values())
        return [] if images == whole else [f"data=ade20k: {images:,} images; the benchmark has {whole:,}"]

"""data=segmentation_folder: any images with a PNG of class numbers for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shunted_lab.config.schema import ConfigError
from shunted_lab.data.label_files import LabelFilesConfig

CLASSES = "classes.txt"


@dataclass
class SegmentationFolderConfig(LabelFilesConfig):
    """Images in `root/images/{train,val}`, label maps in `root/labels/{train,val}`, class names in `root/classes.txt`.

    Labels are 8-bit PNGs: the number of the line of a class in `classes.txt`, from 0, and 255 where a pixel does not
    count. `test` folders beside `train` and `val` are the test split, where they are there.
    """

    name: str = "segmentation_folder"

    @property
    def expected(self) -> str:
        return "images/train/*.jpg, labels/train/*.png, the same in val (and test, if there is one), and classes.txt"

    def folders(self) -> dict[str, tuple[str, str]]:
        names = ["train", "val", *(["test"] if (Path(self.root) / "images" / "test").is_dir() else [])]
        return {name: (f"images/{name}", f"labels/{name}") for name in names}

    def read_class_names(self) -> list[str]:
        path = Path(self.root) / CLASSES
        try:
            names = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise ConfigError(f"data.root: {path} cannot be read ({reason}); one class name a line") from None
        names = [name.strip() for name in names]
        names = names[:-1] if names and not names[-1] else names
        twice = [name for name in names if names.count(name) > 1]
        if len(names) < 2 or not all(names) or twice:
            what = f"has '{twice[0]}' twice" if twice else f"has {len(names)} lines, or an empty one"
            raise ConfigError(f"data.root: {path} {what}; one class name a line, at least 2")
        if len(names) > 255:
            raise ConfigError(f"data.root: {path} has {len(names)} classes; 8-bit labels have at most 255")
        return names

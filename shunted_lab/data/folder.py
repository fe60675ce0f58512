"""data=folder: a folder for each class, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from shunted_lab.config.data import DataFacts
from shunted_lab.data.identity import contents, identity_of, sizes
from shunted_lab.data.image_files import ImageFilesConfig
from shunted_lab.data.listing import SplitFolder, classes_of, list_split, note_of_unread

if TYPE_CHECKING:
    from shunted_lab.data.image_splits import FileSplit


@dataclass
class FolderConfig(ImageFilesConfig):
    """Images in `root/train/CLASS/*` and `root/val/CLASS/*` (and `root/test/CLASS/*`, where there is one)."""

    name: str = "folder"

    reads_test: ClassVar[bool] = True  # whether `root/test` is a split

    @property
    def expected(self) -> str:
        return "train/CLASS/*.jpg and val/CLASS/*.jpg (and test/CLASS/*.jpg, if there is one) in it"

    def split_names(self, tested_only: bool) -> list[str]:
        """The folders that are read: `train`, `val`, and `test` if it has classes (images without labels are none).

        Args:
            tested_only: where there is no `train`, the test split alone.
        """
        root = Path(self.root)
        has_test = self.reads_test and (root / "test").is_dir() and bool(classes_of(root / "test"))
        names = ["train", "val", *(["test"] if has_test else [])]
        return names[-1:] if tested_only and not (root / "train").exists() else names

    def check_files(self, tested_only: bool) -> DataFacts:
        root = self.root_folder()
        names = self.split_names(tested_only)
        for name in names:
            if not (root / name).is_dir():
                raise self.absent(root / name)
        splits = [list_split(root / name) for name in names]
        classes = sorted({name for split in splits for name in split.classes})
        if not splits[0].classes:
            raise self.absent(splits[0].path / "CLASS")
        for split in splits:
            for name in classes:
                if name not in split.images:
                    raise self.absent(split.path / name)
                if not split.images[name]:
                    raise self.absent(split.path / name, "has no images")
        if "test" not in names and not tested_only:
            self.check_held_out(label for _, _, label in splits[0].files())
        return DataFacts(tuple(classes), _identity(splits), tuple(note_of_unread(self.name, splits)))

    def read_splits(self) -> tuple[list[str], dict[str, FileSplit]]:
        root = Path(self.root)
        folders = {name: list_split(root / name) for name in self.split_names(tested_only=True)}
        classes = next(iter(folders.values())).classes
        if "train" not in folders:
            (tested,) = folders.values()
            folders = {"train": SplitFolder(root / "train", {}), "val": tested}
        return classes, {name: _images(folder) for name, folder in folders.items()}


def _images(folder: SplitFolder) -> FileSplit:
    from shunted_lab.data.image_splits import FileSplit

    files = folder.files()
    return FileSplit([path for path, _, _ in files], [label for _, _, label in files], [name for _, name, _ in files])


def _identity(splits: list[SplitFolder]) -> str:
    """Of the class, the name and the size of every image, and the content of a sample."""
    files = [file for split in splits for file in split.files()]
    paths, names = [path for path, _, _ in files], [name for _, name, _ in files]
    return identity_of(list(zip(names, sizes(paths), strict=True)), contents(names, paths))

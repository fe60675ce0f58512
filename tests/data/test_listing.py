"""What is listed below a folder of images, and what its identity covers."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.config.schema import ConfigError
from shunted_lab.data import check_data, identity, make_datamodule
from shunted_lab.data import imagenet as imagenet_module
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.identity import contents, sizes, spread
from shunted_lab.data.imagenet import ImageNetConfig
from shunted_lab.data.listing import list_split


def image(path: Path, grey: int = 0) -> Path:
    """A BMP, whose size does not depend on its pixels, whatever the extension says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey,) * 3).save(path, "BMP")
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """Two classes with four training images and two test images each, all of the same size."""
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for number in range(count):
                image(tmp_path / "data" / split / name / f"{number}.bmp", 20 * number + 100 * label)
    return tmp_path / "data"


def facts(root: Path, **options):
    return check_data(FolderConfig(root=str(root), **options))


def images(root: Path, split: str = "train") -> list[str]:
    return list(FolderConfig(root=str(root)).read_splits()[1][split].names)


# --- the order of ImageFolder ----------------------------------------------------------------------------------------


def test_the_order_is_that_of_torchvision(tmp_path):
    names = ["b", "B", "a b", "a-b", "a", "é", "10", "9"]
    files = [
        "x/2.png",
        "x/10.PNG",
        "x-1/1.png",
        "x/y/1.jpeg",
        "x.y/1.png",
        "2.png",
        "10.png",
        "A.Webp",
        "a.tiff",
        "ä.jpg",
    ]
    for name in names:
        for file in files:
            (tmp_path / "train" / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "train" / name / file).touch()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "7.jpg").touch()
    (tmp_path / "train" / "a" / "w").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train" / "linked").symlink_to(tmp_path / "train" / "b")
    split, expected = list_split(tmp_path / "train"), ImageFolder(str(tmp_path / "train"))
    assert split.classes == expected.classes and len(expected) == 9 * len(files) + 1
    assert [(path, label) for path, _, label in split.files()] == expected.samples
    assert [f"{tmp_path}/{name}" for _, name, _ in split.files()] == [path for path, _ in expected.samples]


# --- what is left out ------------------------------------------------------------------------------------------------


def test_hidden_and_system_folders_are_left_out(root):
    before = facts(root), images(root)
    hidden = [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"]
    for name in hidden:
        shutil.copytree(root / "train" / "cat", root / "train" / name)  # as if it were a class
        shutil.copytree(root / "train" / "dog", root / "train" / "cat" / name)
    image(root / "train" / "cat" / "._0.bmp")
    (root / "test").mkdir()
    shutil.copytree(root / "train" / "cat", root / "test" / ".ipynb_checkpoints")
    assert (facts(root), images(root)) == before
    data = make_datamodule(FolderConfig(root=str(root), image_size=32), LITE_RECIPE, 0)
    assert data.sizes == {"train": 6, "val": 2, "test": 4} and data.class_names == ["cat", "dog"]


def test_other_files_are_counted_by_extension_and_named_for_the_plan(root):
    assert facts(root).notes == ()
    others = ["cat/a.heic", "cat/b.HEIC", "dog/deep/c.heic", "dog/labels.txt", "dog/labels", "dog/a.b.c.d"]
    for name in others:
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).touch()
    image(root / "val" / "lost.bmp")
    listed = ".heic (3), .d (1), none (1), .txt (1), .bmp outside of a class (1)"
    assert facts(root).notes == (f"data=folder: 7 files are not read, by extension: {listed}; e.g. train/cat/a.heic",)
    (root / "train" / "cat" / "x.y").touch()
    assert facts(root).notes[0].endswith("none (1), .txt (1) and 1 more; e.g. train/cat/a.heic")


# --- links -----------------------------------------------------------------------------------------------------------


def test_linked_folders_and_images_are_those_that_they_point_to(root, tmp_path):
    plain = images(root)
    (root / "train" / "cat").rename(tmp_path / "cats")
    (root / "train" / "cat").symlink_to(tmp_path / "cats")
    (root / "train" / "dog" / "3.bmp").rename(tmp_path / "dog.bmp")
    (root / "train" / "dog" / "3.bmp").symlink_to(tmp_path / "dog.bmp")
    assert images(root) == plain
    before = facts(root).identity
    image(tmp_path / "dog.bmp", 7)
    changed = facts(root).identity
    image(tmp_path / "more" / "new.bmp")
    (tmp_path / "cats" / "more").symlink_to(tmp_path / "more")
    assert "train/cat/more/new.bmp" in images(root)
    assert len({before, changed, facts(root).identity}) == 3


def test_links_in_a_circle_end(root, tmp_path):
    plain = images(root)
    cat, other = root / "train" / "cat", tmp_path / "other"
    other.mkdir()
    for link, target in ((cat / "self", cat), (cat / "up", root), (cat / "there", other), (other / "back", cat)):
        link.symlink_to(target)
    assert images(root) == plain


def test_a_link_to_nothing_is_named(root):
    (root / "train" / "cat" / "9.bmp").symlink_to(root / "gone.bmp")
    with pytest.raises(
        ConfigError, match=r"^data\.root: .*/train/cat/9\.bmp cannot be read \(No such file or directory\)$"
    ):
        facts(root)
    (root / "train" / "cat" / "9.bmp").unlink()
    (root / "train" / "cat" / "9.bmp").symlink_to("9.bmp")
    with pytest.raises(ConfigError, match=r"/train/cat/9\.bmp cannot be read \(Too many levels"):
        facts(root)


# --- identity --------------------------------------------------------------------------------------------------------


def test_equally_large_images_that_are_exchanged_are_other_data(root):
    before = facts(root).identity
    assert len({path.stat().st_size for path in root.rglob("*.bmp")}) == 1
    for split in ("train", "val"):
        (root / split / "cat").rename(root / split / "x")
        (root / split / "dog").rename(root / split / "cat")
        (root / split / "x").rename(root / split / "dog")
    assert facts(root).identity != before


@pytest.mark.parametrize("name", ["train/cat/0.bmp", "train/dog/3.bmp", "val/cat/1.bmp"])
def test_one_image_that_changes_is_other_data(root, name):
    before = facts(root).identity
    image(root / name, 201)
    assert facts(root).identity != before


def test_a_sample_is_read_where_there_are_more_images(root, monkeypatch):
    monkeypatch.setattr(identity, "SAMPLE", 5)
    read = []
    monkeypatch.setattr(identity, "_content", lambda path, share: read.append(Path(path)) or "")
    before = facts(root).identity
    assert len(read) == 5
    changed = set(root.rglob("*.bmp")) - set(read)
    (next(iter(changed))).write_bytes(b"another size")
    assert facts(root).identity != before  # sizes of all are known


def test_the_sample_is_spread_over_splits_and_classes_and_knows_no_order():
    names = [f"{split}/{name}/{i}.jpg" for split in ("train", "val") for name in "abcd" for i in range(500)]
    chosen = [names[index] for index in spread(names, 800)]
    counts = Counter(name.rpartition("/")[0] for name in chosen)
    assert len(counts) == 8 and all(70 <= count <= 130 for count in counts.values())
    assert [names[::-1][index] for index in spread(names[::-1], 800)] == chosen


def test_of_files_larger_than_their_share_both_ends_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(identity, "BUDGET", 2000)
    paths = [str(tmp_path / name) for name in "ab"]
    content = bytearray(5000)

    def digest(*changed: int) -> str:
        for path in paths:
            Path(path).write_bytes(content)
        for at in changed:
            Path(paths[0]).write_bytes(content[:at] + b"x" + content[at + 1 :])
        return contents(["a", "b"], paths)[0][1]

    plain = digest()
    assert digest(0) != plain and digest(499) != plain and digest(4500) != plain and digest(4999) != plain
    assert digest(2500) == plain  # said in the documentation
    content.append(0)
    assert digest() != plain


def test_sizes_are_in_the_order_of_the_paths(tmp_path):
    paths = [str(tmp_path / str(number)) for number in range(50)]
    for number, path in enumerate(paths):
        Path(path).write_bytes(bytes(number))
    assert sizes(paths) == list(range(50)) and sizes([]) == []


# --- ImageNet --------------------------------------------------------------------------------------------------------

WNIDS = ["n01440764", "n01443537", "n01484850"]


@pytest.fixture
def imagenet(tmp_path, monkeypatch) -> ImageNetConfig:
    monkeypatch.setattr(imagenet_module, "imagenet_classes", lambda: WNIDS)
    monkeypatch.setattr(imagenet_module, "TRAIN_MIN", 4)
    monkeypatch.setattr(imagenet_module, "VAL", 2)
    for split, count in (("train", 4), ("val", 2)):
        for label, name in enumerate(WNIDS):
            for number in range(count):
                image(tmp_path / split / name / f"{number}.JPEG", 10 * number + 50 * label)
    return ImageNetConfig(root=str(tmp_path), num_classes=3)


def test_the_check_of_imagenet_reads_one_image_a_class_and_asks_for_no_sizes(imagenet, monkeypatch):
    read = []
    content = identity._content
    monkeypatch.setattr(identity, "_content", lambda path, share: (read.append(path), content(path, share))[1])
    stat = os.stat

    def of_no_image(path, *args, **kwargs):
        assert not str(path).endswith(".JPEG"), f"{path} was asked for its size"
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", of_no_image)
    assert len(check_data(imagenet).identity) == 16
    assert Counter(Path(path).parent for path in read) == Counter(
        Path(imagenet.root) / split / name for split in ("train", "val") for name in WNIDS
    )


def test_renamed_classes_and_resized_copies_of_imagenet_are_other_data(imagenet):
    root, found = Path(imagenet.root), {check_data(imagenet).identity}
    for old, new in ((WNIDS[0], "x"), (WNIDS[1], WNIDS[0]), ("x", WNIDS[1])):
        (root / "train" / old).rename(root / "train" / new)
    found.add(check_data(imagenet).identity)
    for path in root.rglob("*.JPEG"):
        with Image.open(path) as whole:
            whole.resize((6, 6)).save(path, "BMP")
    found.add(check_data(imagenet).identity)
    (root / "train" / WNIDS[0] / "0.JPEG").rename(root / "train" / WNIDS[0] / "5.JPEG")
    found.add(check_data(imagenet).identity)  # another image may be held out
    assert len(found) == 4


def test_a_folder_test_is_not_a_split_of_imagenet(imagenet):
    shutil.copytree(Path(imagenet.root) / "val", Path(imagenet.root) / "test")
    assert set(imagenet.read_splits()[1]) == {"train", "val"}

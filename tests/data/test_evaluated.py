"""Images that are evaluated on are decoded before anything is trained, once, and all broken ones are named at once."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from shunted_lab import evaluate
from shunted_lab import run as command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig, convert
from shunted_lab.data import check_data, evaluated
from shunted_lab.data.cifar100 import CIFAR100Config
from shunted_lab.data.earth import EarthConfig
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.image_splits import FileSplit
from shunted_lab.data.shards import ShardsConfig
from shunted_lab.data.shards.reader import TarSplit
from shunted_lab.study import slots, training
from shunted_lab.tasks.train import train

TINY = [
    "model.embed_dims=[8,16,24,32]",
    "model.depths=[1,1,1,1]",
    "model.num_heads=[2,2,2,2]",
    "model.mlp_ratios=[2,2,2,2]",
    "launch.accelerator=cpu",
    "data.image_size=32",
    "data.batch_size=8",
    "recipe.epochs=1",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shunted_lab" / "decoded"


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name in ("cat", "dog"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (36, 40, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.png")
    return tmp_path / "data"


def halve(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def check(data) -> list[str]:
    said: list[str] = []
    data.check_evaluated(check_data(data).identity, said.append)
    return said


def of(root: Path, **options) -> FolderConfig:
    return FolderConfig(root=str(root), **options)


def test_all_broken_images_are_named_at_once(root, cache):
    first, second = halve(root / "val" / "cat" / "1.png"), halve(root / "val" / "dog" / "0.png")
    Image.fromarray(np.zeros((9, 9), np.float32)).save(root / "val" / "dog" / "2.tif")
    with pytest.raises(ConfigError) as error:
        check(of(root))
    said = str(error.value)
    assert said.startswith(f"data.root: 3 of 9 images of val and test cannot be decoded: {first} (")
    assert f"{second} (" in said and "2.tif (its pixels are floating point numbers" in said and "\n" not in said
    assert said.endswith("evaluation skips no image: repair or remove them before training")
    assert not cache.exists()


def test_many_broken_images_are_counted(root, monkeypatch):
    monkeypatch.setattr(evaluated, "NAMED", 2)
    for path in (root / "val").rglob("*.png"):
        halve(path)
    with pytest.raises(ConfigError, match=r"6 of 8 images .*: [^,]*, [^,]* and 4 more; evaluation skips no image"):
        check(of(root))


def test_the_images_that_are_held_out_are_decoded_and_those_for_training_are_not(root):
    kept = [path for path in (root / "train").rglob("*.png")]
    refused = []
    for path in kept:
        content = path.read_bytes()
        halve(path)
        try:
            check(of(root))
        except ConfigError as error:
            refused.append(path)
            assert f"data.root: 1 of 8 images of val and test cannot be decoded: {path} (" in str(error)
        path.write_bytes(content)
    assert len(refused) == 2  # 10 % of eight, rounded up, in each class


def test_the_next_command_decodes_nothing(root, cache, monkeypatch):
    check(of(root))
    assert len(list(cache.glob("*.json"))) == 1
    with monkeypatch.context() as patched:
        patched.setattr(FileSplit, "decode", lambda split, index: pytest.fail("decoded again"))
        patched.setattr(FolderConfig, "read_splits", lambda data: pytest.fail("listed again"))
        check(of(root))
        check(of(root, image_size=64, crop_pct=1.0))
    for change in (
        lambda: check(of(root, val_fraction=0.3)),
        lambda: (shutil.copy(root / "val" / "cat" / "0.png", root / "val" / "cat" / "9.png"), check(of(root))),
    ):
        seen = []
        with monkeypatch.context() as patched:
            patched.setattr(FileSplit, "decode", lambda split, index, seen=seen: seen.append(index))
            change()
        assert seen


def test_progress_is_said_where_it_takes_long(root, monkeypatch):
    assert check(of(root)) == []
    monkeypatch.setattr(evaluated, "TOGETHER", 3)
    now = iter([0.0, 3.0, 6.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(evaluated, "time", SimpleNamespace(monotonic=lambda: next(now)))
    said = check(of(root, val_fraction=0.2))
    assert said == ["data=folder: decoding the images of val and test once, before training: 6 of 10"]


def test_shards_are_decoded_unless_they_were_when_they_were_converted(root, tmp_path, monkeypatch):
    broken = halve(root / "val" / "dog" / "1.png")
    convert(compose_as(ConvertConfig, [f"data.root={root}", f"out={tmp_path / 'unseen'}", "verify=false"]))
    with pytest.raises(ConfigError, match=r"1 of 8 images .*: val/dog/1\.png in .*/val-00000\.tar \(.+\); evaluation"):
        check(ShardsConfig(root=str(tmp_path / "unseen")))
    broken.unlink()
    convert(compose_as(ConvertConfig, [f"data.root={root}", f"out={tmp_path / 'seen'}"]))
    monkeypatch.setattr(TarSplit, "decode", lambda split, index: pytest.fail("decoded again"))
    check(ShardsConfig(root=str(tmp_path / "seen")))


def test_data_without_image_files_are_left_alone():
    EarthConfig().check_evaluated("", pytest.fail)
    CIFAR100Config(root="/nowhere").check_evaluated("", pytest.fail)


# --- the command -----------------------------------------------------------------------------------------------------


def words(root: Path, tmp_path: Path, *more: str) -> list[str]:
    return [
        "experiment=train",
        *TINY,
        "seeds=[0]",
        "data=folder",
        f"data.root={root}",
        f"runs_dir={tmp_path}/runs",
        "launch.measure=false",
        *more,
    ]


@pytest.fixture
def trained(monkeypatch) -> list[Path]:
    """Folders of runs that were trained; for real, in a fork of the test."""
    monkeypatch.setattr(slots, "CONTEXT", "fork")
    found: list[Path] = []
    monkeypatch.setattr(training, "train", lambda *args: (found.append(args[1]), train(*args))[1])
    return found


def test_nothing_is_trained_before_the_images_can_be_decoded(root, tmp_path, trained, capsys):
    broken = halve(root / "val" / "dog" / "1.png")
    (root / "train" / "cat" / "x.heic").touch()
    assert command.main(words(root, tmp_path, "plan_only=true")) == 0  # decodes nothing
    said = "data=folder: 1 file is not read, by extension: .heic (1); e.g. train/cat/x.heic\n0 of 1 run done\n"
    assert said in capsys.readouterr().out
    assert command.main(words(root, tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: data.root: 1 of 8 images of val and test") and str(broken) in error
    assert not (tmp_path / "runs").exists()
    broken.unlink()
    assert command.main(words(root, tmp_path)) == 0
    (folder,) = (tmp_path / "runs").glob("train/model/seed0-*")
    # An image that breaks later is refused, and without it the finished weights can be tested.
    halve(root / "val" / "cat" / "2.png")
    assert evaluate.main([f"checkpoint={folder}", "device=cpu"]) == 1
    assert "cat/2.png cannot be decoded" in capsys.readouterr().err
    (root / "val" / "cat" / "2.png").unlink()
    assert evaluate.show([f"checkpoint={folder}", "device=cpu"])["images"] == 4


def test_a_search_decodes_the_images_too(root, tmp_path, monkeypatch, capsys):
    halve(root / "val" / "dog" / "1.png")
    given = [
        "data=folder",
        f"data.root={root}",
        f"runs_dir={tmp_path}/runs",
        "data.image_size=128",
        "data.batch_size=8",
    ]
    assert command.main(["experiment=search_rates", *given]) == 1
    assert "error: data.root: 1 of 8 images of val and test" in capsys.readouterr().err

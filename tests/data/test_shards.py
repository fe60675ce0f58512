"""data=shards: what the converter writes, and that a run reads the images of data=folder from it, in another order."""

import io
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from shunted_lab import convert as command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.recipe import LITE_RECIPE, RecipeConfig
from shunted_lab.config.run import RunConfig
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig
from shunted_lab.data import DataFacts, check_data, make_datamodule
from shunted_lab.data.folder import FolderConfig
from shunted_lab.data.module import EpochSampler
from shunted_lab.data.shards import ShardsConfig, format, reader, tar_cache, writer
from shunted_lab.data.shards.order import ShardOrder
from shunted_lab.data.shards.storage import StorageFolder
from shunted_lab.data.shards.tar_cache import CachedTars
from shunted_lab.tasks.classification import Classification

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


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return photos(tmp_path_factory.mktemp("source"), train=TRAIN, val=5)


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory) -> Path:
    """The shards of `source`; not to be changed."""
    out = tmp_path_factory.mktemp("shards") / "out"
    convert(source, out)
    return out


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def config_of(root: object, **options: object) -> ShardsConfig:
    return ShardsConfig(root=str(root), image_size=32, batch_size=8, **{"mix_shards": 3, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(config: ShardsConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        check_data(config)
    assert "\n" not in str(error.value)


# --- what is written -------------------------------------------------------------------------------------------------


def test_every_image_is_there_with_its_bytes_its_label_and_its_name(source, finished):
    classes, splits = config_of(finished).read_splits()
    assert classes == ["cat", "dog"] and set(splits) == {"train", "val"}
    for split, found in splits.items():
        images = sorted((source / split).glob("*/*.jpg"), key=str)
        assert list(found.names) == [path.relative_to(source).as_posix() for path in images]
        assert [found.content(i) for i in range(len(images))] == [path.read_bytes() for path in images]
        assert list(found.labels) == [classes.index(path.parent.name) for path in images]


def test_tars_have_the_form_of_webdataset(source, finished):
    seen = []
    for path in sorted(finished.glob("train-*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            assert len(members) % 2 == 0 and all(member.isfile() for member in members)
            for image, label in zip(members[::2], members[1::2], strict=True):
                key, ending = image.name.split(".")
                assert (ending, label.name) == ("jpg", f"{key}.cls")
                content = tar.extractfile(image).read()
                seen.append((content, int(tar.extractfile(label).read())))
                Image.open(io.BytesIO(content)).load()
    there = [(path.read_bytes(), int(path.parent.name == "dog")) for path in (source / "train").glob("*/*")]
    assert sorted(seen) == sorted(there)


def test_other_formats_keep_their_ending(tmp_path, capsys):
    source = photos(tmp_path / "in", train=2, val=1)
    (source / "train" / "cat" / "0.jpg").rename(source / "train" / "cat" / "0.JPEG")
    Image.new("RGB", (40, 40)).save(source / "train" / "cat" / "x.png")
    (source / "train" / "cat" / "x.heic").touch()
    convert(source, tmp_path / "out")
    assert capsys.readouterr().err.startswith("data=folder: 1 file is not read, by extension: .heic (1); e.g. ")
    endings = set()
    for path in (tmp_path / "out").glob("train-*.tar"):
        with tarfile.open(path) as tar:
            endings |= {name.partition(".")[2] for name in tar.getnames()}
    assert endings == {"jpg", "png", "cls"}


def test_shards_keep_to_their_size_and_training_images_are_mixed(finished):
    index = format.open_index(str(finished))
    assert len(index.splits["train"]) > 6
    assert all(shard.bytes <= SMALL * 1e6 + tarfile.RECORDSIZE for shard in index.shards)
    assert all((finished / shard.tar).stat().st_size == shard.bytes for shard in index.shards)
    split = config_of(finished).read_splits()[1]["train"]
    first = [label for place, label in zip(split.places, split.labels, strict=True) if place[0] <= 1]
    assert set(first) == {0, 1}  # in the order of the folder they would all be cats


def test_the_held_out_images_have_shards_of_their_own_in_order(finished):
    data = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    kept, held, test = (getattr(data.splits, split).images.places for split in ("train", "val", "test"))
    assert not set(kept[:, 0]) & set(held[:, 0])
    assert all(np.array_equal(p, p[np.lexsort((p[:, 1], p[:, 0]))]) for p in (held, test))


def test_a_large_image_has_a_shard_of_its_own(tmp_path):
    source = photos(tmp_path / "in", train=2, val=1)
    convert(source, tmp_path / "out", "shard_mb=0.001", "data.val_fraction=0.5")
    assert [shard.count for shard in format.open_index(str(tmp_path / "out")).shards] == [1] * 6


def test_a_seed_repeats_itself_and_another_gives_another_order(source, finished, tmp_path):
    convert(source, tmp_path / "again")
    assert files(tmp_path / "again") == files(finished)
    convert(source, tmp_path / "other", "shuffle_seed=1")
    one, other = (format.open_index(str(path)) for path in (finished, tmp_path / "other"))
    assert one.identity != other.identity
    assert one.splits["train"][0].digest != other.splits["train"][0].digest


# --- the converter: stopped, refused ---------------------------------------------------------------------------------


def test_an_interrupted_conversion_goes_on_and_writes_the_same(source, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    written = []
    write = writer._write_tar

    def stops(file, shard, contents):
        if len(written) == 3:
            file.write(b"half")
            raise KeyboardInterrupt
        written.append(shard.name)
        write(file, shard, contents)

    monkeypatch.setattr(writer, "_write_tar", stops)
    words = [f"data.root={source}", f"out={out}", f"shard_mb={SMALL}"]
    assert command.main(words) == 130 and "stopped; the same command resumes" in capsys.readouterr().err
    assert len(list(out.glob("*.tar"))) == 3 and not (out / format.INDEX).exists()
    refused(config_of(out), r"^data\.root: .*/shards\.json is missing, since the conversion is not finished")
    (out / f"{written[1]}.npz").unlink()  # as if it had been killed between the two files
    for change in ("shuffle_seed=1", "shard_mb=1", "verify=false", "data.val_fraction=0.5"):
        with pytest.raises(ConfigError, match=r"^out: '.*/out' holds an unfinished conversion of '.*' with other"):
            convert(source, out, change)
    kept, again = list(written), []
    monkeypatch.setattr(writer, "_write_tar", lambda *args: (again.append(args[1].name), write(*args)))
    convert(source, out)
    assert set(again) & set(kept) == {kept[1]}
    assert files(out) == files(finished)


def test_an_unfinished_conversion_of_other_images_is_refused(tmp_path, monkeypatch):
    source = photos(tmp_path / "in", train=3, val=1)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr(writer, "_write_tar", lambda *_: (_ for _ in ()).throw(RuntimeError))
        convert(source, tmp_path / "out")
    (source / "train" / "cat" / "0.jpg").unlink()
    with pytest.raises(ConfigError, match=r"^out: .* unfinished conversion of '.*/in' with other images or options"):
        convert(source, tmp_path / "out")


def test_a_folder_that_holds_shards_or_anything_else_is_refused(source, finished, tmp_path):
    before = files(finished)
    with pytest.raises(ConfigError, match=r"^out: '.*' holds finished shards; delete them, or name another folder$"):
        convert(source, finished)
    assert files(finished) == before
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"^out: '.*' is not empty; name a new folder$"):
        convert(source, tmp_path)


def test_two_conversions_do_not_write_into_one_folder(source, tmp_path, monkeypatch):
    def second(*_):
        monkeypatch.undo()
        with pytest.raises(ConfigError, match=r"^out: .* is being written by another process$"):
            convert(source, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_write_tar", second)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out")


def test_equally_large_images_that_are_exchanged_are_other_shards(tmp_path):
    """Names, labels and lengths are the same: only the bytes tell."""
    source = tmp_path / "in"
    for split in ("train", "val"):
        for grey, name in ((0, "cat"), (200, "dog")):
            (source / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (grey, number, 0)).save(source / split / name / f"{number}.bmp")
    convert(source, tmp_path / "one")
    for split in ("train", "val"):
        (source / split / "cat").rename(source / split / "x")
        (source / split / "dog").rename(source / split / "cat")
        (source / split / "x").rename(source / split / "dog")
    convert(source, tmp_path / "other")
    one, other = (check_data(config_of(tmp_path / name)) for name in ("one", "other"))
    assert one.class_names == other.class_names and one.identity != other.identity


def test_the_index_says_whether_images_were_decoded_and_the_identity_does_not_depend_on_it(source, finished, tmp_path):
    convert(source, tmp_path / "unseen", "verify=false")
    verified, unseen = (format.open_index(str(path)) for path in (finished, tmp_path / "unseen"))
    assert verified.verified and not unseen.verified and verified.identity == unseen.identity


@pytest.mark.parametrize(
    ("counts", "message"),
    [({"cat": 3}, r"has 1 class, 'cat'; a classifier needs"), ({"cat": 1, "dog": 1}, r"has 2 of them in 2 classes")],
)
def test_too_few_classes_or_images_are_refused(tmp_path, monkeypatch, counts, message):
    for split in ("train", "val"):
        for name, count in counts.items():
            (tmp_path / "in" / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8)).save(tmp_path / "in" / split / name / f"{number}.png")
    with monkeypatch.context() as patched:
        patched.setattr(command, "check_data", lambda data: DataFacts(()))  # as if another version had written them
        convert(tmp_path / "in", tmp_path / "out")
    refused(config_of(tmp_path / "out"), message)


def test_corrupt_images_are_refused_with_their_paths(tmp_path):
    source = photos(tmp_path / "in", train=8, val=1)
    broken = [source / "train" / name / f"{number}.jpg" for name in ("cat", "dog") for number in range(6)]
    for path in broken:
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(ConfigError, match=r"^data\.root: 12 images cannot be read: .* and 2 more; repair") as error:
        convert(source, tmp_path / "out")
    assert sum(str(path) in str(error.value) for path in broken) == 10 and "\n" not in str(error.value)
    assert not (tmp_path / "out" / format.INDEX).exists()
    convert(source, tmp_path / "unseen", "verify=false")
    assert check_data(config_of(tmp_path / "unseen")).num_classes == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("data=cifar100", r"^data: 'cifar100' is not known; choices: folder, imagenet, inat2018, inat2019$"),
        ("data=shards", r"^data: 'shards' is not known; choices: folder, imagenet, inat2018, inat2019$"),
        ("data=earth", r"^data: 'earth' is not known; choices: folder, imagenet, inat2018, inat2019$"),
        ("data=flders", r"^data: 'flders' is not known; did you mean"),
        ("data.root=x", r"^out: has no value; give it as out=\.\.\.$"),
        ("data.root=x out=y shard_mb=0", r"^shard_mb: 0\.0 is not above 0$"),
        ("data.root=x out=y shuffle_seed=-1", r"^shuffle_seed: -1 is negative$"),
        ("data.root=x out=y overwrite=true", r"^overwrite: no such key; .*choices: .*shard_mb"),
        ("data.root=/nowhere out=y", r"^data\.root: '/nowhere' does not exist; data=folder expects"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        command.convert(compose_as(ConvertConfig, words.split()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("url", ["nosuch://bucket/x", "s3://bucket/x"])
def test_a_url_that_nobody_can_open_is_refused(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    refused(config_of(url), rf"^data\.root: '{url}' cannot be opened: ")


def test_the_command_runs_and_has_help(source, tmp_path):
    command = [sys.executable, "-m", "shunted_lab.convert"]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "shuffle_seed: int = 0" in done.stdout
    out = tmp_path / "out"
    done = subprocess.run([*command, f"data.root={source}", f"out={out}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"58 images in 3 shards, 0.000225 GB: {out}\n"
    done = subprocess.run([*command, f"data.root={source}", f"out={out}"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: out: ") and done.stderr.count("\n") == 1


# --- the same images as data=folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [0, 3])
def test_splits_numbers_and_pixels_are_those_of_the_folder(tmp_path, test):
    source = photos(tmp_path / "in", train=10, val=3, **({"test": test} if test else {}))
    convert(source, tmp_path / "out", "data.val_fraction=0.2")
    options = {"image_size": 32, "val_fraction": 0.2}
    folder = make_datamodule(FolderConfig(root=str(source), **options), RecipeConfig(), 5).splits
    data = make_datamodule(ShardsConfig(root=str(tmp_path / "out"), **options), RecipeConfig(), 5).splits
    assert data.class_names == folder.class_names
    for split in ("train", "val", "test"):
        one, other = getattr(folder, split), getattr(data, split)
        assert list(one.images.names) == list(other.images.names) and list(one.labels) == list(other.labels)
        keys = [(3, i, 1) for i in range(len(one))] if split == "train" else range(len(one))
        assert all(torch.equal(one[key][0], other[key][0]) for key in keys)


def test_another_fraction_holds_out_what_the_folder_would(source, finished):
    data = make_datamodule(config_of(finished, val_fraction=0.4), LITE_RECIPE, 0).splits
    folder = make_datamodule(FolderConfig(root=str(source), val_fraction=0.4), LITE_RECIPE, 0).splits
    assert list(data.train.images.names) == list(folder.train.images.names)
    assert sorted(data.val.images.names) == sorted(folder.val.images.names)
    places = data.val.images.places
    assert np.array_equal(places, places[np.lexsort((places[:, 1], places[:, 0]))])


def test_what_changes_a_result_is_in_the_fingerprint(finished):
    base = config_of(finished)

    def fingerprint(data: ShardsConfig) -> str:
        from shunted_lab.config.groups import PRESETS

        run = RunConfig(
            PRESETS["model"]["shunted_lite"], data, Classification(), LITE_RECIPE, PRESETS["launch"]["local"], 0
        )
        return run.fingerprint(check_data(base).identity, {})

    assert fingerprint(base) == fingerprint(replace(base, root="elsewhere", cache="there", cache_gb=1.0))
    assert fingerprint(base) != fingerprint(replace(base, mix_shards=4))


# --- order -----------------------------------------------------------------------------------------------------------


def order_of(data, epoch: int = 0) -> list[int]:
    data.sampler.set_epoch(epoch)
    return [index for _, index, _ in data.sampler]


def test_an_epoch_has_every_image_once_in_an_order_of_seed_and_epoch(finished):
    data, again, other = (make_datamodule(config_of(finished), LITE_RECIPE, seed) for seed in (0, 0, 1))
    orders = [order_of(data, epoch) for epoch in range(3)]
    assert all(sorted(order) == list(range(len(data.splits.train))) for order in orders)
    assert orders[0] != orders[1] != orders[2] and order_of(other) != orders[0]
    assert order_of(again, 2) == orders[2]  # without the epochs before


def test_at_most_so_many_shards_are_read_at_a_time(finished):
    data = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    shard = data.splits.train.images.places[:, 0]
    sizes = {number: int((shard == number).sum()) for number in set(shard.tolist())}
    assert len(sizes) >= 6
    visited = [int(shard[index]) for index in order_of(data)]
    while visited:
        group = list(dict.fromkeys(visited))[:3]
        together, visited = visited[: (n := sum(sizes[number] for number in group))], visited[n:]
        assert set(together) == set(group) and (len(group) == 1 or together != sorted(together, key=group.index))


def test_the_order_of_shards_is_fixed_for_ever():
    """A change of it would make every run on shards another one under the same fingerprint."""
    sampler = EpochSampler(10, 1, shuffle=ShardOrder(np.array([0, 0, 0, 2, 2, 2, 1, 1, 1, 1]), 2))
    assert [index for _, index, _ in sampler] == [9, 7, 6, 0, 1, 2, 8, 5, 4, 3]


def test_all_shards_mixed_is_a_permutation_of_all():
    order = ShardOrder(np.repeat(np.arange(50), 20), 50)(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(1000))
    assert len(set((order[:100] // 20).tolist())) > 35


def test_workers_change_nothing(finished):
    def batches(num_workers: int) -> list:
        data = make_datamodule(config_of(finished), RecipeConfig(), 3, num_workers)
        data.sampler.set_epoch(2)
        return list(data.train_dataloader())

    for one, other in zip(batches(0), batches(2), strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_restart_within_an_epoch_neither_repeats_nor_skips(finished):
    whole = list(make_datamodule(config_of(finished), LITE_RECIPE, 0).train_dataloader())
    data = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    data.sampler.skip = 2 * 8
    rest = list(data.train_dataloader())
    assert all(torch.equal(one[0], other[0]) for one, other in zip(whole[2:], rest, strict=True))


def test_repeats_and_ranks_work_as_ever(finished, monkeypatch):
    from shunted_lab.data import module

    shuffle = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.shuffle
    n = sum(len(members) for members in shuffle.members)
    whole = list(EpochSampler(n, 0, 3, shuffle))
    assert len(whole) == n and [copy for _, _, copy in whole[:4]] == [0, 1, 2, 0]
    monkeypatch.setattr(module.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(module.dist, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(module.dist, "get_rank", lambda rank=rank: rank)
        parts += list(EpochSampler(n, 0, 3, shuffle))
    assert sorted(parts) == sorted(whole)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_few_files_are_open_and_none_is_left(finished, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_FILES", 2)
    before = len(os.listdir("/dev/fd"))
    split = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.train.images
    for index in range(len(split.labels)):
        split.content(index)
        assert len(split.reader._files) <= 2 and len(os.listdir("/dev/fd")) <= before + 2
    split.reader.__del__()
    assert len(os.listdir("/dev/fd")) == before
    assert split.content(0)  # opened anew


def test_splits_can_be_sent_to_spawned_workers(finished):
    split = make_datamodule(config_of(finished), LITE_RECIPE, 0).splits.train
    expected = split[0, 0, 0][0]
    sent = pickle.loads(pickle.dumps(split))
    assert sent.images.reader._files == {} and torch.equal(sent[0, 0, 0][0], expected)


def test_a_truncated_shard_is_refused_before_training(copied):
    path = copied / "train-00001.tar"
    size = path.stat().st_size
    os.truncate(path, size - 512)
    refused(
        config_of(copied),
        rf"^data\.root: .*/train-00001\.tar has {size - 512} bytes; expected {size} \(incompletely copied\?\)$",
    )
    data = make_datamodule(config_of(copied), LITE_RECIPE, 0)  # and if it shrinks later
    with pytest.raises(ConfigError, match=r"train-00001\.tar has"):
        [data.splits.train.images.content(index) for index in range(len(data.splits.train))]


@pytest.mark.parametrize("name", ["train-00000.tar", "val-00000.npz", "shards.json"])
def test_an_absent_file_is_named(copied, name):
    (copied / name).unlink()
    refused(config_of(copied), rf"^data\.root: .*/{name} is absent; data=shards expects shards\.json and the \.tar")


def test_a_damaged_index_is_refused(copied):
    path = copied / "train-00000.npz"
    other = (copied / "train-00001.npz").read_bytes()
    for content in (other, other[:100], b""):
        path.write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"^data\.root: .*/train-00000\.npz is damaged; convert the folder again$"
        ):
            make_datamodule(config_of(copied), LITE_RECIPE, 0)
    whole = (copied / "shards.json").read_text()
    (copied / "shards.json").write_text(whole[:-5])
    refused(config_of(copied), r"/shards\.json is damaged")
    (copied / "shards.json").write_text(json.dumps(json.loads(whole) | {"version": 9}))
    refused(config_of(copied), r"/shards\.json has version 9; this version of shunted_lab reads 2")


@pytest.mark.parametrize("label", [2, -1])
def test_a_label_that_is_no_class_is_refused(copied, label):
    table = format.Table.unpack((copied / "val-00000.npz").read_bytes())
    table.labels[1] = label
    (copied / "val-00000.npz").write_bytes(table.pack())
    index = json.loads((copied / "shards.json").read_text())
    index["splits"]["val"][0]["digest"] = table.digest
    (copied / "shards.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError) as error:
        make_datamodule(config_of(copied), LITE_RECIPE, 0)
    message = f"/val-00000.npz has label {label}, and shards.json has 2 classes; convert the folder again"
    assert str(error.value) == f"data.root: {copied}{message}"


def test_a_folder_of_images_is_not_taken_for_shards(source):
    refused(config_of(source), r"^data\.root: .*/shards\.json is absent; data=shards expects .*shunted_lab\.convert")
    with pytest.raises(ConfigError, match=r"^data\.mix_shards: 0 is too small: at least 1$"):
        config_of(source, mix_shards=0)
    with pytest.raises(ConfigError, match=r"^data\.cache_gb: 0 is not above 0$"):
        config_of(source, cache_gb=0)


# --- remote ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["memory", "file"])
def url(request, source, finished, tmp_path) -> str:
    """The shards under a URL, written there by the converter."""
    where = f"memory://{tmp_path.name}/shards" if request.param == "memory" else f"file://{tmp_path}/remote"
    convert(source, where)
    fs, path = fsspec.core.url_to_fs(where)
    found = {entry["name"].rpartition("/")[2]: fs.cat_file(entry["name"]) for entry in fs.ls(path, detail=True)}
    assert found == files(finished)
    return where


def remote(url: str, folder: Path, shards: int = 4, **options: object) -> ShardsConfig:
    """With a cache of so many shards."""
    size = max(shard.bytes for shard in format.open_index(url).shards)
    return config_of(url, cache=str(folder / "cache"), cache_gb=shards * size / 1e9, **options)


def test_a_url_gives_what_a_folder_gives(url, finished, tmp_path):
    config = remote(url, tmp_path)
    assert check_data(config) == check_data(config_of(finished))
    here, there = (make_datamodule(c, LITE_RECIPE, 0).train_dataloader() for c in (config_of(finished), config))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(here, there, strict=True))


def test_the_cache_keeps_to_its_bound_and_forgets_what_was_used_longest_ago(url, tmp_path):
    config = remote(url, tmp_path)
    data = make_datamodule(config, LITE_RECIPE, 0)
    split, folder = data.splits.train.images, tmp_path / "cache"
    fetched = []
    for index in order_of(data):
        before = {path.name for path in folder.glob("*/*.tar")}
        split.content(index)
        after = {path.name for path in folder.glob("*/*.tar")}
        fetched += sorted(after - before)
        assert sum(path.stat().st_size for path in folder.glob("*/*.tar")) <= config.cache_gb * 1e9 + 1
    assert len(fetched) == len(set(fetched)) == len(set(split.places[:, 0].tolist()))  # each once in an epoch
    assert after < set(fetched) and not list(folder.glob("*/*.part"))
    assert sum(os.fstat(file).st_nlink == 0 for file in split.reader._files.values()) <= 1  # deleted ones are let go


def test_a_cache_that_is_too_small_is_refused(url, tmp_path):
    refused(
        remote(url, tmp_path, shards=2),
        r"^data\.cache_gb: .* is too small, .* at least .* for the 3 shards that are shuffled",
    )


def test_a_truncated_shard_of_a_url_is_refused(tmp_path, copied):
    os.truncate(copied / "val-00000.tar", 512)
    refused(config_of(f"file://{copied}"), r"^data\.root: .*/val-00000\.tar has 512 bytes")


def test_tables_are_fetched_once_and_again_if_they_are_damaged(url, tmp_path, monkeypatch):
    config = remote(url, tmp_path)
    make_datamodule(config, LITE_RECIPE, 0)
    (kept,) = (tmp_path / "cache").glob("*/train-00002.npz")
    kept.write_bytes(b"?")
    asked = []
    read = StorageFolder.read_all
    monkeypatch.setattr(StorageFolder, "read_all", lambda root, names: (asked.extend(names), read(root, names))[1])
    make_datamodule(config, LITE_RECIPE, 0)
    assert asked == ["shards.json", "train-00002.npz"]


def source_of(config: ShardsConfig) -> CachedTars:
    return make_datamodule(config, LITE_RECIPE, 0).splits.train.images.reader.source


def _fetch_all(source: CachedTars, log: Path, repeats: int) -> None:
    """In a process of its own: every shard a few times, and a line for each fetch."""
    fetch = CachedTars._fetch

    def noted(self, shard, part):
        with open(log, "a") as file:
            file.write(f"{shard.name}\n")
        fetch(self, shard, part)

    CachedTars._fetch = noted
    for _ in range(repeats):
        for number, shard in enumerate(source.shards):
            file = source.open(number)
            assert len(os.pread(file, 10**9, 0)) == shard.bytes
            source.used(file)
            os.close(file)


def _at_once(target: Callable, *args: object, processes: int = 4) -> None:
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=target, args=args) for _ in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
        assert process.exitcode == 0


def test_processes_that_want_the_same_shard_fetch_it_once(copied, tmp_path):
    source = source_of(remote(f"file://{copied}", tmp_path, shards=99))
    _at_once(_fetch_all, source, tmp_path / "log", 2)
    fetched = (tmp_path / "log").read_text().split()
    assert sorted(fetched) == sorted(shard.name for shard in source.shards)


def test_processes_that_take_shards_from_one_another_all_get_them(copied, tmp_path):
    """The bound is smaller than what they want together: they wait, and nobody reads a half file."""
    source = source_of(remote(f"file://{copied}", tmp_path, shards=3))
    _at_once(_fetch_all, source, tmp_path / "log", 3)
    left = list((tmp_path / "cache").glob("*/*.tar"))
    assert sum(path.stat().st_size for path in left) <= source.limit and not list((tmp_path / "cache").glob("*/*.part"))


def test_what_a_dead_process_left_is_cleared_away(copied, tmp_path):
    source = source_of(remote(f"file://{copied}", tmp_path, shards=3))
    folder = source.folder / source.identity
    parts = [folder / f"{shard.tar}.{shard.bytes}.part" for shard in source.shards[:4]]
    for part in parts:
        part.write_bytes(b"half")
    (folder / source.shards[5].tar).write_bytes(b"of a full disk")
    for number in (0, 5):
        file = source.open(number)
        assert os.fstat(file).st_size == source.shards[number].bytes
        os.close(file)
    assert not any(part.exists() for part in parts)


def test_a_network_has_its_moments(copied, tmp_path, monkeypatch):
    source = source_of(remote(f"file://{copied}", tmp_path))
    monkeypatch.setattr(tar_cache.time, "sleep", lambda _: None)
    hidden = copied / "hidden"
    (copied / source.shards[0].tar).rename(hidden)
    with pytest.raises(ConfigError, match=rf"^data\.root: file://.*/{source.shards[0].tar} cannot be fetched: "):
        source.open(0)
    monkeypatch.setattr(tar_cache.time, "sleep", lambda _: hidden.rename(copied / source.shards[0].tar))
    os.close(source.open(0))


def test_a_cache_that_cannot_be_written_is_named(copied, tmp_path):
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(ConfigError, match=r"^data\.cache: .* cannot be written .*; set data\.cache=FOLDER$"):
        source_of(remote(f"file://{copied}", tmp_path))


def test_workers_share_the_cache(url, finished, tmp_path):
    data = make_datamodule(remote(url, tmp_path), LITE_RECIPE, 0, num_workers=2)
    plain = make_datamodule(config_of(finished), LITE_RECIPE, 0)
    for one, other in zip(plain.train_dataloader(), data.train_dataloader(), strict=True):
        assert torch.equal(one[0], other[0])

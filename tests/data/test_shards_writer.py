"""What the converter writes, and what it refuses."""

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image
from shard_folders import SMALL, config_of, convert, files, photos, refused

from shunted_lab import convert as command
from shunted_lab.config.compose import compose_as
from shunted_lab.config.recipe import LITE_RECIPE
from shunted_lab.config.schema import ConfigError
from shunted_lab.convert import ConvertConfig
from shunted_lab.data import DataFacts, check_data, make_datamodule
from shunted_lab.data.shards import format, writer

pytest_plugins = ["shard_fixtures"]


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


# --- the converter: stopped, refused ----------------------------------------------------------------------------------


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

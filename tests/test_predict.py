"""The predict command on classifiers, and mistakes in one line. tests/test_detection_run.py and
tests/test_segmentation_run.py have objects and label maps."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import TINY, trained

from shunted_lab import predict
from shunted_lab.config.compose import compose
from shunted_lab.data.earth.tiles import CLASS_NAMES
from shunted_lab.nn import init_weights
from shunted_lab.tasks.model import build_model
from shunted_lab.tasks.predictions import read_predictions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture
def photos(tmp_path):
    """Three images of other sizes and modes, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (64, 64)), ("b.jpg", (90, 60, 3))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def results(out):
    return json.loads((out / "predictions.json").read_text())


def test_a_classifier_gives_the_class_of_its_test(run, tmp_path):
    from shunted_lab import load_run
    from shunted_lab.data import make_datamodule
    from shunted_lab.tasks.pictures import to_pixels

    config = load_run(run).config
    images = make_datamodule(config.data, config.recipe, 0).test_images([0, 7])
    for i, pixels in enumerate(to_pixels(images, config.data.stats)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    assert predict.main([f"checkpoint={run}", f"image={tmp_path}/?.png", f"out={tmp_path}/out", "top=2"]) == 0
    found = results(tmp_path / "out")
    stored = read_predictions(run)
    for image, index in zip(found["images"], (0, 7), strict=True):
        first, second = image["classes"]
        assert first["class"] == CLASS_NAMES[stored.predicted[index]] and first["score"] >= second["score"]
        assert first["score"] == pytest.approx(stored.confidence[index], abs=0.003), "stored in 8 bits"
    assert found["task"] == "classification" and found["classes"] == CLASS_NAMES and len(found["sha256"]) == 64
    assert np.asarray(Image.open(tmp_path / "out" / "0.png.png")).shape[1] == 256, "enlarged until text can be read"


def test_a_folder_has_its_images_and_one_that_is_broken_is_named(run, photos, tmp_path, capsys):
    (photos / "c.jpg").write_bytes(b"no image")
    assert predict.main([f"checkpoint={run}", f"image={photos}", f"out={tmp_path}/out"]) == 1
    said = capsys.readouterr()
    assert said.err == "error: image: 1 of 3 images could not be read\n"
    found = results(tmp_path / "out")["images"]
    assert [each["file"].rpartition("/")[2] for each in found] == ["a.png", "b.jpg", "c.jpg"]
    assert found[2]["error"] == "cannot be read (cannot identify image file)" and "classes" not in found[2]
    assert (found[1]["width"], found[1]["height"]) == (60, 90)


def test_a_file_of_weights_has_numbered_classes(photos, tmp_path):
    config = compose(["experiment=train", "model=shunted_s", *TINY]).config.model
    net = build_model(config, 2)
    init_weights(net, 0)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    words = [f"checkpoint={tmp_path}/weights.pth", "model=shunted_s", *TINY, f"image={photos}/a.png"]
    assert predict.main([*words, f"out={tmp_path}/out"]) == 0
    classes = results(tmp_path / "out")["images"][0]["classes"]
    assert {each["class"] for each in classes} == {"class 0", "class 1"}
    assert sum(each["score"] for each in classes) == pytest.approx(1, abs=1e-3)


def test_images_of_one_name_in_two_folders_have_results_of_their_own(run, photos, tmp_path):
    other = tmp_path / "others"
    other.mkdir()
    (other / "a.png").write_bytes((photos / "a.png").read_bytes())
    files = predict.find_images(f"{tmp_path}/*/*.png")
    assert sorted(files) == ["others_a.png", "photos_a.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "nothing.jpg"}, "image: 'nothing.jpg' does not exist"),
        ({"image": "nothing*.jpg"}, "image: no image fits 'nothing"),
        ({"image": "{empty}"}, "image: the folder '.*' has no images"),
        ({"checkpoint": "nothing"}, "checkpoint: 'nothing' does not exist"),
        ({"score": "2"}, "score: 2.0 is not between 0 and 1"),
        ({"top": "0"}, "top: 0 is below 1"),
        ({"device": "tpu"}, "device: 'tpu' is not known"),
        ({"scor": "1"}, "scor: no such key; did you mean 'score'"),
        ({"out": "{file}"}, "out: .* cannot be written"),
    ],
)
def test_a_mistake_is_one_line(run, photos, tmp_path, capsys, changes, message):
    (tmp_path / "empty").mkdir()
    given = {"checkpoint": run, "image": photos, "out": tmp_path / "out"} | changes
    texts = [f"{key}={value}".format(empty=tmp_path / "empty", file=photos / "a.png") for key, value in given.items()]
    assert predict.main(texts) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said), said


def test_results_are_not_overwritten(run, photos, tmp_path, capsys):
    words = [f"checkpoint={run}", f"image={photos}/a.png", f"out={tmp_path}/out"]
    assert predict.main(words) == 0 and predict.main(words) == 1
    assert "has a predictions.json; give another folder, or overwrite=true" in capsys.readouterr().err
    assert predict.main([*words, "overwrite=true"]) == 0


def test_help_lists_the_keys(capsys):
    assert predict.main(["--help"]) == 0
    said = capsys.readouterr().out
    for key in ("checkpoint", "image", "out", "score", "top", "overwrite"):
        assert key in said
